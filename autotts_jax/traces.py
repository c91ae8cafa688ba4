"""Recorded rollouts to what people read: events of single episodes, and summaries of many.

`record_episodes` reruns chosen episodes and keeps every round; `decode` turns one of them into a `Trace`, typed
events in the atomic actions of AutoTTS (arXiv 2605.08083, section 3.1). `watch` reruns many and keeps what matters of
each; `summarize` says it in so many characters.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Int, Int32, PyTree

from autotts_jax import environment
from autotts_jax.controllers import Controller
from autotts_jax.controllers.base import named_leaves
from autotts_jax.environment import NO_ANSWER, Rules, StopReason
from autotts_jax.files import write_whole
from autotts_jax.replay import AnyArray, Dataset, ReplayStore
from autotts_jax.rollout import COMPILER_OPTIONS, Outcome, Record, record
from autotts_jax.settings import Row
from autotts_jax.voting import plurality

__all__ = [
    "Event",
    "Failure",
    "Recording",
    "Round",
    "Trace",
    "Watched",
    "decode",
    "failures",
    "record_episodes",
    "summarize",
    "trace",
    "watch",
    "write",
]

# Most episodes end sooner; longer ones are recorded again with twice as many.
_ROUNDS = 128


# --- recording -------------------------------------------------------------------------------------------------------


class Recording(NamedTuple):
    """E episodes, round by round; all arrays on the host."""

    outcome: Outcome  # every field [E]
    rows: Record  # every leaf [E, T, …]
    tokens: Int32[AnyArray, "E T"]  # spent after each round
    cost: Int32[AnyArray, "E T"]  # likewise, in the cost model's unit


def record_episodes(
    controller: Controller,
    store: ReplayStore,
    params: PyTree,
    orders: Int[AnyArray, "Q S B"],
    where: Sequence[tuple[int, int, int]],
    rules: Rules | None = None,
) -> Recording:
    """Reruns the episodes at these places of `evaluate`'s grid, (parameter vector, question, shuffle), and keeps all.

    The arguments are `evaluate`'s, and so are the outcomes.
    """
    arrays = jax.tree.map(jnp.asarray, (store, params, orders, rules or Rules(), np.asarray(where, np.int32)))
    recording: Recording = _until_all_ended(lambda rounds: _record(controller, rounds, *arrays))
    return recording


def _until_all_ended(rerun: Callable[[int], Any]) -> Any:
    """What `rerun` gives for so many rounds that all its episodes end, on the host."""
    rounds = _ROUNDS
    while True:
        found = jax.device_get(rerun(rounds))
        if np.all(found.outcome.stop_reason != StopReason.RUNNING):
            return found
        rounds *= 2


@functools.partial(jax.jit, static_argnames=("controller", "rounds"), compiler_options=COMPILER_OPTIONS)
def _record(
    controller: Controller,
    rounds: int,
    store: ReplayStore,
    params: PyTree,
    orders: Int[Array, "Q S B"],
    rules: Rules,
    where: Int32[Array, "E 3"],
) -> Recording:
    def one(place: Int32[Array, " 3"]) -> Recording:
        p, q, s = place
        episode = environment.deal(store, q, orders[q, s])
        row = jax.tree.map(lambda leaf: leaf[p], params)
        outcome, rows = record(controller, store, episode, row, rules, rounds)
        tokens = jax.vmap(lambda state: environment.tokens(episode, state, rules))(rows.state)
        cost = jax.vmap(lambda state: environment.cost(episode, state, rules))(rows.state)
        return Recording(outcome, rows, tokens, cost)

    return jax.vmap(one)(where)


# --- events ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Event:
    """One atomic action that was admitted.

    Attributes:
      kind: As in the paper.
      slot: The slot that it is about; None for ANSWER.
      branch: The recorded branch in that slot.
      depth: The slot's intervals after it.
      answer: What PROBE revealed, or ANSWER gave. A branch that finishes reveals its answer without a probe: the
        answer is then the BRANCH's or CONTINUE's.
    """

    kind: Literal["BRANCH", "CONTINUE", "PROBE", "PRUNE", "ANSWER"]
    slot: int | None = None
    branch: int | None = None
    depth: int | None = None
    answer: str | None = None


@dataclasses.dataclass(frozen=True)
class Round:
    """One call of the controller.

    Attributes:
      number: From 0.
      events: In the order in which the environment applies them.
      tokens: Spent after it.
      cost: Likewise, in the cost model's unit.
      votes: Newest revealed answers of the branches that are open and not pruned, after it.
      pool: Answers of the finished branches, after it.
      answer: What the controller would have answered, had the episode ended with this round.
      memory: What the controller remembered after it, by field; per slot only the opened ones.
    """

    number: int
    events: tuple[Event, ...]
    tokens: int
    cost: int
    votes: dict[str, int]
    pool: dict[str, int]
    answer: str | None
    memory: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Trace:
    """One episode.

    Attributes:
      dataset: The name of the part that the question is from.
      question: Its number in that part.
      text: Its text.
      gold: Its gold answer.
      shuffle: Which branch order.
      controller: Its name.
      params: Its parameters.
      rounds: What happened.
      outcome: `Outcome`'s fields; the answer as text, the stop reason by name.
    """

    dataset: str
    question: int
    text: str
    gold: str
    shuffle: int
    controller: str
    params: dict[str, float]
    rounds: tuple[Round, ...]
    outcome: dict[str, Any]


def decode(
    dataset: Dataset,
    row: Row,
    orders: Int[np.ndarray, "Q S B"],
    recording: Recording,
    index: int,
    question: int,
    shuffle: int,
) -> Trace:
    """The trace of a recorded episode.

    Args:
      dataset: What was replayed.
      row: The controller with its parameters.
      orders: The orders that were replayed.
      recording: What `record_episodes` kept.
      index: The episode's place in the recording.
      question: Its question's number in the dataset.
      shuffle: Its shuffle.
    """
    outcome = jax.tree.map(lambda leaf: leaf[index], recording.outcome)
    rows = jax.tree.map(lambda leaf: leaf[index], recording.rows)
    name = functools.partial(dataset.answer, question)
    order = np.asarray(orders)[question, shuffle]
    rounds = []
    nothing = np.zeros(len(order), np.int32)
    before = _Slots(nothing, nothing > 0, nothing + NO_ANSWER, nothing)
    for number in range(int(outcome.rounds)):
        state = jax.tree.map(lambda leaf, number=number: leaf[number], rows.state)
        after = _Slots(state.depth, state.pruned, state.answer, state.revealed_at)
        finished = state.finished_at != environment.UNLIMITED
        events = _events(dataset.store, row.controller, question, order, before, after, finished, name)
        if number == int(outcome.rounds) - 1:
            events.append(Event("ANSWER", answer=name(int(outcome.answer))))
        counted = (state.depth > 0) & ~state.pruned & (state.answer >= 0)
        rounds.append(
            Round(
                number=number,
                events=tuple(events),
                tokens=int(recording.tokens[index, number]),
                cost=int(recording.cost[index, number]),
                votes=_count(name, state.answer[counted]),
                pool=_count(name, state.answer[finished]),
                answer=name(int(rows.action.answer[number])),
                memory=_memory(jax.tree.map(lambda leaf, number=number: leaf[number], rows.memory), state),
            )
        )
        before = after
    part, inside = _locate(dataset, question)
    fields = {field.name: getattr(outcome, field.name).item() for field in dataclasses.fields(Outcome)}
    return Trace(
        dataset=part,
        question=inside,
        text=dataset.texts[question],
        gold=dataset.golds[question],
        shuffle=shuffle,
        controller=row.controller.name,
        params=json.loads(row.described()),
        rounds=tuple(rounds),
        outcome=fields
        | {"answer": name(int(outcome.answer)), "stop_reason": StopReason(int(outcome.stop_reason)).name},
    )


def trace(
    dataset: Dataset,
    row: Row,
    orders: Int[np.ndarray, "Q S B"],
    question: int,
    shuffle: int,
    rules: Rules | None = None,
) -> Trace:
    """Reruns one episode and decodes it: `record_episodes` and `decode` in one."""
    params = jax.tree.map(lambda leaf: leaf[None], row.params)
    recording = record_episodes(row.controller, dataset.store, params, orders, [(0, question, shuffle)], rules)
    return decode(dataset, row, orders, recording, 0, question, shuffle)


class _Slots(NamedTuple):
    depth: np.ndarray
    pruned: np.ndarray
    answer: np.ndarray
    revealed_at: np.ndarray


def _events(
    store: ReplayStore,
    controller: Controller,
    question: int,
    order: np.ndarray,
    before: _Slots,
    after: _Slots,
    finished: np.ndarray,
    name: Any,
) -> list[Event]:
    """What changed, in the order of `environment.step`."""

    def at(kind: Any, slot: int, depth: int, answer: int | None = None) -> Event:
        return Event(kind, slot, int(order[slot]), depth, None if answer is None else name(answer))

    def generate(kind: Any, slot: int, depth: int) -> list[Event]:
        """An interval, with the answer that it reveals."""
        answer = int(store.answers[question, order[slot], depth - 1])
        if finished[slot] and depth == after.depth[slot]:
            return [at(kind, slot, depth, answer)]
        probe = [at("PROBE", slot, depth, answer)] if controller.probe_everything else []
        return [at(kind, slot, depth), *probe]

    slots = range(len(order))
    events = [at("PRUNE", i, int(after.depth[i])) for i in slots if after.pruned[i] and not before.pruned[i]]
    opened = [i for i in slots if after.depth[i] and not before.depth[i]]
    for i in opened:
        events += generate("BRANCH", i, 1)
    first = np.where(before.depth == 0, after.depth > 0, before.depth)
    for i in sorted(slots, key=lambda i: (-first[i], i)):
        for depth in range(int(first[i]) + 1, int(after.depth[i]) + 1):
            events += generate("CONTINUE", i, depth)
    if not controller.probe_everything:
        seen = [i for i in slots if after.revealed_at[i] != before.revealed_at[i] and not finished[i]]
        events += [at("PROBE", i, int(after.depth[i]), int(after.answer[i])) for i in seen]
    return events


def _count(name: Any, answers: np.ndarray) -> dict[str, int]:
    """Votes by answer, the most frequent first."""
    return dict(collections.Counter(name(int(answer)) for answer in answers).most_common())


def _memory(memory: PyTree, state: environment.State) -> dict[str, Any]:
    def shown(leaf: Any) -> Any:
        leaf = np.asarray(leaf)
        return (leaf[: int(state.opened)] if leaf.shape == state.depth.shape else leaf).tolist()

    return {field: shown(leaf) for field, leaf in named_leaves(memory).items()}


def _locate(dataset: Dataset, question: int) -> tuple[str, int]:
    for name, questions in dataset.parts:
        if question < questions:
            return name, question
        question -= questions
    raise IndexError(question)


def write(traces: Iterable[Trace], file: str | Path) -> Path:
    """Writes traces as JSON Lines, whole or not at all.

    An episode is a group of lines, each an object with a ``type``: one ``episode`` (`Trace`'s fields without rounds
    and outcome), a ``round`` for each of its rounds (`Round`'s fields), one ``outcome``.
    """
    lines: list[dict[str, Any]] = []
    for trace in traces:
        fields = dataclasses.asdict(trace)
        rounds, outcome = fields.pop("rounds"), fields.pop("outcome")
        lines.append({"type": "episode", **fields})
        lines += [{"type": "round", **one} for one in rounds]
        lines.append({"type": "outcome", **outcome})
    return write_whole(Path(file), "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


# --- many episodes ---------------------------------------------------------------------------------------------------


class Failure(enum.IntEnum):
    """Why an episode's answer is wrong; the first that holds, in this order."""

    NONE = 0  # it is right
    UNPARSABLE_WON = 1  # an answer that could not be parsed won
    NEVER_SAMPLED = 2  # no revealed answer was right
    TIE_LOST = 3  # the right answer had as many votes as the one given
    RIGHT_PRUNED = 4  # with the votes of pruned branches it would have had as many
    STOPPED_EARLY = 5  # its share of the newest answers was rising, and branches were still running
    OVERSPENT = 6  # the wrong answer stood firm for more than half of the tokens
    OUTVOTED = 7  # none of these


class Watched(NamedTuple):
    """What a summary needs of each episode; every array is ``[Q, S]``."""

    outcome: Outcome
    failure: Int32[AnyArray, "Q S"]  # Failure
    led_first: Int32[AnyArray, "Q S"]  # round after which the right answer first led the newest answers; −1: never
    led_last: Bool[AnyArray, "Q S"]  # whether it led them at the end
    right_pruned: Int32[AnyArray, "Q S"]  # branches pruned whose newest answer was right
    settled: Int32[AnyArray, "Q S"]  # tokens spent when the controller's answer changed for the last time
    width: Int32[AnyArray, "Q S 5"]  # active branches after 0, 25, 50, 75 and 100 % of the rounds
    depth: Int32[AnyArray, "Q S 5"]  # the deepest branch's intervals then


def watch(
    controller: Controller,
    store: ReplayStore,
    params: PyTree,
    orders: Int[AnyArray, "Q S B"],
    rules: Rules | None = None,
) -> Watched:
    """Reruns one parameter vector (scalar leaves) on every question under every order, and watches."""
    arrays = jax.tree.map(jnp.asarray, (store, params, orders, rules or Rules()))
    watched: Watched = _until_all_ended(lambda rounds: _watch(controller, rounds, *arrays))
    return watched


@functools.partial(jax.jit, static_argnames=("controller", "rounds"), compiler_options=COMPILER_OPTIONS)
def _watch(
    controller: Controller,
    rounds: int,
    store: ReplayStore,
    params: PyTree,
    orders: Int[Array, "Q S B"],
    rules: Rules,
) -> Watched:
    Q, S, _ = orders.shape

    def one(number: Int32[Array, ""]) -> Watched:
        q, s = number // S, number % S
        return _watch_one(controller, rounds, store, params, q, orders[q, s], rules)

    # A few hundred at a time: their records are large.
    watched = jax.lax.map(one, jnp.arange(Q * S, dtype=jnp.int32), batch_size=256)
    return jax.tree.map(lambda leaf: leaf.reshape(Q, S, *leaf.shape[1:]), watched)


def _watch_one(
    controller: Controller,
    rounds: int,
    store: ReplayStore,
    params: PyTree,
    question: Int32[Array, ""],
    order: Int32[Array, " B"],
    rules: Rules,
) -> Watched:
    episode = environment.deal(store, question, order)
    outcome, rows = record(controller, store, episode, params, rules, rounds)
    state, gold = rows.state, store.gold[question]
    happened = jnp.arange(rounds, dtype=jnp.int32) < outcome.rounds  # [T]; later rows repeat the last state

    right = (state.answer == gold) & (gold >= 0)  # [T, B]
    voters = (state.depth > 0) & ~state.pruned & (state.answer >= 0)
    leads = (jax.vmap(plurality)(state.answer, voters).winner == gold) & (gold >= 0)  # [T]
    last = jax.tree.map(lambda leaf: leaf[-1], state)

    # The votes that the answer was given on: the pool's if there is one.
    finished = last.finished_at != environment.UNLIMITED
    counted = jnp.where(jnp.any(finished), finished, voters[-1])
    for_right = _total(counted & right[-1])
    for_given = _total(counted & (last.answer == outcome.answer))
    newly = state.pruned & ~jnp.concatenate([jnp.zeros_like(state.pruned[:1]), state.pruned[:-1]])
    right_pruned = _total(newly & right & happened[:, None])

    # Right answers among all newest ones, at the end against half-way.
    middle = outcome.rounds // 2
    rising = _total(right[-1] & voters[-1]) * _total(voters[middle]) > _total(right[middle] & voters[middle]) * _total(
        voters[-1]
    )
    running = jnp.any((last.depth > 0) & ~finished & ~last.pruned)

    tokens = jax.vmap(lambda state: environment.tokens(episode, state, rules))(state)
    known = jnp.concatenate([jnp.zeros(1, jnp.int32), tokens[:-1]])  # spent when each round was decided
    other = happened & (rows.action.answer != outcome.answer)
    settled_in = jnp.max(jnp.where(other, jnp.arange(1, rounds + 1, dtype=jnp.int32), 0))
    settled = jnp.where(settled_in < outcome.rounds, known[jnp.minimum(settled_in, rounds - 1)], outcome.tokens)

    given = jnp.maximum(outcome.answer, 0)
    failure = jnp.select(
        [
            outcome.correct,
            (outcome.answer >= 0) & store.unparsable[question, given],
            ~jnp.any(right & happened[:, None]),
            (for_right == for_given) & (for_right > 0),
            (right_pruned > 0) & (for_right + right_pruned >= for_given),
            rising & running,
            2 * (outcome.tokens - settled) > outcome.tokens,
        ],
        [jnp.int32(mode) for mode in list(Failure)[:-1]],
        jnp.int32(Failure.OUTVOTED),
    )
    when = (jnp.arange(5, dtype=jnp.int32) * jnp.maximum(outcome.rounds - 1, 0)) // 4
    active = (state.depth > 0) & ~state.pruned & (state.finished_at == environment.UNLIMITED)
    return Watched(
        outcome=outcome,
        failure=failure,
        led_first=jnp.where(jnp.any(leads & happened), jnp.argmax(leads & happened).astype(jnp.int32), -1),
        led_last=leads[-1],
        right_pruned=right_pruned,
        settled=settled,
        width=jnp.sum(active[when], axis=-1, dtype=jnp.int32),
        depth=jnp.max(state.depth[when], axis=-1),
    )


def _total(mask: Bool[Array, ...]) -> Int32[Array, ""]:
    return jnp.sum(mask, dtype=jnp.int32)


def failures(watched: Watched) -> dict[Failure, tuple[int, tuple[int, int] | None]]:
    """How many wrong episodes there are of each kind, and (question, shuffle) of one; the commonest kinds first."""
    found = {}
    for mode in list(Failure)[1:]:
        places = np.argwhere(watched.failure == mode)
        found[mode] = (len(places), (int(places[0][0]), int(places[0][1])) if len(places) else None)
    return dict(sorted(found.items(), key=lambda item: -item[1][0]))


def summarize(dataset: Dataset, row: Row, watched: Watched, *, characters: int = 4000) -> str:
    """What happened, for a reader with room for so many characters; the most telling first.

    First all episodes together and their failures, then the questions, those most often wrong first.
    """
    outcome = watched.outcome
    Q, S = outcome.correct.shape
    wrong = int(np.sum(~outcome.correct))
    lines = [
        f"{row.controller.name} {row.described()}",
        f"{Q} questions × {S} shuffles: {outcome.correct.mean():.1%} right, {outcome.tokens.mean():,.0f} tokens, "
        f"{outcome.rounds.mean():.1f} rounds, {outcome.opened.mean():.1f} branches opened and "
        f"{outcome.pruned.mean():.1f} pruned; {_stops(outcome)}",
        f"tokens after the answer had settled: {_late(watched.settled, outcome)}; "
        f"width {_path(watched.width)}, depth {_path(watched.depth)} (at 0, 25, 50, 75, 100 % of the rounds)",
        f"{wrong} wrong episodes:",
    ]
    lines += [
        f"  {mode.name.lower().replace('_', ' ')}: {count} (for one, question {place[0]}, shuffle {place[1]})"
        for mode, (count, place) in failures(watched).items()
        if place
    ]
    lines.append("by question:")
    for q in sorted(range(Q), key=lambda q: (outcome.correct[q].mean(), -outcome.tokens[q].mean())):
        lines.append("  " + _question(dataset, watched, q))
    text = ""
    for number, line in enumerate(lines):
        rest = f"… {len(lines) - number} lines more"
        if len(text) + len(line) + len(rest) + 2 > characters:
            return (text + rest)[:characters]
        text += line + "\n"
    return text


def _question(dataset: Dataset, watched: Watched, q: int) -> str:
    outcome = jax.tree.map(lambda leaf: leaf[q], watched.outcome)
    led = watched.led_first[q] >= 0
    lost = int(np.sum(led & ~watched.led_last[q]))
    modes = collections.Counter(Failure(int(mode)) for mode in watched.failure[q] if mode)
    answers, counts = _unique(outcome.answer)
    common = answers[int(np.argmax(counts))]
    parts = [
        f"question {q}: {outcome.correct.mean():.0%} right, {outcome.tokens.mean():,.0f} tokens, "
        f"{_late(watched.settled[q], outcome)} of them after its answer had settled, "
        f"{outcome.rounds.mean():.0f} rounds, {_stops(outcome)}, "
        f"width {_path(watched.width[q])}, depth {_path(watched.depth[q])}",
        f"gold {dataset.golds[q]}, mostly answered {dataset.answer(q, int(common))}",
        f"right answer led first in round {np.median(watched.led_first[q][led]):.0f} (median)" if led.any() else "",
        f"and lost the lead again in {lost} of {int(led.sum())}" if lost else "",
        f"{watched.right_pruned[q].mean():.1f} right branches pruned" if watched.right_pruned[q].any() else "",
        ", ".join(f"{mode.name.lower().replace('_', ' ')} {count}" for mode, count in modes.most_common()),
    ]
    return "; ".join(part for part in parts if part)


def _stops(outcome: Outcome) -> str:
    reasons, counts = _unique(outcome.stop_reason)
    return ", ".join(f"{StopReason(r).name.lower()} {n}" for r, n in zip(reasons, counts, strict=True))


def _late(settled: AnyArray, outcome: Outcome) -> str:
    """The share of the tokens that was spent after the answer had changed for the last time."""
    return f"{1 - float(np.sum(settled)) / max(float(np.sum(outcome.tokens)), 1):.0%}"


def _path(values: AnyArray) -> str:
    return "→".join(f"{value:.0f}" for value in values.reshape(-1, 5).mean(axis=0))


def _unique(values: AnyArray) -> tuple[list[int], list[int]]:
    found, counts = np.unique(values, return_counts=True)
    return found.tolist(), counts.tolist()
