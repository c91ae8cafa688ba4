"""Self-consistency: read n branches, answer their plurality. Wang et al. 2023, arXiv 2203.11171."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float32, Int32

from autotts_jax.controllers.base import Controller, fresh_slots, sample_count
from autotts_jax.environment import READ_TO_END, Action, Observation, act
from autotts_jax.voting import pool_tally


class Params(NamedTuple):
    """Parameters."""

    samples: Int32[Array, ""]  # n


def schedule(beta: Float32[Array, ""]) -> Params:
    """N = 64^β, from 1 to 64."""
    return Params(samples=sample_count(beta))


def init(params: Params) -> tuple[()]:
    """Nothing to remember."""
    return ()


def step(params: Params, memory: tuple[()], obs: Observation) -> tuple[tuple[()], Action]:
    """Reads all samples in the first round, answers in the second."""
    samples = jnp.minimum(params.samples, obs.unopened)
    return memory, act(
        obs,
        branch=samples,
        continue_=jnp.where(fresh_slots(obs, samples), READ_TO_END, 0),
        stop=obs.round > 0,
        answer=pool_tally(obs, by_slot=True).winner,
    )


SELF_CONSISTENCY = Controller(
    name="self_consistency",
    schedule=schedule,
    init=init,
    step=step,
    probe_everything=False,
    bounds={"samples": (1, 64)},
    samples="samples",
    source="arXiv 2203.11171",
)

#: pass@n: what the best imaginable choice among n branches would reach.
ORACLE = dataclasses.replace(SELF_CONSISTENCY, name="oracle", oracle=True, source="pass@n, an upper bound")
