"""Adaptive consistency (ASC): sample until the majority is beyond doubt. Aggarwal et al. 2023, arXiv 2305.11860."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float32, Int32

from autotts_jax.controllers.base import Controller, fresh_slots, sample_count
from autotts_jax.environment import READ_TO_END, Action, Observation, act
from autotts_jax.voting import confidence, pool_tally


class Params(NamedTuple):
    """Parameters."""

    max_samples: Int32[Array, ""]  # n
    threshold: Float32[Array, ""]  # t, the confidence that must be exceeded


def schedule(beta: Float32[Array, ""]) -> Params:
    """N = 64^β, t = 0.95."""
    return Params(max_samples=sample_count(beta), threshold=jnp.asarray(0.95, jnp.float32))


def init(params: Params) -> tuple[()]:
    """Nothing to remember."""
    return ()


def step(params: Params, memory: tuple[()], obs: Observation) -> tuple[tuple[()], Action]:
    """Reads one more branch a round; after the second and each later one, stops if confident."""
    tally = pool_tally(obs)
    confident = (obs.opened >= 2) & (confidence(tally.first, tally.second) > params.threshold)
    return memory, act(
        obs,
        branch=1,
        continue_=jnp.where(fresh_slots(obs, 1), READ_TO_END, 0),
        stop=confident | (obs.opened >= params.max_samples) | (obs.unopened == 0),
        answer=tally.winner,
    )


ADAPTIVE_CONSISTENCY = Controller(
    name="adaptive_consistency",
    schedule=schedule,
    init=init,
    step=step,
    probe_everything=False,
    bounds={"max_samples": (1, 64), "threshold": (0, 1)},
    samples="max_samples",
    source="arXiv 2305.11860",
)
