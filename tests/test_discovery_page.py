"""The page on a run of discovery: what it says, and what a browser makes of it."""

import datetime
import html
import json
import re
from pathlib import Path
from typing import Any

import browser
import pytest
from autotts_discovery import ledger, report
from autotts_discovery.ledger import Ledger, digest_of
from autotts_discovery.report import tables
from autotts_discovery.spending import Usage

from autotts_jax.provenance import UsedDataset
from autotts_jax.report import shell

#: What a page must show as text, whoever wrote it.
HOSTILE = (
    "</script><script>window.ran = 1</script>",
    "<img src=x onerror='window.ran = 1'>",
    "{{ 7 * 7 }} ${window.ran = 1}",
    "\x1b[31m[bold]red[/bold]\x1b[0m\u2028<!--",
    "</pre></details><b>out</b>",
)
BETAS = [0.0, 0.5, 1.0]
DATA = UsedDataset(label="<i>data</i>/one", questions=3, digest="d1g357" * 5, source="")


def verdict(gain: float, error: float = 0.004) -> dict[str, Any]:
    return {
        "lower": gain - error,
        "gain": gain,
        "gain_se": error,
        "betas": BETAS,
        "accuracy": [0.5 + gain, 0.6 + gain, 0.7 + gain],
        "tokens": [1e4, 5e4, 2e5],
        "sequential_tokens": [1e4, 1.5e4, 2e4],
    }


def source(name: str, number: int = 1) -> str:
    return f'"""{name}"""\n\nNUMBER = {number}\nTEXT = {HOSTILE[0]!r}  # {HOSTILE[4]}\n'


class Writer:
    """Writes a run's ledger, event by event."""

    def __init__(self, run: Path, **begun: Any) -> None:
        run.mkdir()
        (run / "ledger.jsonl").write_text("")
        self.ledger, self.seconds = Ledger(run), 0.0
        settings = {"proposer": HOSTILE[1], "proposals": 2, "traces": True, "history": True, "tuning": True}
        self.note(
            ledger.Begun,
            settings=ledger.Settings(**settings, latency=None, seed=0),
            datasets=(DATA,),
            held_out=(),
            questions=(),
            versions={"jax": HOSTILE[1]},
            device="cpu",
            wall=("seccomp",),
            trust=False,
        )

    def note(self, event: type[Any], /, **fields: Any) -> None:
        self.seconds += 1
        at = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(seconds=self.seconds)
        self.ledger.append(event(at=at, elapsed=self.seconds, **fields))

    def propose(self, place: str, text: str, idea: str = "", parents: tuple[str, ...] = ()) -> str:
        digest = digest_of(text)
        self.ledger.keep("candidates", f"{digest}.py", text)
        number = int(place.split(".")[0])
        self.note(ledger.Proposed, place=place, candidate=digest, round=number, idea=idea, parents=parents)
        return digest

    def judge(self, place: str, name: str, gain: float) -> None:
        fields = {"place": place, "name": name, "program": place, "verdict": verdict(gain), "seconds": 2.0}
        self.note(ledger.Evaluated, kind="look", **fields)
        self.note(ledger.Evaluated, kind="full", **fields)
        best = self.ledger.best
        assert best is not None
        if best.proposed.place == place:
            self.note(ledger.Best, place=place, candidate=best.proposed.candidate, lower=gain)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """Two rounds with all that may happen in them, by hostile hands."""
    made = Writer(tmp_path_factory.mktemp("page") / "run")
    made.note(ledger.Known, verdicts={"confidence_momentum": verdict(-0.01), "self_consistency": verdict(-0.05)})
    made.note(ledger.Watched, candidate="confidence_momentum", beta=0.5, episodes=40, failures={"outvoted": 7})
    made.note(ledger.Replied, number=1, digest="1" * 32, proposals=3, seconds=5.0)
    first = made.propose("0001.1", source("first"), HOSTILE[0])
    made.judge("0001.1", HOSTILE[1], 0.010)
    made.propose("0001.2", source("second"), "far off")
    made.judge("0001.2", "second", -0.4)
    made.propose("0001.3", source("third"), HOSTILE[3])
    made.note(ledger.Refusal, place="0001.3", stage="syntax", reason=HOSTILE[2])
    figures = {"before": 0.01, "after": 0.03, "seen": 0.03, "unseen": 0.015, "splits": 1, "free": 4}
    curve = [[0.01, 0.01], [0.02, 0.013], [0.03, 0.015]]
    tuned = source("first", number=2)
    made.note(
        ledger.Tuned,
        place="0001.1",
        candidate=digest_of(tuned),
        figures={**figures, "curve": curve, "episodes": 1000, "seconds": 9.0},
        seconds=9.0,
    )
    made.propose("0001.1t", tuned, HOSTILE[0], (first,))
    made.judge("0001.1t", HOSTILE[1], 0.030)
    made.note(ledger.Watched, candidate=digest_of(tuned), beta=0.5, episodes=40, failures={"outvoted": 3})
    made.note(ledger.Replied, number=2, digest="", proposals=0, seconds=1.0, failure=HOSTILE[1])
    made.note(ledger.Replied, number=3, digest="3" * 32, proposals=1, seconds=1.0)
    made.propose("0003.1", source("fourth", number=3), "from two", (digest_of(tuned), first))
    made.judge("0003.1", "fourth", 0.012)
    made.note(ledger.Tuned, place="0003.1", candidate="", figures={"failure": HOSTILE[2]}, seconds=1.0)
    best = made.ledger.best
    assert best is not None
    corrected = {"seen": 0.03, "cross_fitted": 0.015, "gain": 0.011, "low": -0.002, "high": 0.02}
    about = {"candidate": best.proposed.candidate, "candidates": 4, "level": 0.95, "resamples": 500}
    made.note(ledger.Corrected, figures={**about, **corrected})
    made.note(ledger.VaultOpened, candidate=best.proposed.candidate, datasets=(DATA,))
    row = {"dataset": HOSTILE[1], "controller": "found", "baseline": "confidence_momentum", "p": 0.01}
    rows = (
        {**row, "at": "equal tokens", "effect": 0.021, "low": 0.001, "high": 0.04, "p_corrected": 0.02},
        {**row, "at": "equal accuracy", "effect": 0.5, "low": 0.3, "high": "Infinity", "p_corrected": "NaN"},
    )
    made.note(ledger.Proved, candidate=best.proposed.candidate, verdict=verdict(0.008), comparison=rows)
    made.note(ledger.Ended, reason="rounds")
    return made.ledger


@pytest.fixture(scope="module")
def page(run: Ledger) -> str:
    return report.page(run)


def own(page: str) -> str:
    return page.replace(shell.vega(), "")


def section(page: str, name: str) -> str:
    (inside,) = re.findall(rf'<section id="{name}".*?</section>', page, flags=re.DOTALL)
    return inside


def text_of(markup: str) -> str:
    return " ".join(html.unescape(re.sub("<.*?>", " ", markup, flags=re.DOTALL)).split())


# --- what it says ----------------------------------------------------------------------------------------------------


def test_nothing_from_data_is_markup(page: str) -> None:
    markup = own(page)
    for hostile in (*HOSTILE[:2], HOSTILE[4], "<i>data</i>"):
        assert hostile not in markup
    assert not re.search("[\x1b\u2028]", markup)
    assert "\\x1b[31m[bold]" in text_of(markup)
    assert "49" not in text_of(section(markup, "refusals"))
    assert markup.count("<script") == markup.count("</script>") == 3
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL)
    assert not re.search("[<>&\u2028\u2029]|NaN|Infinity", data)
    assert HOSTILE[1] in json.loads(data)["trajectory"]["points"][0]["title"]


def test_it_needs_no_network(page: str) -> None:
    page = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert re.findall(r"""(?:src|href)\s*=\s*["'](?!#)([^"']*)|url\(""", re.sub("<pre.*?</pre>", "", page)) == [
        "data:,"
    ]


def test_every_link_leads_somewhere(page: str) -> None:
    named = set(re.findall(r' id="([^"]*)"', own(page)))
    links = re.findall(r'href="#([^"]*)"', own(page))
    assert links
    assert set(links) <= named


def test_it_says_what_is_best(run: Ledger, page: str) -> None:
    (tiles,) = re.findall(r'<dl class="tiles">.*?</dl>', page, flags=re.DOTALL)
    said = text_of(tiles)
    assert "best +3.00 ± 0.40 points" in said
    assert "5 in 3 rounds 4 judged, 1 refused" in said
    assert "Ended: all rounds are done" in said
    assert "opened once" in said
    assert "+0.80 ± 0.40 points there" in said
    assert "corrected for choosing the best of 4 +1.10 (95 %: -0.20 … +2.00)" in text_of(page)


def test_refusals_costs_failures_and_the_vault(page: str) -> None:
    refusals = text_of(section(page, "refusals"))
    assert f"syntax 1 {HOSTILE[2]}" in refusals
    assert f"reply 2 1 {HOSTILE[1]}" in refusals
    costs = text_of(section(page, "costs"))
    assert "1 4 3 1 5 12 9" in costs
    assert "all 5 4 1 7 16 10" in costs
    failures = text_of(section(page, "failures"))
    assert "7 of 40" in failures
    assert "3 of 40" in failures
    vault = text_of(section(page, "vault"))
    assert "+2.1 +0.1 – +4.0 0.020" in vault
    assert "×0.50 ×0.30 – ×∞ –" in vault


def test_what_replies_cost_is_shown(tmp_path: Path) -> None:
    made = Writer(tmp_path / "run")
    for number, dollars, tokens in ((1, 0.125, 900), (1, 0.0, 50), (2, 0.25, 0)):
        paid = {"usage": Usage(input=tokens), "dollars": dollars}
        made.note(ledger.Called, number=number, model="m", seconds=1.0, **paid)
    for number in (1, 2):
        made.note(ledger.Replied, number=number, digest="0" * 32, proposals=0, seconds=1.0)
    page = report.page(made.ledger)
    assert "$0.38" in page
    assert "all 0 0 0 2 0 0 $0.38 950" in text_of(section(page, "costs"))


def test_descent(run: Ledger) -> None:
    candidates = tables._candidates(run)
    by_digest = {one.fate.proposed.candidate: one for one in candidates}
    tree = [
        (depth, one.place, [parent.place for parent in parents])
        for depth, one, parents in tables._descent(candidates, by_digest)
    ]
    assert tree == [
        (0, "0001.1", []),
        (1, "0001.1t", ["0001.1"]),
        (2, "0003.1", ["0001.1t", "0001.1"]),
        (0, "0001.2", []),
        (0, "0001.3", []),
    ]


def test_descent_ends_whatever_the_ledger_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda file: None)
    made = Writer(tmp_path / "run")
    one, other = source("one"), source("other")
    made.propose("0001.1", one, "", (digest_of(other), digest_of(one), "f" * 32))
    made.propose("0001.2", other, "", (digest_of(one),))
    for number in range(3, 1200):  # a line of descent that is longer than Python's stack
        made.propose(f"0001.{number}", source("long", number), "", (digest_of(source("long", number - 1)),))
    candidates = tables._candidates(made.ledger)
    by_digest = {one.fate.proposed.candidate: one for one in candidates}
    assert len(list(tables._descent(candidates, by_digest))) == len(candidates)


def test_changes_are_a_diff_to_the_first_parent(page: str) -> None:
    sources = section(page, "sources")
    changes = re.findall(r'<pre class="diff".*?</pre>', sources, flags=re.DOTALL)
    assert len(changes) == 2
    tuned = re.findall(r'<span class="(added|removed)">(.*?)\n</span>', changes[0])
    assert tuned == [("removed", "-NUMBER = 1"), ("added", "+NUMBER = 2")]
    assert text_of(sources).count(f"TEXT = {HOSTILE[0]!r} # {HOSTILE[4]}") >= 5


def test_the_worst_sources_are_left_out_of_a_full_page(run: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_ROOM", 600)
    sources = section(report.page(run), "sources")
    assert "NUMBER = 2" in sources
    assert f"candidates/{digest_of(source('second'))}.py; there was no room" in sources


def test_what_is_far_below_does_not_flatten_the_others(run: Ledger) -> None:
    drawn = tables.tables(run)["drawn"]["trajectory"]
    (far,) = (point for point in drawn["points"] if point["kind"] == "below")
    assert far["gain"] == pytest.approx(-40)
    assert far["y"] == far["low"] == far["high"] == pytest.approx(-2 * 3.4)
    assert [step["y"] for step in drawn["steps"]] == pytest.approx([1, 3, 3])
    assert [(point["kind"], point["gain"]) for point in drawn["proved"]] == [("held out", pytest.approx(0.8))]


def test_a_run_that_has_just_begun_has_a_page(tmp_path: Path) -> None:
    made = Writer(tmp_path / "run")
    page = report.page(made.ledger)
    assert "nothing was judged yet" in page
    assert "Goes on, or was cut short" in page
    file = report.write(made.ledger)
    assert file == tmp_path / "run" / "report.html"
    assert file.read_text("utf-8") == page


# --- in a browser ----------------------------------------------------------------------------------------------------


#: Uses the page as a reader would, and writes down what it shows.
USE = """
while ($$(".chart svg.marks").length < 3) await wait(50);
said.points = $$("#trajectory-chart .mark-symbol path").length;
said.ground = [];
const ground = () => said.ground.push(getComputedStyle(document.body).backgroundColor);
ground();
$("#theme").click();
ground();

// A link in the tree opens the candidate, and its summary has the focus.
$$(".tree a")[1].click();
while (!$("details.candidate[open]")) await wait(50);
said.focus = document.activeElement.textContent;
said.added = $("details[open] .added").textContent;

const kind = $('#candidates select[data-column="kind"]');
kind.value = "hand-made";
kind.dispatchEvent(new Event("input"));
said.filtered = $("#candidates output").textContent;

const curves = () => $$("#frontier-chart .mark-symbol path").length;
said.shown = [curves()];
$$("#methods input")[1].click();
while (curves() === said.shown[0]) await wait(50);
said.shown.push(curves());

const highlighted = () => $$('#frontier-chart path[stroke-dasharray="5,2"][opacity="1"]').length;
said.highlighted = [highlighted()];
$("#picked").selectedIndex = 2;
$("#picked").dispatchEvent(new Event("input"));
while (!highlighted()) await wait(50);
said.highlighted.push(highlighted());
"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [1400, 390])
def test_a_browser_uses_it(page: str, tmp_path: Path, width: int) -> None:
    said = browser.use(page, USE, width, tmp_path)
    assert said["points"] == 2 * 5  # seen, and felt
    assert set(said["ground"]) == {"rgb(255, 255, 255)", "rgb(21, 24, 28)"}
    assert "+3.00 ± 0.40" in said["focus"]
    assert said["added"].strip() == "+NUMBER = 2"
    assert said["filtered"] == "2 of 7 rows"
    assert said["shown"] == [2 * 3 * 3, 2 * 2 * 3]
    assert said["highlighted"] == [0, 1]
