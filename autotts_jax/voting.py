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

from autotts_jax.environment import NO_ANSWER, SLOTS, Observation

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
    counts = jnp.zeros(SLOTS, jnp.int32)
    # One slot at a time, unrolled: on a CPU ten times as fast as reducing a matrix of slots × slots.
    for slot in range(SLOTS):
        counts += ((answers == answers[slot]) & voters[slot]).astype(jnp.int32)
    return jnp.where(voters, counts, 0)


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
    return _tally(answers, _votes_when(jnp.asarray(when, bool), answers, voters), order)


@jax.custom_batching.custom_vmap
def _votes_when(when: Bool[Array, ""], answers: Int32[Array, " B"], voters: Bool[Array, " B"]) -> Int32[Array, " B"]:
    return jax.lax.cond(when, votes, lambda answers, voters: jnp.zeros_like(answers), answers, voters)


@_votes_when.def_vmap
def _votes_when_any(axis_size: int, batched: Any, *args: Array) -> tuple[Int32[Array, "L B"], bool]:
    """One decision for the whole batch: under a plain vmap both sides of a condition run."""
    when, answers, voters = (
        x if is_batched else jnp.broadcast_to(x, (axis_size, *x.shape))
        for x, is_batched in zip(args, batched, strict=True)
    )
    counts = jax.lax.cond(
        jnp.any(when), jax.vmap(votes), lambda answers, voters: jnp.zeros_like(answers), answers, voters
    )
    return counts, True


def pool_tally(obs: Observation, *, by_slot: bool = False) -> Tally:
    """`plurality` of the pool, the finished branches' answers, from the counts that the environment keeps.

    Args:
      obs: The observation.
      by_slot: Whether ties go to the branch that opened first, and not to the one that finished first.
    """
    return _tally(obs.answer, obs.pool_votes, None if by_slot else obs.finished_at)


def _tally(answers: Int32[Array, " B"], votes: Int32[Array, " B"], order: Int32[Array, " B"] | None) -> Tally:
    slots = jnp.arange(answers.shape[0], dtype=jnp.int32)
    order = slots if order is None else order
    first = jnp.max(votes)
    leader = jnp.min(jnp.where(votes == first, order, _LAST))
    # A slot's answer without a gather: the one slot of that order.
    winner = jnp.max(jnp.where((votes == first) & (order == leader), answers, NO_ANSWER))
    winner = jnp.where(first > 0, winner, NO_ANSWER)
    second = jnp.max(jnp.where(answers == winner, 0, votes))
    return Tally(winner, first, second)


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
    same = (answers[:, None] == answers[None, :]) & voters[None, :]
    sums = jnp.where(voters, jnp.sum(jnp.where(same, weights[None, :], 0), axis=-1), -1)
    first = jnp.max(sums)
    leader = jnp.min(jnp.where(sums == first, order, _LAST))
    winner = jnp.max(jnp.where((sums == first) & (order == leader), answers, NO_ANSWER))
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
