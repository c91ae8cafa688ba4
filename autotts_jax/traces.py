"""Traces: single episodes for people to read.

`record_episodes` replays chosen episodes and keeps every round; `decode` turns one of them into a `Trace` of typed
events, the atomic actions of AutoTTS (arXiv 2605.08083, section 3.1); `write` saves traces to a file.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Int, Int32, PyTree

from autotts_jax import environment
from autotts_jax.controllers import Controller
from autotts_jax.controllers.schedules import named_leaves
from autotts_jax.environment import NO_ANSWER, Rules, StopReason, World
from autotts_jax.files import write_whole
from autotts_jax.replay import AnyArray, Dataset, ReplayStore
from autotts_jax.rollout import COMPILER_OPTIONS, Outcome, Record, record
from autotts_jax.settings import Row
from autotts_jax.sweeps import needed_orders

__all__ = [
    "Event",
    "Recording",
    "Round",
    "Trace",
    "decode",
    "record_episodes",
    "trace",
    "write",
]

# Most episodes end sooner; longer ones are recorded again with twice as many rounds.
_ROUNDS = 128


# --- recording -------------------------------------------------------------------------------------------------------


class Recording(NamedTuple):
    """E episodes, round by round; all arrays on the host."""

    where: Int32[AnyArray, "E 2"]  # question and shuffle
    outcome: Outcome  # every field [E]
    rows: Record  # every leaf [E, T, …]
    tokens: Int32[AnyArray, "E T"]  # spent after each round
    cost: Int32[AnyArray, "E T"]  # likewise, in the cost model's unit


def record_episodes(
    dataset: Dataset,
    row: Row,
    orders: Int[AnyArray, "Q S B"],
    where: Sequence[tuple[int, int]],
    rules: Rules | None = None,
) -> Recording:
    """Replays single episodes and keeps every round; the outcomes equal `evaluate`'s.

    Args:
      dataset: What to replay.
      row: A controller with its parameters.
      orders: ``[Q, S, B]`` the branch orders.
      where: Question and shuffle of each episode.
      rules: What actions cost; defaults to the published tables' accounting.
    """
    places = np.asarray(where, np.int32)
    orders = needed_orders(row, orders)
    arrays = jax.tree.map(jnp.asarray, (dataset.store, row.params, orders, rules or Rules(), places))
    recording: Recording = until_all_ended(lambda rounds: _record(row.controller, rounds, *arrays))
    return recording


def until_all_ended(rerun: Callable[[int], Any]) -> Any:
    """What `rerun` returns, on the host, given enough rounds for all its episodes to end."""
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
    where: Int32[Array, "E 2"],
) -> Recording:
    world = World.of(store, rules, probe_everything=controller.probe_everything)

    def one(place: Int32[Array, " 2"]) -> Recording:
        q, s = place
        episode = environment.deal(store, q, orders[q, s])
        outcome, rows = record(controller, world, episode, params, rounds)
        tokens = jax.vmap(lambda state: environment.tokens(episode, state, rules))(rows.state)
        cost = jax.vmap(lambda state: environment.cost(world, episode, state))(rows.state)
        return Recording(place, outcome, rows, tokens, cost)

    return jax.vmap(one)(where)


# --- events ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Event:
    """One admitted atomic action.

    Attributes:
      kind: As in the paper.
      slot: The slot it acts on; None for ANSWER.
      branch: The recorded branch in that slot.
      depth: The slot's intervals after the action.
      answer: What PROBE revealed or ANSWER gave. A branch that finishes reveals its answer without a probe: it is then
        on the BRANCH or CONTINUE event.
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
      number: Counted from 0.
      events: In the order in which the environment applies them.
      tokens: Tokens spent so far.
      cost: Cost so far, in the cost model's unit.
      votes: Votes by answer: the newest revealed answers of branches that are open and not pruned.
      pool: Votes by answer in the pool.
      answer: What the controller would have answered, had the episode ended with this round.
      memory: The controller's memory after the round, by field; per-slot arrays up to the last open slot.
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
    """The story of one episode.

    Attributes:
      dataset: The name of the part that the question is from.
      question: The question's number in that part.
      text: The question's text.
      gold: The question's gold answer.
      shuffle: Which branch order.
      controller: The label of the controller's setting.
      params: The controller's parameters.
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
) -> Trace:
    """The trace of a recorded episode.

    Args:
      dataset: What was replayed.
      row: The controller with its parameters.
      orders: ``[Q, S, B]`` the orders that were replayed.
      recording: What `record_episodes` returned.
      index: The episode's index in the recording.
    """
    question, shuffle = recording.where[index].tolist()
    outcome = jax.tree.map(lambda leaf: leaf[index], recording.outcome)
    rows = jax.tree.map(lambda leaf: leaf[index], recording.rows)
    name = functools.partial(dataset.answer, question)
    order = np.asarray(needed_orders(row, orders))[question, shuffle]
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
                pool=_count(name, state.answer[finished & ~state.pruned]),
                answer=name(int(rows.action.answer[number])),
                memory=_memory(jax.tree.map(lambda leaf, number=number: leaf[number], rows.memory), state.depth),
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
        controller=row.label,
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
    """Replays one episode and decodes it: `record_episodes` and `decode` in one."""
    return decode(dataset, row, orders, record_episodes(dataset, row, orders, [(question, shuffle)], rules), 0)


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
        """An interval, with the answer it reveals."""
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


def _memory(memory: PyTree, depth: np.ndarray) -> dict[str, Any]:
    shown = int(np.max(np.flatnonzero(depth), initial=-1)) + 1

    def plain(leaf: Any) -> Any:
        leaf = np.asarray(leaf)
        return (leaf[:shown] if leaf.shape[:1] == depth.shape else leaf).tolist()

    return {field: plain(leaf) for field, leaf in named_leaves(memory).items()}


def _locate(dataset: Dataset, question: int) -> tuple[str, int]:
    for name, questions in dataset.parts:
        if question < questions:
            return name, question
        question -= questions
    raise IndexError(question)


def write(traces: Iterable[Trace], file: str | Path) -> Path:
    """Writes traces as JSON Lines, whole or not at all.

    Each episode is a group of lines, objects with a ``type``: one ``episode`` (`Trace`'s fields without rounds and
    outcome), one ``round`` per round (`Round`'s fields), one ``outcome``.
    """
    lines: list[dict[str, Any]] = []
    for trace in traces:
        fields = dataclasses.asdict(trace)
        rounds, outcome = fields.pop("rounds"), fields.pop("outcome")
        lines.append({"type": "episode", **fields})
        lines += [{"type": "round", **one} for one in rounds]
        lines.append({"type": "outcome", **outcome})
    return write_whole(Path(file), "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
