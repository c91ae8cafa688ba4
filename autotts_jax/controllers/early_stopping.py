"""Early-stopping self-consistency (ESC): stop at a unanimous window. Li et al. 2024, arXiv 2401.10480."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float32, Int32

from autotts_jax.controllers.base import Controller, fresh_slots, sample_count
from autotts_jax.environment import NO_ANSWER, READ_TO_END, SLOTS, Action, Observation, act
from autotts_jax.voting import pool_tally


class Params(NamedTuple):
    """Parameters."""

    max_samples: Int32[Array, ""]  # n
    window: Int32[Array, ""]  # w


def schedule(beta: Float32[Array, ""]) -> Params:
    """N = 64^β, w = 8."""
    return Params(max_samples=sample_count(beta), window=jnp.asarray(8, jnp.int32))


def init(params: Params) -> tuple[()]:
    """Nothing to remember."""
    return ()


def step(params: Params, memory: tuple[()], obs: Observation) -> tuple[tuple[()], Action]:
    """Reads a window of w branches a round, ⌊n/w⌋ of them, n being at most the pool; a window
    wider than n counts as one of n."""
    samples = jnp.minimum(params.max_samples, obs.opened + obs.unopened)
    window = jnp.minimum(params.window, samples)
    newest = obs.finished & (jnp.arange(SLOTS, dtype=jnp.int32) >= obs.opened - window)
    highest = jnp.max(jnp.where(newest, obs.answer, NO_ANSWER))
    # A budget may have cut the window short: then the newest slots are not one window.
    whole = obs.opened == obs.round * window
    unanimous = whole & (jnp.sum(newest & (obs.answer == highest), dtype=jnp.int32) == window)
    return memory, act(
        obs,
        branch=window,
        continue_=jnp.where(fresh_slots(obs, window), READ_TO_END, 0),
        stop=unanimous | ((obs.round + 1) * window > samples),
        answer=jnp.where(unanimous, highest, pool_tally(obs, by_slot=True).winner),
    )


EARLY_STOPPING = Controller(
    name="early_stopping",
    schedule=schedule,
    init=init,
    step=step,
    probe_everything=False,
    bounds={"max_samples": (1, 64), "window": (1, 64)},
    samples="max_samples",
    source="arXiv 2401.10480",
)
