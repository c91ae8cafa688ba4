"""The report: what its page says, and what a browser makes of it."""

import dataclasses
import html
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import browser
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vl_convert

import autotts_jax as tts
from autotts_jax import failures, report
from autotts_jax.report import episodes, tables
from autotts_jax.results import FIELDS, Results
from autotts_jax.settings import Setting, rows_of
from autotts_jax.traces import Event, Round, Trace
from autotts_jax.trajectories import Question, Trajectories

#: What a page must show as text, whoever wrote it.
HOSTILE = (
    "</script><script>window.ran = 1</script>",
    "<img src=x onerror='window.ran = 1'>",
    "${window.ran = 1}",
    "{{ 7 * 7 }}",
    "[bold]😀[/bold]\u2028\u2029",
    "<!--",
)
LONG = "9" * 200_000
LABEL = "<b>mine</b> & ${yours}"
BETAS = (0.0, 1.0)

#: Results, the data, and their page.
Swept = tuple[Results, list[tts.Dataset], str]


def made_data(name: str, seed: int) -> tts.Dataset:
    """Questions and answers that look like markup, and an answer that is very long."""
    rng = np.random.default_rng(seed)
    answers = ["7", LONG, *HOSTILE]
    questions = []
    for text in HOSTILE[:4]:
        branches = []
        for _ in range(9):
            picked = [answers[i] for i in rng.choice(len(answers), 3, p=[0.3] + [0.1] * 7)]
            branches.append((picked[:2], 1020, picked[2]))
        questions.append(Question.from_branches(f"<b>question</b> {text}", "7", 500, branches))
    return tts.pack(Trajectories(questions, name, "bench"))


@pytest.fixture(scope="module")
def swept() -> Swept:
    data = [made_data("<i>one</i>", 0), made_data("two", 1)]
    settings = [
        Setting(tts.CONTROLLERS["early_stopping"], {}, LABEL),
        Setting(tts.CONTROLLERS["parallel_probe"]),
    ]
    results = tts.sweep(data, settings, betas=BETAS, shuffles=4, command=["autotts", "sweep", "<data>"])
    orders = tts.draw_orders(data, 4, "published", 0)
    return results, data, report.page(results, tts.concatenate(data), orders, tts.Rules())


def embedded(page: str) -> Any:
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL)
    assert not re.search("[<>&\u2028\u2029]|NaN|Infinity", data)
    return json.loads(data)


def cells(page: str, section: str) -> list[list[str]]:
    """The rows of a section's table, as text."""
    (inside,) = re.findall(rf'<section id="{section}".*?</section>', page, flags=re.DOTALL)
    (body,) = re.findall(r"<tbody>(.*?)</tbody>", inside, flags=re.DOTALL)
    return [
        [html.unescape(re.sub("<.*?>", "", cell)).strip() for cell in re.findall(r"<t[dh].*?</t[dh]>", row, re.DOTALL)]
        for row in re.findall(r"<tr.*?</tr>", body, flags=re.DOTALL)
    ]


# --- the page --------------------------------------------------------------------------------------------------------


def test_nothing_from_data_is_markup(swept: Swept) -> None:
    page = swept[2]
    own = page.replace(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed"), "")
    assert len(own) < len(page)
    assert len(own) < 300_000, "the long answer was not cut"
    for text in (*HOSTILE[:2], LABEL, "<i>one</i>", "<b>question</b>", "<data>"):
        assert text not in own
    assert html.escape(LABEL) in own
    # Three blocks of script: data, Vega, the page's.
    assert own.count("<script") == own.count("</script>") == 3
    data = embedded(page)
    shown = {answer for episode in data["episodes"] for answer in episode["answers"]}
    assert {"7", HOSTILE[0], HOSTILE[3], HOSTILE[4]} <= shown
    assert any(answer.endswith("… (200,000 characters)") for answer in shown)
    assert data["labels"] == [LABEL, "parallel_probe"]


def test_it_needs_no_network(swept: Swept) -> None:
    page = re.sub(r"<script.*?</script>", "", swept[2], flags=re.DOTALL)
    assert re.findall(r"""(?:src|href)\s*=\s*["'](?!#)([^"']*)|url\(""", page) == ["data:,"]


def test_it_says_where_results_come_from(swept: Swept) -> None:
    results, _, page = swept
    (said,) = re.findall(r"<dl>(.*?)</dl>", page, flags=re.DOTALL)
    said = html.unescape(said)
    provenance = results.provenance
    wanted = [*(d.digest for d in provenance.datasets), *(s.artefact for s in provenance.settings)]
    wanted += ["autotts sweep '<data>'", "released, 0 per probe, no budget", "published, 4 per question, seed 0"]
    wanted += [f"jax {jax.__version__}", provenance.device, provenance.finished.isoformat(" ", "seconds")]
    for text in wanted:
        assert text in said


def test_its_tables_hold_the_library_s_numbers(swept: Swept) -> None:
    results, _, page = swept
    expected = tts.frontier.intervals(results).to_pylist()
    shown = cells(page, "curves")
    assert len(shown) == len(expected) == 2 * 4
    for cell, row in zip(shown, expected, strict=True):
        assert cell[:3] == [row["dataset"], row["controller"], f"{row['beta']:g}"]
        assert cell[3].split()[0] == f"{100 * row['accuracy']:.2f}"
        assert cell[4].split()[0] == f"{row['tokens']:,.0f}"
        assert (cell[5] == "yes") == row["pareto"]
    compared = cells(page, "comparisons")
    expected = tts.frontier.compare(results, "parallel_probe", [LABEL]).to_pylist()
    mine = [cell for cell in compared if cell[1] == "parallel_probe"]
    assert [cell[0] for cell in mine] == [row["dataset"] for row in expected]
    # With one other setting, the family of a reference is that of the comparison.
    assert [float(cell[5]) for cell in mine] == pytest.approx([row["p_corrected"] for row in expected], abs=6e-4)


def test_its_points_are_the_rows(swept: Swept) -> None:
    results, _, page = swept
    data = embedded(page)
    for point, row in zip(data["points"], tts.frontier.intervals(results).to_pylist(), strict=True):
        assert point["accuracy_low"] == pytest.approx(row["accuracy_low"], rel=1e-4)
        assert point["tokens"] == pytest.approx(row["tokens"], rel=1e-4)
    spec = data["curves"] | {"data": {"values": data["points"]}}
    spec["params"][0]["value"] = data["labels"]
    assert vl_convert.vegalite_to_svg(spec).count("aria-roledescription") > len(data["points"])


def test_its_differences_are_paired(swept: Swept) -> None:
    results, _, page = swept
    found = embedded(page)["differences"]
    assert found["rows"] == [0, 1, 2, 3]
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    (name, inside), *_ = results.slices()
    accuracy, tokens = (results.sums[field][:, inside].sum(axis=1) / (4 * 4) for field in ("correct", "tokens"))
    for (i, j), six in zip(pairs, np.reshape(found["datasets"][name], (-1, 6)).tolist(), strict=True):
        assert six[0] == pytest.approx(1e4 * (accuracy[i] - accuracy[j]), abs=1)
        assert six[3] == pytest.approx(1e3 * np.log(tokens[i] / tokens[j]), abs=1)
        assert six[1] <= six[0] <= six[2]
        assert six[4] <= six[3] <= six[5]


def test_every_kind_of_failure_has_an_episode(swept: Swept) -> None:
    results, data, page = swept
    orders = tts.draw_orders(data, 4, "published", 0)
    there = embedded(page)["episodes"]
    for row, shown in zip(
        [results.rows[number] for number in tables.middle_rows(results)], cells(page, "failures"), strict=True
    ):
        counts = failures.count_failures(failures.watch(tts.concatenate(data), row, orders))
        assert [int(cell) for cell in shown[3:]] == [counts[mode][0] for mode in list(failures.Failure)[1:]]
        for kind, count in zip(episodes.MODES, shown[3:], strict=True):
            mine = [one for one in there if (one["method"], one["kind"]) == (row.label, kind)]
            assert bool(mine) == (int(count) > 0)
            assert all(not one["correct"] for one in mine)
    for one in there:
        assert one["rounds"][0]["events"]
        assert one["turns"][-1][0] == len(one["rounds"]) - 1


def test_single_questions_have_no_intervals() -> None:
    rows = rows_of(Setting.parse("early_stopping"), BETAS) + rows_of(Setting.parse("self_consistency"), BETAS)
    sums = {field: np.ones((4, 3), np.int64) for field in FIELDS}
    variables = tables.tables(Results(rows, [("one", 1), ("two", 2)], ["7"] * 3, sums, 1))
    assert "one: a single question" in variables["notes"][0]
    assert all(row["accuracy_low"] is None for row in variables["rows"])
    assert {row["dataset"] for row in variables["compared"]} == {"two"}
    assert [*variables["differences"]["datasets"]] == ["two"]
    assert variables["provenance"] == []


def test_effects_are_written_out() -> None:
    values = {None: "–", np.nan: "–", np.inf: "×∞", 0.0: "×0.00", 1.234: "×1.23"}
    assert [tables.effect(value, "equal accuracy") for value in values] == [*values.values()]
    assert tables.effect(-0.0512, "equal tokens") == "-5.1"
    assert tables.number(np.inf) is None
    assert tables.number(float("nan")) is None
    assert tables.number(0.123456789) == 0.12346


# --- episodes --------------------------------------------------------------------------------------------------------


def told(*rounds: tuple[list[Event], dict[str, int]], gold: str = "7", answer: str | None = "7") -> Trace:
    """A trace of events and votes."""
    moments = [
        Round(number, tuple(events), 10 * number, 0, votes, {}, answer, {"ema": [0.123456, float("nan")]})
        for number, (events, votes) in enumerate(rounds)
    ]
    outcome = {"answer": answer, "correct": answer == gold}
    return Trace("data", 0, "text", gold, 0, "mine", {}, tuple(moments), outcome)


def test_turning_points() -> None:
    probe = Event("PROBE", 1, 4, 2, "7")
    turns = episodes._turns(
        told(
            ([Event("BRANCH", 0, 3, 1), Event("PROBE", 0, 3, 1, "8")], {"8": 1}),
            ([Event("BRANCH", 1, 4, 1), probe], {"7": 1, "8": 1}),  # a tie changes nothing
            ([], {"7": 2, "8": 1}),
            ([], {"9": 3, "7": 2}),
            ([Event("PRUNE", 1, 4, 2), Event("PRUNE", 0, 3, 1)], {"9": 3}),
            ([], {"8": 4, "9": 3}),
            ([Event("ANSWER", answer=None)], {}),
            answer=None,
        )
    )
    assert turns == [
        (0, "8 takes the lead", False),
        (2, "the right answer, 7, takes the lead", True),
        (3, "the right answer loses the lead to 9", True),
        (4, "prunes 2 branches, 1 of them right", True),
        (5, "8 takes the lead", False),
        (6, "no answer takes the lead", False),
        (6, "stops: no answer, wrong", True),
    ]


def test_an_interval_and_its_probe_are_one_event() -> None:
    events = [
        Event("PRUNE", 2, 5, 4),
        Event("BRANCH", 0, 3, 1),
        Event("PROBE", 0, 3, 1, "8"),
        Event("CONTINUE", 1, 4, 2),
        Event("PROBE", 0, 3, 2, "7"),
        Event("ANSWER", answer="7"),
    ]
    assert episodes._events(told((events, {})).rounds[0]) == [
        ("PRUNE", 2, 4, None),
        ("BRANCH, PROBE", 0, 1, "8"),
        ("CONTINUE", 1, 2, None),
        ("PROBE", 0, 2, "7"),
        ("ANSWER", -1, 0, "7"),
    ]


def test_what_is_long_is_cut() -> None:
    assert episodes._cut("abc", 3) == "abc"
    assert episodes._cut("abcd", 3) == "abc… (4 characters)"
    assert episodes._memory({"ema": [0.123456, float("nan")]}) == {"ema": "[0.1235, NaN]"}
    assert len(tables.label("x" * 500)) == 80


def test_examples_fill_the_page_but_every_kind_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(episodes, "_ROOM", 150)
    examples = [{"kind": kind, "text": "x" * 30, "number": n} for kind in ("right", "outvoted") for n in range(3)]
    watched = [episodes.Watched(label, "1", 9, 3, {}, "", examples) for label in ("a", "b")]
    kept = [(one["kind"], one["number"]) for one in episodes.fitting(watched)]
    assert kept == [("right", 0), ("outvoted", 0)] * 2


# --- failures, in whatever way they are watched ----------------------------------------------------------------------


@pytest.mark.usefixtures("quickly")
def test_watching_does_not_depend_on_slots_devices_or_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    data = tts.pack(tts.synthetic_trajectories("Qwen3-1.7B/aime24", questions=3, branches=20))
    orders = tts.published_orders(data.store, 5)
    (row,) = rows_of(Setting.parse("parallel_probe"), [0.3])
    found = failures.watch(data, row, orders)
    assert found.failure.shape == (3, 5)
    assert found.width.shape == (3, 5, 5)
    monkeypatch.setattr(failures, "_BATCH", 4)
    monkeypatch.setattr(failures, "_opened", lambda row, orders: orders)
    monkeypatch.setattr("autotts_jax.traces._ROUNDS", 16)  # too few, so that it starts again with more
    assert found.outcome.rounds.max() > 16
    failures._watch.clear_cache()
    other = failures.watch(data, row, orders, devices=jax.devices()[:1])
    failures._watch.clear_cache()
    for one, same in zip(jax.tree.leaves(found), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(one, same)
    fast = tts.evaluate(
        row.controller, data.store, jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], row.params), orders
    )
    np.testing.assert_array_equal(fast.tokens[0], found.outcome.tokens)


def test_the_votes_of_pruned_finished_branches_do_not_count() -> None:
    """Three branches are read, a right one is pruned, the wrong answer given: it has as many votes as the other."""

    def step(params: Any, memory: tuple[()], obs: tts.Observation) -> tuple[tuple[()], tts.Action]:
        first, second = obs.round == 0, obs.round == 1
        slots = jnp.arange(obs.width)
        return memory, tts.act(
            obs,
            open=first & (slots < 3),
            continue_=jnp.where(first, tts.environment.READ_TO_END, 0),
            prune=second & (slots == 0),
            stop=obs.round > 1,
            answer=obs.answer[2],
        )

    schedule = tts.CONTROLLERS["self_consistency"].schedule
    controller = tts.Controller(name="third", schedule=schedule, init=lambda params, obs: (), step=step)
    branches = [([], 400, "7"), ([], 400, "7"), ([], 400, "8")]
    data = tts.pack(Trajectories([Question.from_branches("", "7", 500, branches)]))
    (row,) = rows_of(Setting(controller), [0.0])
    found = failures.watch(data, row, np.asarray([[[0, 1, 2]]], np.int32))
    assert found.failure == failures.Failure.TIE_LOST
    assert found.right_pruned == 1
    assert found.outcome.rounds == 3
    assert (found.led_first, found.led_last) == (0, True)


# --- in a browser ----------------------------------------------------------------------------------------------------

#: Uses the page as a reader would, and writes down what it shows.
USE = """
while ($$("#charts svg").length < 2) await wait(50);
said.points = $$("#charts svg .mark-symbol path").length;
const box = $("#methods input");
box.click();
while ($$("#charts svg .mark-symbol path").length === said.points) await wait(50);
said.fewer = $$("#charts svg .mark-symbol path").length;

const rows = () => $$("#curves tbody tr:not([hidden])").map((row) => row.cells[3].dataset.value);
const head = $('#curves th[data-name="accuracy %"]');
head.querySelector("button").click();
said.up = [head.ariaSort, rows()];
head.querySelector("button").click();
said.down = [head.ariaSort, rows()];
const search = $("#curves input[type=search]");
search.value = "two";
search.dispatchEvent(new Event("input"));
said.filtered = $("#curves output").textContent;
said.reference = $('#comparisons select[data-column="reference"]').value;

said.pair = $$("#pair td").map((cell) => cell.textContent);
const [left, right] = [$("#left-method"), $("#right-method")];
[left.value, right.value] = [right.value, left.value];
left.dispatchEvent(new Event("input"));
right.dispatchEvent(new Event("input"));
said.swapped = $$("#pair td").map((cell) => cell.textContent);

const button = $$(".opens").at(-1);
said.asked = [button.dataset.method, button.dataset.kind];
button.click();
said.opened = [$("#episode-method").value, $("#episode-kind").value];
said.focus = document.activeElement.id;
said.last = $("#now").textContent;
$("[data-go=first]").click();
const visible = () => $$("#path [style*=visible]").length;
said.first = [$("#now").textContent, $("#events").textContent, visible()];
$("[data-go=forward]").click();
said.second = [$("#now").textContent, visible()];
$("[data-go=back]").click();
$("[data-go=play]").click();
said.playing = $("[data-go=play]").textContent;
while ($("[data-go=play]").textContent === "Pause") await wait(100);
said.played = $("#now").textContent;
$$("#turns button")[0].click();
said.turn = $("#turns [aria-current]").textContent;
"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [1400, 390])
def test_a_browser_uses_it(swept: Swept, tmp_path: Path, width: int) -> None:
    said = browser.use(swept[2], USE, width, tmp_path)
    assert said["points"] == 2 * 2 * 4  # seen, and felt
    assert said["fewer"] == said["points"] / 2
    up, down = (list(map(float, said[which][1])) for which in ("up", "down"))
    assert (said["up"][0], up) == ("ascending", sorted(up))
    assert (said["down"][0], down) == ("descending", sorted(down, reverse=True))
    assert said["filtered"] == "4 of 8 rows"
    assert said["reference"] == LABEL
    for one, other in zip(said["pair"], said["swapped"], strict=True):
        signs = str.maketrans("+−", "−+")
        if re.match("[+−]", one) and not one.startswith("+0.0"):
            assert other.split()[0] == one.split()[0].translate(signs)
    assert said["opened"] == said["asked"]
    assert said["focus"] == "episodes-title"
    assert said["first"][0].startswith("Round 0 of ")
    assert "BRANCH" in said["first"][1]
    assert said["second"][0].startswith("Round 1 of ")
    assert said["second"][1] > said["first"][2]
    assert said["playing"] == "Pause"
    assert said["played"] == said["last"]
    assert said["turn"].startswith("round 0: ")


@pytest.mark.slow
def test_the_command_writes_it(tmp_path: Path) -> None:
    tts.write_trajectories(
        Trajectories([Question.from_branches(f"{q}", "7", 500, [(["7"], 900, "7")] * 9) for q in range(2)]),
        tmp_path / "Model" / "bench.json",
    )
    autotts = Path(sys.executable).with_name("autotts")
    for line in (
        "sweep Model/bench.json --controller self_consistency --beta 0,1 --shuffles 2 --out out",
        "report out",
    ):
        done = subprocess.run([autotts, *line.split()], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "autotts sweep Model/bench.json" in html.unescape(page)
    assert "Is the difference real?" not in page  # of a single method


def test_episodes_that_end_otherwise_are_refused(swept: Swept) -> None:
    results, data, _ = swept
    orders = tts.draw_orders(data, 4, "published", 0)
    sums = {**results.sums, "tokens": results.sums["tokens"] + 1}
    with pytest.raises(tts.InputError, match="replayed here, tokens is not what the sweep found"):
        report.page(dataclasses.replace(results, sums=sums), tts.concatenate(data), orders, tts.Rules())
