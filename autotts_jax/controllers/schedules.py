"""Schedules as data: each parameter goes monotonically from its value at β = 0 to that at β = 1.

    SCHEDULE = Schedule(Params(chains=whole(1, 64, log=True), threshold=real(0.85, 0.97, least=0.5, greatest=1)))

`SCHEDULE(beta)` gives the parameters at β. The *ends*, all values at β = 0 and then at β = 1 as one flat vector in
[0, 1], are what a numeric search moves: ``SCHEDULE.at(beta, ends)`` is a pure function of both, and
``SCHEDULE.moved(ends)`` is the schedule it found.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float32, PyTree

from autotts_jax.errors import InputError

__all__ = ["Line", "Schedule", "named_leaves", "plain", "real", "whole"]

#: A number, or nested tuples of numbers.
Values: TypeAlias = Any


@dataclasses.dataclass(frozen=True)
class Line:
    """One parameter along β, made by `whole` or `real`.

    Attributes:
      start: Value at β = 0: a number, or nested tuples of numbers for an array.
      stop: Value at β = 1, of the same shape.
      least: The least sensible value of any element.
      greatest: The greatest sensible value.
      integer: Whether it is an int32, rounded half to even, instead of a float32.
      log: Whether it is linear in β on a log scale.
      decimals: Decimals that a real value is rounded to; None for no rounding.

    Raises:
      InputError: if the ends differ in shape or lie outside the bounds, or the bounds make no sense.
    """

    start: Values
    stop: Values
    least: float
    greatest: float
    integer: bool
    log: bool = False
    decimals: int | None = None

    def __post_init__(self) -> None:
        """Rejects ends of different shapes or outside the bounds."""
        for end in ("start", "stop"):  # lists, as JSON has them, are not hashable
            object.__setattr__(self, end, _as_tuples(getattr(self, end)))
        start, stop = np.asarray(self.start, np.float64), np.asarray(self.stop, np.float64)
        if start.shape != stop.shape:
            raise InputError(
                f"schedule: {list(start.shape)} values at β = 0, {list(stop.shape)} at β = 1. Give equal shapes."
            )
        if not (np.isfinite([self.least, self.greatest]).all() and self.least <= self.greatest):
            raise InputError(f"schedule: bounds {self.least:g} to {self.greatest:g}. Give a finite range.")
        for name, values in (("β = 0", start), ("β = 1", stop)):
            if not np.all((values >= self.least) & (values <= self.greatest)):
                worst = values[(values < self.least) | (values > self.greatest)].flat[0]
                raise InputError(
                    f"schedule: {worst:g} at {name} is outside the bounds {self.least:g} to {self.greatest:g}. "
                    "Move the value or the bounds."
                )
        if self.integer and (self.least % 1 or self.greatest % 1):
            raise InputError(f"schedule: bounds {self.least:g} to {self.greatest:g}, not whole. Give whole numbers.")
        if self.log and self.least <= 0:
            raise InputError(f"schedule: a log scale from {self.least:g}. Choose a lower bound above 0.")

    def __repr__(self) -> str:
        """Its kind and its ends, as in ``whole(1, 64)``."""
        return f"{'whole' if self.integer else 'real'}({self.start}, {self.stop})"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the parameter; () for a scalar."""
        return np.shape(self.start)

    def value(self, beta: Float32[Array, ""]) -> Array:
        """The parameter at β."""
        start, stop = (self._scaled(np.asarray(end, np.float64)) for end in (self.start, self.stop))
        low, high = (jnp.asarray(end, jnp.float32) for end in (start, stop))
        value = low + jnp.asarray(stop - start, jnp.float32) * beta
        # Exactly the ends at the ends, and never beyond.
        value = jnp.where(beta < 1, jnp.clip(value, jnp.minimum(low, high), jnp.maximum(low, high)), high)
        return self._unscaled(value)

    def value_between(self, beta: Float32[Array, ""], start: Array, stop: Array) -> Array:
        """The parameter at β on the line between two ends, given as fractions of the way from least to greatest."""
        low, high = (float(self._scaled(np.float64(bound))) for bound in (self.least, self.greatest))
        share = jnp.clip(start, 0, 1) + (jnp.clip(stop, 0, 1) - jnp.clip(start, 0, 1)) * beta
        return self._unscaled(low + (high - low) * share)

    def shares(self) -> np.ndarray:
        """``[2, …]`` both ends as fractions of the way from least to greatest, on the line's own scale."""
        low, high = (float(self._scaled(np.float64(bound))) for bound in (self.least, self.greatest))
        ends = self._scaled(np.asarray([self.start, self.stop], np.float64))
        return np.zeros_like(ends) if low == high else (ends - low) / (high - low)

    def moved(self, start: np.ndarray, stop: np.ndarray) -> Line:
        """The line between two other ends, given as fractions."""

        def end(share: np.ndarray) -> Values:
            value = plain(self.value_between(jnp.float32(0), jnp.asarray(share), jnp.asarray(share)))
            # Written out, a bound in float32 may lie beyond itself.
            return _as_tuples(np.clip(value, self.least, self.greatest).tolist())

        return dataclasses.replace(self, start=end(start), stop=end(stop))

    def _scaled(self, value: Any) -> Any:
        return np.log2(value) if self.log else value

    def _unscaled(self, value: Array) -> Array:
        value = jnp.exp2(value) if self.log else value
        if self.integer:
            value = jnp.round(value)
        elif self.decimals is not None:
            # XLA turns division by a constant into a product, which may round differently, so it is no constant.
            value = jnp.round(value * 10**self.decimals) / (10**self.decimals + 0 * value)
        return jnp.clip(value, self.least, self.greatest).astype(jnp.int32 if self.integer else jnp.float32)


def whole(
    start: Values, stop: Values, *, least: float | None = None, greatest: float | None = None, log: bool = False
) -> Any:
    """A `Line` of integers (int32); bounds default to the two values."""
    return _line(start, stop, least, greatest, integer=True, log=log)


def real(
    start: Values,
    stop: Values,
    *,
    least: float | None = None,
    greatest: float | None = None,
    log: bool = False,
    decimals: int | None = None,
) -> Any:
    """A `Line` of real numbers (float32); bounds default to the two values."""
    return _line(start, stop, least, greatest, integer=False, log=log, decimals=decimals)


def _line(start: Values, stop: Values, least: float | None, greatest: float | None, **kind: Any) -> Line:
    start, stop = _as_tuples(start), _as_tuples(stop)
    ends = np.concatenate([np.ravel(np.asarray(end, np.float64)) for end in (start, stop)])
    low, high = float(ends.min()), float(ends.max())
    if kind["integer"]:
        low, high = math.floor(low), math.ceil(high)
    return Line(start, stop, low if least is None else least, high if greatest is None else greatest, **kind)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A schedule as data: a pytree of lines, preferably a NamedTuple whose fields name the parameters.

    Attributes:
      lines: A `Line` for each parameter.

    Raises:
      InputError: if a leaf is not a `Line`, or `ends` of another schedule are given.
    """

    lines: PyTree

    def __post_init__(self) -> None:
        """Rejects leaves that are not lines."""
        for name, line in named_leaves(self.lines, is_leaf=_is_line).items():
            if not isinstance(line, Line):
                raise InputError(f"schedule: {name} is {line!r}. Write whole(start, stop) or real(start, stop).")

    def __repr__(self) -> str:
        """As it is written, in a line."""
        return f"Schedule({', '.join(f'{name}={line!r}' for name, line in self.named_lines.items())})"

    def __call__(self, beta: Float32[Array, ""]) -> PyTree:
        """The parameters at β."""
        return jax.tree.map(lambda line: line.value(beta), self.lines, is_leaf=_is_line)

    @property
    def named_lines(self) -> dict[str, Line]:
        """The lines by name, as in `named_leaves`."""
        return named_leaves(self.lines, is_leaf=_is_line)

    @functools.cached_property
    def bounds(self) -> dict[str, tuple[float, float]]:
        """Least and greatest sensible value per parameter: the box that a search draws from."""
        return {name: (line.least, line.greatest) for name, line in self.named_lines.items()}

    @property
    def ends(self) -> Float32[np.ndarray, " E"]:
        """Every number at β = 0 and then at β = 1, as fractions of the way from least to greatest."""
        shares = [line.shares().reshape(2, -1) for line in self._leaves]
        return np.concatenate(shares, axis=1).reshape(-1).astype(np.float32)

    def at(self, beta: Float32[Array, ""], ends: Float32[Array | np.ndarray, " E"]) -> PyTree:
        """The parameters at β of the schedule with these ends; a pure function, clipped to the bounds."""
        pieces = self._split(jnp.asarray(ends, jnp.float32))
        values = [line.value_between(beta, *piece) for line, piece in zip(self._leaves, pieces, strict=True)]
        return jax.tree.unflatten(jax.tree.structure(self.lines, is_leaf=_is_line), values)

    def moved(self, ends: ArrayLike) -> Schedule:
        """The schedule with these ends."""
        pieces = self._split(np.asarray(ends, np.float32))
        lines = [line.moved(*piece) for line, piece in zip(self._leaves, pieces, strict=True)]
        return Schedule(jax.tree.unflatten(jax.tree.structure(self.lines, is_leaf=_is_line), lines))

    @property
    def _leaves(self) -> list[Line]:
        return jax.tree.leaves(self.lines, is_leaf=_is_line)

    def _split(self, ends: Any) -> list[tuple[Any, Any]]:
        """Each line's two ends, in its shape."""
        sizes = [math.prod(line.shape) for line in self._leaves]
        if ends.shape != (2 * sum(sizes),):
            raise InputError(f"ends: shape {list(ends.shape)}; this schedule has {[2 * sum(sizes)]}.")
        pieces, offset = [], 0
        for line, size in zip(self._leaves, sizes, strict=True):
            both = (ends[at : at + size].reshape(line.shape) for at in (offset, offset + sum(sizes)))
            pieces.append((next(both), next(both)))
            offset += size
        return pieces


def named_leaves(tree: PyTree, is_leaf: Any = None) -> dict[str, Any]:
    """A pytree's leaves by name: ``a`` for fields and keys, ``a.b`` for nested ones, empty for a lone leaf."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def plain(values: ArrayLike) -> Any:
    """An array as a number or nested lists of numbers, as short as a person would write them."""
    array = np.asarray(values)
    if np.issubdtype(array.dtype, np.integer):
        return array.tolist()
    # As text first: 0.95 in float32 is 0.95 to the reader, not 0.949999988079071.
    return np.array([float(str(number)) for number in array.flat], object).reshape(array.shape).tolist()


def _is_line(leaf: Any) -> bool:
    return isinstance(leaf, Line)


def _as_tuples(values: Any) -> Values:
    """Numbers in nested tuples, which are hashable."""
    if isinstance(values, np.ndarray | jax.Array):
        values = np.asarray(values).tolist()
    return tuple(map(_as_tuples, values)) if isinstance(values, list | tuple) else values
