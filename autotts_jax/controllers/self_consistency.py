"""Self-consistency: read n branches, answer by plurality vote. Wang et al. 2023, arXiv 2203.11171."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Int32

from autotts_jax.controllers.base import Controller
from autotts_jax.controllers.schedules import Schedule, whole
from autotts_jax.environment import READ_TO_END, Action, Observation, act, fresh_slots
from autotts_jax.voting import pool_tally


class Params(NamedTuple):
    """How many branches to sample."""

    samples: Int32[Array, ""]  # n, branches to sample


#: n = 64^β.
SCHEDULE = Schedule(Params(samples=whole(1, 64, greatest=256, log=True)))


def init(params: Params, obs: Observation) -> tuple[()]:
    """An empty memory."""
    return ()


def step(params: Params, memory: tuple[()], obs: Observation) -> tuple[tuple[()], Action]:
    """Reads all samples in the first round, answers in the second."""
    samples = fresh_slots(obs, jnp.minimum(params.samples, obs.unopened))
    return memory, act(
        obs,
        open=samples,
        continue_=jnp.where(samples, READ_TO_END, 0),
        stop=obs.round > 0,
        answer=pool_tally(obs, order="opened").winner,
    )


SELF_CONSISTENCY = Controller(
    name="self_consistency",
    schedule=SCHEDULE,
    init=init,
    step=step,
    probe_everything=False,
    samples="samples",
    source="arXiv 2203.11171",
)
