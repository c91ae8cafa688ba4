"""Checks arguments and results of the library's functions against the shapes in their annotations; see `conftest`."""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

# Whole numbers will do for real ones, as type checkers have it.
_checked = beartype(conf=BeartypeConf(is_pep484_tower=True))


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its annotations checked.

    Fields are left alone: they say what one episode has, and a pytree under `jax.vmap`, `jax.tree.map` or
    `jax.eval_shape` holds whatever its leaves have become.
    """
    return function if function.__name__ == "__init__" else _checked(function)
