"""Branch orders (shuffles): which branch each slot holds."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float32, Int, Int32, Key

from autotts_jax.errors import InputError, check_seed, check_whole
from autotts_jax.replay import AnyArray, Dataset, ReplayStore

__all__ = [
    "MAX_WIDTH",
    "WIDTH",
    "Orders",
    "bootstrap_orders",
    "check_orders",
    "draw_orders",
    "published_orders",
    "random_orders",
]

#: How shuffles are drawn: see `published_orders`, `random_orders`, `bootstrap_orders`.
Orders = Literal["published", "random", "bootstrap"]

#: The slots of an episode in the published tables.
WIDTH = 64

#: The most slots an episode can have; the packing into 32-bit words relies on it.
MAX_WIDTH = 256

#: The most elements of an array that int32 can number.
_MOST = 2**31 - 1


def published_orders(store: ReplayStore, shuffles: int, width: int = WIDTH) -> Int32[np.ndarray, "Q S B"]:
    """The orders of the published tables: shuffle s of n branches is ``random.Random(s).shuffle`` of 0 … n − 1.

    Args:
      store: The questions.
      shuffles: Orders per question.
      width: B, the slots of an episode, 1 to 256: the most branches it can open. Slots beyond a question's branches
        hold −1. Narrower orders are prefixes of wider ones.

    Raises:
      InputError: if there are no shuffles, the width is out of range, or the orders would be too large.
    """
    _check_size(len(store.gold), shuffles, width, width)
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

    Raises:
      InputError: as `published_orders` does.
    """
    Q, N = store.intervals.shape
    _check_size(Q, shuffles, width, max(width, N))
    there = jnp.asarray(store.intervals)[:, None, :] > 0
    draws = jnp.where(there, _uniform(key, first, Q, shuffles, N), 2.0)
    orders = jnp.argsort(draws, axis=-1).astype(jnp.int32)
    orders = jnp.where(jnp.take_along_axis(draws, orders, axis=-1) < 2.0, orders, -1)[..., :width]
    return jnp.pad(orders, [(0, 0), (0, 0), (0, max(width - N, 0))], constant_values=-1)


@functools.partial(jax.jit, static_argnames=("shuffles", "width"))
def bootstrap_orders(
    key: Key[Array, ""], store: ReplayStore, shuffles: int, first: ArrayLike = 0, width: int = WIDTH
) -> Int32[Array, "Q S B"]:
    """Resamples of each question's branches with replacement: every slot holds one, even beyond their number.

    The arguments are those of `random_orders`.

    Raises:
      InputError: as `published_orders` does.
    """
    _check_size(len(store.gold), shuffles, width, width)
    counts = jnp.sum(jnp.asarray(store.intervals) > 0, axis=-1, dtype=jnp.int32)[:, None, None]
    draws = _uniform(key, first, counts.shape[0], shuffles, width)
    picks = jnp.minimum((draws * counts.astype(jnp.float32)).astype(jnp.int32), counts - 1)
    return jnp.where(counts > 0, picks, -1)


def _uniform(
    key: Key[Array, ""], first: ArrayLike, questions: int, shuffles: int, size: int
) -> Float32[Array, "Q S N"]:
    """Draws for each question, shuffle, and branch or slot: neither padding nor neighbours change an order."""
    blocks = jnp.arange(-(-size // WIDTH), dtype=jnp.int32)
    numbers = jnp.asarray(first, jnp.int32) + jnp.arange(questions, dtype=jnp.int32)

    def block(number: Int32[Array, ""], block: Int32[Array, ""]) -> Float32[Array, "S b"]:
        mine = jax.random.fold_in(jax.random.fold_in(key, number), block)
        return jax.random.uniform(mine, (shuffles, WIDTH), jnp.float32)

    draws = jax.vmap(jax.vmap(block, (None, 0), out_axes=1), (0, None))(numbers, blocks)
    return draws.reshape(questions, shuffles, -1)[..., :size]


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
      seed: Seed of random and bootstrap orders, 0 to 2³² − 1.
      start: The first question, numbered across the datasets.
      stop: One past the last question; defaults to all. Questions beyond the last one hold −1.
      width: As for `published_orders`.

    Raises:
      InputError: as `published_orders` does, and for another seed or kind of orders.
    """
    if orders not in get_args(Orders):
        raise InputError(f"orders {orders!r}: not understood. Use {', '.join(get_args(Orders))}.")
    seed = check_seed(seed)
    stop = sum(map(len, datasets)) if stop is None else stop
    _check_size(stop - start, shuffles, width, width)
    dealt = np.full((stop - start, shuffles, width), -1, np.int32)
    offset = 0
    # Part by part: a question's orders do not depend on what its dataset was joined with.
    for dataset, inside, questions in _parts(datasets):
        low, high = max(start - offset, 0), min(stop - offset, questions)
        if low < high:
            here = slice(inside + low, inside + high)
            store = jax.tree.map(lambda array, here=here: array[here], dataset.store)
            match orders:
                case "published":
                    drawn: Any = published_orders(store, shuffles, width)
                case "random":
                    drawn = random_orders(jax.random.key(seed), store, shuffles, low, width)
                case "bootstrap":
                    drawn = bootstrap_orders(jax.random.key(seed), store, shuffles, low, width)
            dealt[low + offset - start : high + offset - start] = drawn
        offset += questions
    return dealt


def _parts(datasets: Sequence[Dataset]) -> Iterator[tuple[Dataset, int, int]]:
    """Each part's dataset, its first question there, and the number of its questions."""
    for dataset in datasets:
        inside = 0
        for _, questions in dataset.parts:
            yield dataset, inside, questions
            inside += questions


def check_orders(store: ReplayStore, orders: AnyArray) -> None:
    """Checks what is known of orders: of traced ones, or ones that other processes hold, the shape.

    Each row lists branches of its question, then −1 in the slots left. A branch may be listed twice, as bootstrap
    orders do; its votes then count twice.

    Args:
      store: The questions.
      orders: ``[Q, S, B]`` the branch that each slot holds.

    Raises:
      InputError: naming the first order that is none.
    """
    Q = len(store.gold)
    if orders.ndim != 3 or orders.shape[0] != Q or 0 in orders.shape or orders.shape[2] > MAX_WIDTH:
        raise InputError(
            f"orders: shape {orders.shape}; it must be [Q, S, B], for this store [{Q}, S, 1 to {MAX_WIDTH}], Q and S "
            "at least 1. Draw them from it with `published_orders`."
        )
    if not jnp.issubdtype(orders.dtype, jnp.signedinteger):
        raise InputError(f"orders: {orders.dtype}; branches are signed integers, −1 for none. Convert them to int32.")
    if not all(_is_at_hand(array) for array in (orders, store.intervals)):
        return
    # In NumPy, since inside a trace even arrays at hand would turn into traced ones.
    dealt, branches = np.asarray(orders), (np.asarray(store.intervals) > 0).sum(axis=-1)
    right = ((dealt >= -1) & (dealt < branches[:, None, None])).all(axis=-1)
    right &= ((dealt[..., :-1] >= 0) | (dealt[..., 1:] < 0)).all(axis=-1)
    if not right.all():
        q, s = np.argwhere(~right)[0]
        listed = ", ".join(map(str, dealt[q, s, :8])) + ", …" * (dealt.shape[-1] > 8)
        raise InputError(
            f"orders: question {q}, shuffle {s}: {listed}; slots must hold some of the question's {branches[q]} "
            "branches, counted from 0, then −1. Draw them from this store with `published_orders`."
        )


def _is_at_hand(array: AnyArray) -> bool:
    return not isinstance(array, Array) or (not isinstance(array, jax.core.Tracer) and array.is_fully_addressable)


def _check_size(questions: int, shuffles: Any, width: Any, drawn: int) -> None:
    """Refuses orders that cannot be drawn, before memory is taken; `drawn` numbers are drawn for each."""
    check_whole("shuffles", shuffles, 1, _MOST)
    check_whole("width", width, 1, MAX_WIDTH)
    if (numbers := questions * shuffles * drawn) > _MOST:
        raise InputError(
            f"shuffles {shuffles}: orders of {questions} questions, drawn from {drawn} numbers each, take "
            f"{4 * numbers / 2**30:.1f} GiB; at most {_MOST} numbers can be indexed. "
            "Draw fewer shuffles or questions at a time."
        )
