"""Figures: what stands in them, not how their pixels look."""

import dataclasses
import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.collections
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import autotts_jax
from autotts_jax import CONTROLLERS, InputError, frontier, plots
from autotts_jax.cli import app
from autotts_jax.cli import plot as command
from autotts_jax.results import FIELDS, Results
from autotts_jax.settings import Setting, rows_of
from autotts_jax.traces import Event, Round, Trace

BETAS = (0.0, 0.5, 1.0)
SC, CMC = "self_consistency", "confidence_momentum"


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def row(controller: str, beta: float | None, **more: Any) -> dict[str, Any]:
    """A row of a table; dearer and better with β."""
    at = 1 if beta is None else beta
    fixed = {"dataset": "Qwen3-8B/aime24", "controller": controller, "beta": beta, "accuracy_se": 0.05}
    return fixed | {"accuracy": 0.5 + 0.2 * at, "tokens": 20_000 * 9**at, "passed": 0.9, "opened": 1 + 63 * at} | more


def curve(controller: str, **more: Any) -> list[dict[str, Any]]:
    return [row(controller, beta, **more) for beta in BETAS]


def table(*rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(list(itertools.chain(*rows)))


def swept(names: tuple[str, ...] = (SC, CMC), parts: tuple[str, ...] = ("m/a", "n/a"), questions: int = 8) -> Results:
    rows = [row for name in names for row in rows_of(Setting.parse(name), BETAS)]
    rng = np.random.default_rng(0)
    size = (len(rows), questions * len(parts))
    dearer = np.array([20_000 * 9**row.beta for row in rows])[:, None]
    sums = {field: np.zeros(size, np.int64) for field in FIELDS} | {
        "correct": rng.integers(0, 11, size),
        "tokens": np.int64(10 * dearer * rng.uniform(0.7, 1.3, size)),
    }
    return Results(rows, [(name, questions) for name in parts], [""] * size[1], sums, 10)


def drawn(figure: Figure) -> Figure:
    """Draws it, which is when matplotlib warns of what it cannot draw."""
    figure.draw_without_rendering()
    return figure


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def caption(figure: Figure) -> str:
    return figure.legends[0].get_title().get_text().replace("\n", " ")


def lines(panel: Axes) -> dict[str, Line2D]:
    """A panel's lines by label, without those that matplotlib numbers."""
    return {str(line.get_label()): line for line in panel.lines if not str(line.get_label()).startswith("_")}


def look(line: Line2D) -> tuple[Any, ...]:
    return line.get_color(), line.get_linestyle(), line.get_marker()


def bands(panel: Axes) -> int:
    return sum(isinstance(c, matplotlib.collections.PolyCollection) for c in panel.collections)


# --- styles ----------------------------------------------------------------------------------------------------------


def test_published_controllers_have_styles_of_their_own() -> None:
    alone = {name: plots.styles([name])[name] for name in CONTROLLERS}
    assert plots.styles(["other", *reversed(CONTROLLERS)]) == alone | plots.styles(["other"])
    assert len({style.color for style in alone.values()}) == len(CONTROLLERS)


def test_many_styles_differ_and_depend_on_the_full_list_only() -> None:
    labels = [*CONTROLLERS, *(f"method {i}" for i in range(60))]
    found = plots.styles(labels)
    assert len(set(found.values())) == len(labels)
    assert plots.styles(labels) == found
    for one, two in itertools.combinations(labels, 2):
        if found[one].color == found[two].color:
            assert (found[one].linestyle, found[one].marker) != (found[two].linestyle, found[two].marker)


def test_a_controller_looks_the_same_in_every_figure() -> None:
    rows = [curve(name) for name in ("first", SC, "quorum@3fa91c", CMC)]
    whole = lines(plots.scaling_curves(table(*rows)).axes[0])
    some = lines(plots.scaling_curves(table(*rows), controllers=["quorum@3fa91c", CMC]).axes[0])
    assert list(some) == ["quorum@3fa91c", "confidence momentum"]
    for name, line in some.items():
        assert look(line) == look(whole[name])
    # From another table, given the styles of all labels.
    style = plots.styles(["first", SC, "quorum@3fa91c", CMC])
    again = lines(plots.scaling_curves(table(curve("quorum@3fa91c")), style=style).axes[0])
    assert look(again["quorum@3fa91c"]) == look(whole["quorum@3fa91c"])
    with pytest.raises(InputError, match="none for 'second'"):
        plots.scaling_curves(table(curve("second")), style=style)


# --- curves ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "given", "shown"), [(3, None, 3), (4, None, 0), (4, True, 4), (3, False, 0)])
def test_bands_are_for_few_and_say_what_they_are(count: int, given: bool | None, shown: int) -> None:
    figure = drawn(plots.scaling_curves(table(*(curve(f"m{i}") for i in range(count))), bands=given))
    assert bands(figure.axes[0]) == shown
    assert ("± 1 standard error, clustered by question" in caption(figure)) == bool(shown)


def test_a_row_without_a_curve_is_a_marker() -> None:
    rows = table(curve("a"), [row("a:n=3", None)], [row("one", 0.5)])
    found = lines(plots.scaling_curves(rows).axes[0])
    assert found["a"].get_linestyle() == "-."
    for name in ("a:n=3", "one"):
        assert found[name].get_linestyle() == "None"
        assert found[name].get_marker() not in ("", "None")


def test_a_curve_follows_beta() -> None:
    rows = curve("a")
    found = lines(plots.scaling_curves(table(rows[::-1])).axes[0])["a"]
    np.testing.assert_allclose(found.get_xdata(), [r["tokens"] for r in rows])


def test_what_has_no_place_on_the_axis_is_named() -> None:
    rows = curve("a") + curve("nothing")
    rows[0]["accuracy"], rows[1]["accuracy_se"], rows[3]["tokens"], rows[4]["tokens"] = np.nan, None, 0, None
    figure = drawn(plots.scaling_curves(table(rows)))
    assert "Not shown: 3 without tokens or accuracy (a, nothing)." in caption(figure)
    assert len(lines(figure.axes[0])["a"].get_xdata()) == 2
    assert figure.axes[0].get_xlim()[0] > 0
    # Also if that is all there is.
    drawn(plots.scaling_curves(table([row("nothing", None, tokens=0, passed=None, accuracy_se=None)])))


def test_panels_of_a_benchmark_share_the_axis_of_tokens_and_the_scale_of_accuracy() -> None:
    names = ("m/a", "n/a", "m/b")
    rows = [curve(SC, dataset=name, accuracy=0.1 + 0.3 * i, tokens=10.0 ** (4 + i)) for i, name in enumerate(names)]
    rows[0][1]["accuracy"] = 0.3
    figure = drawn(plots.scaling_curves(table(*rows)))
    panels = {panel.get_title(loc="left"): panel for panel in figure.axes}
    assert list(panels) == list(names)
    assert panels["m/a"].get_xlim() == panels["n/a"].get_xlim() != panels["m/b"].get_xlim()
    spans = [np.ptp(panels[name].get_ylim()) for name in names]
    assert spans[0] == pytest.approx(spans[1])
    for name, data in zip(names, rows, strict=True):
        low, high = panels[name].get_ylim()
        assert all(low < 100 * r["accuracy"] < high for r in data)
        assert low < 90 < high


def test_ticks_have_one_format_everywhere() -> None:
    rows = [
        [*curve(SC, dataset=f"m/{i}"), row(CMC, None, dataset=f"m/{i}", tokens=span)]
        for i, span in enumerate((25_000, 1e6, 5e7))
    ]
    figure = drawn(plots.scaling_curves(table(*rows)))
    for panel in figure.axes:
        low, high = panel.get_xlim()
        ticks = {
            tick: label.get_text()
            for tick, label in zip(panel.get_xticks(), panel.get_xticklabels(), strict=True)
            if low <= tick <= high
        }
        assert 2 <= len(ticks) <= 8
        for tick, label in ticks.items():
            assert float(label.replace(",", "")) == pytest.approx(tick / 1000)
    assert {panel.get_xlabel() for panel in figure.axes} == {"tokens per episode, thousands"}


def test_the_bound_is_pass_at_n_of_self_consistency() -> None:
    figure = plots.scaling_curves(table(curve(SC, passed=0.8), [row(SC, 1, passed=0.93)], curve(CMC, passed=0.91)))
    (bound,) = (line for line in figure.axes[0].lines if np.all(np.asarray(line.get_ydata()) == 93))
    assert bound.get_linestyle() != "-"
    assert "pass@64: some branch is right" in legend(figure)
    # It stays when self-consistency is not shown.
    assert "pass@64: some branch is right" in legend(
        plots.scaling_curves(table(curve(SC), curve(CMC)), controllers=[CMC])
    )
    # A controller that does not read all its branches has no n.
    assert "some branch read is right" in legend(plots.scaling_curves(table(curve(CMC))))
    # n differs between panels.
    other = curve(SC, dataset="m/b", opened=8)
    assert "pass@n: some branch is right" in legend(plots.scaling_curves(table(curve(SC), other)))
    # Tables without the column.
    assert legend(plots.scaling_curves(table(curve(CMC)).drop_columns(["passed", "opened"]))) == [
        "confidence momentum"
    ]


ODD = {
    "_hidden": " _hidden",
    "costs $5 or $x^2$": r"costs \$5 or \$x^2\$",
    r"\alpha_{1": r"\alpha_{1",
    "two\nlines\x07\u202e": "two lines",
    "答案": "U+7B54U+6848",
    "": "(empty)",
    "a" * 50 + "b" * 50: "a" * 17 + "…" + "b" * 18,
    "confidence_momentum:n_init=4": "confidence momentum:n_init=4",
    "my_method:n_init=4": "my_method:n_init=4",
}


def test_labels_are_text() -> None:
    rows = [curve(name, dataset=f"{name}/a") for name in ODD]
    with matplotlib.rc_context({"text.usetex": True}):
        figure = plots.scaling_curves(table(*rows), title="$_{")
    drawn(figure)
    assert legend(figure)[:-1] == list(ODD.values())
    assert all(len(panel.get_title(loc="left")) <= 30 for panel in figure.axes)
    assert len(plots.scaling_curves(table(rows[0]), title="a" * 200).get_suptitle()) < 70
    assert figure.get_suptitle() == r"\$_{"
    # Drawn as it is: neither mathematics nor TeX.
    texts = figure.legends[0].get_texts()
    assert [text._preprocess_math(text.get_text()) for text in texts[:2]] == [
        (" _hidden", False),
        ("costs $5 or $x^2$", False),
    ]


def test_size_and_what_is_refused() -> None:
    assert plots.scaling_curves(table(curve(SC)), size=(5, 3)).get_size_inches().tolist() == [5, 3]
    for name, more in {
        "controller 'x': not in these results. Use one of self_consistency": {"controllers": ["x"]},
        "controllers: none to show": {"controllers": []},
        "size .*: not a width and a height": {"size": (0, 3)},
        "a table of means says nothing of single questions": {"reference": CMC},
    }.items():
        with pytest.raises(InputError, match=name):
            plots.scaling_curves(table(curve(SC)), **more)
    with pytest.raises(InputError, match="none to show"):
        plots.scaling_curves(table(curve(SC)).slice(0, 0))


@pytest.mark.parametrize("given", [None, False])
def test_differences_to_a_reference_stand_below(given: bool | None) -> None:
    results = swept()
    figure = drawn(plots.scaling_curves(results, reference=SC, bands=given))
    levels = [panel for panel in figure.axes if panel.get_title(loc="left")]
    gains = [panel for panel in figure.axes if not panel.get_title(loc="left")]
    assert len(levels) == len(gains) == 2
    assert gains[0].get_ylim() == gains[1].get_ylim()
    for level, gain in zip(levels, gains, strict=True):
        assert level.get_xlim() == gain.get_xlim()
        assert list(lines(gain)) == ["confidence momentum"]
        assert look(lines(gain)["confidence momentum"]) == look(lines(level)["confidence momentum"])
        assert bands(gain) == (given is None)
        assert len(gain.collections) == 1
    assert "minus that of self consistency" in caption(figure)
    assert "95 % bootstrap intervals, paired by question" in caption(figure)
    with pytest.raises(InputError, match="nothing to compare with it"):
        plots.scaling_curves(results, reference=SC, controllers=[SC])


def test_sweeps_are_compared_each_in_itself() -> None:
    one, two = swept((SC, CMC), ("m/a",)), swept((SC, "early_stopping"), ("n/a",))
    figure = drawn(plots.scaling_curves([one, two], reference=SC))
    assert [list(lines(panel)) for panel in figure.axes[1::2]] == [["confidence momentum"], ["early stopping"]]
    with pytest.raises(InputError, match="'self_consistency': not in these results"):
        plots.scaling_curves([one, swept((CMC, "early_stopping"), ("n/a",))], reference=SC)


# --- differences -----------------------------------------------------------------------------------------------------


def test_differences_are_those_of_compare() -> None:
    results = swept((SC, CMC, "early_stopping"))
    wanted = frontier.compare(results, CMC, [SC], resamples=500).filter(pc.field("at") == "equal tokens")
    anchors = {
        r["dataset"]: r["tokens"] for r in results.table.to_pylist() if r["controller"] == SC and r["beta"] == 1
    }
    found = frontier.differences(results, SC, [CMC], budgets=list(anchors.values()), resamples=500)
    for want in wanted.to_pylist():
        here = found.filter(pc.field("dataset") == want["dataset"]).to_pylist()
        (one,) = (r for r in here if r["tokens"] == anchors[want["dataset"]])
        assert (one["controller"], one["reference"]) == (CMC, SC)
        assert one["difference"] == pytest.approx(want["effect"], abs=1e-6)
        assert (one["low"], one["high"]) == pytest.approx((want["low"], want["high"]), abs=1e-6)


def test_differences_along_whole_curves() -> None:
    results = swept((SC, CMC, "early_stopping"))
    rows = results.table.to_pylist()
    found = frontier.differences(results, SC, resamples=100)
    assert len(found) == 2 * 2 * 33
    for part in ("m/a", "n/a"):
        here = found.filter((pc.field("dataset") == part) & (pc.field("controller") == CMC)).to_pylist()
        spent = {r["tokens"]: r["controller"] for r in rows if r["dataset"] == part}
        assert (here[0]["tokens"], here[-1]["tokens"]) == pytest.approx((min(spent), max(spent)))
        begun = max(min(tokens for tokens, name in spent.items() if name == which) for which in (SC, CMC))
        for one in here:
            assert (one["difference"] is None) == (one["tokens"] < begun * (1 - 1e-6))
            assert one["difference"] is None or one["low"] <= one["difference"] <= one["high"]


def test_what_differences_refuse() -> None:
    results = swept()
    for given, args, more, says in (
        (results, ("x",), {}, "controller 'x': not in these results"),
        (results, (SC, ["x"]), {}, "controller 'x': not in these results"),
        (results, (SC, []), {}, "controllers: none"),
        (results, (SC,), {"budgets": [0]}, "above 0"),
        (results, (SC,), {"resamples": 3}, "too few"),
        (swept(questions=1), (SC,), {}, "a single question"),
    ):
        with pytest.raises(InputError, match=says):
            frontier.differences(given, *args, **more)


def test_the_command_has_the_same_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = swept((SC, CMC, "early_stopping"))
    monkeypatch.setattr(autotts_jax, "read_results", lambda _: results)
    monkeypatch.setattr(command, "_check_apart", lambda *_: None)

    def plot(*args: str) -> str:
        app(["plot", "results", "--out", str(tmp_path / "a.svg"), *args], standalone_mode=False)
        return (tmp_path / "a.svg").read_text(encoding="utf-8")

    # matplotlib repeats the texts that it draws in comments.
    drawing = plot(
        *("--bands", "--size", "6", "4.5", "--title", "Two <of> three", "--controller", SC, "--controller", CMC)
    )
    assert 'width="432pt" height="324pt"' in drawing
    assert "Two &lt;of&gt; three" in drawing
    assert "Bands" in drawing
    assert "confidence momentum" in drawing
    assert "early stopping" not in drawing
    assert "minus that of self consistency" in plot("--reference", SC, "--no-bands")


# --- points and calibration ------------------------------------------------------------------------------------------


def test_each_question_is_a_point() -> None:
    results = swept()
    figure = drawn(plots.per_question(results.per_question, CMC, 0.5))
    assert [panel.get_title(loc="left") for panel in figure.axes] == ["m/a", "n/a"]
    assert {panel.get_ylim() for panel in figure.axes} == {(-4, 104)}
    for panel in figure.axes:
        assert len(lines(panel)["confidence momentum"].get_xdata()) == 8
        assert look(lines(panel)["confidence momentum"])[0] == plots.styles([CMC])[CMC].color
    with pytest.raises(InputError, match="Use one of self_consistency, confidence_momentum"):
        plots.per_question(results.per_question, "x")
    with pytest.raises(InputError, match=r"beta 0.3.* Use one of 0, 0.5, 1"):
        plots.per_question(results.per_question, CMC, 0.3)


def test_points_without_tokens_are_counted() -> None:
    rows = [row(SC, 1, question=i, tokens=1000 * i) for i in range(3)]
    assert "Not shown: 1 without tokens" in caption(drawn(plots.per_question(table(rows), SC)))


def test_calibration() -> None:
    confidence = np.array([0.05, 0.05, 0.95, 0.95, np.nan, 1.0])
    right = np.array([False, True, True, True, True, True])
    figure = drawn(plots.calibration(confidence, right, question=np.array([0, 1, 0, 1, 0, 2])))
    (shares,) = (line for line in figure.axes[0].lines if line.get_marker() == "o")
    np.testing.assert_allclose(shares.get_xydata(), [[0.05, 0.5], [2.9 / 3, 1]])
    assert "clustered by question; numbers: episodes. Not shown: 1 without a confidence." in caption(figure)
    assert "taken as independent" in caption(plots.calibration(confidence, right))
    for wrong, says in (
        ((confidence, right[1:]), "one value per episode"),
        ((confidence * np.nan, right), "no episode has one"),
        ((confidence + 1, right), "outside 0 to 1"),
    ):
        with pytest.raises(InputError, match=says):
            plots.calibration(*wrong)
    with pytest.raises(InputError, match="bins 0"):
        plots.calibration(confidence, right, bins=0)


def test_shuffles_of_a_question_are_no_evidence() -> None:
    values = np.repeat([0.0, 1.0, 1.0, 0.0, 1.0], 20)
    asked = np.repeat(np.arange(5), 20)
    means = values.reshape(5, 20).mean(axis=1)
    assert plots._clustered_error(values, asked) == pytest.approx(means.std(ddof=1) / np.sqrt(5))
    assert plots._clustered_error(values, np.arange(100)) == pytest.approx(values.std(ddof=1) / 10)
    assert np.isnan(plots._clustered_error(values, asked * 0))


# --- episodes --------------------------------------------------------------------------------------------------------


def told(rounds: list[tuple[list[Event], int, dict[str, int], dict[str, int]]], **more: Any) -> Trace:
    moments = tuple(
        Round(number, tuple(events), tokens, tokens, votes, pool, None, {})
        for number, (events, tokens, votes, pool) in enumerate(rounds)
    )
    outcome = {"answer": "7", "correct": True, "tokens": moments[-1].tokens}
    trace = Trace("m/a", 3, "", "7", 0, CMC, {}, moments, outcome)
    return dataclasses.replace(trace, **more)


def generated(slot: int, depth: int, answer: str | None, *, done: bool = False) -> list[Event]:
    """An interval and its answer."""
    kind: Any = "BRANCH" if depth == 1 else "CONTINUE"
    if done:
        return [Event(kind, slot, slot, depth, answer)]
    probe = [] if answer is None else [Event("PROBE", slot, slot, depth, answer)]
    return [Event(kind, slot, slot, depth), *probe]


#: Slot 0 finishes in round 1, waits, and is pruned in round 3; slot 1 is pruned in round 2; slot 2 opens in round 1,
#: waits in round 2, and runs until the end; slot 3 generates two intervals at once, and is probed a round later.
STORY = [
    (generated(0, 1, "7") + generated(1, 1, "8"), 1_000, {"7": 1, "8": 1}, {}),
    (generated(0, 2, "7", done=True) + generated(1, 2, "9") + generated(2, 1, "7"), 2_500, {"7": 2, "9": 1}, {"7": 1}),
    ([Event("PRUNE", 1, 1, 2), *generated(3, 1, None), *generated(3, 2, None)], 3_500, {"7": 2}, {"7": 1}),
    ([Event("PRUNE", 0, 0, 2), *generated(2, 2, "7"), Event("PROBE", 3, 3, 2, "8")], 4_000, {"7": 1, "8": 1}, {}),
]


def bars(figure: Figure) -> dict[int, list[tuple[float, float, str]]]:
    """Each slot's stretches: from, to, colour."""
    found = {}
    for collection in figure.axes[0].collections:
        if isinstance(collection, matplotlib.collections.PolyCollection):
            boxes = [path.get_extents() for path in collection.get_paths()]
            colours = [to_hex(colour).upper() for colour in collection.get_facecolor()]
            slot = round((boxes[0].y0 + boxes[0].y1) / 2)
            found[slot] = [(box.x0, box.x1, colour) for box, colour in zip(boxes, colours, strict=True)]
    return found


def marks(figure: Figure) -> set[tuple[str, float, float]]:
    return {(line.get_gid(), *line.get_xydata()[0].tolist()) for line in figure.axes[0].lines if line.get_gid()}


def test_an_episode_over_depth_rounds_and_tokens() -> None:
    trace = told(STORY)
    green, none = plots._GOLD, plots._NONE
    depth, rounds, tokens = (drawn(plots.episode_path(trace, x)) for x in ("depth", "round", "tokens"))
    assert bars(depth)[0] == [(0, 1, green), (1, 2, green)]
    assert bars(rounds)[2] == [(1, 2, green), (3, 4, green)]
    assert bars(tokens)[2] == [(1, 2.5, green), (3.5, 4, green)]
    # What a later probe reveals is the answer at that depth.
    assert [colour for *_, colour in bars(depth)[3]] == [none, bars(depth)[1][0][2]]
    assert [(start, stop) for start, stop, _ in bars(rounds)[3]] == [(2, 3)]
    for figure, ends in ((depth, (2, 2, 2, 2, 2)), (rounds, (2, 3, 2, 4, 4)), (tokens, (2.5, 3.5, 2.5, 4, 4))):
        finished, withdrawn, pruned, *running = ends
        assert marks(figure) == {
            ("finished", finished, 0),
            ("pruned", withdrawn, 0),
            ("pruned", pruned, 1),
            ("unfinished", running[0], 2),
            ("unfinished", running[1], 3),
        }
        assert [text for text in legend(figure) if not text[0].isdigit()] == [
            *(["answer not read"] if figure is depth else []),
            *("finished", "pruned", "unfinished at the end"),
        ]
        assert "7 (gold, given)" in legend(figure)
    with pytest.raises(InputError, match="Use depth, round or tokens"):
        plots.episode_path(trace, "time")


def test_answers_have_the_same_colours_in_both_figures_of_an_episode() -> None:
    trace = told(STORY, gold="9", outcome={"answer": "7", "correct": False, "tokens": 4_000})
    path, votes = drawn(plots.episode_path(trace)), drawn(plots.votes_over_rounds(trace))
    one, two = (
        {line.get_label(): line.get_color() for line in figure.legends[0].legend_handles} for figure in (path, votes)
    )
    answers = [name for name in one if name[0].isdigit()]
    assert sorted(answers) == ["7 (given)", "8", "9 (gold)"]
    assert all(one[name] == two[name] for name in answers)
    assert one["9 (gold)"] == plots._GOLD
    assert "wrong, gold 9" in path.axes[0].get_title(loc="left")


def test_votes_over_rounds_counts_every_answer() -> None:
    votes = {str(n): 10 - n for n in range(9)}
    figure = drawn(plots.votes_over_rounds(told([([], 1, votes, {"0": 2})])))
    assert legend(figure)[-3:] == ["all other answers", "newest answers", "finished branches only"]
    colours = {name: h.get_color() for name, h in zip(legend(figure), figure.legends[0].legend_handles, strict=True)}
    assert len(set(colours.values())) == len(colours) - 1  # the last two are both black
    height = {line.get_color(): line.get_ydata()[0] for line in figure.axes[0].lines if line.get_linestyle() == "-"}
    assert height["#999999"] == sum(votes.values()) - sum(
        votes[name.split()[0]] for name in colours if name[0].isdigit()
    )
    assert figure.axes[0].get_ylim()[1] > max(height.values())
    # One round is a marker, not a line without length.
    assert {line.get_marker() for line in figure.axes[0].lines} == {"o"}


@pytest.mark.parametrize("odd", list(ODD))
def test_answers_are_text(odd: str) -> None:
    rounds = [([Event("BRANCH", 0, 0, 1, odd)], 5, {odd: 1}, {odd: 1})]
    trace = told(
        rounds, gold=odd, dataset=odd, controller=odd, outcome={"answer": None, "correct": False, "tokens": 5}
    )
    for figure in (plots.episode_path(trace), plots.votes_over_rounds(trace)):
        drawn(figure)
        title = figure.axes[0].get_title(loc="left")
        assert title.count("\n") == 1
        assert "no answer (wrong, gold " in title
        assert max(map(len, title.split("\n"))) < 110
        assert legend(figure)[0].endswith(" (gold)")
        assert len(legend(figure)[0]) < 40


@pytest.mark.parametrize("branches", [1, 64, 256])
def test_an_episode_fits_on_a_page(branches: int) -> None:
    events = list(itertools.chain(*(generated(slot, 1, str(slot % 9)) for slot in range(branches))))
    figure = drawn(plots.episode_path(told([(events, 500, {str(n): 1 for n in range(9)}, {})])))
    width, height = figure.get_size_inches()
    assert width <= 7
    assert height <= 8
    assert len(bars(figure)) == branches
