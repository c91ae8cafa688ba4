"""The Confidence Momentum Controller (CMC), discovered by AutoTTS. arXiv 2605.08083, appendix."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float32, Int32

from autotts_jax.controllers.base import Controller, spare_last
from autotts_jax.controllers.schedules import Schedule, real, whole
from autotts_jax.environment import UNLIMITED, Action, Observation, act, count, once
from autotts_jax.voting import confidence, plurality, pool_tally

MAX_ROUNDS = 500
MAX_WINDOW = 16  # the longest history of ema values kept


class Params(NamedTuple):
    """The method's twelve knobs, as the paper names them."""

    n_init: Int32[Array, ""]  # branches at the start
    max_branches: Int32[Array, ""]
    warm_up: Int32[Array, ""]  # rounds before votes have consequences
    patience: Int32[Array, ""]  # rounds of disagreement after which a branch is abandoned
    ema_window: Int32[Array, ""]  # rounds over which momentum is measured
    min_finished: Int32[Array, ""]  # branches that must have finished to stop
    ema_alpha: Float32[Array, ""]  # weight of the newest confidence
    conf_threshold: Float32[Array, ""]  # confidence to stop at
    delta_slack: Float32[Array, ""]  # loss of confidence tolerated when stopping
    burst: Int32[Array, ""]  # intervals per round for branches that agree with the pool
    widen: Int32[Array, ""]  # branches to open at a time
    trend_threshold: Float32[Array, ""]  # momentum above which no branch is opened


class Memory(NamedTuple):
    """The method's own clock, the confidence so far, and each branch's disagreement."""

    round: Int32[Array, ""]  # the method's own, −1 before the first
    widened: Bool[Array, ""]  # whether the last action opened branches
    ema: Float32[Array, ""]
    history: Float32[Array, " 16"]  # ema of round r at r mod 16
    against: Int32[Array, " B"]  # consecutive rounds of disagreement with the pool


#: The published schedule; real-valued knobs rounded to 4 decimals.
SCHEDULE = Schedule(
    Params(
        n_init=whole(2, 8, least=1, greatest=64),
        max_branches=whole(4, 64, least=1, greatest=256),
        warm_up=whole(2, 10, least=0, greatest=50),
        patience=whole(3, 12, least=1, greatest=50),
        ema_window=whole(2, 8, least=1, greatest=MAX_WINDOW),
        min_finished=whole(2, 5, least=0, greatest=64),
        ema_alpha=real(0.70, 0.30, least=0, greatest=1, decimals=4),
        conf_threshold=real(0.85, 0.97, least=0, greatest=1, decimals=4),
        delta_slack=real(0.04, 0.01, least=0, greatest=1, decimals=4),
        burst=whole(1, 3, least=1, greatest=32),
        widen=whole(1, 4, least=0, greatest=64),
        trend_threshold=real(0.04, 0.01, least=-1, greatest=1, decimals=4),
    )
)


def init(params: Params, obs: Observation) -> Memory:
    """Nothing seen yet; the first round opens n_init branches."""
    return Memory(
        round=jnp.asarray(-1, jnp.int32),
        widened=jnp.asarray(False),
        ema=jnp.zeros((), jnp.float32),
        history=jnp.zeros(MAX_WINDOW, jnp.float32),
        against=jnp.zeros(obs.width, jnp.int32),
    )


def step(params: Params, memory: Memory, obs: Observation) -> tuple[Memory, Action]:
    """Ends one round of the method (confidence, stop, widen) and begins the next (abandon, deepen).

    Newly opened branches must be seen before the next round begins, so a widening round takes two steps.
    """
    start = obs.round == 0
    pool = pool_tally(obs)
    conf = confidence(pool.first, pool.second)

    # The end of round r, unless the last step already ended it and widened.
    ending = ~start & ~memory.widened
    r, ema, history = memory.round, memory.ema, memory.history
    ema = jnp.where(ending, _blend(ema, conf, params), ema)
    place = jnp.arange(MAX_WINDOW, dtype=jnp.int32)
    history = jnp.where(ending & (place == r % MAX_WINDOW), ema, history)
    oldest = jnp.maximum(r - params.ema_window + 1, 0) % MAX_WINDOW
    delta = ema - history.at[oldest].get(mode="promise_in_bounds")
    finished, live = count(obs.finished, obs.active)
    assured = (finished >= params.min_finished) & (ema >= params.conf_threshold)
    stop = assured & (r >= params.warm_up) & (delta >= -params.delta_slack)
    stop = ending & (stop | (live == 0))

    wants = (delta <= params.trend_threshold) & (ema < params.conf_threshold)
    wants &= r >= jnp.maximum(1, params.warm_up // 2)
    room = jnp.minimum(params.max_branches - obs.opened, obs.unopened)
    widen = jnp.where(ending & wants, jnp.clip(params.widen, 0, jnp.maximum(room, 0)), 0)
    branch = jnp.where(start, jnp.minimum(params.n_init, obs.unopened), widen)

    # The beginning of round r + 1, unless branches are opened first.
    beginning = once(branch == 0)
    r = r + beginning.astype(jnp.int32)
    stop |= r >= MAX_ROUNDS
    ema = jnp.where(beginning, _blend(ema, conf, params), ema)
    informed = once(beginning & (r >= params.warm_up) & (pool.first > 0))
    agrees = obs.answer == pool.winner
    against = jnp.where(informed & obs.active, jnp.where(agrees, 0, memory.against + 1), memory.against)
    # Most opposed first, lower slots first among equals; two live branches remain.
    priority = against * obs.width - jnp.arange(obs.width, dtype=jnp.int32)
    opposed = obs.active & (against >= params.patience)
    abandon = informed & spare_last(opposed, priority, obs.active, spare=2)
    deepen = jnp.where(obs.active & ~abandon & beginning, jnp.where(informed & agrees, params.burst, 1), 0)

    new = Memory(r, ~beginning, ema, history, against)
    # While the pool is empty: the plurality of the newest answers. Only a budget can end an episode without `stop`.
    may_end = stop | (obs.budget_left < UNLIMITED)
    newest = plurality(obs.answer, obs.active, when=may_end & (pool.first == 0))
    answer = jnp.where(pool.first > 0, pool.winner, newest.winner)
    return new, act(obs, prune=abandon, branch=branch, continue_=deepen, stop=stop, answer=answer)


def _blend(ema: Float32[Array, ""], conf: Float32[Array, ""], params: Params) -> Float32[Array, ""]:
    return (1 - params.ema_alpha) * ema + params.ema_alpha * conf


CONFIDENCE_MOMENTUM = Controller(
    name="confidence_momentum",
    schedule=SCHEDULE,
    init=init,
    step=step,
    opens=("n_init", "max_branches"),
    source="arXiv 2605.08083",
)
