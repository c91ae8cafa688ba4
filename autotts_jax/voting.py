"""Votes over answers: the building blocks of controllers. All are pure, for one episode of B slots.

Published figures hang on ties, so every function that names a winner takes the order in which the answers came:
of equally frequent answers, the one that occurred first wins.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float32, Int32

from autotts_jax.environment import MAX_WIDTH, NO_ANSWER, Observation, finish_keys

__all__ = [
    "Tally",
    "WeightedTally",
    "confidence",
    "entropy",
    "plurality",
    "pool_tally",
    "votes",
    "weighted_plurality",
]

_LAST = np.iinfo(np.int32).max

# The ballot of a slot that does not vote; no answer has this id.
_NO_BALLOT = -2

# Slots counted at a time.
_BLOCK = 16

# Leads beyond this make any leader certain, in float32.
_LEADS = 90


class Tally(NamedTuple):
    """The two most frequent answers and their counts."""

    winner: Int32[Array, ""]  # NO_ANSWER without voters
    first: Int32[Array, ""]  # v1, votes for the winner
    second: Int32[Array, ""]  # v2, votes for the runner-up; 0 without one
    runner_up: Int32[Array, ""]  # NO_ANSWER without one


class WeightedTally(NamedTuple):
    """The two heaviest answers and their weights."""

    winner: Int32[Array, ""]  # NO_ANSWER without voters
    first: Float32[Array, ""]
    second: Float32[Array, ""]
    runner_up: Int32[Array, ""]  # NO_ANSWER without one


def votes(answers: Int32[Array, " B"], voters: Bool[Array, " B"]) -> Int32[Array, " B"]:
    """For each voter, the number of voters with its answer, itself included; 0 for other slots."""
    return _sums_by_answer(answers, jnp.ones_like(answers), voters)


def plurality(
    answers: Int32[Array, " B"],
    voters: Bool[Array, " B"],
    order: Int32[Array, " B"] | None = None,
    *,
    when: ArrayLike = True,
) -> Tally:
    """The plurality vote: the most frequent answer among the voters, the runner-up, and their counts v1 ≥ v2.

    Args:
      answers: Answer id per slot.
      voters: The slots that vote.
      order: Per slot, a number that is smaller for earlier answers; defaults to slot order.
      when: Whether the result is needed; if not, it may be that of no voters. Counting is the slow step; rounds in
        which no episode of a batch needs it skip it (with an `order`, they skip only its loop).
    """
    if when is True:
        return _tally(answers, votes(answers, voters), order)
    if order is not None:
        return _tally(answers, votes(answers, voters & jnp.asarray(when, bool)), order)
    return Tally(*_tally_when(jnp.asarray(when, bool), jnp.where(voters, answers, _NO_BALLOT)))


@jax.custom_batching.custom_vmap
def _tally_when(when: Bool[Array, ""], ballots: Int32[Array, " B"]) -> tuple[Array, ...]:
    return jax.lax.cond(when, _tally_of, _nobodys_tally, ballots)


@_tally_when.def_vmap
def _(size: Any, batched: Any, when: Array, ballots: Array) -> tuple[tuple[Array, ...], tuple[bool, ...]]:
    """One decision for the whole batch: under a plain vmap both sides of a `cond` run."""
    ballots = ballots if batched[1] else jnp.broadcast_to(ballots, (size, *ballots.shape))
    tally = jax.lax.cond(jnp.any(when), jax.vmap(_tally_of), jax.vmap(_nobodys_tally), ballots)
    return tally, (True,) * len(tally)


def _tally_of(ballots: Int32[Array, " B"]) -> tuple[Array, ...]:
    return tuple(_tally(ballots, votes(ballots, ballots != _NO_BALLOT), None))


def _nobodys_tally(ballots: Int32[Array, " B"]) -> tuple[Array, ...]:
    zero = jnp.zeros((), jnp.int32)
    return zero + NO_ANSWER, zero, zero, zero + NO_ANSWER


def pool_tally(
    obs: Observation,
    *,
    order: Literal["finished", "opened"] | Int32[Array, " B"] = "finished",
    parsable: bool = False,
) -> Tally:
    """`plurality` of the pool, the finished branches' answers, from the counts that the environment keeps.

    Args:
      obs: The observation.
      order: Ties go to the branch that ``finished`` first (`Observation.finished_at`), to the one that ``opened``
        first (the lower slot), or to the one with the smallest of the numbers given per slot.
      parsable: Whether to ignore answers that could not be parsed.
    """
    counts = jnp.where(obs.unparsable, 0, obs.pool_votes) if parsable else obs.pool_votes
    if isinstance(order, str):
        return _tally(obs.answer, counts, obs.finished_at if order == "finished" else None, keys=True)
    return _tally(obs.answer, counts, order)


def weighted_plurality(
    answers: Int32[Array, " B"],
    weights: Float32[Array, " B"],
    voters: Bool[Array, " B"],
    order: Int32[Array, " B"] | None = None,
) -> WeightedTally:
    """The voters' answer with the greatest sum of weights, as in weighted self-consistency (arXiv 2203.11171).

    Args:
      answers: Answer id per slot.
      weights: Weight per slot, at least 0.
      voters: The slots that vote.
      order: Per slot, a number; the smaller wins a tie; defaults to slot order.
    """
    sums = jnp.where(voters, _sums_by_answer(answers, weights, voters), -1)
    winner, first = _leader(answers, sums, order)
    runner_up, second = _leader(answers, jnp.where(answers == winner, -1, sums), order)
    return WeightedTally(winner, first, second, runner_up)


def entropy(answers: Int32[Array, " B"], voters: Bool[Array, " B"]) -> Float32[Array, ""]:
    """The entropy of the voters' answers in nats; 0 without voters."""
    counts = votes(answers, voters).astype(jnp.float32)
    total = jnp.maximum(jnp.sum(voters, dtype=jnp.int32), 1).astype(jnp.float32)
    # A sum over voters rather than over answers: each answer of n votes adds its term n times, 1/n each.
    return -jnp.sum(jnp.where(voters, jnp.log(jnp.maximum(counts, 1) / total), 0)) / total


def confidence(first: Int32[Array, ""], second: Int32[Array, ""]) -> Float32[Array, ""]:
    """Beta-majority confidence that the leader is the true majority: 1 − I₀.₅(v1 + 1, v2 + 1); 0 when v1 = 0.

    The stopping rule of Adaptive-Consistency (arXiv 2305.11860, section 3), from a table of exact values.

    Args:
      first: v1, the leader's votes; v1 + v2 is at most MAX_WIDTH.
      second: v2, the runner-up's votes, at most v1.
    """
    table = confidence_table()
    lead = jnp.clip(first - second, 0, _LEADS)
    place = second * (_LEADS + 1) + lead
    found = jnp.asarray(table).at[place].get(mode="promise_in_bounds", wrap_negative_indices=False)
    return jnp.where(first > 0, found, 0)


@functools.cache
def confidence_table() -> np.ndarray:
    """The values of `confidence`: ``[v2, v1 − v2]``, flat, up to a lead at which every entry is 1.

    1 − I₀.₅(a + 1, b + 1) = P(Bin(a + b + 1, ½) > b), in integers until the final division.
    """
    table = np.ones((MAX_WIDTH // 2 + 1, _LEADS + 1), np.float32)
    for b in range(MAX_WIDTH // 2 + 1):
        for lead in range(min(_LEADS, MAX_WIDTH - 2 * b) + 1):
            n = 2 * b + lead + 1
            table[b, lead] = (2**n - sum(math.comb(n, k) for k in range(b + 1))) / 2**n
    assert np.all(table[:, -1] == 1)
    return table.reshape(-1)


# --- counting --------------------------------------------------------------------------------------------------------


@jax.custom_batching.custom_vmap
def _sums_by_answer(answers: Int32[Array, "*L B"], values: Array, voters: Bool[Array, "*L B"]) -> Array:
    """For each voter, the sum of the values of all voters with its answer; 0 for other slots.

    B² comparisons, in blocks of slots: unrolled within a block, or the vector units would idle, but not entirely, or
    XLA's CPU compiler would copy the counting into each reduction that reads the result. Blocks beyond the last voter
    of the whole batch are skipped, so few open branches are cheap in wide episodes.
    """
    width = answers.shape[-1]
    block = min(_BLOCK, width)
    padding = [(0, 0)] * (answers.ndim - 1) + [(0, -width % block)]
    ballots = jnp.pad(jnp.where(voters, answers, _NO_BALLOT), padding, constant_values=_NO_BALLOT)
    values = jnp.pad(jnp.where(voters, values, 0), padding)

    def add_block(number: Int32[Array, ""], sums: Array) -> Array:
        keys = jax.lax.dynamic_slice_in_dim(ballots, number * block, block, axis=-1)
        added = jax.lax.dynamic_slice_in_dim(values, number * block, block, axis=-1)
        for slot in range(block):
            sums += jnp.where(ballots == keys[..., slot, None], added[..., slot, None], 0)
        return sums

    slots = jnp.arange(width, dtype=jnp.int32)
    last = jnp.max(jnp.where(voters, slots, -1))  # of the whole batch
    sums = jax.lax.fori_loop(0, last // block + 1, add_block, jnp.zeros_like(values))
    return jnp.where(voters, sums[..., :width], 0)


@_sums_by_answer.def_vmap
def _(size: Any, batched: Any, *args: Array) -> tuple[Array, bool]:
    """The whole batch at once: under a plain vmap every episode would go through all blocks."""
    full = [x if b else jnp.broadcast_to(x, (size, *x.shape)) for x, b in zip(args, batched, strict=True)]
    return _sums_by_answer(*full), True


def _tally(
    answers: Int32[Array, " B"], counts: Int32[Array, " B"], order: Int32[Array, " B"] | None, *, keys: bool = False
) -> Tally:
    """The tally from the slots' counts.

    Args:
      answers: Per slot.
      counts: Votes for a voter's answer; 0 for slots that do not vote.
      order: Per slot, a number that is smaller for earlier answers; None for slot order.
      keys: Whether `order` is `Observation.finished_at`, whose last digit is the slot.
    """
    width = answers.shape[-1]
    keyed = order is None or keys
    if not keyed or (width + 1) * finish_keys(width) > 2**32:
        winner, first = _leader(answers, counts, order)
        runner_up, second = _leader(answers, jnp.where(answers == winner, 0, counts), order)
        winner, runner_up = (jnp.where(n > 0, a, NO_ANSWER) for n, a in ((first, winner), (second, runner_up)))
        return Tally(winner, first, second, runner_up)
    # Count and order fit into one word, so a single reduction finds the leader and its slot.
    radix = np.uint32(width if order is None else finish_keys(width))
    place = _slots(answers) if order is None else order
    earliness = jnp.maximum(np.int32(radix) - 1 - place, 0).astype(jnp.uint32)
    words = counts.astype(jnp.uint32) * radix + earliness

    def leader(words: Array) -> tuple[Int32[Array, ""], Int32[Array, ""]]:
        best = jnp.max(words)
        slot = (np.uint32(width - 1) - best % np.uint32(width)).astype(jnp.int32)
        answer = answers.at[slot].get(mode="promise_in_bounds", wrap_negative_indices=False)
        number = (best // radix).astype(jnp.int32)
        return jnp.where(number > 0, answer, NO_ANSWER), number

    winner, first = leader(words)
    # Separately: few controllers use the runner-up.
    second = jnp.max(jnp.where(answers == winner, 0, counts))
    return Tally(winner, first, second, leader(jnp.where(answers == winner, 0, words))[0])


def _slots(answers: Int32[Array, " B"]) -> Int32[Array, " B"]:
    return jnp.arange(answers.shape[-1], dtype=jnp.int32)


def _leader(
    answers: Int32[Array, " B"], scores: Array, order: Int32[Array, " B"] | None
) -> tuple[Int32[Array, ""], Array]:
    """The answer of the earliest slot among those with the highest score (at least 0), and that score."""
    order = _slots(answers) if order is None else order
    best = jnp.max(scores)
    leader = jnp.min(jnp.where(scores == best, order, _LAST))
    winner = jnp.max(jnp.where((scores == best) & (order == leader), answers, NO_ANSWER))
    return jnp.where(best >= 0, winner, NO_ANSWER), jnp.maximum(best, 0)
