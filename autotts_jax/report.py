"""A sweep as one self-contained page: table, curves, comparisons, failures, and episodes to step through."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from typing import Any

import jinja2
import numpy as np
from jaxtyping import Int
from markupsafe import Markup
from matplotlib.figure import Figure

import autotts_jax as tts

__all__ = ["page"]

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("autotts_jax", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
)


def page(
    results: tts.Results,
    dataset: tts.Dataset,
    orders: Int[np.ndarray, "Q S B"],
    rules: tts.Rules,
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> str:
    """The page, as HTML; it needs no network.

    Args:
      results: Of a sweep.
      dataset: What was swept, as one dataset.
      orders: ``[Q, S, B]`` the orders that were replayed.
      rules: What actions cost.
      progress: Called with a controller's name before its episodes are replayed again.
    """
    watched = []
    for row in _one_row_each(results.rows):
        progress(row.label)
        seen = tts.failures.watch(dataset, row, orders, rules)
        counts = tts.failures.count_failures(seen)
        examples = {mode: place for mode, (_, place) in counts.items() if place}
        right = np.argwhere(seen.failure == tts.failures.Failure.NONE)
        if len(right):
            examples[tts.failures.Failure.NONE] = (int(right[0][0]), int(right[0][1]))
        watched.append(
            {
                "controller": row.label,
                "at": "" if row.beta is None else f"β = {row.beta:g}",
                "failures": {_words(mode): count for mode, (count, _) in counts.items()},
                "wrong": int(np.sum(~seen.outcome.correct)),
                "episodes": seen.outcome.correct.size,
                "summary": tts.failures.summarize(dataset, row, seen, characters=6000),
                "traces": _examples(dataset, row, orders, rules, examples),
            }
        )
    names = list(dict.fromkeys(row.label for row in results.rows))
    compared = tts.frontier.compare(results, names[0], names[1:]).to_pylist() if len(names) > 1 else []
    return _TEMPLATES.get_template("report.html").render(
        parts=results.parts,
        shuffles=results.shuffles,
        notes=results.notes,
        curves=_svg(tts.plots.scaling_curves(results.table)),
        rows=tts.frontier.intervals(results).to_pylist(),
        compared=compared,
        modes=[_words(mode) for mode in list(tts.failures.Failure)[1:]],
        watched=watched,
    )


def _one_row_each(rows: Sequence[tts.Row]) -> list[tts.Row]:
    """Each controller's row at the middle of its β grid."""
    by_name: dict[str, list[tts.Row]] = {}
    for row in rows:
        by_name.setdefault(row.label, []).append(row)
    return [group[len(group) // 2] for group in by_name.values()]


def _examples(
    dataset: tts.Dataset,
    row: tts.Row,
    orders: Int[np.ndarray, "Q S B"],
    rules: tts.Rules,
    places: dict[tts.failures.Failure, tuple[int, int]],
) -> list[dict[str, Any]]:
    """An episode of each kind, to step through."""
    recording = tts.traces.record_episodes(dataset, row, orders, list(places.values()), rules)
    shown = []
    for index, mode in enumerate(places):
        trace = tts.traces.decode(dataset, row, orders, recording, index)
        shown.append(
            {
                "kind": "right" if mode is tts.failures.Failure.NONE else _words(mode),
                "trace": trace,
                "path": _svg(tts.plots.episode_path(trace)),
                "votes": _svg(tts.plots.votes_over_rounds(trace)),
                "rounds": _rounds(trace),
            }
        )
    return shown


def _rounds(trace: tts.traces.Trace) -> str:
    """The rounds that a reader steps through, as JSON."""
    return json.dumps(
        [
            {
                "events": [_event(event) for event in moment.events],
                "tokens": moment.tokens,
                "votes": moment.votes,
                "pool": moment.pool,
                "memory": moment.memory,
            }
            for moment in trace.rounds
        ],
        ensure_ascii=False,
    )


def _event(event: tts.traces.Event) -> str:
    about = "" if event.slot is None else f"({event.slot})"
    return f"{event.kind}{about}" + ("" if event.answer is None else f" → {event.answer}")


def _words(mode: tts.failures.Failure) -> str:
    return mode.name.lower().replace("_", " ")


def _svg(figure: Figure) -> Markup:
    """The figure as inline SVG."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    # Made here, not by a user: no need to escape it.
    return Markup(text.getvalue()[text.getvalue().index("<svg") :])
