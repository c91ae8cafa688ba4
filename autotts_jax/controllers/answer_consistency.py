"""Answer consistency per chain: each chain stops when its own answer has settled.

The "SAC" row of Parallel-Probe (arXiv 2602.03845), its single-chain baseline.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float32, Int32

from autotts_jax.controllers.base import Controller, sample_count
from autotts_jax.environment import NO_ANSWER, SLOTS, Action, Observation, act
from autotts_jax.voting import plurality


class Params(NamedTuple):
    """Parameters."""

    chains: Int32[Array, ""]  # n
    k: Int32[Array, ""]  # answers in a row that must be equal


class Memory(NamedTuple):
    """What is remembered between rounds."""

    depth: Int32[Array, " B"]  # as of the last round
    answer: Int32[Array, " B"]
    run: Int32[Array, " B"]  # how many of the newest answers are equal


def schedule(beta: Float32[Array, ""]) -> Params:
    """N = 64^β, k = 14."""
    return Params(chains=sample_count(beta), k=jnp.asarray(14, jnp.int32))


def init(params: Params) -> Memory:
    """No answers yet."""
    zeros = jnp.zeros(SLOTS, jnp.int32)
    return Memory(depth=zeros, answer=jnp.full(SLOTS, NO_ANSWER, jnp.int32), run=zeros)


def step(params: Params, memory: Memory, obs: Observation) -> tuple[Memory, Action]:
    """Steps every chain that is neither settled nor finished by one interval."""
    start = obs.round == 0
    run = jnp.where(obs.answer == memory.answer, memory.run + 1, 1)
    run = jnp.where(obs.depth > memory.depth, run, memory.run)
    going = obs.active & (run < params.k)
    return Memory(obs.depth, obs.answer, run), act(
        obs,
        branch=jnp.where(start, jnp.minimum(params.chains, obs.unopened), 0),
        continue_=going,
        stop=~start & ~jnp.any(going),
        answer=plurality(obs.answer, obs.opened > jnp.arange(SLOTS, dtype=jnp.int32)).winner,
    )


ANSWER_CONSISTENCY = Controller(
    name="answer_consistency",
    schedule=schedule,
    init=init,
    step=step,
    bounds={"chains": (1, 64), "k": (1, 4096)},
    samples="chains",
    source="arXiv 2602.03845, SAC",
)
