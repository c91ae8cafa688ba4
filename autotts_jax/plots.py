"""Figures, readable in print and by the colour-blind: each function returns a matplotlib figure to save."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

from autotts_jax.replay import AnyArray
from autotts_jax.traces import Trace

__all__ = ["calibration", "episode_path", "per_question", "scaling_curves", "votes_over_rounds"]

#: Okabe and Ito's palette (https://jfly.uni-koeln.de/color/), distinguishable in every kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")

_MARKERS, _LINES = "osD^vPX", ("-", "--", "-.", ":")
_OTHER, _NONE = "#999999", "#DDDDDD"


def scaling_curves(table: pa.Table) -> Figure:
    """Accuracy against tokens along β, one panel per dataset, as in AutoTTS figure 3.

    Args:
      table: `Results.table`. The bands are one standard error, clustered by question.
    """
    rows = table.to_pylist()
    datasets = list(dict.fromkeys(row["dataset"] for row in rows))
    controllers = list(dict.fromkeys(row["controller"] for row in rows))
    columns = min(len(datasets), 4)
    lines = -(-len(datasets) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.9 * lines + 0.5), layout="constrained")
    panels = np.ravel(figure.subplots(lines, columns, squeeze=False))
    for panel, dataset in zip(panels, datasets, strict=False):
        for number, controller in enumerate(controllers):
            picked = [row for row in rows if (row["dataset"], row["controller"]) == (dataset, controller)]
            picked.sort(key=lambda row: row["tokens"])
            tokens, accuracy = (np.array([row[key] for row in picked]) for key in ("tokens", "accuracy"))
            error = np.array([row["accuracy_se"] or 0 for row in picked])
            colour = COLOURS[number % len(COLOURS)]
            panel.plot(
                *(tokens, accuracy),
                color=colour,
                marker=_MARKERS[number % len(_MARKERS)],
                linestyle=_LINES[number % len(_LINES)],
                markersize=3.5,
                linewidth=1.2,
                label=controller.replace("_", " "),
            )
            panel.fill_between(tokens, accuracy - error, accuracy + error, color=colour, alpha=0.12, linewidth=0)
        panel.set_xscale("log")
        _style(panel, dataset, "tokens per episode", "accuracy")
        panel.yaxis.set_major_formatter(PercentFormatter(1))
    for panel in panels[len(datasets) :]:
        panel.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2 * columns, frameon=False, fontsize=7)
    return figure


def per_question(table: pa.Table, controller: str, beta: float | None = None) -> Figure:
    """Accuracy against tokens, one point per question.

    Args:
      table: `Results.per_question`.
      controller: The controller to show.
      beta: The β to show; defaults to all rows of the controller.
    """
    rows = [row for row in table.to_pylist() if row["controller"] == controller and beta in (None, row["beta"])]
    datasets = list(dict.fromkeys(row["dataset"] for row in rows))
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    panel = figure.subplots()
    for number, dataset in enumerate(datasets):
        panel.plot(
            [row["tokens"] for row in rows if row["dataset"] == dataset],
            [row["accuracy"] for row in rows if row["dataset"] == dataset],
            linestyle="",
            markersize=4.5,
            color=COLOURS[number % len(COLOURS)],
            marker=_MARKERS[number % len(_MARKERS)],
            alpha=0.8,
            label=dataset,
        )
    panel.set_xscale("log")
    at = "" if beta is None else f", β = {beta:g}"
    _style(panel, f"{controller.replace('_', ' ')}{at}: each question", "tokens per episode", "accuracy")
    panel.yaxis.set_major_formatter(PercentFormatter(1))
    panel.legend(frameon=False, fontsize=7)
    return figure


def episode_path(trace: Trace) -> Figure:
    """Branches as bars over depth, coloured by answer, with prunes and the stop, as in AutoTTS figure 2."""
    events = [
        (event.kind, event.slot, event.depth, event.answer)
        for moment in trace.rounds
        for event in moment.events
        if event.slot is not None and event.depth is not None
    ]
    colour_of = _colours(trace)
    opened = trace.outcome["opened"]
    figure = Figure(figsize=(7, 1.5 + 0.16 * opened), layout="constrained")
    panel = figure.subplots()
    answers = {(slot, at): answer for _, slot, at, answer in events if answer is not None}
    depth: dict[int, int] = {}
    for _, slot, at, _ in events:
        depth[slot] = max(depth.get(slot, 0), at)
    for slot, deepest in depth.items():
        for at in range(1, deepest + 1):
            colour = colour_of.get(answers.get((slot, at), ""), _OTHER if (slot, at) in answers else _NONE)
            panel.barh(slot, 1, left=at - 1, height=0.72, color=colour, linewidth=0)
    for kind, slot, at, answer in events:
        if kind == "PRUNE":
            panel.plot(at + 0.3, slot, marker="x", color="black", markersize=4, clip_on=False)
        elif kind != "PROBE" and answer is not None:
            panel.plot(at, slot, marker="|", color="black", markersize=6, clip_on=False)
    panel.set_ylim(opened - 0.4, -0.6)
    right = "right" if trace.outcome["correct"] else f"wrong, gold {trace.gold}"
    title = (
        f"{trace.dataset}, question {trace.question}, shuffle {trace.shuffle}: {trace.controller.replace('_', ' ')}\n"
        f"answers {trace.outcome['answer']} ({right}) after {trace.outcome['tokens']:,} tokens"
    )
    _style(panel, title, "depth, in intervals", "branch")
    keys = [Line2D([], [], color=colour, linewidth=5, label=answer) for answer, colour in colour_of.items()]
    keys += [
        Line2D([], [], color=_OTHER, linewidth=5, label="other answers"),
        Line2D([], [], color="black", marker="|", linestyle="", label="finished"),
        Line2D([], [], color="black", marker="x", linestyle="", markersize=4, label="pruned"),
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=5, frameon=False, fontsize=7)
    return figure


def votes_over_rounds(trace: Trace) -> Figure:
    """Votes by answer after each round: newest answers as lines, finished branches dashed."""
    figure = Figure(figsize=(6.5, 3.2), layout="constrained")
    panel = figure.subplots()
    rounds = [moment.number for moment in trace.rounds]
    for number, (answer, colour) in enumerate(_colours(trace).items()):
        newest, pool = (
            [getattr(moment, which).get(answer, 0) for moment in trace.rounds] for which in ("votes", "pool")
        )
        mark = " (gold)" if answer == trace.gold else ""
        panel.plot(rounds, newest, color=colour, label=answer + mark, linewidth=1.6)
        panel.plot(rounds, pool, color=colour, linestyle="--", linewidth=1, marker=_MARKERS[number], markevery=8, ms=3)
    _style(panel, f"{trace.dataset}, question {trace.question}: votes", "round", "votes (dashed: finished branches)")
    panel.yaxis.set_major_locator(MaxNLocator(integer=True))
    panel.legend(frameon=False, fontsize=7)
    return figure


def calibration(confidence: Float[AnyArray, " N"], right: Bool[AnyArray, " N"], *, bins: int = 10) -> Figure:
    """How often a controller is right at each confidence; a calibrated one lies on the diagonal.

    Args:
      confidence: From 0 to 1, such as CMC's ``ema`` when it stopped.
      right: Whether the answer was right.
      bins: Number of bins, of equal width.
    """
    confidence, right = np.asarray(confidence), np.asarray(right)
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    used = sorted(set(which.tolist()))
    figure = Figure(figsize=(4, 4), layout="constrained")
    panel = figure.subplots()
    panel.plot([0, 1], [0, 1], color=_OTHER, linewidth=1)
    share, counts = [right[which == b].mean() for b in used], [int((which == b).sum()) for b in used]
    middle = [confidence[which == b].mean() for b in used]
    error = [np.sqrt(p * (1 - p) / n) for p, n in zip(share, counts, strict=True)]
    panel.errorbar(middle, share, yerr=error, color=COLOURS[0], marker="o", markersize=4, linewidth=1.2, capsize=2)
    for x, y, n in zip(middle, share, counts, strict=True):
        panel.annotate(f"{n}", (x, y), textcoords="offset points", xytext=(4, -9), fontsize=6, color="#555555")
    _style(panel, "calibration (labels: episodes)", "confidence", "share right")
    panel.set_xlim(-0.02, 1.02)
    panel.set_ylim(-0.02, 1.02)
    return figure


def _colours(trace: Trace) -> Mapping[str, str]:
    """Colours of the gold answer, the given one, and the others with the most votes."""
    total: Counter[str] = Counter()
    for moment in trace.rounds:
        total.update(moment.votes)
    first = [answer for answer in (trace.gold, trace.outcome["answer"]) if answer in total]
    rest = [answer for answer, _ in total.most_common() if answer not in first]
    # The gold answer is always green.
    order = ("#009E73" if trace.gold in first else "", *(c for c in COLOURS if c != "#009E73"))
    names = list(dict.fromkeys([*first, *rest]))[: len(COLOURS) - 1]
    return dict(zip(names, [c for c in order if c], strict=False))


def _style(panel: Axes, title: str, x: str, y: str) -> None:
    panel.set_title(title, fontsize=9, loc="left")
    panel.set_xlabel(x, fontsize=8)
    panel.set_ylabel(y, fontsize=8)
    panel.tick_params(labelsize=7)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.25, linewidth=0.5)
    if panel.get_xscale() == "log":
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
