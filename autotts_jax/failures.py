"""Why episodes fail: many are replayed at once, reduced to what matters, and summarized within a length limit."""

from __future__ import annotations

import collections
import enum
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Bool, Int, Int32, PyTree, Shaped

from autotts_jax import environment
from autotts_jax.controllers import Controller
from autotts_jax.environment import Action, Episode, Rules, State, StopReason, World
from autotts_jax.replay import AnyArray, Dataset, ReplayStore
from autotts_jax.rollout import COMPILER_OPTIONS, Outcome, begin, outcome_of, play_round
from autotts_jax.settings import Row
from autotts_jax.sweeps import needed_orders, width_of
from autotts_jax.traces import until_all_ended
from autotts_jax.voting import plurality

__all__ = ["Failure", "Watched", "count_failures", "summarize", "watch"]


class Failure(enum.IntEnum):
    """Why an episode's answer is wrong: the first reason that applies, in this order."""

    NONE = 0  # the answer is right
    UNPARSABLE_WON = 1  # an answer that could not be parsed won
    NEVER_SAMPLED = 2  # no revealed answer was right
    TIE_LOST = 3  # the right answer had as many votes as the one given
    RIGHT_PRUNED = 4  # with the votes of pruned branches, the right answer would have had as many
    STOPPED_EARLY = 5  # the right answer's share of the newest answers was rising, and branches were still active
    OVERSPENT = 6  # the wrong answer stood firm for more than half of the tokens
    OUTVOTED = 7  # none of these

    @property
    def words(self) -> str:
        """Its name, in words."""
        return self.name.lower().replace("_", " ")


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


#: Episodes watched side by side.
_BATCH = 256


def watch(
    dataset: Dataset,
    row: Row,
    orders: Int[AnyArray, "Q S B"],
    rules: Rules | None = None,
    *,
    devices: Sequence[jax.Device] | None = None,
) -> Watched:
    """Replays a row on every question under every order, and keeps what a summary needs.

    Args:
      dataset: What to replay.
      row: A controller with its parameters.
      orders: ``[Q, S, B]`` the branch orders.
      rules: What actions cost; defaults to the published tables' accounting.
      devices: Devices to split the episodes among; defaults to all of this process.
    """
    orders = _opened(row, np.asarray(orders))
    arrays = jax.tree.map(jnp.asarray, (dataset.store, row.params, orders, rules or Rules()))
    mesh = Mesh(np.asarray(jax.local_devices() if devices is None else devices), "devices")
    watched: Watched = until_all_ended(lambda rounds: _watch(row.controller, rounds, mesh, *arrays))
    return watched


def _opened(row: Row, orders: Int[np.ndarray, "Q S B"]) -> Int[AnyArray, "Q S b"]:
    """The orders, cut to the slots that the row can open, if that is known: the results are the same, and sooner."""
    if row.controller.most_branches(row.params) is None:
        return needed_orders(row, orders)
    branches = int(np.max(np.sum(orders >= 0, axis=-1)))
    return orders[..., : width_of([row], branches)]


@functools.partial(jax.jit, static_argnames=("controller", "rounds", "mesh"), compiler_options=COMPILER_OPTIONS)
def _watch(
    controller: Controller,
    rounds: int,
    mesh: Mesh,
    store: ReplayStore,
    params: PyTree,
    orders: Int[Array, "Q S B"],
    rules: Rules,
) -> Watched:
    Q, S, _ = orders.shape
    # Whole batches for every device; what they are filled up with is cut off at the end.
    share = -(-Q * S // mesh.size)
    size = min(_BATCH, share)
    numbers = jnp.minimum(jnp.arange(-(-share // size) * size * mesh.size, dtype=jnp.int32), Q * S - 1)
    numbers = numbers.reshape(-1, mesh.size, size).swapaxes(0, 1)

    def part(
        store: ReplayStore, params: PyTree, orders: Int[Array, "Q S B"], rules: Rules, numbers: Int32[Array, "1 M L"]
    ) -> Watched:
        world = World.of(store, rules, probe_everything=controller.probe_everything)

        def batch(number: Int32[Array, " L"]) -> Watched:
            q, s = number // S, number % S
            return _watch_batch(controller, rounds, world, params, q, orders[q, s])

        return jax.tree.map(lambda leaf: leaf[None], jax.lax.map(batch, numbers[0]))

    shared, split = PartitionSpec(), PartitionSpec("devices")
    run = jax.shard_map(
        part, mesh=mesh, in_specs=(shared, shared, shared, shared, split), out_specs=split, check_vma=False
    )

    def arranged(leaf: Shaped[Array, "devices M L ..."]) -> Shaped[Array, "Q S ..."]:
        rest = leaf.shape[3:]
        return leaf.swapaxes(0, 1).reshape(-1, *rest)[: Q * S].reshape(Q, S, *rest)

    return jax.tree.map(arranged, run(store, params, orders, rules, numbers))


class _Moment(NamedTuple):
    """What is kept of each round of an episode; all int32."""

    answer: Int32[Array, "*T"]  # what the controller would have answered
    tokens: Int32[Array, "*T"]  # spent after the round
    right: Int32[Array, "*T"]  # right answers among the newest of the branches that are not pruned
    votes: Int32[Array, "*T"]  # all answers among them
    leads: Int32[Array, "*T"]  # whether the right answer leads them
    seen: Int32[Array, "*T"]  # whether a branch's newest answer is right, pruned or not
    width: Int32[Array, "*T"]  # active branches
    depth: Int32[Array, "*T"]  # of the deepest branch


def _watch_batch(
    controller: Controller,
    rounds: int,
    world: World,
    params: PyTree,
    questions: Int32[Array, " L"],
    orders: Int32[Array, "L B"],
) -> Watched:
    """Episodes in step with each other, until all have ended or the rounds are used up."""
    episodes = jax.vmap(environment.deal, in_axes=(None, 0, 0))(world.store, questions, orders)

    def one_round(episode: Episode, state: State, memory: PyTree) -> tuple[State, PyTree, _Moment]:
        state, memory, action = play_round(controller, world, episode, params, state, memory)
        return state, memory, _moment(world, episode, state, action)

    def go(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        number, state, memory, moments = carry
        state, memory, moment = jax.vmap(one_round)(episodes, state, memory)
        return number + 1, state, memory, jax.tree.map(lambda all_, one: all_.at[number].set(one), moments, moment)

    def more(carry: tuple[Any, ...]) -> Bool[Array, ""]:
        number, state, *_ = carry
        return (number < rounds) & jnp.any(state.stop_reason == StopReason.RUNNING)

    state, memory = jax.vmap(lambda episode: begin(controller, world, episode, params))(episodes)
    moments = _Moment(*[jnp.zeros((rounds, len(questions)), jnp.int32)] * len(_Moment._fields))
    _, state, _, moments = jax.lax.while_loop(more, go, (jnp.int32(0), state, memory, moments))
    return jax.vmap(functools.partial(_watched, world), in_axes=(0, 0, 1))(episodes, state, moments)


def _moment(world: World, episode: Episode, state: State, action: Action) -> _Moment:
    gold = jnp.asarray(world.store.gold)[episode.question]
    right = _right(state, gold)
    voters = _voters(state)
    return _Moment(
        answer=action.answer,
        tokens=environment.tokens(episode, state, world.rules),
        right=_total(right & voters),
        votes=_total(voters),
        leads=((plurality(state.answer, voters).winner == gold) & (gold >= 0)).astype(jnp.int32),
        seen=jnp.any(right).astype(jnp.int32),
        width=_total(_active(state)),
        depth=jnp.max(state.depth),
    )


def _watched(world: World, episode: Episode, last: State, moments: _Moment) -> Watched:
    """What is kept of one episode: its last state, and what was kept of its rounds, each ``[T]``."""
    outcome = outcome_of(world, episode, last)
    rounds = jnp.arange(len(moments.answer), dtype=jnp.int32)
    happened = rounds < outcome.rounds
    end = jnp.maximum(outcome.rounds - 1, 0)

    # The votes behind the answer: the pool's, if there is one.
    right = _right(last, jnp.asarray(world.store.gold)[episode.question])
    finished = last.finished_at != environment.UNLIMITED
    pool = finished & ~last.pruned
    counted = jnp.where(jnp.any(pool), pool, _voters(last))
    for_right = _total(counted & right)
    for_given = _total(counted & (last.answer == outcome.answer))
    # A pruned branch reveals nothing more.
    right_pruned = _total(last.pruned & right)

    # The share of right answers among the newest, at the end against halfway.
    middle = outcome.rounds // 2
    rising = moments.right[end] * moments.votes[middle] > moments.right[middle] * moments.votes[end]

    # Tokens spent when the last round was decided after which the answer stayed.
    settled_in = jnp.max(jnp.where(happened & (moments.answer != outcome.answer), rounds + 1, 0))
    known = jnp.where(settled_in > 0, moments.tokens[jnp.maximum(settled_in - 1, 0)], 0)
    settled = jnp.where(settled_in < outcome.rounds, known, outcome.tokens)

    unparsable = jnp.asarray(world.store.unparsable)[episode.question, jnp.maximum(outcome.answer, 0)]
    failure = jnp.select(
        [
            outcome.correct,
            (outcome.answer >= 0) & unparsable,
            ~jnp.any(happened & (moments.seen > 0)),
            (for_right == for_given) & (for_right > 0),
            (right_pruned > 0) & (for_right + right_pruned >= for_given),
            rising & jnp.any(_active(last)),
            2 * (outcome.tokens - settled) > outcome.tokens,
        ],
        [jnp.int32(mode) for mode in list(Failure)[:-1]],
        jnp.int32(Failure.OUTVOTED),
    )
    led = happened & (moments.leads > 0)
    quarters = (jnp.arange(5, dtype=jnp.int32) * end) // 4
    return Watched(
        outcome=outcome,
        failure=failure,
        led_first=jnp.where(jnp.any(led), jnp.argmax(led).astype(jnp.int32), -1),
        led_last=moments.leads[end] > 0,
        right_pruned=right_pruned,
        settled=settled,
        width=moments.width[quarters],
        depth=moments.depth[quarters],
    )


def _right(state: State, gold: Int32[Array, ""]) -> Bool[Array, " B"]:
    """Slots whose newest answer is right."""
    return (state.answer == gold) & (gold >= 0)


def _voters(state: State) -> Bool[Array, " B"]:
    return (state.depth > 0) & ~state.pruned & (state.answer >= 0)


def _active(state: State) -> Bool[Array, " B"]:
    return (state.depth > 0) & ~state.pruned & (state.finished_at == environment.UNLIMITED)


def _total(mask: Bool[Array, " B"]) -> Int32[Array, ""]:
    return jnp.sum(mask, dtype=jnp.int32)


def count_failures(watched: Watched) -> dict[Failure, tuple[int, tuple[int, int] | None]]:
    """The number of wrong episodes per kind, and (question, shuffle) of one; the most common kinds first."""
    found = {}
    for mode in list(Failure)[1:]:
        places = np.argwhere(watched.failure == mode)
        found[mode] = (len(places), (int(places[0][0]), int(places[0][1])) if len(places) else None)
    return dict(sorted(found.items(), key=lambda item: -item[1][0]))


def summarize(
    dataset: Dataset, row: Row, watched: Watched, *, characters: int = 4000, first: Sequence[int] = ()
) -> str:
    """A text of at most `characters` characters on what happened, the most telling first.

    First all episodes together and their failures, then the questions: those in `first`, then those most often wrong.
    """
    outcome = watched.outcome
    Q, S = outcome.correct.shape
    wrong = int(np.sum(~outcome.correct))
    lines = [
        f"{row.label} {row.described()}",
        f"{Q} questions × {S} shuffles: {outcome.correct.mean():.1%} right, {outcome.tokens.mean():,.0f} tokens, "
        f"{outcome.rounds.mean():.1f} rounds, {outcome.opened.mean():.1f} branches opened and "
        f"{outcome.pruned.mean():.1f} pruned; {_stops(outcome)}",
        f"tokens after the answer had settled: {_late(watched.settled, outcome)}; "
        f"width {_path(watched.width)}, depth {_path(watched.depth)} (at 0, 25, 50, 75, 100 % of the rounds)",
        f"{wrong} wrong episodes:",
    ]
    lines += [
        f"  {mode.name.lower().replace('_', ' ')}: {count} (as in question {place[0]}, shuffle {place[1]})"
        for mode, (count, place) in count_failures(watched).items()
        if place
    ]
    lines.append("by question:")
    worst = sorted(range(Q), key=lambda q: (outcome.correct[q].mean(), -outcome.tokens[q].mean()))
    for q in dict.fromkeys([*first, *worst]):
        lines.append("  " + _question(dataset, watched, q))
    text = ""
    for number, line in enumerate(lines):
        rest = f"… {len(lines) - number} more lines"
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
    """The share of the tokens spent after the answer changed for the last time."""
    return f"{1 - float(np.sum(settled)) / max(float(np.sum(outcome.tokens)), 1):.0%}"


def _path(values: AnyArray) -> str:
    return "→".join(f"{value:.0f}" for value in values.reshape(-1, 5).mean(axis=0))


def _unique(values: AnyArray) -> tuple[list[int], list[int]]:
    found, counts = np.unique(values, return_counts=True)
    return found.tolist(), counts.tolist()
