"""The Confidence Momentum Controller (CMC), which AutoTTS discovered. arXiv 2605.08083, appendix."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float32, Int32

from autotts_jax.controllers.base import Controller
from autotts_jax.environment import SLOTS, UNLIMITED, Action, Observation, act, count
from autotts_jax.voting import confidence, plurality, pool_tally

MAX_ROUNDS = 500
MAX_WINDOW = 16  # the longest history of ema values that is kept

_FIRST = np.iinfo(np.int32).max


class Params(NamedTuple):
    """Parameters."""

    n_init: Int32[Array, ""]  # branches at the start
    max_branches: Int32[Array, ""]
    warm_up: Int32[Array, ""]  # rounds before votes have consequences
    patience: Int32[Array, ""]  # rounds of disagreement after which a branch is abandoned
    ema_window: Int32[Array, ""]  # rounds over which momentum is measured
    min_finished: Int32[Array, ""]  # branches that must have finished to stop
    ema_alpha: Float32[Array, ""]  # weight of the newest confidence
    conf_threshold: Float32[Array, ""]  # confidence to stop at
    delta_slack: Float32[Array, ""]  # loss of confidence that is tolerated when stopping
    burst: Int32[Array, ""]  # intervals a round for branches that agree with the pool
    widen: Int32[Array, ""]  # branches to open at a time
    trend_threshold: Float32[Array, ""]  # momentum above which no branch is opened


class Memory(NamedTuple):
    """What is remembered between rounds."""

    round: Int32[Array, ""]  # the method's own, −1 before the first
    widened: Bool[Array, ""]  # whether the last action opened branches
    ema: Float32[Array, ""]
    history: Float32[Array, " 16"]  # ema of round r at r mod 16
    against: Int32[Array, " B"]  # consecutive rounds of disagreement with the pool


def schedule(beta: Float32[Array, ""]) -> Params:
    """The published schedule; real-valued knobs rounded to 4 decimals."""

    def whole(least: int, start: float, slope: float) -> Int32[Array, ""]:
        return jnp.maximum(least, jnp.round(start + slope * beta).astype(jnp.int32))

    def real(start: float, slope: float) -> Float32[Array, ""]:
        # XLA turns a division by a constant into a product that may miss the nearest number, so it is no constant.
        return (jnp.round((start + slope * beta) * 10_000) / (10_000 + 0 * beta)).astype(jnp.float32)

    return Params(
        n_init=whole(2, 2, 6),
        max_branches=jnp.minimum(64, whole(0, 4, 60)),
        warm_up=whole(2, 2, 8),
        patience=whole(3, 3, 9),
        ema_window=whole(2, 2, 6),
        min_finished=whole(2, 2, 3),
        ema_alpha=real(0.70, -0.40),
        conf_threshold=real(0.85, 0.12),
        delta_slack=real(0.04, -0.03),
        burst=whole(1, 1, 2),
        widen=whole(1, 1, 3),
        trend_threshold=real(0.04, -0.03),
    )


def init(params: Params) -> Memory:
    """Nothing seen yet; the first round opens n_init branches."""
    return Memory(
        round=jnp.asarray(-1, jnp.int32),
        widened=jnp.asarray(False),
        ema=jnp.zeros((), jnp.float32),
        history=jnp.zeros(MAX_WINDOW, jnp.float32),
        against=jnp.zeros(SLOTS, jnp.int32),
    )


def step(params: Params, memory: Memory, obs: Observation) -> tuple[Memory, Action]:
    """Ends one round of the method (confidence, stop, widen) and begins the next (abandon, deepen).

    Newly opened branches must be seen before the next round begins, so a round that widens takes two steps.
    """
    start = obs.round == 0
    pool = pool_tally(obs)
    conf = confidence(pool.first, pool.second)

    # The end of round r, unless the last step already ended it and widened.
    ending = ~start & ~memory.widened
    r, ema, history = memory.round, memory.ema, memory.history
    ema = jnp.where(ending, _blend(ema, conf, params), ema)
    history = jnp.where(ending, history.at[r % MAX_WINDOW].set(ema), history)
    oldest = jnp.maximum(r - params.ema_window + 1, 0)
    delta = ema - history[oldest % MAX_WINDOW]
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
    beginning = branch == 0
    r = r + beginning.astype(jnp.int32)
    stop |= r >= MAX_ROUNDS
    ema = jnp.where(beginning, _blend(ema, conf, params), ema)
    informed = beginning & (r >= params.warm_up) & (pool.first > 0)
    agrees = obs.answer == pool.winner
    against = jnp.where(informed & obs.active, jnp.where(agrees, 0, memory.against + 1), memory.against)
    abandon = informed & _most_opposed(against, obs.active & (against >= params.patience), obs.active)
    deepen = jnp.where(obs.active & ~abandon & beginning, jnp.where(informed & agrees, params.burst, 1), 0)

    new = Memory(r, ~beginning, ema, history, against)
    # While the pool is empty: the plurality of the newest answers. Only a budget can end an episode unasked.
    may_end = stop | (obs.budget_left < UNLIMITED)
    newest = plurality(obs.answer, obs.active, when=may_end & (pool.first == 0))
    answer = jnp.where(pool.first > 0, pool.winner, newest.winner)
    return new, act(obs, prune=abandon, branch=branch, continue_=deepen, stop=stop, answer=answer)


def _blend(ema: Float32[Array, ""], conf: Float32[Array, ""], params: Params) -> Float32[Array, ""]:
    return (1 - params.ema_alpha) * ema + params.ema_alpha * conf


def _most_opposed(
    against: Int32[Array, " B"], candidates: Bool[Array, " B"], live: Bool[Array, " B"]
) -> Bool[Array, " B"]:
    """The candidates, most opposed first, earlier opened first, but so many that two live branches stay.

    Two stay of themselves unless there are fewer than two live branches beside the candidates; then the one or
    two candidates that come last are spared.
    """
    # Larger comes first; no two candidates are equal.
    key = against * SLOTS + jnp.arange(SLOTS, 0, -1, dtype=jnp.int32)
    last = jnp.min(jnp.where(candidates, key, _FIRST))
    but_one = jnp.min(jnp.where(candidates & (key > last), key, _FIRST))
    spared = 2 - jnp.sum(live & ~candidates, dtype=jnp.int32)
    return candidates & ((spared < 1) | (key > last)) & ((spared < 2) | (key > but_one))


CONFIDENCE_MOMENTUM = Controller(
    name="confidence_momentum",
    schedule=schedule,
    init=init,
    step=step,
    bounds={
        "n_init": (1, 64),
        "max_branches": (1, 64),
        "warm_up": (0, MAX_ROUNDS),
        "patience": (1, MAX_ROUNDS),
        "ema_window": (1, MAX_WINDOW),
        "min_finished": (0, 64),
        "ema_alpha": (0, 1),
        "conf_threshold": (0, 1),
        "delta_slack": (0, 1),
        "burst": (1, 4096),
        "widen": (0, 64),
        "trend_threshold": (-1, 1),
    },
    source="arXiv 2605.08083",
)
