"""Branch orders that are not drawn, and ones that cannot be; `test_replay.py` has those that can."""

from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autotts_jax
from autotts_jax import InputError, Question, Trajectories
from autotts_jax.orders import check_orders, draw_orders


def dataset(branches: int = 3) -> autotts_jax.Dataset:
    rows = [(["0"], 900, "0")] * branches
    return autotts_jax.pack(Trajectories([Question.from_branches("?", "0", 500, rows[q:]) for q in (0, 1)]))


STORE = dataset().store  # questions of 3 and 2 branches
GOOD = np.array([[[2, 0, 1], [0, -1, -1]], [[1, 0, -1], [-1, -1, -1]]], np.int32)


@pytest.mark.parametrize("orders", [GOOD, GOOD.astype(np.int8), jnp.asarray(GOOD)])
def test_orders_that_are_right(orders: Any) -> None:
    check_orders(STORE, orders)
    check_orders(jax.device_put(STORE), orders)


@pytest.mark.parametrize("kind", get_args(autotts_jax.Orders))
@pytest.mark.parametrize("width", [1, 5])
def test_drawn_orders_are_right(kind: Any, width: int) -> None:
    check_orders(STORE, autotts_jax.draw_orders([dataset()], 3, kind, 0, width=width))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ([2, 0, 1], "question 1, shuffle 1: 2, 0, 1; slots must hold some of the question's 2 branches"),
        ([0, 99, -1], "question 1, shuffle 1: 0, 99, -1;"),
        ([0, -2, -1], "0, -2, -1;"),
        ([-1, 0, 1], "-1, 0, 1;"),
        ([0, -1, 1], "counted from 0, then −1"),
    ],
)
def test_wrong_orders_are_named(row: list[int], said: str) -> None:
    orders = GOOD.copy()
    orders[1, 1] = row
    for some in (orders, jnp.asarray(orders)):
        with pytest.raises(InputError) as error:
            check_orders(STORE, some)
        assert said in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("orders", "said"),
    [
        (GOOD.astype(np.uint32), "uint32; branches are signed integers"),
        (GOOD.astype(np.float32), "float32; branches are signed"),
        (GOOD > 0, "bool; branches are signed"),
        (GOOD[:1], r"shape \(1, 2, 3\); it must be \[Q, S, B\], for this store \[2, S, 1 to 256\]"),
        (GOOD[0], r"shape \(2, 3\)"),
        (GOOD[:, :0], "S at least 1"),
        (GOOD[:, :, :0], r"shape \(2, 2, 0\)"),
        (np.zeros((2, 1, 257), np.int32), "1 to 256"),
    ],
)
def test_arrays_that_are_no_orders(orders: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_orders(STORE, orders)


def test_a_store_without_questions_has_no_orders() -> None:
    empty = jax.tree.map(lambda array: array[:0], STORE)
    with pytest.raises(InputError, match="Q and S at least 1"):
        check_orders(empty, GOOD[:0])


def test_traced_orders_are_checked_for_their_shape() -> None:
    wrong = jnp.asarray(GOOD + 9)
    jax.jit(check_orders)(STORE, wrong)
    jax.jit(lambda orders: check_orders(STORE, orders))(wrong)
    with pytest.raises(InputError, match="shape"):
        jax.jit(check_orders)(STORE, wrong[0])


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ({"shuffles": 0}, "shuffles 0: outside 1 to"),
        ({"shuffles": -3}, "shuffles -3: outside 1 to"),
        ({"shuffles": 2.5}, "shuffles 2.5: not a whole number"),
        ({"width": 0}, "width 0: outside 1 to 256"),
        ({"width": 257}, "width 257: outside 1 to 256"),
        ({"shuffles": 100_000_000}, "shuffles 100000000: orders of 2 questions, .* take 47.7 GiB; at most 2147483647"),
    ],
)
def test_orders_that_cannot_be_drawn(size: dict[str, Any], said: str) -> None:
    size = {"shuffles": 1} | size
    with pytest.raises(InputError, match=said):
        autotts_jax.published_orders(STORE, **size)
    for kind in get_args(autotts_jax.Orders):
        with pytest.raises(InputError, match=said):
            autotts_jax.draw_orders([dataset()], orders=kind, seed=0, **size)
    if size["shuffles"] != 2.5:  # not even hashed alike
        for draw in (autotts_jax.random_orders, autotts_jax.bootstrap_orders):
            with pytest.raises(InputError, match=said):
                draw(jax.random.key(0), STORE, **size)


@pytest.mark.parametrize("seed", [-1, 2**32, 2**64, 0.5, None])
def test_seeds_have_a_range(seed: Any) -> None:
    """JAX would use 32 bits of it, and others' orders."""
    with pytest.raises(InputError, match=r"seed .*0 to 4294967295"):
        autotts_jax.draw_orders([dataset()], 1, "random", seed)
    with pytest.raises(InputError, match=r"seed .*0 to 4294967295"):
        autotts_jax.synthetic_trajectories(questions=1, branches=1, seed=seed)
    assert autotts_jax.draw_orders([dataset()], 1, "random", 2**32 - 1).shape == (2, 1, 64)


def test_unknown_orders_are_refused() -> None:
    with pytest.raises(InputError, match="orders 'sorted': not understood"):
        autotts_jax.draw_orders([dataset()], 1, "sorted", 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("orders", ["published", "random", "bootstrap"])
def test_neither_neighbours_nor_padding_change_an_order(orders: Any) -> None:
    one, two = (
        autotts_jax.pack(
            Trajectories([Question.from_branches(f"{n} {q}", "1", 500, [([], 9, "1")] * n) for q in range(2)])
        )
        for n in (5, 70)
    )
    apart = draw_orders([one, two], 4, orders, 7, width=80)
    joined = autotts_jax.concatenate([one, two])
    np.testing.assert_array_equal(draw_orders([joined], 4, orders, 7, width=80), apart)
    np.testing.assert_array_equal(draw_orders([joined], 4, orders, 7, 1, 3, width=80), apart[1:3])
    np.testing.assert_array_equal(draw_orders([joined], 4, orders, 7, width=8), apart[..., :8])
    assert len(np.unique(apart[2:], axis=0)) == 2 or orders == "published"
