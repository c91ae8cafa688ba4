"""Leash: four branches, then one at a time; who strays from the leader is cut; the stopping boundary falls.

Written by a language model from the README, the guide and traces of AIME 2024 alone.

1. Sampling is almost sequential: four branches side by side, afterwards a new one whenever fewer than `keep` run.
2. The pool's leader sets the length: a running branch whose probes have not shown the leading answer for `leash` times
   the mean depth of the finished branches is pruned. Within a question long branches are mostly wrong.
3. A running branch that has repeated one of the pool's two leading answers for `run` probes counts as `half` a vote.
   An answer that no finished branch backs is worth nothing.
4. It stops when (v1 − v2)/√(v1 + v2 + 1) reaches a boundary that falls as more branches finish: a vote that is still
   split after many branches will not be decided cheaply.

    autotts sweep --controller notebooks/examples/leash.py:LEASH
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float32, Int32

from autotts_jax import Action, Controller, Observation, Schedule, act, count, plurality, pool_tally, real, whole


class Params(NamedTuple):
    """How many branches run, when one is cut, and when the vote is decided."""

    start: Int32[Array, ""]  # branches at first
    most: Int32[Array, ""]  # branches in all
    z: Float32[Array, ""]  # boundary for the lead, in standard deviations
    fall: Float32[Array, ""]  # by which it falls with each doubling of the finished branches beyond four
    votes: Float32[Array, ""]  # least votes of the leader
    half: Float32[Array, ""]  # vote of a running branch that repeats a leading answer
    run: Int32[Array, ""]  # equal probes in a row that this takes
    leash: Float32[Array, ""]  # probes astray before a branch is pruned, in mean depths of the finished ones
    least: Int32[Array, ""]  # the least of that limit
    keep: Int32[Array, ""]  # a branch is opened when fewer run
    need: Int32[Array, ""]  # finished branches before any is pruned


SCHEDULE = Schedule(
    Params(
        start=whole(4, 4, least=1, greatest=16),
        most=whole(4, 64, log=True),
        z=real(0.9, 1.8, least=0, greatest=4),
        fall=real(0.3, 0.3, least=0, greatest=1),
        votes=real(2, 3, least=1, greatest=8),
        half=real(0.5, 0.5, least=0, greatest=1),
        run=whole(3, 3, least=1, greatest=20),
        leash=real(0.85, 0.85, least=0.1, greatest=3),
        least=whole(8, 8, least=1, greatest=40),
        keep=whole(1, 3, least=1, greatest=16),
        need=whole(1, 2, least=1, greatest=8),
    )
)


def init(params: Params, obs: Observation) -> Int32[Array, " B"]:
    """For each branch, the newest probes in a row that did not show the leader's answer."""
    return jnp.zeros(obs.width, jnp.int32)


def step(params: Params, memory: Int32[Array, " B"], obs: Observation) -> tuple[Int32[Array, " B"], Action]:
    """Counts votes, cuts who strays, opens one more when fewer run, and stops at the boundary."""
    pool = pool_tally(obs, parsable=True)
    finished, first, second = count(
        obs.finished,
        # Running branches that repeat one of the pool's two leading answers.
        obs.active & (obs.run >= params.run) & (pool.first > 0) & (obs.answer == pool.winner),
        obs.active & (obs.run >= params.run) & (pool.second > 0) & (obs.answer == pool.runner_up),
    )
    v1 = pool.first.astype(jnp.float32) + params.half * first.astype(jnp.float32)
    v2 = pool.second.astype(jnp.float32) + params.half * second.astype(jnp.float32)
    leader = jnp.where(v2 > v1, pool.runner_up, pool.winner)
    top, low = jnp.maximum(v1, v2), jnp.minimum(v1, v2)
    done = jnp.maximum(finished, 1).astype(jnp.float32)
    boundary = params.z - params.fall * jnp.maximum(jnp.log2(done / 4), 0)
    sure = (top >= params.votes) & ((top - low) / jnp.sqrt(top + low + 1) >= boundary)

    # Every active branch went on by an interval.
    astray = jnp.where(obs.active & (pool.first > 0), jnp.where(obs.answer == leader, 0, memory + 1), memory)
    mean_depth = jnp.sum(jnp.where(obs.finished, obs.depth, 0), dtype=jnp.int32).astype(jnp.float32) / done
    limit = jnp.maximum(params.leash * mean_depth, params.least.astype(jnp.float32))
    strays = (obs.answer != leader) & (astray.astype(jnp.float32) > limit)
    prune = obs.active & (finished >= params.need) & strays
    going = obs.active & ~prune

    (running,) = count(going)
    idle = (obs.round > 0) & (running == 0)
    wanted = jnp.where(obs.round == 0, params.start, (running < params.keep).astype(jnp.int32))
    branch = jnp.minimum(wanted, jnp.clip(params.most - obs.opened, 0, obs.unopened))
    stop = (obs.round > 0) & (sure | (idle & (branch == 0)))

    unfinished = obs.open & ~obs.finished & ~obs.unparsable
    newest = plurality(obs.answer, unfinished, when=idle & (pool.first == 0))
    answer = jnp.where(top > 0, leader, newest.winner)
    return astray, act(obs, prune=prune, branch=branch, continue_=going, stop=stop, answer=answer)


LEASH = Controller("leash", SCHEDULE, init, step, opens=("start", "most"), source="a language model, AIME 2024")
