"""What the page says of accuracy and tokens: provenance, rows, comparisons, and the curves' points."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import autotts_jax as tts
from autotts_jax.report.shell import SHAPES

__all__ = ["effect", "label", "middle_rows", "number", "tables"]

#: Characters of a label.
_LABEL = 80

#: The most rows of which any two can be compared, and the resamples for it: their pairs must fit on the page.
_ROWS, _RESAMPLES = 66, 2000


def tables(results: tts.Results) -> dict[str, Any]:
    """The template's variables, by name."""
    names = list(dict.fromkeys(row.label for row in results.rows))
    several = [name for name, questions in results.parts if questions > 1]
    rows = _rows(results, several)
    return {
        "parts": results.parts,
        "shuffles": results.shuffles,
        "notes": [
            *results.notes,
            *(f"{name}: a single question, which says nothing about others" for name in _alone(results)),
        ],
        "provenance": _provenance(results),
        "labels": [label(name) for name in names],
        # As in all figures; black is the text's colour, on dark pages as well.
        "colours": [look.color.replace("#000000", "currentColor") for look in tts.plots.styles(names).values()],
        "shapes": [SHAPES[look.marker] for look in tts.plots.styles(names).values()],
        "rows": rows,
        "points": [{key: number(value) for key, value in row.items() if key != "params"} for row in rows],
        "compared": _compared(results, names, several) if several and len(names) > 1 else [],
        "settings": [
            [label(name), [[i, beta(row)] for i, row in enumerate(results.rows) if row.label == name]]
            for name in names
        ],
        "differences": _differences(results, several),
    }


def label(text: str) -> str:
    """A label, cut if it is very long."""
    return text if len(text) <= _LABEL else f"{text[: _LABEL - 1]}…"


def beta(row: tts.Row) -> str:
    """A row's β, or that it has none."""
    return "fixed" if row.beta is None else f"{row.beta:g}"


def middle_rows(results: tts.Results) -> list[int]:
    """The number of each setting's row at the middle of its β grid."""
    groups: dict[str, list[int]] = {}
    for number, row in enumerate(results.rows):
        groups.setdefault(row.label, []).append(number)
    return [group[len(group) // 2] for group in groups.values()]


def _provenance(results: tts.Results) -> list[tuple[str, list[str]]]:
    """What the results come from: headings, each with its lines; nothing for results put together by hand."""
    if results.origin is None:
        return []
    source = results.provenance
    budget = "no budget" if source.budget is None else f"budget {source.budget:,}"
    return [
        ("command", [shlex.join(source.command) or "none: called in Python"]),
        ("finished", [source.finished.isoformat(" ", "seconds")]),
        ("data", [_joined(label(d.label), f"{d.questions} questions", d.digest, d.source) for d in source.datasets]),
        ("methods", [_joined(label(s.label), s.artefact, s.source) for s in source.settings]),
        ("cost", [_joined(source.cost, f"{source.probe_cost} per probe", budget)]),
        ("β", [_joined(*(f"{value:g}" for value in source.betas))]),
        ("orders", [_joined(source.orders, f"{source.shuffles} per question", f"seed {source.seed}")]),
        ("device", [source.device]),
        ("versions", [_joined(*(f"{name} {version}" for name, version in source.versions.items()))]),
    ]


def _joined(*parts: str) -> str:
    return ", ".join(filter(None, parts))


def _alone(results: tts.Results) -> list[str]:
    return [name for name, questions in results.parts if questions < 2]


def _rows(results: tts.Results, several: Sequence[str]) -> list[dict[str, Any]]:
    """The results' rows on each dataset; without intervals if a dataset has a single question."""
    table = tts.frontier.intervals(results) if len(several) == len(results.parts) else results.table
    wanted = ("accuracy", "accuracy_low", "accuracy_high", "tokens", "tokens_low", "tokens_high", "pareto")
    rows = []
    for index, line in enumerate(table.to_pylist()):
        row = results.rows[index % len(results.rows)]
        rows.append(
            {
                "dataset": label(line["dataset"]),
                "method": label(row.label),
                "beta": beta(row),
                "params": row.described(),
            }
            | {name: line.get(name) for name in wanted}
        )
    return rows


def _compared(results: tts.Results, names: Sequence[str], several: Sequence[str]) -> list[dict[str, Any]]:
    """Each setting against each other one, on the datasets of several questions."""
    lines = []
    for name in names:
        others = [other for other in names if other != name]
        lines += tts.frontier.compare(results, name, others, several).to_pylist()
    # A reader picks a reference: then all its comparisons are the ones to correct for.
    for reference in names:
        family = [line for line in lines if line["baseline"] == reference]
        corrected = tts.frontier.holm(jnp.asarray([line["p"] for line in family], jnp.float32))
        for line, p in zip(family, corrected.tolist(), strict=True):
            line["p_corrected"] = p
    for line in lines:
        line |= {name: label(line[name]) for name in ("dataset", "controller", "baseline")}
        line |= {name: effect(line[name], line["at"]) for name in ("effect", "low", "high")} | {
            "sort": number(line["effect"])
        }
    return lines


def effect(value: float | None, at: str) -> str:
    """A difference in points, or a ratio of tokens."""
    if value is None or np.isnan(value):
        return "–"
    if at == "equal tokens":
        return f"{100 * value:+z.1f}"
    return "×∞" if np.isinf(value) else f"×{value:.2f}"


def number(value: Any) -> Any:
    """A value for JSON, to five digits; JSON has neither NaN nor infinities."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.5g}") if np.isfinite(value) else None


def _differences(results: tts.Results, several: Sequence[str]) -> dict[str, Any]:
    """Each row against each later one, on each dataset, for the page to show any two.

    Per pair six integers: the difference in accuracy in hundredths of a point, and the log ratio of tokens in
    thousandths, each with the ends of its interval. Where there are very many rows, only some, evenly spread.
    """
    chosen = np.unique(np.linspace(0, len(results.rows) - 1, min(len(results.rows), _ROWS)).round().astype(int))
    first, second = np.triu_indices(len(chosen), 1)
    found: dict[str, list[int]] = {}
    for name, inside in results.slices():
        if name not in several or not len(first):
            continue
        questions = inside.stop - inside.start
        sums = np.concatenate([np.asarray(results.sums[field])[chosen, inside] for field in ("correct", "tokens")])
        means = tts.frontier.bootstrap(jax.random.key(0), jnp.asarray(sums.T, jnp.float32), _RESAMPLES)
        accuracy, tokens = jnp.split(means / jnp.float32(results.shuffles), 2, axis=1)
        columns = []
        for values, unit in ((accuracy, 1e4), (jnp.log(jnp.maximum(tokens, 1)), 1e3)):
            draws = values[:, first] - values[:, second]
            ends = tts.frontier.interval(draws[1:], questions)
            columns += [np.asarray(column, np.float64) * unit for column in (draws[0], *ends)]
        found[label(name)] = np.stack(columns, axis=1).round().astype(int).ravel().tolist()
    return {"rows": chosen.tolist(), "datasets": found}
