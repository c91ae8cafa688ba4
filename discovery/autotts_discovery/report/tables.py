"""What the page says, from a run's ledger: figures, curves, descent, sources, refusals, costs, and the vault."""

from __future__ import annotations

import collections
import dataclasses
import difflib
import functools
import importlib.resources
import json
from collections.abc import Iterator, Sequence
from typing import Any

import autotts_jax as tts
from autotts_discovery import evidence
from autotts_discovery.ledger import (
    Begun,
    Best,
    Called,
    Corrected,
    Ended,
    Evaluated,
    Fate,
    Known,
    Ledger,
    Proved,
    Replied,
    VaultOpened,
    Watched,
    transferred,
)
from autotts_jax.report.episodes import MODES
from autotts_jax.report.shell import SHAPES
from autotts_jax.report.tables import effect, label
from autotts_jax.report.tables import number as finite

__all__ = ["tables"]

#: Characters of sources and differences on the page; beyond them, the best candidates' are shown.
_ROOM = 1_500_000

#: Tunings that are drawn, the newest.
_DRAWN = 12

#: Generations from one point of a tuning's curve to the next.
_GENERATIONS = 5


@dataclasses.dataclass(frozen=True)
class _Candidate:
    """A candidate on the page; gains are in points of accuracy.

    Attributes:
      place: Its place in the run, which is unique.
      short: The beginning of its digest.
      title: That, and the controller's name.
      fate: All that the ledger has.
      x: Where it stands among the rounds.
      gain: None if it was not judged, as for the next two.
      error: The gain's standard error.
      lower: What it is ranked by.
    """

    place: str
    short: str
    title: str
    fate: Fate
    x: float
    gain: float | None
    error: float | None
    lower: float | None

    @property
    def tuned(self) -> bool:
        """Whether tuning made it."""
        return self.place.endswith("t")

    @property
    def kind(self) -> str:
        """What is to be said of it in a word."""
        return "refused" if self.fate.refusal else "waiting" if self.gain is None else "tuned" if self.tuned else "new"


def tables(ledger: Ledger) -> dict[str, Any]:
    """The template's variables, by name."""
    candidates = _candidates(ledger)
    best = next((one for one in candidates if one.fate is ledger.best), None)
    by_digest: dict[str, _Candidate] = {}
    for one in sorted(candidates, key=lambda one: one.kind == "refused"):  # of duplicates, the one that was judged
        by_digest.setdefault(one.fate.proposed.candidate, one)
    known = {name: verdict for event in ledger.of(Known) for name, verdict in event.verdicts.items()}
    paid = ("dollars", "tokens") if ledger.of(Called) else ()
    return {
        "state": _state(ledger),
        "provenance": _provenance(ledger),
        "best": best,
        "corrected": _corrected(ledger, best),
        "candidates": candidates,
        "by_digest": by_digest,
        "known": {name: _points(verdict) for name, verdict in known.items()},
        "verdicts": known,
        "descent": list(_descent(candidates, by_digest)),
        "sources": _sources(ledger, candidates, by_digest),
        "tunings": [(one, _tuning(one.fate.tuned.figures)) for one in candidates if one.fate.tuned],
        "refusals": _refusals(candidates),
        "failed": [event for event in ledger.of(Replied) if event.failure],
        "rounds": _rounds(ledger, candidates, paid),
        "paid": paid,
        "dollars": ledger.spent.dollars if paid else None,
        "openings": [
            (event.at, _named(event.candidate, by_digest), event.datasets) for event in ledger.of(VaultOpened)
        ],
        "proofs": [_proof(event, by_digest) for event in ledger.of(Proved)],
        "watched": [(_named(event.candidate, by_digest), event) for event in ledger.of(Watched)],
        "modes": MODES,
        "label": label,
        "drawn": {
            "trajectory": _trajectory(ledger, candidates, best, by_digest),
            "frontier": _frontier(candidates, best, known),
            "tunings": [_curve(one) for one in candidates if one.fate.tuned and "curve" in one.fate.tuned.figures][
                -_DRAWN:
            ],
            "specs": {name: json.loads(_file(f"{name}.json")) for name in ("trajectory", "tuning")},
        },
    }


# --- the run ---------------------------------------------------------------------------------------------------------


def _state(ledger: Ledger) -> dict[str, Any]:
    """How far the run has come."""
    last = ledger.events[-1]
    ends = {"rounds": "all rounds are done", "minutes": "its minutes are over", "interrupted": "it was interrupted"}
    ended = next((event for event in reversed(ledger.events) if isinstance(event, Begun | Ended)), last)
    return {
        "at": last.at.isoformat(" ", "seconds"),
        "minutes": ledger.elapsed / 60,
        "end": ends.get(ended.reason, ended.reason) if isinstance(ended, Ended) else "",
        "rounds": max((fate.proposed.round for fate in ledger.fates.values()), default=0),
    }


def _provenance(ledger: Ledger) -> list[tuple[str, list[str]]]:
    """What the run was given: headings, each with its lines."""
    begun = ledger.begun
    settings = begun.settings.model_dump()
    return [
        (heading, lines)
        for heading, lines in (
            (
                "search data",
                [f"{label(d.label)}, {d.questions} questions, {d.digest} {d.source}" for d in begun.datasets],
            ),
            (
                "kept away",
                [f"{label(d.label)}, {d.questions} questions, {d.digest} {d.source}" for d in begun.held_out],
            ),
            ("settings", [", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items())]),
            ("begun", [event.at.isoformat(" ", "seconds") for event in ledger.of(Begun)]),
            ("wall", [", ".join(begun.wall) or "none: candidates were trusted"]),
            ("device", [begun.device]),
            ("versions", [", ".join(f"{name} {version}" for name, version in begun.versions.items())]),
        )
        if lines
    ]


def _corrected(ledger: Ledger, best: _Candidate | None) -> str:
    """The best candidate's gain once the choice is allowed for, in words; empty until that is known."""
    figures = [event.figures for event in ledger.of(Corrected)]
    if not figures or best is None or figures[-1]["candidate"] != best.fate.proposed.candidate:
        return ""
    return evidence.sentence(evidence.Correction.model_validate(figures[-1]))


def _candidates(ledger: Ledger) -> list[_Candidate]:
    """All candidates, in order."""
    sizes = collections.Counter(fate.proposed.round for fate in ledger.fates.values())
    before: collections.Counter[int] = collections.Counter()
    found = []
    for place, fate in ledger.fates.items():
        place_in_round = (before[fate.proposed.round] + 0.5) / sizes[fate.proposed.round]
        x = fate.proposed.round - 0.35 + 0.7 * place_in_round
        before[fate.proposed.round] += 1
        evaluated, verdict = fate.full or fate.look, fate.full.verdict if fate.full else {}
        short = fate.proposed.candidate[:8]
        points = _points(verdict) if verdict else {}
        found.append(
            _Candidate(
                place=place,
                short=short,
                title=f"{short} {label(evaluated.name)}" if evaluated else short,
                fate=fate,
                x=round(x, 3),
                gain=points.get("gain"),
                error=points.get("gain_se"),
                lower=100 * ledger.lower(place) if verdict else None,
            )
        )
    return found


def _points(verdict: dict[str, Any]) -> dict[str, float]:
    """A verdict's gain and error, in points."""
    return {name: 100 * float(verdict[name]) for name in ("gain", "gain_se")}


def _named(candidate: str, by_digest: dict[str, _Candidate]) -> _Candidate | str:
    """A candidate, or the name of a hand-made controller."""
    return by_digest.get(candidate, candidate)


def _rounds(ledger: Ledger, candidates: Sequence[_Candidate], paid: Sequence[str]) -> list[dict[str, Any]]:
    """What each round brought, and what it took: seconds, and dollars and tokens where a model was called."""
    costs: list[tuple[int, dict[str, float]]] = [(e.number, {"asking": e.seconds}) for e in ledger.of(Replied)]
    for call in ledger.of(Called):
        costs.append((call.number, {"dollars": call.dollars or 0.0, "tokens": call.usage.input + call.usage.output}))
    for one in candidates:
        fate = one.fate
        counts = {"candidates": 1, "judged": one.gain is not None, "refused": fate.refusal is not None}
        took = {"judging": sum(event.seconds for event in (fate.look, fate.full) if event)}
        took["tuning"] = fate.tuned.seconds if fate.tuned else 0
        costs.append((fate.proposed.round, counts | took))
    names = ("candidates", "judged", "refused", "asking", "judging", "tuning", *paid)
    rounds: dict[int, dict[str, float]] = {}
    for number, some in costs:
        row = rounds.setdefault(number, dict.fromkeys(names, 0))
        for name, value in some.items():
            row[name] += value
    return [{"round": number, **row} for number, row in sorted(rounds.items())]


# --- figures ---------------------------------------------------------------------------------------------------------


def _trajectory(
    ledger: Ledger, candidates: Sequence[_Candidate], best: _Candidate | None, by_digest: dict[str, _Candidate]
) -> dict[str, Any]:
    """The gain of every candidate by round, of the best so far, and of whatever was judged on held-out data.

    Candidates that are far below would flatten all others, so they are drawn at the lower edge.
    """
    points = [_point(one, one.fate.full, one.kind) | {"best": one is best} for one in candidates if one.fate.full]
    proved = [
        _point(one, event, "held out")
        for event in ledger.of(Proved)
        if isinstance(one := _named(event.candidate, by_digest), _Candidate)
    ]
    top = max((point["high"] for point in (*points, *proved)), default=1)
    edge = -max(2 * abs(top), 1)
    for point in (*points, *proved):
        point.update({to: max(point[name], edge) for name, to in (("gain", "y"), ("low", "low"), ("high", "high"))})
        point["kind"] = "below" if point["gain"] < edge else point["kind"]
    by_place = {point["place"]: point for point in points}
    crowned = [by_place[event.place] for event in ledger.of(Best)]
    steps = [{key: point[key] for key in ("x", "y", "low", "high")} for point in crowned]
    if steps:
        steps.append(steps[-1] | {"x": max(one.x for one in candidates) + 0.15})
    return {
        "points": points,
        "proved": proved,
        "steps": steps,
        "rounds": max((one.x for one in candidates), default=1),
    }


def _point(one: _Candidate, judged: Evaluated | Proved, kind: str) -> dict[str, Any]:
    gain, error = _points(judged.verdict).values()
    figures = {"gain": gain, "error": error, "low": gain - error, "high": gain + error}
    about = {"x": one.x, "round": one.fate.proposed.round, "place": one.place, "title": one.title, "kind": kind}
    return about | {name: round(value, 4) for name, value in figures.items()}


def _frontier(
    candidates: Sequence[_Candidate], best: _Candidate | None, known: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Accuracy against tokens along β: the best candidate and the hand-made controllers in full, others faintly."""
    verdicts = {f"best: {best.title}": best.fate.full.verdict} if best and best.fate.full else {}
    verdicts |= known
    looks = tts.plots.styles(verdicts)
    return {
        "labels": list(verdicts),
        "colours": [look.color.replace("#000000", "currentColor") for look in looks.values()],
        "shapes": [SHAPES[look.marker] for look in looks.values()],
        "points": [{"method": name, **row} for name, verdict in verdicts.items() for row in _along(verdict)],
        "others": [
            {"candidate": one.title, **row}
            for one in candidates
            if one.fate.full and one is not best
            for row in _along(one.fate.full.verdict)
        ],
    }


def _along(verdict: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for beta, accuracy, tokens in zip(verdict["betas"], verdict["accuracy"], verdict["tokens"], strict=True):
        yield {"beta": f"{beta:g}", "accuracy": float(f"{accuracy:.5g}"), "tokens": float(f"{tokens:.5g}")}


def _tuning(figures: dict[str, Any]) -> dict[str, Any]:
    """A tuning's figures in points."""
    if "curve" not in figures:
        return {"failure": figures.get("failure", "")}
    gained = [100 * (figures["curve"][-1][fold] - figures["curve"][0][fold]) for fold in (0, 1)]
    points = {name: 100 * figures[name] for name in ("before", "after", "seen", "unseen")}
    counts = {name: figures[name] for name in ("splits", "free", "episodes", "seconds")}
    return points | counts | {"searched": gained[0], "others": 100 * transferred(figures), "failure": ""}


def _curve(one: _Candidate) -> dict[str, Any]:
    """A tuning's curve: fitness by generation on the questions that were searched, and on the others."""
    assert one.fate.tuned is not None
    curve = one.fate.tuned.figures["curve"]
    at = ["start", *(str(_GENERATIONS * number) for number in range(1, len(curve) - 1)), "end"]
    folds = ("searched", "others")
    return {
        "title": one.title,
        "order": at,
        "points": [
            {"at": when, "questions": fold, "fitness": round(100 * value, 4)}
            for when, pair in zip(at, curve, strict=True)
            for fold, value in zip(folds, pair, strict=True)
        ],
    }


# --- descent and sources ---------------------------------------------------------------------------------------------


def _descent(
    candidates: Sequence[_Candidate], by_digest: dict[str, _Candidate]
) -> Iterator[tuple[int, _Candidate, list[_Candidate]]]:
    """The candidates as a tree, each below its first parent: depth, candidate, parents.

    A candidate's parents were proposed before it; whatever a ledger says, this ends.
    """
    number = {one.place: index for index, one in enumerate(candidates)}
    children: dict[str, list[_Candidate]] = {}
    parents = {one.place: _parents(one, by_digest) for one in candidates}
    for one in candidates:
        earlier = [parent for parent in parents[one.place] if number[parent.place] < number[one.place]]
        parents[one.place] = earlier
        children.setdefault(earlier[0].place if earlier else "", []).append(one)
    ahead = [(0, one) for one in reversed(children.get("", []))]
    while ahead:
        depth, one = ahead.pop()
        yield depth, one, parents[one.place]
        ahead += [(depth + 1, child) for child in reversed(children.get(one.place, []))]


def _parents(one: _Candidate, by_digest: dict[str, _Candidate]) -> list[_Candidate]:
    found = (by_digest.get(digest) for digest in one.fate.proposed.parents)
    return [parent for parent in found if parent and parent is not one]


def _sources(
    ledger: Ledger, candidates: Sequence[_Candidate], by_digest: dict[str, _Candidate]
) -> list[dict[str, Any]]:
    """Each candidate with its parents, its source, and how that differs from its first parent's; the best come first.

    Once the page is full, sources are left out.
    """
    room, found = _ROOM, []
    for one in sorted(candidates, key=lambda one: (one.lower is None, -(one.lower or 0))):
        parents = _parents(one, by_digest)
        source = ledger.kept("candidates", f"{one.fate.proposed.candidate}.py") or ""
        before = ledger.kept("candidates", f"{parents[0].fate.proposed.candidate}.py") if parents else None
        changes = _changes(before, source) if before else ()
        room -= len(source) + sum(len(line) for _, line in changes)
        fits = room > 0
        found.append(
            {"one": one, "parents": parents, "source": source if fits else None, "changes": changes if fits else ()}
        )
    return found


@functools.lru_cache(maxsize=4096)
def _changes(before: str, after: str) -> tuple[tuple[str, str], ...]:
    """A unified diff: lines, each with its kind."""
    kinds = {"+": "added", "-": "removed", "@": "place"}
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="")
    return tuple((kinds.get(line[:1], "same"), line) for line in list(lines)[2:])


def _refusals(candidates: Sequence[_Candidate]) -> list[tuple[str, str, list[_Candidate]]]:
    """Refusals by stage and reason, the most frequent first."""
    groups: dict[tuple[str, str], list[_Candidate]] = {}
    for one in candidates:
        if one.fate.refusal:
            groups.setdefault((one.fate.refusal.stage, one.fate.refusal.reason), []).append(one)
    return [(*reason, some) for reason, some in sorted(groups.items(), key=lambda group: -len(group[1]))]


# --- the vault -------------------------------------------------------------------------------------------------------


def _proof(event: Proved, by_digest: dict[str, _Candidate]) -> dict[str, Any]:
    """What held-out data said of a candidate."""
    numbers = ("effect", "low", "high", "p_corrected")
    rows = []
    for row in event.comparison:
        values = {name: None if row[name] is None else float(row[name]) for name in numbers}  # "Infinity" is a string
        shown = {name: effect(values[name], row["at"]) for name in numbers[:3]}
        rows.append(
            {"dataset": label(row["dataset"]), "against": label(row["baseline"]), "at": row["at"]}
            | shown
            | {"sort": finite(values["effect"]), "p": finite(values["p_corrected"])}
        )
    return {"one": _named(event.candidate, by_digest), "at": event.at, "rows": rows, **_points(event.verdict)}


def _file(name: str) -> str:
    return importlib.resources.files("autotts_discovery.report").joinpath(name).read_text("utf-8")
