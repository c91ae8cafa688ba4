"""Parallel-Probe: chains side by side, stopped by a stable vote. arXiv 2602.03845."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float32, Int32

from autotts_jax.controllers.base import Controller, fresh_slots, sample_count
from autotts_jax.environment import NO_ANSWER, SLOTS, Action, Observation, act
from autotts_jax.voting import plurality


class Params(NamedTuple):
    """Parameters."""

    chains: Int32[Array, ""]  # C
    stable: Int32[Array, ""]  # T, rounds that the vote must have kept to stop
    patience: Int32[Array, ""]  # rounds off track after which a chain is pruned
    warm_up: Int32[Array, ""]  # rounds before any chain is pruned
    max_rounds: Int32[Array, ""]


class Memory(NamedTuple):
    """What is remembered between rounds."""

    off_track: Int32[Array, " B"]  # consecutive rounds against the vote
    winner: Int32[Array, ""]  # of the previous round
    stable: Int32[Array, ""]  # rounds that the winner has kept


def schedule(beta: Float32[Array, ""]) -> Params:
    """C = 64^β; the rest as in the paper's main setting."""
    chains = sample_count(beta)
    return Params(chains, *(jnp.asarray(value, jnp.int32) for value in (40, 7, 15, 100)))


def init(params: Params) -> Memory:
    """No vote yet."""
    return Memory(
        off_track=jnp.zeros(SLOTS, jnp.int32),
        winner=jnp.asarray(NO_ANSWER, jnp.int32),
        stable=jnp.zeros((), jnp.int32),
    )


def step(params: Params, memory: Memory, obs: Observation) -> tuple[Memory, Action]:
    """One round of the method, counted from the one in which the chains first continue."""
    chains = jnp.minimum(params.chains, obs.unopened)
    start = obs.round == 0
    r = obs.round - 1  # the method's round, whose intervals the observation shows

    voters = obs.active | obs.finished
    winner = plurality(obs.answer, voters).winner

    judging = (r >= params.warm_up) & (jnp.sum(voters, dtype=jnp.int32) > 1)
    astray = jnp.where(obs.answer == winner, 0, memory.off_track + 1)
    off_track = jnp.where(judging & obs.active, astray, memory.off_track)
    # The vote of those left has the same winner: its own voters are on track, and the others only lose votes.
    prune = judging & obs.active & (off_track >= params.patience)

    stable = jnp.where((r > 0) & (winner == memory.winner), memory.stable + 1, 0)
    running = obs.active & ~prune
    stop = (stable >= params.stable) | ~jnp.any(running) | (r + 1 >= params.max_rounds)
    return Memory(off_track, winner, stable), act(
        obs,
        branch=jnp.where(start, chains, 0),
        continue_=running | (start & fresh_slots(obs, chains)),
        prune=prune,
        stop=~start & stop,
        answer=winner,
    )


PARALLEL_PROBE = Controller(
    name="parallel_probe",
    schedule=schedule,
    init=init,
    step=step,
    bounds={
        "chains": (1, 64),
        "stable": (1, 4096),
        "patience": (1, 4096),
        "warm_up": (0, 4096),
        "max_rounds": (1, 4096),
    },
    samples="chains",
    source="arXiv 2602.03845",
)
