"""Adaptive consistency (ASC): sample until the majority is certain enough. Aggarwal et al. 2023, arXiv 2305.11860."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float32, Int32

from autotts_jax.controllers.base import Controller
from autotts_jax.controllers.schedules import Schedule, real, whole
from autotts_jax.environment import READ_TO_END, Action, Observation, act, fresh_slots
from autotts_jax.voting import confidence, pool_tally


class Params(NamedTuple):
    """How many branches to sample, and when to stop."""

    max_samples: Int32[Array, ""]  # n, branches to sample at most
    threshold: Float32[Array, ""]  # t, the confidence that must be exceeded


#: n = 64^β, t = 0.95.
SCHEDULE = Schedule(
    Params(
        max_samples=whole(1, 64, greatest=256, log=True),
        threshold=real(0.95, 0.95, least=0.5, greatest=1),
    )
)


def init(params: Params, obs: Observation) -> tuple[()]:
    """An empty memory."""
    return ()


def step(params: Params, memory: tuple[()], obs: Observation) -> tuple[tuple[()], Action]:
    """Reads one more branch per round; from the second on, stops once confident."""
    tally = pool_tally(obs)
    confident = (obs.opened >= 2) & (confidence(tally.first, tally.second) > params.threshold)
    following = fresh_slots(obs, 1)
    return memory, act(
        obs,
        open=following,
        continue_=jnp.where(following, READ_TO_END, 0),
        stop=confident | (obs.opened >= params.max_samples) | (obs.unopened == 0),
        answer=tally.winner,
    )


ADAPTIVE_CONSISTENCY = Controller(
    name="adaptive_consistency",
    schedule=SCHEDULE,
    init=init,
    step=step,
    probe_everything=False,
    samples="max_samples",
    source="arXiv 2305.11860",
)
