"""Why episodes fail: many are replayed at once, reduced to what matters, and summarized within a length limit."""

from __future__ import annotations

import collections
import enum
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Int, Int32, PyTree

from autotts_jax import environment
from autotts_jax.controllers import Controller
from autotts_jax.environment import Rules, StopReason, World
from autotts_jax.replay import AnyArray, Dataset, ReplayStore
from autotts_jax.rollout import COMPILER_OPTIONS, Outcome, record
from autotts_jax.settings import Row
from autotts_jax.sweeps import needed_orders
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


def watch(dataset: Dataset, row: Row, orders: Int[AnyArray, "Q S B"], rules: Rules | None = None) -> Watched:
    """Replays a row on every question under every order, and keeps what a summary needs.

    Args:
      dataset: What to replay.
      row: A controller with its parameters.
      orders: ``[Q, S, B]`` the branch orders.
      rules: What actions cost; defaults to the published tables' accounting.
    """
    orders = needed_orders(row, orders)
    arrays = jax.tree.map(jnp.asarray, (dataset.store, row.params, orders, rules or Rules()))
    watched: Watched = until_all_ended(lambda rounds: _watch(row.controller, rounds, *arrays))
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
    world = World.of(store, rules, probe_everything=controller.probe_everything)

    def one(number: Int32[Array, ""]) -> Watched:
        q, s = number // S, number % S
        return _watch_one(controller, rounds, world, params, q, orders[q, s])

    # A few hundred at a time: their records are large.
    watched = jax.lax.map(one, jnp.arange(Q * S, dtype=jnp.int32), batch_size=256)
    return jax.tree.map(lambda leaf: leaf.reshape(Q, S, *leaf.shape[1:]), watched)


def _watch_one(
    controller: Controller,
    rounds: int,
    world: World,
    params: PyTree,
    question: Int32[Array, ""],
    order: Int32[Array, " B"],
) -> Watched:
    store: Any = world.store
    episode = environment.deal(store, question, order)
    outcome, rows = record(controller, world, episode, params, rounds)
    state: Any = rows.state
    gold = store.gold[question]
    happened = jnp.arange(rounds, dtype=jnp.int32) < outcome.rounds  # [T]; later entries repeat the last state

    right = (state.answer == gold) & (gold >= 0)  # [T, B]
    voters = (state.depth > 0) & ~state.pruned & (state.answer >= 0)
    leads = (jax.vmap(plurality)(state.answer, voters).winner == gold) & (gold >= 0)  # [T]
    last = jax.tree.map(lambda leaf: leaf[-1], state)

    # The votes behind the answer: the pool's, if there is one.
    finished = last.finished_at != environment.UNLIMITED
    pool = finished & ~last.pruned
    counted = jnp.where(jnp.any(pool), pool, voters[-1])
    for_right = _total(counted & right[-1])
    for_given = _total(counted & (last.answer == outcome.answer))
    newly = state.pruned & ~jnp.concatenate([jnp.zeros_like(state.pruned[:1]), state.pruned[:-1]])
    right_pruned = _total(newly & right & happened[:, None])

    # The share of right answers among the newest, at the end against halfway.
    middle = outcome.rounds // 2
    rising = _total(right[-1] & voters[-1]) * _total(voters[middle]) > _total(right[middle] & voters[middle]) * _total(
        voters[-1]
    )
    running = jnp.any((last.depth > 0) & ~finished & ~last.pruned)

    tokens = jax.vmap(lambda state: environment.tokens(episode, state, world.rules))(state)
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


def count_failures(watched: Watched) -> dict[Failure, tuple[int, tuple[int, int] | None]]:
    """The number of wrong episodes per kind, and (question, shuffle) of one; the most common kinds first."""
    found = {}
    for mode in list(Failure)[1:]:
        places = np.argwhere(watched.failure == mode)
        found[mode] = (len(places), (int(places[0][0]), int(places[0][1])) if len(places) else None)
    return dict(sorted(found.items(), key=lambda item: -item[1][0]))


def summarize(dataset: Dataset, row: Row, watched: Watched, *, characters: int = 4000) -> str:
    """A text of at most `characters` characters on what happened, the most telling first.

    First all episodes together and their failures, then the questions, those most often wrong first.
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
    for q in sorted(range(Q), key=lambda q: (outcome.correct[q].mean(), -outcome.tokens[q].mean())):
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
