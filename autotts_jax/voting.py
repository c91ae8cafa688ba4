"""Votes over answers: the operations controllers are written with. All are pure, for one episode of B slots.

Ties decide published figures, so every function that names a winner takes the order in which the answers came:
of equally frequent answers the one whose first occurrence came first wins.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float32, Int32

from autotts_jax.environment import FINISH_KEYS, NO_ANSWER, SLOTS, Observation
from autotts_jax.reductions import halve_reductions

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

# Of a slot that does not vote; no answer has this id.
_NO_BALLOT = -2

# Slots counted at a time.
_BLOCK = 16


class Tally(NamedTuple):
    """The two most frequent answers' counts, and the first of them."""

    winner: Int32[Array, ""]  # NO_ANSWER without voters
    first: Int32[Array, ""]  # v1, votes for the winner
    second: Int32[Array, ""]  # v2, votes for the runner-up; 0 without one


class WeightedTally(NamedTuple):
    """The two heaviest answers' weights, and the first of them."""

    winner: Int32[Array, ""]  # NO_ANSWER without voters
    first: Float32[Array, ""]
    second: Float32[Array, ""]


def votes(answers: Int32[Array, " B"], voters: Bool[Array, " B"]) -> Int32[Array, " B"]:
    """For each voter the number of voters with its answer, itself included; 0 for the others."""
    ones = jnp.ones(SLOTS, jnp.int32)
    return jnp.where(voters, _sum_of_equals(jnp.where(voters, answers, _NO_BALLOT), ones), 0)


def _sum_of_equals(ballots: Int32[Array, " B"], values: Array) -> Array:
    """For each slot the sum of the values of all slots with its ballot."""

    def add_block(block: Int32[Array, ""], sums: Array) -> Array:
        keys = jax.lax.dynamic_slice(ballots, (block * _BLOCK,), (_BLOCK,))
        added = jax.lax.dynamic_slice(values, (block * _BLOCK,), (_BLOCK,))
        for slot in range(_BLOCK):
            sums += jnp.where(ballots == keys[slot], added[slot], 0)
        return sums

    # Unrolled, or else the vector units idle; but not all of it, or else XLA's CPU compiler copies the counting into
    # each of the reductions that read the result. A tenth of what reducing a matrix of slots × slots takes.
    return jax.lax.fori_loop(0, SLOTS // _BLOCK, add_block, jnp.zeros_like(values))


def plurality(
    answers: Int32[Array, " B"],
    voters: Bool[Array, " B"],
    order: Int32[Array, " B"] | None = None,
    *,
    when: ArrayLike = True,
) -> Tally:
    """The most frequent answer among the voters and the counts v1 ≥ v2.

    Args:
      answers: Per slot.
      voters: The slots that vote.
      order: Smaller came first; the slot order (that in which they opened) if left out.
      when: Whether the result is needed; if not, it may be as without voters. Counting is what takes long, and it
        is left out in rounds in which no episode of a batch needs it.
    """
    if order is None:
        return Tally(*_plurality_when(jnp.asarray(when, bool), answers, voters))
    counts = votes(answers, voters)
    winner = _first_of_the_best(answers, counts, order)
    return _tally(answers, counts, jnp.max(counts), winner)


@jax.custom_batching.custom_vmap
def _plurality_when(
    when: Bool[Array, ""], answers: Int32[Array, " B"], voters: Bool[Array, " B"]
) -> tuple[Array, Array, Array]:
    return jax.lax.cond(when, _plurality, _nobodys_plurality, answers, voters)


@_plurality_when.def_vmap
def _plurality_when_any(axis_size: int, batched: Any, *args: Array) -> tuple[Any, Any]:
    """One decision for the whole batch: under a plain vmap both sides of a condition run."""
    when, *rest = (
        x if is_batched else jnp.broadcast_to(x, (axis_size, *x.shape))
        for x, is_batched in zip(args, batched, strict=True)
    )
    some = jax.vmap(halve_reductions(_plurality))
    return jax.lax.cond(jnp.any(when), some, jax.vmap(_nobodys_plurality), *rest), (True, True, True)


def _plurality(answers: Int32[Array, " B"], voters: Bool[Array, " B"]) -> tuple[Array, Array, Array]:
    winner, first, second = _packed_tally(answers, votes(answers, voters), jnp.arange(SLOTS, dtype=jnp.int32))
    return winner, first, second


def _nobodys_plurality(answers: Int32[Array, " B"], voters: Bool[Array, " B"]) -> tuple[Array, Array, Array]:
    zero = jnp.zeros((), jnp.int32)
    return zero + NO_ANSWER, zero, zero


def pool_tally(obs: Observation, *, by_slot: bool = False) -> Tally:
    """`plurality` of the pool, the finished branches' answers, from the counts that the environment keeps.

    Args:
      obs: The observation.
      by_slot: Whether ties go to the branch that opened first, and not to the one that finished first.
    """
    order = jnp.arange(SLOTS, dtype=jnp.int32) if by_slot else obs.finished_at
    return _packed_tally(obs.answer, obs.pool_votes, order)


def _packed_tally(answers: Int32[Array, " B"], counts: Int32[Array, " B"], order: Int32[Array, " B"]) -> Tally:
    """The tally from the slots' counts; `order` is below FINISH_KEYS, its last digit the slot, or it is UNLIMITED.

    Count and order fit into one word, so a single reduction finds who leads and in which slot.
    """
    earliness = jnp.maximum(FINISH_KEYS - 1 - order, 0).astype(jnp.uint32)
    best = jnp.max(counts.astype(jnp.uint32) * jnp.uint32(FINISH_KEYS) + earliness)
    first = (best // jnp.uint32(FINISH_KEYS)).astype(jnp.int32)
    slot = SLOTS - 1 - (best % jnp.uint32(SLOTS)).astype(jnp.int32)
    return _tally(answers, counts, first, answers[slot])


def _tally(
    answers: Int32[Array, " B"], counts: Int32[Array, " B"], first: Int32[Array, ""], winner: Int32[Array, ""]
) -> Tally:
    winner = jnp.where(first > 0, winner, NO_ANSWER)
    return Tally(winner, first, jnp.max(jnp.where(answers == winner, 0, counts)))


def _first_of_the_best(
    answers: Int32[Array, " B"], scores: Int32[Array, " B"] | Float32[Array, " B"], order: Int32[Array, " B"]
) -> Int32[Array, ""]:
    """The answer of the slot that came first among those with the highest score."""
    best = scores == jnp.max(scores)
    leader = jnp.min(jnp.where(best, order, _LAST))
    return jnp.max(jnp.where(best & (order == leader), answers, NO_ANSWER))


def weighted_plurality(
    answers: Int32[Array, " B"],
    weights: Float32[Array, " B"],
    voters: Bool[Array, " B"],
    order: Int32[Array, " B"] | None = None,
) -> WeightedTally:
    """The answer with the greatest sum of weights among the voters, as in weighted self-consistency.

    Args:
      answers: Per slot.
      weights: Per slot, at least 0.
      voters: The slots that vote.
      order: Smaller came first, and wins a tie; the slot order if left out.
    """
    slots = jnp.arange(answers.shape[0], dtype=jnp.int32)
    order = slots if order is None else order
    ballots = jnp.where(voters, answers, _NO_BALLOT)
    sums = jnp.where(voters, _sum_of_equals(ballots, weights), -1)
    first = jnp.max(sums)
    winner = _first_of_the_best(answers, sums, order)
    winner = jnp.where(jnp.any(voters), winner, NO_ANSWER)
    second = jnp.max(jnp.where(answers == winner, 0, sums))
    return WeightedTally(winner, jnp.maximum(first, 0), jnp.maximum(second, 0))


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
      first: v1, the leader's votes, at most SLOTS.
      second: v2, the runner-up's votes.
    """
    return jnp.asarray(_confidence_table())[first, second]


@functools.cache
def _confidence_table() -> np.ndarray:
    """``[v1, v2]`` in float32. 1 − I₀.₅(a + 1, b + 1) = P(Bin(a + b + 1, ½) ≤ a), summed in whole numbers."""
    table = np.zeros((SLOTS + 1, SLOTS + 1), np.float64)
    for a in range(1, SLOTS + 1):
        for b in range(SLOTS + 1 - a):
            n = a + b + 1
            table[a, b] = sum(math.comb(n, k) for k in range(a + 1)) / 2**n
    return table.astype(np.float32)
