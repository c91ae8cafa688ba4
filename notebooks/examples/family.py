"""A family of controllers with one step and 24 parameters, and five members that numeric search found.

Found on AIME 2024 with four Qwen3 models; nothing else was looked at. Finished branches vote, short ones more; running
and abandoned branches vote by how long their answer has been stable. A branch is abandoned when it disagrees with a
firm leader for too long or runs long against the mean finished depth. The episode stops when the lead
(v1 − v2)/√(v1 + v2 + 1) reaches a threshold that falls with each doubling of the finished branches.

    autotts sweep --controller notebooks/examples/family.py:LAT2
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float32, Int32

from autotts_jax import (
    NO_ANSWER,
    Action,
    Controller,
    Line,
    Observation,
    Schedule,
    act,
    count,
    real,
    weighted_plurality,
    whole,
)


class Params(NamedTuple):
    """When branches open, how they deepen, when they are abandoned, how they vote, and when that is enough."""

    n0: Int32[Array, ""]  # branches at the start
    live: Int32[Array, ""]  # running branches are refilled to so many
    cap: Int32[Array, ""]  # branches in all
    widen: Int32[Array, ""]  # opened at once when unsure
    gap: Int32[Array, ""]  # rounds between two widenings
    stride: Int32[Array, ""]  # intervals a round
    burst: Int32[Array, ""]  # the same, for branches that agree with the leader
    patience: Int32[Array, ""]  # intervals of disagreement before a branch is abandoned
    lead_min: Float32[Array, ""]  # leader's weight from which disagreement counts
    cut: Float32[Array, ""]  # abandon beyond so many times the mean finished depth
    cut_min: Int32[Array, ""]  # finished branches before that
    max_depth: Int32[Array, ""]  # abandon beyond, in intervals
    w_live: Float32[Array, ""]  # weight of a running branch whose answer is stable
    stab: Float32[Array, ""]  # intervals to full stability
    w_pruned: Float32[Array, ""]  # weight of an abandoned branch, times stability
    w_err: Float32[Array, ""]  # factor for unparsable answers
    gamma: Float32[Array, ""]  # finished: (mean depth / depth) ** gamma
    z_thr: Float32[Array, ""]  # probit confidence to stop at
    decay: Float32[Array, ""]  # loss of threshold per doubling of finished branches
    hold: Int32[Array, ""]  # rounds in a row
    min_lead: Float32[Array, ""]  # weight of the leader to stop
    min_fin: Int32[Array, ""]  # finished branches to stop
    alpha: Float32[Array, ""]  # ema of the confidence
    park: Int32[Array, ""]  # a branch whose answer has been equal for so long is not continued


class Memory(NamedTuple):
    """What each branch showed last, and how long the decision has been sure."""

    depth: Int32[Array, " B"]
    answer: Int32[Array, " B"]
    run: Int32[Array, " B"]  # intervals for which the newest answer has been the same, seen round by round
    against: Int32[Array, " B"]  # intervals of disagreement with the leader
    z: Float32[Array, ""]  # ema of the lead
    hold: Int32[Array, ""]  # rounds in a row in which the lead was enough
    since: Int32[Array, ""]  # rounds since a branch was opened


#: The box that was searched.
BOX = {
    "n0": partial(whole, least=1, greatest=48, log=True),
    "live": partial(whole, least=1, greatest=48, log=True),
    "cap": partial(whole, least=1, greatest=64, log=True),
    "widen": partial(whole, least=1, greatest=16, log=True),
    "gap": partial(whole, least=2, greatest=200, log=True),
    "stride": partial(whole, least=1, greatest=48, log=True),
    "burst": partial(whole, least=1, greatest=48, log=True),
    "patience": partial(whole, least=2, greatest=200, log=True),
    "lead_min": partial(real, least=0, greatest=6),
    "cut": partial(real, least=0.7, greatest=6, log=True),
    "cut_min": partial(whole, least=1, greatest=12),
    "max_depth": partial(whole, least=10, greatest=90, log=True),
    "w_live": partial(real, least=0, greatest=1),
    "stab": partial(real, least=1, greatest=100, log=True),
    "w_pruned": partial(real, least=0, greatest=1),
    "w_err": partial(real, least=0, greatest=1),
    "gamma": partial(real, least=0, greatest=2),
    "z_thr": partial(real, least=-0.5, greatest=5),
    "decay": partial(real, least=0, greatest=1),
    "hold": partial(whole, least=1, greatest=40, log=True),
    "min_lead": partial(real, least=0, greatest=10),
    "min_fin": partial(whole, least=0, greatest=10),
    "alpha": partial(real, least=0.05, greatest=1, log=True),
    "park": partial(whole, least=5, greatest=400, log=True),
}


def init(params: Params, obs: Observation) -> Memory:
    """Nothing seen yet."""
    zeros, zero = jnp.zeros(obs.width, jnp.int32), jnp.zeros((), jnp.int32)
    return Memory(zeros, zeros + NO_ANSWER, zeros, zeros, jnp.zeros((), jnp.float32), zero, zero)


def step(params: Params, memory: Memory, obs: Observation) -> tuple[Memory, Action]:
    """Votes, stops, abandons, widens and deepens."""
    p, start = params, obs.round == 0
    grown = obs.depth - memory.depth
    same = jnp.where(obs.answer == memory.answer, memory.run + grown, 1)
    run = jnp.where(grown > 0, same, memory.run)
    depth = obs.depth.astype(jnp.float32)
    (finished,) = count(obs.finished)
    total = jnp.sum(jnp.where(obs.finished, obs.depth, 0), dtype=jnp.int32).astype(jnp.float32)
    mean_depth = total / jnp.maximum(finished.astype(jnp.float32), 1)

    # Votes.
    stable = jnp.clip((run - 1).astype(jnp.float32) / p.stab, 0, 1)
    short = p.gamma * (jnp.log(jnp.maximum(mean_depth, 1)) - jnp.log(jnp.maximum(depth, 1)))
    weight = jnp.where(obs.pruned, p.w_pruned, p.w_live) * stable
    weight = jnp.where(obs.finished, jnp.exp(jnp.clip(short, -2, 2)), weight)
    weight = weight * jnp.where(obs.unparsable, p.w_err, 1.0)
    tally = weighted_plurality(obs.answer, weight, obs.open)
    z = (tally.first - tally.second) / jnp.sqrt(tally.first + tally.second + 1)
    z = (1 - p.alpha) * memory.z + p.alpha * z

    # Enough?
    threshold = p.z_thr - p.decay * jnp.log2(1 + finished.astype(jnp.float32))
    sure = (z >= threshold) & (tally.first >= p.min_lead) & (finished >= p.min_fin)
    hold = jnp.where(sure & ~start, memory.hold + 1, 0)

    # Abandon.
    leads, agrees = tally.first >= p.lead_min, obs.answer == tally.winner
    against = jnp.where(obs.active, jnp.where(agrees | ~leads, 0, memory.against + grown), memory.against)
    overlong = (finished >= p.cut_min) & (depth > p.cut * mean_depth)
    prune = obs.active & ((leads & (against >= p.patience)) | overlong | (obs.depth >= p.max_depth))
    live = obs.active & ~prune & ~(run >= p.park)
    (running,) = count(live)

    # Widen.
    more = jnp.maximum(p.live - running, jnp.where(memory.since + 1 >= p.gap, p.widen, 0))
    more = jnp.where(start, p.n0, jnp.where(sure, 0, more))
    more = jnp.clip(more, 0, jnp.maximum(jnp.minimum(p.cap - obs.opened, obs.unopened), 0))
    since = jnp.where(more > 0, 0, memory.since + 1)
    stop = ~start & ((hold >= p.hold) | ((running == 0) & (more == 0)))

    deepen = jnp.minimum(jnp.where(agrees & leads, p.burst, p.stride), p.max_depth - obs.depth)
    return Memory(obs.depth, obs.answer, run, against, z, hold, since), act(
        obs, prune=prune, branch=more, continue_=jnp.where(live, deepen, 0), stop=stop, answer=tally.winner
    )


def _found(name: str, **ends: float | tuple[float, float]) -> Controller:
    """A member: each parameter's value, or its values at β = 0 and β = 1."""

    def line(field: str) -> Line:
        end = ends[field]
        return BOX[field](*(end if isinstance(end, tuple) else (end, end)))

    lines = Params(*map(line, Params._fields))
    return Controller(name, Schedule(lines), init, step, opens=("cap",), source="numeric search, AIME 2024")


#: Truncated sequential sampling: CMA-ES over 20 numbers, the mean of the iterates of generations 25 to 50.
TASC = _found(
    "tasc",
    n0=1,
    live=1,
    cap=(2, 64),
    widen=1,
    gap=200,
    stride=8,
    burst=8,
    patience=21,
    lead_min=3.083,
    cut=2.53,
    cut_min=4,
    max_depth=41,
    w_live=0.1659,
    stab=2.549,
    w_pruned=0,
    w_err=0.1,
    gamma=1.283,
    z_thr=(0.2639, 2.672),
    decay=0.3291,
    hold=1,
    min_lead=(0.3839, 0.4792),
    min_fin=1,
    alpha=1,
    park=205,
)

#: TASC with cuts loosened by hand on a plateau: 48 intervals, and 1.75 times the mean finished depth.
TASC_ROBUST = _found(
    "tasc_robust",
    n0=1,
    live=1,
    cap=(2, 64),
    widen=1,
    gap=200,
    stride=8,
    burst=8,
    patience=21,
    lead_min=3.083,
    cut=1.75,
    cut_min=2,
    max_depth=48,
    w_live=0.1659,
    stab=2.549,
    w_pruned=0,
    w_err=0.1,
    gamma=1.283,
    z_thr=(0.2639, 2.672),
    decay=0.3291,
    hold=1,
    min_lead=(0.3839, 0.4792),
    min_fin=1,
    alpha=1,
    park=205,
)

#: CMA-ES over all 48 ends, the mean of the last iterates.
FAM48 = _found(
    "fam48",
    n0=(3, 1),
    live=(2, 3),
    cap=(19, 64),
    widen=(1, 2),
    gap=(200, 12),
    stride=(12, 2),
    burst=(15, 14),
    patience=(46, 24),
    lead_min=(1.154, 0.4242),
    cut=(1.316, 2.489),
    cut_min=(3, 4),
    max_depth=(57, 33),
    w_live=(0.4239, 0.1116),
    stab=(54.58, 16.03),
    w_pruned=(0.1158, 0.01811),
    w_err=(0, 0.03743),
    gamma=(0.6027, 0.1918),
    z_thr=(0.0615, 2.116),
    decay=(0.3557, 0.09993),
    hold=(3, 7),
    min_lead=(0.7674, 3.465),
    min_fin=(1, 0),
    alpha=(0.6204, 1),
    park=(298, 125),
)

#: CMA-ES over 22 numbers, sequential tokens held at or below CMC's at every β.
LAT1 = _found(
    "lat1",
    n0=(3.338, 7.313),
    live=(2.144, 21.25),
    cap=(4.382, 56.53),
    widen=1,
    gap=200,
    stride=1.35,
    burst=3.05,
    patience=20.42,
    lead_min=1.94,
    cut=3.677,
    cut_min=2.358,
    max_depth=41.04,
    w_live=0.2016,
    stab=6.389,
    w_pruned=0,
    w_err=0.1,
    gamma=0.8592,
    z_thr=(0.2477, 1.864),
    decay=0.1594,
    hold=1,
    min_lead=(0.3621, 0),
    min_fin=1,
    alpha=1,
    park=250,
)

#: The same, held at or below twice CMC's.
LAT2 = _found(
    "lat2",
    n0=(1.305, 4.372),
    live=(1.53, 8.793),
    cap=(4.773, 64),
    widen=1,
    gap=200,
    stride=2.964,
    burst=4.911,
    patience=22.28,
    lead_min=1.516,
    cut=3.313,
    cut_min=3.044,
    max_depth=41.93,
    w_live=0.3933,
    stab=10.54,
    w_pruned=0.003696,
    w_err=0.1,
    gamma=0.9547,
    z_thr=(0.1913, 2.055),
    decay=0.1458,
    hold=1,
    min_lead=(0.178, 0.3708),
    min_fin=1,
    alpha=1,
    park=250,
)
