"""Schedules as data: lines that never turn, and ends that a search can move."""

import copy
import functools
import math
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from autotts_jax import CONTROLLERS, InputError, Line, Schedule, real, whole
from autotts_jax.controllers.confidence_momentum import SCHEDULE
from autotts_jax.controllers.schedules import named_leaves

BETAS = jnp.asarray(np.linspace(0, 1, 101), jnp.float32)

some = settings(max_examples=60, deadline=None)


class Params(NamedTuple):
    one: Any
    two: Any


@st.composite
def lines(draw: st.DrawFn) -> Line:
    """Of every kind: whole or real, linear or log, scalars and vectors, rounded or not."""
    log, integer = draw(st.booleans()), draw(st.booleans())
    # Adding 0 makes 0 of −0, which no range of floats begins or ends with.
    low, high = sorted(end + 0.0 for end in draw(st.tuples(*[st.floats(0.01 if log else -500, 500)] * 2)))
    if integer:
        low, high = (max(1, round(low)) if log else round(low)), max(1 if log else -500, round(high))
    size = draw(st.sampled_from([0, 0, 1, 3]))

    def end() -> Any:
        value = st.integers(low, high) if integer else st.floats(low, high)
        return draw(st.tuples(*[value] * size)) if size else draw(value)

    bounds = {"least": float(low), "greatest": float(high), "log": log}
    if integer:
        return whole(end(), end(), **bounds)
    return real(end(), end(), decimals=draw(st.sampled_from([None, None, 4, 1, 0])), **bounds)


schedules = st.builds(lambda one, two: Schedule(Params(one, two)), lines(), lines())


def ends_for(schedule: Schedule) -> st.SearchStrategy[np.ndarray]:
    size = len(schedule.ends)
    share = st.floats(0, 1, width=32)
    return st.lists(share, min_size=size, max_size=size).map(lambda ends: np.asarray(ends, np.float32))


def over_betas(schedule: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(leaf) for name, leaf in named_leaves(jax.vmap(schedule)(BETAS)).items()}


def assert_same(schedule: Schedule, found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """The same integers where they are no close calls, and reals within rounding."""
    for name, line in named_leaves(schedule.lines, is_leaf=lambda leaf: isinstance(leaf, Line)).items():
        a, b = found[name].astype(np.float64), expected[name].astype(np.float64)
        scale = max(abs(line.least), abs(line.greatest))
        if line.integer:
            assert np.abs(a - b).max() <= 1
            # float32 holds the value to be rounded to within this; where it is not near a half, nothing may differ.
            assert not (a != b)[~_near_half(line, 2e-5 * scale)].any()
        else:
            grain = 0 if line.decimals is None else 10.0**-line.decimals
            np.testing.assert_allclose(a, b, rtol=0, atol=1.01 * grain + 2e-5 * scale)


def _near_half(line: Line, tolerance: float) -> np.ndarray:
    """Where the exact value, in float64, is that close to the middle between two whole numbers; ``[101, …]``."""
    start, stop = np.asarray(line.start, np.float64), np.asarray(line.stop, np.float64)
    beta = np.asarray(BETAS, np.float64).reshape(-1, *[1] * start.ndim)
    value = start ** (1 - beta) * stop**beta if line.log else start + (stop - start) * beta
    return np.abs(value % 1 - 0.5) <= max(tolerance, 1e-6)


# --- what holds for every schedule -----------------------------------------------------------------------------------


@some
@given(schedules, st.data())
def test_never_turning_and_inside_the_bounds(schedule: Schedule, data: st.DataObject) -> None:
    ends = data.draw(ends_for(schedule))
    for at in (schedule, lambda beta: schedule.at(beta, ends)):
        for name, leaf in over_betas(at).items():
            steps = np.diff(leaf.astype(np.float64), axis=0)
            assert np.all(np.all(steps >= 0, axis=0) | np.all(steps <= 0, axis=0)), name
            least, greatest = (np.float32(bound) for bound in schedule.bounds[name])
            assert leaf.min() >= least, name
            assert leaf.max() <= greatest, name


@some
@given(schedules)
def test_a_schedule_lies_at_its_own_ends(schedule: Schedule) -> None:
    assert schedule.ends.dtype == np.float32
    assert np.all((schedule.ends >= 0) & (schedule.ends <= 1))
    found = over_betas(lambda beta: schedule.at(beta, schedule.ends))
    assert_same(schedule, found, over_betas(schedule))
    both = jax.vmap(schedule)(jnp.asarray([0, 1], jnp.float32))
    for name, leaf in named_leaves(both).items():
        line = getattr(schedule.lines, name)
        if line.integer:
            np.testing.assert_array_equal(leaf, [line.start, line.stop])
        else:
            assert leaf.dtype == np.float32


@some
@given(schedules, st.data())
def test_moving_and_moving_back(schedule: Schedule, data: st.DataObject) -> None:
    ends = data.draw(ends_for(schedule))
    moved = schedule.moved(ends)
    assert moved.bounds == schedule.bounds
    assert_same(moved, over_betas(moved), over_betas(lambda beta: moved.at(beta, moved.ends)))
    at_ends = [over_betas(lambda beta: schedule.at(beta, ends)), over_betas(moved)]
    for name in schedule.bounds:
        line = getattr(schedule.lines, name)
        scale = max(abs(line.least), abs(line.greatest))
        grain = 1 if line.integer else 0 if line.decimals is None else 10.0**-line.decimals
        np.testing.assert_allclose(*(leaf[name][[0, -1]] for leaf in at_ends), rtol=0, atol=grain + 2e-5 * scale)
        if line.integer:
            np.testing.assert_array_equal(*(leaf[name][[0, -1]] for leaf in at_ends))
    assert_same(moved, over_betas(moved.moved(moved.ends)), over_betas(moved))
    assert schedule.moved(schedule.ends).bounds == schedule.bounds


@some
@given(schedules)
def test_schedules_are_values(schedule: Schedule) -> None:
    """Equal ones are one static argument."""
    again = Schedule(Params(*(copy.copy(line) for line in schedule.lines)))
    assert again == schedule
    assert hash(again) == hash(schedule)
    other = Schedule(Params(schedule.lines.one, real(0.25, 0.75)))
    assert other != schedule


# --- under JAX -------------------------------------------------------------------------------------------------------

MIXED = Schedule(Params(one=whole(1, 64, log=True), two=real((0.1, 0.2), (0.9, 0.3), least=0, greatest=1, decimals=4)))


def test_equal_schedules_compile_once() -> None:
    chex.clear_trace_counter()

    @functools.partial(jax.jit, static_argnums=0)
    @chex.assert_max_traces(n=1)
    def values(schedule: Schedule, betas: jax.Array, ends: jax.Array) -> Any:
        return jax.vmap(schedule.at, in_axes=(0, None))(betas, ends)

    expected = [values(MIXED, BETAS, MIXED.ends + np.float32(shift)) for shift in (0, 0.1)]
    again = Schedule(Params(whole(1, 64, log=True), real((0.1, 0.2), (0.9, 0.3), least=0, greatest=1, decimals=4)))
    chex.assert_trees_all_equal(values(again, BETAS, MIXED.ends), expected[0])
    assert not np.array_equal(expected[0].two, expected[1].two)


def test_a_population_of_ends() -> None:
    """What a search does: many ends, many β, one program, and the same numbers as one by one."""
    ends = np.random.default_rng(0).random((5, len(MIXED.ends))).astype(np.float32)
    grid = jax.vmap(jax.vmap(MIXED.at, in_axes=(0, None)), in_axes=(None, 0))
    found = jax.jit(grid)(BETAS[::20], ends)
    assert found.one.shape == (5, 6)
    assert found.two.shape == (5, 6, 2)
    assert (found.one.dtype, found.two.dtype) == (jnp.int32, jnp.float32)
    for i in range(5):
        for j, beta in enumerate(BETAS[::20]):
            one = jax.jit(MIXED.at)(beta, ends[i])
            chex.assert_trees_all_equal(one, jax.tree.map(lambda leaf, i=i, j=j: leaf[i, j], found))


def test_ends_beyond_the_box_are_clipped() -> None:
    far = MIXED.ends * 0 + np.where(np.arange(6) % 2, 7, -7).astype(np.float32)
    params = jax.vmap(MIXED.at, in_axes=(0, None))(BETAS, far)
    assert params.one.min() == 1
    assert params.one.max() == 64
    assert (params.two.min(), params.two.max()) == (0, 1)


def test_shapes_and_types_under_x64(x64: bool) -> None:
    for params in (MIXED(jnp.float32(0.3)), MIXED.at(jnp.float32(0.3), MIXED.ends)):
        assert (params.one.dtype, params.two.dtype) == (jnp.int32, jnp.float32)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: whole(0, 9, greatest=8), "schedule: 9 at β = 1 is outside the bounds 0 to 8"),
        (lambda: real(0.2, 0.9, least=0.5), "schedule: 0.2 at β = 0 is outside the bounds 0.5 to 0.9"),
        (lambda: real((0.5, 2.5), (0.5, 0.5), least=0, greatest=1), "schedule: 2.5 at β = 0 is outside"),
        (lambda: whole(0, 64, log=True), "a log scale from 0"),
        (lambda: real(-1, 1, log=True), "a log scale from -1"),
        (lambda: real(1, 2, least=0, log=True), "a log scale from 0"),
        (lambda: real(0, 1, least=0, greatest=math.inf), "Give a finite range"),
        (lambda: real(0, math.nan), "Give a finite range"),
        (lambda: real((0, 1), (1, 1, 1)), r"schedule: \[2\] values at β = 0, \[3\] at β = 1"),
        (lambda: Schedule(Params(whole(1, 2), 3)), r"schedule: two is 3\. Write whole\(start, stop\) or real"),
        (lambda: MIXED.at(jnp.float32(0), np.zeros(5, np.float32)), r"ends: shape \[5\]; this schedule has \[6\]"),
        (lambda: MIXED.moved([0.5]), r"ends: shape \[1\]; this schedule has \[6\]"),
    ],
)
def test_what_is_no_line_is_named(make: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        make()


# --- the published ones ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("x64", [False, True], ids=["x32", "x64"], indirect=True)
def test_momentum_follows_the_published_schedule(x64: bool) -> None:
    """The eleven points of the paper's grid, to the last bit of a float32, however they are computed."""
    grid = [i / 10 for i in range(11)]
    expected = [reference.momentum_schedule(beta) for beta in grid]
    batch = jnp.asarray(grid, jnp.float32)
    for name, column in jax.vmap(SCHEDULE)(batch)._asdict().items():
        wanted = np.asarray([row[name] for row in expected], np.asarray(column).dtype)
        np.testing.assert_array_equal(column, wanted, name)
        np.testing.assert_array_equal(getattr(jax.jit(jax.vmap(SCHEDULE))(batch), name), wanted, name)
        np.testing.assert_array_equal([getattr(SCHEDULE(beta), name) for beta in batch], wanted, name)
    assert CONTROLLERS["confidence_momentum"].schedule is SCHEDULE


@pytest.mark.parametrize("name", CONTROLLERS)
def test_built_in_schedules_are_data(name: str) -> None:
    schedule = CONTROLLERS[name].schedule
    assert isinstance(schedule, Schedule)
    assert_same(schedule, over_betas(lambda beta: schedule.at(beta, schedule.ends)), over_betas(schedule))
