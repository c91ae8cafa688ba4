"""Figures, readable in print and by the colour-blind: each function returns a matplotlib figure to save.

A controller looks the same in every figure of a project: the published ones have styles of their own, and `styles`
gives the others theirs, in order. Names and answers come from data and are drawn as text, never as mathematics or
TeX; what the font lacks is written as its code point.
"""

from __future__ import annotations

import functools
import re
import textwrap
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import matplotlib
import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import offset_copy

from autotts_jax.errors import InputError
from autotts_jax.frontier import differences
from autotts_jax.replay import AnyArray
from autotts_jax.results import Results
from autotts_jax.traces import Trace

__all__ = ["Style", "calibration", "episode_path", "per_question", "scaling_curves", "styles", "votes_over_rounds"]

#: Okabe and Ito's palette (https://jfly.uni-koeln.de/color/), distinguishable in every kind of colour vision; without
#: its yellow, which is too pale for lines. Black is self-consistency's.
COLOURS = ("#000000", "#56B4E9", "#009E73", "#CC79A7", "#E69F00", "#D55E00", "#0072B2")

# Whose styles these are, in order, whatever else there is.
_PUBLISHED = (
    "self_consistency",
    "adaptive_consistency",
    "early_stopping",
    "parallel_probe",
    "answer_consistency",
    "confidence_momentum",
)

# The three lengths have no common divisor: 7 × 4 × 9 = 252 styles before one comes again.
_LINES, _MARKERS = ("-", "--", "-.", ":"), ("o", "s", "D", "^", "v", "P", "X", "<", ">")

# Answers: the gold one is always green, and no other is; black is for marks.
_GOLD, _ANSWERS = "#009E73", ("#0072B2", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9")

_OTHER, _NONE, _FAINT = "#999999", "#DDDDDD", "#666666"

_BOUND: dict[str, Any] = {"color": _FAINT, "linestyle": (0, (1, 2)), "linewidth": 0.9, "zorder": 1}

#: More methods than this overlap too much for bands.
_MOST_BANDS = 3

# A user's TeX would read names and answers as its code.
_printed = matplotlib.rc_context({"text.usetex": False, "axes.unicode_minus": True, "legend.frameon": False})


class Style(NamedTuple):
    """How a controller is drawn, in matplotlib's terms."""

    color: str
    linestyle: str
    marker: str


def styles(labels: Iterable[str]) -> dict[str, Style]:
    """A style for each label: the published controllers' own, and for others the remaining ones, in order.

    The first setting of a published controller has that controller's style, whatever its parameters. Figures of some
    of the labels agree if each is given the styles of the full list. 252 styles differ.
    """
    labels = list(dict.fromkeys(labels))
    first: dict[str, str] = {}
    for label in sorted(labels, key=len):  # the controller itself before those with fixed parameters
        first.setdefault(re.split("[:@]", label)[0], label)
    published = [first.get(name, name) for name in _PUBLISHED]
    order = [*published, *(label for label in labels if label not in published)]
    looks = (
        Style(COLOURS[n % len(COLOURS)], _LINES[n % len(_LINES)], _MARKERS[n % len(_MARKERS)])
        for n in range(len(order))
    )
    found = dict(zip(order, looks, strict=True))
    return {label: found[label] for label in labels}


# --- sweeps ----------------------------------------------------------------------------------------------------------


@_printed
def scaling_curves(
    results: Results | Sequence[Results] | pa.Table,
    *,
    controllers: Sequence[str] | None = None,
    reference: str | None = None,
    bands: bool | None = None,
    size: tuple[float, float] | None = None,
    title: str | None = None,
    style: Mapping[str, Style] | None = None,
) -> Figure:
    """Accuracy against tokens along β, one panel per dataset, as in AutoTTS figure 3.

    Panels of the same benchmark (what follows the last ``/`` in a dataset's name) stand in a row. They share the axis
    of tokens and the scale of accuracy: the same height is the same number of points. Each shows its own part of
    that scale, since models lie much further apart than methods, and one range for all would flatten every curve.
    Panels of differences share both axes. A row without β is a marker without a line.

    The dotted line is how often some branch is right: the greatest `passed` of any row, whichever controllers are
    shown. That is pass@n if the row is self-consistency's, which reads all n branches to their end; no vote over those
    branches can be more accurate.

    Args:
      results: `Results`, several of them, or their `table`.
      controllers: Those to show, by their labels in the column ``controller``; defaults to all.
      reference: Adds panels of the paired difference in accuracy to this curve at equal tokens, by
        `frontier.differences`, with intervals: as bars at a few budgets where there are no bands. A table does not
        say enough for it.
      bands: Whether to draw bands. Defaults to doing so for up to three controllers; more bands than that hide each
        other.
      size: Width and height in inches. The default is at most 7 wide, a printed page's text.
      title: The figure's title.
      style: As from `styles`, for all labels of a project; defaults to those of this table's.

    Raises:
      InputError: if a label is not in the results, there is nothing to show, or `size` is none.
    """
    sweeps = [results] if isinstance(results, Results) else [] if isinstance(results, pa.Table) else results
    tables = [results] if isinstance(results, pa.Table) else [one.table for one in sweeps]
    rows = [row for table in tables for row in table.to_pylist()]
    known = list(dict.fromkeys(row["controller"] for row in rows))
    shown = known if controllers is None else list(dict.fromkeys(controllers))
    for label in shown:
        if label not in known:
            raise InputError(f"controller {label!r}: not in these results. Use one of {', '.join(known)}.")
    if not shown:
        raise InputError("controllers: none to show. Give results with rows, and at least one label.")
    style = _complete(style, known)
    banded = len(shown) <= _MOST_BANDS if bands is None else bands
    compared = [label for label in shown if label != reference]
    gained = [] if reference is None else _differences(sweeps, reference, compared)

    datasets = list(dict.fromkeys(row["dataset"] for row in rows))
    figure, levels, gains = _panels(datasets, bool(gained), size)
    notes, bounds = [], set()
    for dataset, panel in levels.items():
        here = [row for row in rows if row["dataset"] == dataset]
        _levels(panel, here, shown, style, banded)
        if (bound := _bound(here)) is not None:
            panel.axhline(bound[0], **_BOUND)
            bounds.add(bound[1])
    if banded and any(row["accuracy_se"] is not None for row in rows):
        notes.append("Bands (for single rows, bars): ± 1 standard error, clustered by question.")
    for dataset, panel in gains.items():
        _gains(panel, [row for row in gained if row["dataset"] == dataset], compared, style, banded)
    if reference is not None:
        how = "Bands there" if banded else "Bars"
        notes.append(
            f"Lower panels: accuracy within a token budget, minus that of {_controller(reference)}. {how}: "
            "95 % bootstrap intervals, paired by question, each of one budget."
        )
    left_out = [row["controller"] for row in rows if row["controller"] in shown and not _drawable(row)]
    if left_out:
        names = ", ".join(_controller(name, 24) for name in dict.fromkeys(left_out))
        notes.append(f"Not shown: {len(left_out)} without tokens or accuracy ({_cut(names, 80)}).")

    for group in _by_benchmark(datasets):
        _same_scale([levels[dataset] for dataset in group])
    for panel in levels.values():
        _token_axis(panel)
    if title is not None:
        figure.suptitle(_text(title, int(13 * figure.get_figwidth())), fontsize=9)
    keys = [
        Line2D([], [], **style[name]._asdict(), markersize=3.5, linewidth=1.2, label=_controller(name))
        for name in shown
    ]
    if bounds:
        text = bounds.pop() if len(bounds) == 1 else "pass@n: some branch is right"
        keys.append(Line2D([], [], **_BOUND, label=text))
    _legend(figure, keys, notes, grow=size is None)
    return figure


def _differences(sweeps: Sequence[Results], reference: str, compared: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of `frontier.differences`; each sweep is compared in itself."""
    if not sweeps:
        raise InputError(
            f"reference {reference!r}: a table of means says nothing of single questions. Give `Results`."
        )
    if not compared:
        raise InputError(f"reference {reference!r}: nothing to compare with it. Show another controller, too.")
    found = []
    for results in sweeps:
        here = {row.label for row in results.rows}
        if labels := [label for label in compared if label in here]:
            found += differences(results, reference, labels).to_pylist()
    return found


def _levels(
    panel: Axes, rows: Sequence[Mapping[str, Any]], shown: Sequence[str], style: Mapping[str, Style], banded: bool
) -> None:
    """A dataset's curves."""
    for name in shown:
        mine = [row for row in rows if row["controller"] == name and _drawable(row)]
        curve = sorted((row for row in mine if row.get("beta") is not None), key=lambda row: row["beta"])
        points = [row for row in mine if row.get("beta") is None]
        if len(curve) < 2:
            points, curve = [*curve, *points], []
        look: dict[str, Any] = style[name]._asdict() | {"linewidth": 1.1, "label": _controller(name)}
        if curve:
            tokens, accuracy, error = _columns(curve, "tokens", "accuracy", "accuracy_se")
            panel.plot(tokens, accuracy, **look, markersize=3)
            if banded:
                band = accuracy - error, accuracy + error
                panel.fill_between(tokens, *band, color=look["color"], alpha=0.15, linewidth=0)
        if points:
            tokens, accuracy, error = _columns(points, "tokens", "accuracy", "accuracy_se")
            panel.plot(tokens, accuracy, **look | {"linestyle": ""}, markersize=4.5)
            if banded:
                panel.errorbar(tokens, accuracy, error, color=look["color"], linestyle="", linewidth=0.8)


def _columns(rows: Sequence[Mapping[str, Any]], tokens: str, *shares: str) -> np.ndarray:
    """A column of tokens, and others in percent; what is null is NaN."""
    columns = np.array([[row[name] for row in rows] for name in (tokens, *shares)], float)
    columns[1:] *= 100
    return columns


def _gains(
    panel: Axes, rows: Sequence[Mapping[str, Any]], compared: Sequence[str], style: Mapping[str, Style], banded: bool
) -> None:
    """A dataset's differences to the reference."""
    panel.axhline(0, color="black", linewidth=0.6, zorder=1)
    for number, name in enumerate(compared):
        mine = [row for row in rows if row["controller"] == name]
        if not mine:
            continue
        tokens, gain, low, high = _columns(mine, "tokens", "difference", "low", "high")
        # Bars and markers of different controllers stand at different budgets.
        every = 8
        at = slice(every - 1 - number * every // len(compared), None, every)
        panel.plot(
            *(tokens, gain),
            **style[name]._asdict(),
            markevery=at,
            markersize=3,
            linewidth=1.1,
            label=_controller(name),
        )
        if banded:
            panel.fill_between(tokens, low, high, color=style[name].color, alpha=0.15, linewidth=0)
        else:
            panel.vlines(tokens[at], low[at], high[at], color=style[name].color, linewidth=0.7, alpha=0.8)


def _bound(rows: Sequence[Mapping[str, Any]]) -> tuple[float, str] | None:
    """The greatest `passed` in percent, and what it is."""

    def is_all_read(row: Mapping[str, Any]) -> bool:
        return row["controller"].partition(":")[0] == "self_consistency" and _number(row.get("opened")).is_integer()

    passed = [row for row in rows if np.isfinite(_number(row.get("passed")))]
    if not passed:
        return None
    best = max(passed, key=lambda row: (row["passed"], is_all_read(row), _number(row.get("opened"))))
    text = f"pass@{best['opened']:.0f}: some branch is right" if is_all_read(best) else "some branch read is right"
    return 100 * best["passed"], text


def _by_benchmark(datasets: Sequence[str]) -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    for dataset in datasets:
        groups.setdefault(dataset.rpartition("/")[2], []).append(dataset)
    return list(groups.values())


def _same_scale(panels: Sequence[Axes]) -> None:
    """Makes the same length the same difference in accuracy."""
    limits = np.array([panel.get_ylim() for panel in panels])
    half = np.max(limits[:, 1] - limits[:, 0]) / 2
    for panel, middle in zip(panels, limits.mean(axis=1), strict=True):
        centre = np.clip(middle, half - 3, 103 - half) if half < 53 else 50
        panel.set_ylim(centre - half, centre + half)


def _panels(
    datasets: Sequence[str], with_gains: bool, size: tuple[float, float] | None
) -> tuple[Figure, dict[str, Axes], dict[str, Axes]]:
    """A figure with a panel for each dataset, and if asked another one below it."""
    groups = _by_benchmark(datasets)
    first = {dataset: group[0] for group in groups for dataset in group}
    blocks = [group for group in groups if len(group) > 1]
    # Those without company stand together.
    blocks += [alone] if (alone := [group[0] for group in groups if len(group) == 1]) else []
    columns = min(4, max(map(len, blocks)))
    lines = [block[start : start + columns] for block in blocks for start in range(0, len(block), columns)]
    kinds = 2 if with_gains else 1
    heights = [1.6, 1.2][:kinds] * len(lines)
    if size is None:
        size = ((4.8, 6.2, 7.0, 7.0)[columns - 1], 0.4 + 1.05 * sum(heights))
    if not all(0 < length < np.inf for length in size):
        raise InputError(f"size {size}: not a width and a height. Give inches, as in 7, 4.")
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.add_gridspec(len(lines) * kinds, columns, height_ratios=heights)
    levels: dict[str, Axes] = {}
    gains: dict[str, Axes] = {}
    for number, line in enumerate(lines):
        for column, dataset in enumerate(line):
            panel = levels[dataset] = figure.add_subplot(
                grid[number * kinds, column], sharex=levels.get(first[dataset]), xscale="log"
            )
            panel.set_title(_text(dataset, int(14 * size[0] / columns)), fontsize=8, loc="left")
            panels = [(panel, "accuracy, %")]
            if with_gains:
                below = gains[dataset] = figure.add_subplot(
                    grid[number * kinds + 1, column], sharex=panel, sharey=gains.get(first[dataset])
                )
                panels.append((below, "difference, points"))
                panel.tick_params(labelbottom=False)
            for one, y in panels:
                _frame(one, "", y if not column else "")
                one.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            # The last panel of its column says what the axis is.
            if all(len(later) <= column for later in lines[number + 1 :]):
                panels[-1][0].set_xlabel("tokens per episode, thousands", fontsize=7)
    return figure, levels, gains


@_printed
def per_question(
    table: pa.Table, controller: str, beta: float | None = None, *, style: Mapping[str, Style] | None = None
) -> Figure:
    """Accuracy against tokens, one point per question and one panel per dataset.

    Args:
      table: `Results.per_question`.
      controller: The controller to show.
      beta: The β to show; defaults to all rows of the controller.
      style: As for `scaling_curves`.

    Raises:
      InputError: if there are no such rows.
    """
    found = table.to_pylist()
    mine = [row for row in found if row["controller"] == controller]
    if not mine:
        known = ", ".join(dict.fromkeys(row["controller"] for row in found))
        raise InputError(f"controller {controller!r}: not in these results. Use one of {known}.")
    rows = [row for row in mine if beta in (None, row["beta"])]
    if not rows:
        known = ", ".join(f"{value:g}" for value in dict.fromkeys(row["beta"] for row in mine) if value is not None)
        raise InputError(f"beta {beta:g}: {controller} has no such row. Use one of {known or 'none'}.")
    figure, panels, _ = _panels(list(dict.fromkeys(row["dataset"] for row in rows)), False, None)
    look = _complete(style, list(dict.fromkeys(row["controller"] for row in found)))[controller]
    for dataset, panel in panels.items():
        inside = [row for row in rows if row["dataset"] == dataset and _drawable(row)]
        panel.plot(
            [row["tokens"] for row in inside],
            [100 * row["accuracy"] for row in inside],
            color=look.color,
            marker=look.marker,
            linestyle="",
            markersize=4,
            markeredgewidth=0,
            alpha=0.5,
            label=_controller(controller),
        )
        panel.set_ylim(-4, 104)
        panel.set_yticks([0, 25, 50, 75, 100])
        _token_axis(panel)
    at = "" if beta is None else f", β = {beta:g}"
    figure.suptitle(f"{_controller(controller)}{at}: each question", fontsize=9)
    left_out = sum(not _drawable(row) for row in rows)
    if left_out:
        _legend(figure, [], [f"Not shown: {left_out:,} without tokens or accuracy."])
    return figure


# --- episodes --------------------------------------------------------------------------------------------------------


class _Path(NamedTuple):
    """What a branch did, over an axis."""

    stretches: list[tuple[float, float, str | None]]  # from where to where it generated, and the answer then revealed
    marks: list[tuple[float, str]]  # where it "finished", was "pruned", or was "unfinished" when the episode ended


@_printed
def episode_path(trace: Trace, x: Literal["depth", "round", "tokens"] = "depth") -> Figure:
    """Branches as bars coloured by answer, with prunes and the stop, as in AutoTTS figure 2.

    Args:
      trace: The episode.
      x: What the bars are drawn over. ``depth``: how far each branch got, in intervals. ``round`` or ``tokens`` (spent
        by the whole episode): when; a thin line is a branch that waits while others generate.

    Raises:
      InputError: for another `x`.
    """
    if x not in ("depth", "round", "tokens"):
        raise InputError(f"x {x!r}: not understood. Use depth, round or tokens.")
    paths = _paths(trace, x)
    colour_of = _colours(trace)
    lines = max(paths, default=0) + 1
    # Up to 40 branches get lines that marks fit into; more share a page's height.
    height = min(0.14, 5.6 / lines)
    figure = Figure(figsize=(7, 0.9 + max(height * lines, 0.7)), layout="constrained")
    panel = figure.subplots()
    mark_size = min(4.0, 72 * height * 0.6)
    scale = 1e-3 if x == "tokens" else 1.0
    used: set[str] = set()  # colours
    for slot, path in paths.items():
        colours = [_NONE if answer is None else colour_of.get(answer, _OTHER) for *_, answer in path.stretches]
        used.update(colours)
        spans = [(scale * start, scale * (stop - start)) for start, stop, _ in path.stretches]
        panel.hlines(slot, spans[0][0], scale * path.marks[-1][0], color=_OTHER, linewidth=0.6, zorder=1)
        panel.broken_barh(spans, (slot - 0.4, 0.8), facecolors=colours, linewidth=0, zorder=2)
        for number, (where, kind) in enumerate(path.marks):
            before = sum(where == other for other, _ in path.marks[:number])
            beside = offset_copy(panel.transData, figure, x=mark_size * (0.9 + 1.3 * before), units="points")
            panel.plot(
                *(scale * where, slot),
                **_MARKS[kind],
                color="black",
                linestyle="",
                markersize=mark_size,
                transform=beside,
                clip_on=False,
                gid=kind,
            )
    panel.set_ylim(lines - 0.4, -0.6)
    panel.set_xlim(left=0)
    panel.yaxis.set_major_locator(MaxNLocator(integer=True))
    panel.xaxis.set_major_locator(MaxNLocator(integer=x != "tokens"))
    titles = {"depth": "depth, intervals", "round": "round", "tokens": "tokens of the episode, thousands"}
    panel.set_title(_heading(trace), fontsize=8, loc="left")
    _frame(panel, titles[x], "branch, by slot")
    panel.grid(visible=False, axis="y")
    panel.set_axisbelow(True)
    meant = {colour: _answer(trace, answer) for answer, colour in colour_of.items()}
    meant |= {_OTHER: "other answers", _NONE: "answer not read"}
    keys = [Line2D([], [], color=c, linewidth=5, label=meaning) for c, meaning in meant.items() if c in used]
    marked = {kind for path in paths.values() for _, kind in path.marks}
    for kind, look in _MARKS.items():
        if kind in marked:
            label = "unfinished at the end" if kind == "unfinished" else kind
            keys.append(Line2D([], [], **look, color="black", linestyle="", markersize=4, label=label))
    _legend(figure, keys)
    return figure


_MARKS: dict[str, dict[str, Any]] = {
    "finished": {"marker": "|", "markeredgewidth": 1.2},
    "pruned": {"marker": "x", "markeredgewidth": 0.9},
    "unfinished": {"marker": ">", "markerfacecolor": "none", "markeredgewidth": 0.7},
}


def _paths(trace: Trace, x: str) -> dict[int, _Path]:
    """What each open slot did."""
    paths: dict[int, _Path] = {}
    spent = 0
    for moment in trace.rounds:
        start, stop = (moment.number, moment.number + 1) if x == "round" else (spent, moment.tokens)
        spent = moment.tokens
        generating = set()
        for event in moment.events:
            if event.slot is None or event.depth is None:
                continue
            stretches, marks = paths.setdefault(event.slot, _Path([], []))
            if event.kind == "PRUNE":
                marks.append((event.depth if x == "depth" else start, "pruned"))
            elif event.kind == "PROBE":
                stretches[-1] = (*stretches[-1][:2], event.answer)
            else:
                if x == "depth":
                    stretches.append((event.depth - 1, event.depth, event.answer))
                elif event.slot not in generating:
                    stretches.append((start, stop, event.answer))
                else:
                    stretches[-1] = (start, stop, event.answer)
                generating.add(event.slot)
                if event.answer is not None:
                    marks.append((event.depth if x == "depth" else stop, "finished"))
    for stretches, marks in paths.values():
        if not marks:
            marks.append((stretches[-1][1] if x == "depth" else stop, "unfinished"))
    return paths


@_printed
def votes_over_rounds(trace: Trace) -> Figure:
    """Votes by answer after each round: newest answers as lines, those of finished branches dashed.

    Where an answer has no votes, it has no line. Lines are raised a little, lest they hide each other.
    """
    colour_of = _colours(trace)
    figure = Figure(figsize=(7, 2.7), layout="constrained")
    panel = figure.subplots()
    rounds = np.array([moment.number for moment in trace.rounds])
    marker = "o" if len(rounds) < 12 else ""  # a line of one round would be none

    def draw(which: Iterable[str], colour: str, label: str) -> Line2D:
        """The votes of some answers together."""
        raised = offset_copy(panel.transData, figure, y=len(panel.lines) / 2 * 0.75, units="points")
        for when, look in ((newest, _NEWEST), (pool, _POOL)):
            counts = np.array([sum(votes.get(answer, 0) for answer in which) for votes in when], float)
            around = np.pad(counts, 1)
            counts[around[:-2] + counts + around[2:] == 0] = np.nan
            look = look | {"color": colour, "marker": marker, "markersize": 2.5}
            panel.plot(rounds, counts, **look, drawstyle="steps-post", transform=raised)
        return Line2D([], [], color=colour, **_NEWEST, label=label)

    newest, pool = ([getattr(moment, name) for moment in trace.rounds] for name in ("votes", "pool"))
    keys = [draw([answer], colour, _answer(trace, answer)) for answer, colour in colour_of.items()]
    others = set().union(*newest, *pool) - set(colour_of)
    if others:
        keys.append(draw(others, _OTHER, "all other answers"))
    keys.append(Line2D([], [], color="black", **_NEWEST, label="newest answers"))
    keys.append(Line2D([], [], color="black", **_POOL, label="finished branches only"))
    panel.set_title(_heading(trace), fontsize=8, loc="left")
    _frame(panel, "round", "votes")
    # Raised lines do not count for matplotlib's own limits.
    panel.set_xlim(rounds[0] - 0.5, rounds[-1] + 0.5)
    counts = np.nan_to_num([np.asarray(line.get_ydata(), float) for line in panel.lines])
    panel.set_ylim(0, 1.1 * counts.max(initial=1))
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    _legend(figure, keys)
    return figure


_NEWEST: dict[str, Any] = {"linewidth": 1.5, "linestyle": "-"}
_POOL: dict[str, Any] = {"linewidth": 1, "linestyle": "--"}


@_printed
def calibration(
    confidence: Float[AnyArray, " N"],
    right: Bool[AnyArray, " N"],
    *,
    bins: int = 10,
    question: Int[AnyArray, " N"] | None = None,
) -> Figure:
    """How often a controller is right at each confidence; a calibrated one lies on the diagonal.

    Args:
      confidence: Of each episode, from 0 to 1, such as CMC's ``ema`` when it stopped. NaN is left out.
      right: Whether the answer was right.
      bins: Number of bins, of equal width.
      question: Which question each episode is of. Standard errors are then clustered by question; else episodes
        count as independent, which shuffles of one question are not.

    Raises:
      InputError: if the lengths differ, a confidence is not in 0 to 1, or there is no episode or bin.
    """
    confidence, right = np.asarray(confidence, float), np.asarray(right, float)
    cluster = np.arange(len(right)) if question is None else np.asarray(question)
    if not confidence.shape == right.shape == cluster.shape:
        raise InputError(f"right: {right.shape}, but confidence has {confidence.shape}. Give one value per episode.")
    kept = ~np.isnan(confidence)
    confidence, right, cluster = confidence[kept], right[kept], cluster[kept]
    if not len(confidence):
        raise InputError("confidence: no episode has one. Give at least one number.")
    if bins < 1:
        raise InputError(f"bins {bins}: there must be at least one.")
    if confidence.min() < 0 or confidence.max() > 1:
        wrong = confidence[(confidence < 0) | (confidence > 1)][0]
        raise InputError(f"confidence {wrong:g}: outside 0 to 1. Rescale it.")
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    figure = Figure(figsize=(4, 4), layout="constrained")
    panel = figure.subplots()
    panel.plot([0, 1], [0, 1], color=_OTHER, linewidth=1, label="calibrated")
    points = []
    for each in np.unique(which):
        inside = which == each
        share = right[inside].mean()
        points.append((confidence[inside].mean(), share, _clustered_error(right[inside], cluster[inside])))
        panel.annotate(
            f"{inside.sum():,}", points[-1][:2], textcoords="offset points", xytext=(4, -9), fontsize=6, color=_FAINT
        )
    middle, share, error = np.array(points).T
    panel.errorbar(middle, share, error, color=COLOURS[-1], marker="o", markersize=4, linewidth=1.2, capsize=2)
    panel.set_title("calibration", fontsize=8, loc="left")
    _frame(panel, "confidence", "share right")
    panel.set_xlim(-0.02, 1.02)
    panel.set_ylim(-0.02, 1.02)
    panel.set_aspect("equal")
    how = "episodes taken as independent" if question is None else "clustered by question"
    left_out = np.sum(~kept)
    notes = [f"Bars: ± 1 standard error, {how}; numbers: episodes."]
    notes += [f"Not shown: {left_out:,} without a confidence."] if left_out else []
    _legend(figure, [Line2D([], [], color=_OTHER, linewidth=1, label="calibrated")], notes)
    return figure


def _clustered_error(values: np.ndarray, cluster: np.ndarray) -> float:
    """The standard error of a mean of values that are only independent between clusters; NaN for a single one."""
    _, index = np.unique(cluster, return_inverse=True)
    sums = np.bincount(index, values - values.mean())
    count = len(sums)
    return np.sqrt(np.sum(sums**2) * count / (count - 1)) / len(values) if count > 1 else np.nan


# --- what the figures share ------------------------------------------------------------------------------------------


def _complete(style: Mapping[str, Style] | None, labels: Sequence[str]) -> Mapping[str, Style]:
    if style is None:
        return styles(labels)
    for label in labels:
        if label not in style:
            raise InputError(f"style: none for {label!r}. Make it with styles(), from all labels.")
    return style


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)


def _drawable(row: Mapping[str, Any]) -> bool:
    """Whether a row has a place on a logarithmic axis."""
    tokens, accuracy = _number(row["tokens"]), _number(row["accuracy"])
    return bool(0 < tokens < np.inf and np.isfinite(accuracy))


def _colours(trace: Trace) -> dict[str, str]:
    """Colours of the gold answer, the given one, and the others with the most votes."""
    total: Counter[str] = Counter()
    for moment in trace.rounds:
        total.update(moment.votes)
    first = [answer for answer in (trace.gold, trace.outcome["answer"]) if answer in total]
    names = list(dict.fromkeys([*first, *(answer for answer, _ in total.most_common())]))
    others = iter(_ANSWERS)
    return {
        answer: colour
        for answer in names
        if (colour := _GOLD if answer == trace.gold else next(others, None)) is not None
    }


def _heading(trace: Trace) -> str:
    answer = trace.outcome["answer"]
    given = "no answer" if answer is None else f"answers {_text(answer, 24)}"
    right = "right" if trace.outcome["correct"] else f"wrong, gold {_text(trace.gold, 24)}"
    return (
        f"{_text(trace.dataset, 30)}, question {trace.question}, shuffle {trace.shuffle}: "
        f"{_controller(trace.controller, 30)}\n{given} ({right}) after {trace.outcome['tokens']:,} tokens"
    )


def _answer(trace: Trace, answer: str) -> str:
    roles = [role for role, what in (("gold", trace.gold), ("given", trace.outcome["answer"])) if what == answer]
    return _text(answer, 24) + (f" ({', '.join(roles)})" if roles else "")


def _controller(label: str, length: int = 36) -> str:
    """A controller's label, with the names of published ones spelled as words."""
    name, *rest = label.partition(":")
    return _text("".join([name.replace("_", " ") if name in _PUBLISHED else name, *rest]), length)


def _text(text: str, length: int = 36) -> str:
    """A text from data, for matplotlib to draw as it is: on one line, at most so long, and with this font's glyphs."""
    has = _glyphs(findfont(FontProperties()))
    plain = "".join(c for c in " ".join(text.split()) if unicodedata.category(c)[0] != "C")
    plain = "".join(c if ord(c) in has else f"U+{ord(c):04X}" for c in _cut(plain, length))
    # Legends leave out labels that begin with an underscore.
    return (" " + plain if plain.startswith("_") else plain or "(empty)").replace("$", r"\$")


def _cut(text: str, length: int) -> str:
    """Shortens a text in the middle: the ends of names tell more."""
    if len(text) <= length:
        return text
    return text[: (length - 1) // 2] + "…" + text[-(length // 2) :]


@functools.cache
def _glyphs(font: str) -> frozenset[int]:
    return frozenset(get_font(font).get_charmap())


def _frame(panel: Axes, x: str, y: str) -> None:
    panel.set_xlabel(x, fontsize=7)
    panel.set_ylabel(y, fontsize=7)
    panel.tick_params(labelsize=6.5, length=2.5)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.25, linewidth=0.5)


def _token_axis(panel: Axes) -> None:
    """As many ticks as fit, in thousands: at 1, 2 and 5, at 1 and 3, or at powers of ten."""
    low, high = panel.get_xlim()
    subs = (1, 2, 5) if high / low < 10 else (1, 3) if high / low < 500 else (1,)
    panel.xaxis.set_major_locator(LogLocator(subs=subs))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: f"{tokens / 1000:,.6g}"))


def _legend(figure: Figure, keys: Sequence[Line2D], notes: Sequence[str] = (), *, grow: bool = True) -> None:
    """A legend below the panels, with notes above it; the figure may grow by it."""
    width = 72 * figure.get_figwidth() - 12
    # At 6.5 points a character is about 3.9 wide, and a key 36.
    longest = max((len(str(key.get_label())) for key in keys), default=0)
    columns = max(1, min(int(width / (3.9 * longest + 36)), len(keys)))
    lines = [line for note in notes for line in textwrap.wrap(note, int(width / 3.7))]
    if grow:
        figure.set_figheight(figure.get_figheight() + 0.1 + 0.13 * (len(lines) + -(-len(keys) // columns)))
    legend = figure.legend(
        handles=keys,
        loc="outside lower center",
        ncols=columns,
        fontsize=6.5,
        title="\n".join(lines) or None,
        title_fontsize=6,
        handlelength=2.6,
    )
    legend.get_title().set_multialignment("center")
