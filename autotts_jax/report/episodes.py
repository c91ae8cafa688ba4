"""What the page says of single episodes: why they fail, and their rounds to step through."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

import autotts_jax as tts
from autotts_jax.failures import Failure
from autotts_jax.report.tables import beta, label

__all__ = ["MODES", "Watched", "fitting", "watch"]

#: The kinds of failure, in words.
MODES = tuple(mode.words for mode in list(Failure)[1:])

#: Characters of an answer, of a question, of a summary, of a part of the memory.
_ANSWER, _QUESTION, _SUMMARY, _MEMORY = 60, 4000, 6000, 400

#: Episodes of each kind: the first always, more of them while all their JSON stays below so many characters.
_EXAMPLES, _ROOM = 3, 1_000_000

#: Kinds of events; on the page, an event has their index.
_KINDS = ("PRUNE", "BRANCH", "CONTINUE", "PROBE", "ANSWER", "BRANCH, PROBE", "CONTINUE, PROBE")


@dataclasses.dataclass(frozen=True)
class Watched:
    """A row's failures.

    Attributes:
      label: The setting's label.
      beta: The row's β, in words.
      episodes: How many were watched.
      wrong: How many failed.
      failures: How many per kind of `MODES`.
      summary: `tts.failures.summarize`.
      examples: Some of each kind, as the page's script reads them; the first of each kind first.
    """

    label: str
    beta: str
    episodes: int
    wrong: int
    failures: dict[str, int]
    summary: str
    examples: list[dict[str, Any]]


def watch(
    results: tts.Results, number: int, dataset: tts.Dataset, orders: Int[np.ndarray, "Q S B"], rules: tts.Rules
) -> Watched:
    """Replays a row, by its number, on all episodes, and some of each kind again for their rounds.

    Raises:
      InputError: if they do not end as they did in the sweep.
    """
    row = results.rows[number]
    seen = tts.failures.watch(dataset, row, orders, rules)
    for field in ("correct", "tokens", "rounds"):
        if not np.array_equal(getattr(seen.outcome, field).sum(axis=-1), results.sums[field][number]):
            raise tts.InputError(
                f"{row.label}: replayed here, {field} is not what the sweep found. Sweep again with these versions."
            )
    kinds = {kind: np.argwhere(seen.failure == mode) for mode, kind in zip(Failure, ("right", *MODES), strict=True)}
    places = [(kind, place) for kind, found in kinds.items() for place in _spread(found)]
    recording = tts.traces.record_episodes(dataset, row, orders, [place for _, place in places], rules)
    name = label(row.label)
    examples = [
        {"method": name, "beta": beta(row), "kind": kind}
        | _example(tts.traces.decode(dataset, row, orders, recording, index))
        for index, (kind, _) in enumerate(places)
    ]
    return Watched(
        label=name,
        beta=beta(row),
        episodes=seen.failure.size,
        wrong=int(np.sum(seen.failure != Failure.NONE)),
        failures={kind: len(kinds[kind]) for kind in MODES},
        summary=tts.failures.summarize(dataset, row, seen, characters=_SUMMARY),
        examples=examples,
    )


def fitting(watched: Sequence[Watched]) -> list[dict[str, Any]]:
    """The examples for the page: of every setting and kind the first, and others while they fit."""
    ranked: list[tuple[int, int, dict[str, Any]]] = []
    for one in watched:
        seen = dict.fromkeys(("right", *MODES), 0)
        for example in one.examples:
            ranked.append((seen[example["kind"]], len(ranked), example))
            seen[example["kind"]] += 1
    room, kept = _ROOM, []
    for rank, number, example in sorted(ranked, key=lambda item: item[:2]):
        room -= len(json.dumps(example, separators=(",", ":")))
        if rank == 0 or room >= 0:
            kept.append((number, example))
    return [example for _, example in sorted(kept, key=lambda item: item[0])]


def _spread(found: np.ndarray) -> list[tuple[int, int]]:
    """Some of these places, from different questions where they can be, far apart: from several datasets."""
    _, first = np.unique(found[:, 0], return_index=True)
    several = found[first] if len(first) > 1 else found
    chosen = np.unique(np.linspace(0, len(several) - 1, min(len(several), _EXAMPLES)).round().astype(int))
    return [(int(q), int(s)) for q, s in several[chosen]]


# --- an episode ------------------------------------------------------------------------------------------------------


def _example(trace: tts.traces.Trace) -> dict[str, Any]:
    """An episode for the page's script, which knows answers by their index."""
    names: dict[str, int] = {}

    def index(answer: str | None) -> int:
        return -1 if answer is None else names.setdefault(answer, len(names))

    gold, given = index(trace.gold), index(trace.outcome["answer"])
    rounds = [
        {
            "events": [
                [_KINDS.index(kind), slot, depth, index(answer)] for kind, slot, depth, answer in _events(moment)
            ],
            "tokens": moment.tokens,
            "answer": index(moment.answer),
            "votes": [[index(answer), votes] for answer, votes in moment.votes.items()],
            "pool": [[index(answer), votes] for answer, votes in moment.pool.items()],
            "memory": _memory(moment.memory),
        }
        for moment in trace.rounds
    ]
    branches = {e.slot: e.branch for moment in trace.rounds for e in moment.events if e.kind == "BRANCH"}
    return {
        "dataset": label(trace.dataset),
        "question": trace.question,
        "shuffle": trace.shuffle,
        "text": _cut(trace.text, _QUESTION),
        "gold": gold,
        "given": given,
        "correct": trace.outcome["correct"],
        "branches": [[slot, branch] for slot, branch in branches.items()],
        "rounds": rounds,
        "turns": _turns(trace),
        "answers": [_cut(answer, _ANSWER) for answer in names],
    }


def _events(moment: tts.traces.Round) -> list[tuple[str, int, int, str | None]]:
    """A round's events as kind, slot, depth and answer; an interval and its probe are one event.

    ANSWER is about no slot: −1.
    """
    found: list[tuple[str, int, int, str | None]] = []
    for event in moment.events:
        slot, depth = (-1, 0) if event.slot is None or event.depth is None else (event.slot, event.depth)
        if event.kind == "PROBE" and found and found[-1][1:3] == (slot, depth):
            found[-1] = (f"{found[-1][0]}, PROBE", slot, depth, event.answer)
        else:
            found.append((event.kind, slot, depth, event.answer))
    return found


def _turns(trace: tts.traces.Trace) -> list[tuple[int, str, bool]]:
    """The rounds in which something changed, what, and whether it decides: not if one wrong answer follows another."""
    turns: list[tuple[int, str, bool]] = []
    newest: dict[int | None, str] = {}
    leader: str | None = None
    for moment in trace.rounds:
        pruned = [event.slot for event in moment.events if event.kind == "PRUNE"]
        if pruned:
            right = sum(newest.get(slot) == trace.gold for slot in pruned)
            of_them = f", {right} of them right" if right else ""
            turns.append((moment.number, f"prunes {len(pruned)} {_branches(len(pruned))}{of_them}", True))
        newest |= {event.slot: event.answer for event in moment.events if event.answer is not None}
        # Among equals, whoever led before still does.
        best = max(moment.votes.values(), default=0)
        now = leader if leader is not None and moment.votes.get(leader) == best else next(iter(moment.votes), None)
        if now != leader:
            if leader == trace.gold:
                turns.append((moment.number, f"the right answer loses the lead to {_named(now)}", True))
            elif now == trace.gold:
                turns.append((moment.number, f"the right answer, {_named(now)}, takes the lead", True))
            else:
                turns.append((moment.number, f"{_named(now)} takes the lead", False))
        leader = now
    verdict = "right" if trace.outcome["correct"] else "wrong"
    turns.append((len(trace.rounds) - 1, f"stops: {_named(trace.outcome['answer'])}, {verdict}", True))
    return turns


def _branches(number: int) -> str:
    return "branch" if number == 1 else "branches"


def _named(answer: str | None) -> str:
    return "no answer" if answer is None else _cut(answer, _ANSWER)


def _memory(memory: dict[str, Any]) -> dict[str, str]:
    """The controller's memory as text, by field."""
    return {name: _cut(json.dumps(_rounded(value)), _MEMORY) for name, value in memory.items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _cut(text: str, most: int) -> str:
    """The text, or its beginning and how long it is."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"
