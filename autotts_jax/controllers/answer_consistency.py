"""Answer consistency per chain: each chain stops when its own answer has settled.

The "SAC" row of Parallel-Probe (arXiv 2602.03845), its single-chain baseline.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Int32

from autotts_jax.controllers.base import Controller
from autotts_jax.controllers.schedules import Schedule, whole
from autotts_jax.environment import Action, Observation, act
from autotts_jax.voting import plurality


class Params(NamedTuple):
    """How many chains, and when one has settled."""

    chains: Int32[Array, ""]  # n, branches side by side
    k: Int32[Array, ""]  # equal answers in a row that settle a chain


#: n = 64^β, k = 14.
SCHEDULE = Schedule(
    Params(
        chains=whole(1, 64, greatest=256, log=True),
        k=whole(14, 14, least=1, greatest=64),
    )
)


def init(params: Params, obs: Observation) -> tuple[()]:
    """An empty memory."""
    return ()


def step(params: Params, memory: tuple[()], obs: Observation) -> tuple[tuple[()], Action]:
    """Continues every chain that is neither settled nor finished by one interval."""
    start = obs.round == 0
    going = obs.active & (obs.run < params.k)
    return memory, act(
        obs,
        branch=jnp.where(start, jnp.minimum(params.chains, obs.unopened), 0),
        continue_=going,
        stop=~start & ~jnp.any(going),
        answer=plurality(obs.answer, obs.open).winner,
    )


ANSWER_CONSISTENCY = Controller(
    name="answer_consistency",
    schedule=SCHEDULE,
    init=init,
    step=step,
    samples="chains",
    source="arXiv 2602.03845, SAC",
)
