"""Parallel-Probe: chains side by side, stopped by a stable vote. arXiv 2602.03845."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Int32

from autotts_jax.controllers.base import Controller
from autotts_jax.controllers.schedules import Schedule, whole
from autotts_jax.environment import NO_ANSWER, Action, Observation, act, fresh_slots
from autotts_jax.voting import plurality


class Params(NamedTuple):
    """How many chains, and when they are pruned and stopped; in rounds unless noted."""

    chains: Int32[Array, ""]  # C, branches side by side
    stable: Int32[Array, ""]  # T, rounds that the vote must hold to stop
    patience: Int32[Array, ""]  # rounds off track after which a chain is pruned
    warm_up: Int32[Array, ""]  # rounds before any chain is pruned
    max_rounds: Int32[Array, ""]


class Memory(NamedTuple):
    """How long each chain has been off track, and how long the vote has held its winner."""

    off_track: Int32[Array, " B"]  # consecutive rounds against the vote
    winner: Int32[Array, ""]  # of the previous round
    stable: Int32[Array, ""]  # rounds that it has held


#: C = 64^β; the rest as in the paper's main setting.
SCHEDULE = Schedule(
    Params(
        chains=whole(1, 64, greatest=256, log=True),
        stable=whole(40, 40, least=1, greatest=100),
        patience=whole(7, 7, least=1, greatest=50),
        warm_up=whole(15, 15, least=0, greatest=50),
        max_rounds=whole(100, 100, least=1, greatest=200),
    )
)


def init(params: Params, obs: Observation) -> Memory:
    """No vote yet."""
    return Memory(
        off_track=jnp.zeros(obs.width, jnp.int32),
        winner=jnp.asarray(NO_ANSWER, jnp.int32),
        stable=jnp.zeros((), jnp.int32),
    )


def step(params: Params, memory: Memory, obs: Observation) -> tuple[Memory, Action]:
    """One round of the method, counted from the one in which the chains first continue."""
    start = obs.round == 0
    opening = start & fresh_slots(obs, jnp.minimum(params.chains, obs.unopened))
    r = obs.round - 1  # the method's round, whose intervals the observation shows

    voters = obs.active | obs.finished
    winner = plurality(obs.answer, voters).winner

    judging = (r >= params.warm_up) & (jnp.sum(voters, dtype=jnp.int32) > 1)
    astray = jnp.where(obs.answer == winner, 0, memory.off_track + 1)
    off_track = jnp.where(judging & obs.active, astray, memory.off_track)
    # Pruning keeps the winner: its own voters are on track, and the other answers only lose votes.
    prune = judging & obs.active & (off_track >= params.patience)

    stable = jnp.where((r > 0) & (winner == memory.winner), memory.stable + 1, 0)
    running = obs.active & ~prune
    stop = (stable >= params.stable) | ~jnp.any(running) | (r + 1 >= params.max_rounds)
    return Memory(off_track, winner, stable), act(
        obs,
        open=opening,
        continue_=running | opening,
        prune=prune,
        stop=~start & stop,
        answer=winner,
    )


PARALLEL_PROBE = Controller(
    name="parallel_probe",
    schedule=SCHEDULE,
    init=init,
    step=step,
    samples="chains",
    source="arXiv 2602.03845",
)
