"""Early-stopping self-consistency (ESC): stop at a unanimous window. Li et al. 2024, arXiv 2401.10480."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Int32

from autotts_jax.controllers.base import Controller
from autotts_jax.controllers.schedules import Schedule, whole
from autotts_jax.environment import NO_ANSWER, READ_TO_END, Action, Observation, act, fresh_slots
from autotts_jax.voting import pool_tally


class Params(NamedTuple):
    """How many branches to sample, and how many at a time."""

    max_samples: Int32[Array, ""]  # n, branches to sample at most
    window: Int32[Array, ""]  # w, branches per round


#: n = 64^β, w = 8.
SCHEDULE = Schedule(
    Params(
        max_samples=whole(1, 64, greatest=256, log=True),
        window=whole(8, 8, least=1, greatest=64),
    )
)


def init(params: Params, obs: Observation) -> tuple[()]:
    """An empty memory."""
    return ()


def step(params: Params, memory: tuple[()], obs: Observation) -> tuple[tuple[()], Action]:
    """Reads a window of w branches per round, ⌊n/w⌋ windows; n is at most the question's branches, w at most n."""
    samples = jnp.minimum(params.max_samples, obs.opened + obs.unopened)
    window = jnp.minimum(params.window, samples)
    newest = obs.finished & (jnp.arange(obs.width, dtype=jnp.int32) >= obs.opened - window)
    highest = jnp.max(jnp.where(newest, obs.answer, NO_ANSWER))
    # If a budget has cut a window short, the newest slots are not one window.
    whole = obs.opened == obs.round * window
    unanimous = whole & (jnp.sum(newest & (obs.answer == highest), dtype=jnp.int32) == window)
    following = fresh_slots(obs, window)
    return memory, act(
        obs,
        open=following,
        continue_=jnp.where(following, READ_TO_END, 0),
        stop=unanimous | ((obs.round + 1) * window > samples),
        answer=jnp.where(unanimous, highest, pool_tally(obs, order="opened").winner),
    )


EARLY_STOPPING = Controller(
    name="early_stopping",
    schedule=SCHEDULE,
    init=init,
    step=step,
    probe_everything=False,
    samples="max_samples",
    source="arXiv 2401.10480",
)
