"""Branch orders (shuffles): which branch each slot holds."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float32, Int, Int32, Key

from autotts_jax.replay import Dataset, ReplayStore

__all__ = ["WIDTH", "Orders", "bootstrap_orders", "draw_orders", "published_orders", "random_orders"]

#: How shuffles are drawn: see `published_orders`, `random_orders`, `bootstrap_orders`.
Orders = Literal["published", "random", "bootstrap"]

#: The slots of an episode in the published tables.
WIDTH = 64


def published_orders(store: ReplayStore, shuffles: int, width: int = WIDTH) -> Int32[np.ndarray, "Q S B"]:
    """The orders of the published tables: shuffle s of n branches is ``random.Random(s).shuffle`` of 0 … n − 1.

    Args:
      store: The questions.
      shuffles: Orders per question.
      width: B, the slots of an episode, 1 to 256: the most branches it can open. Slots beyond a question's branches
        hold −1. Narrower orders are prefixes of wider ones.
    """
    counts = np.asarray(store.branches)
    orders = np.full((len(counts), shuffles, width), -1, np.int32)
    for n in np.unique(counts[counts > 0]):
        rows = []
        for s in range(shuffles):
            row = list(range(n))
            random.Random(s).shuffle(row)
            rows.append(row[:width])
        orders[counts == n, :, : min(n, width)] = rows
    return orders


@functools.partial(jax.jit, static_argnames=("shuffles", "width"))
def random_orders(
    key: Key[Array, ""], store: ReplayStore, shuffles: int, first: ArrayLike = 0, width: int = WIDTH
) -> Int32[Array, "Q S B"]:
    """Uniform permutations of each question's branches, cut to B slots; −1 beyond the branches.

    Args:
      key: For the whole set of questions; each folds in its own number.
      store: The questions.
      shuffles: Orders per question.
      first: The number in the set of the store's first question, if the store holds only some of them.
      width: As for `published_orders`.
    """
    Q, N = store.intervals.shape
    there = jnp.asarray(store.intervals)[:, None, :] > 0
    draws = jnp.where(there, _uniform(key, first, Q, (shuffles, N)), 2.0)
    orders = jnp.argsort(draws, axis=-1).astype(jnp.int32)
    orders = jnp.where(jnp.take_along_axis(draws, orders, axis=-1) < 2.0, orders, -1)[..., :width]
    return jnp.pad(orders, [(0, 0), (0, 0), (0, max(width - N, 0))], constant_values=-1)


@functools.partial(jax.jit, static_argnames=("shuffles", "width"))
def bootstrap_orders(
    key: Key[Array, ""], store: ReplayStore, shuffles: int, first: ArrayLike = 0, width: int = WIDTH
) -> Int32[Array, "Q S B"]:
    """Resamples of each question's branches with replacement: every slot holds one, even beyond their number.

    The arguments are those of `random_orders`.
    """
    counts = jnp.sum(jnp.asarray(store.intervals) > 0, axis=-1, dtype=jnp.int32)[:, None, None]
    # Narrow orders, too, are prefixes of the usual ones.
    draws = _uniform(key, first, counts.shape[0], (shuffles, max(width, WIDTH)))[..., :width]
    picks = jnp.minimum((draws * counts.astype(jnp.float32)).astype(jnp.int32), counts - 1)
    return jnp.where(counts > 0, picks, -1)


def _uniform(key: Key[Array, ""], first: ArrayLike, questions: int, shape: tuple[int, ...]) -> Float32[Array, "Q ..."]:
    numbers = jnp.asarray(first, jnp.int32) + jnp.arange(questions, dtype=jnp.int32)
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(numbers)
    return jax.vmap(lambda key: jax.random.uniform(key, shape, jnp.float32))(keys)


def draw_orders(
    datasets: Sequence[Dataset],
    shuffles: int,
    orders: Orders,
    seed: int,
    start: int = 0,
    stop: int | None = None,
    width: int = WIDTH,
) -> Int[np.ndarray, "q S B"]:
    """The branch orders that `sweep` replays.

    Args:
      datasets: The datasets swept.
      shuffles: Orders per question.
      orders: How they are drawn.
      seed: Seed of random and bootstrap orders.
      start: The first question, numbered across the datasets.
      stop: One past the last question; defaults to all. Questions beyond the last one hold −1.
      width: As for `published_orders`.
    """
    stop = sum(map(len, datasets)) if stop is None else stop
    dealt = np.full((stop - start, shuffles, width), -1, np.int32)
    offset = 0
    for dataset in datasets:
        low, high = max(start - offset, 0), min(stop - offset, len(dataset))
        if low < high:
            store = jax.tree.map(lambda array, low=low, high=high: array[low:high], dataset.store)
            match orders:
                case "published":
                    drawn: Any = published_orders(store, shuffles, width)
                case "random":
                    drawn = random_orders(jax.random.key(seed), store, shuffles, low, width)
                case "bootstrap":
                    drawn = bootstrap_orders(jax.random.key(seed), store, shuffles, low, width)
            dealt[low + offset - start : high + offset - start] = drawn
        offset += len(dataset)
    return dealt
