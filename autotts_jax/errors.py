"""The library's own exceptions, and the checks of numbers that raise them."""

from __future__ import annotations

import operator
from typing import Any

__all__ = ["ContractError", "FetchError", "InputError", "PresetError", "check_seed", "check_whole", "one_line"]


class InputError(ValueError):
    """Bad input; the message names the file, field and value, and what to do."""


class PresetError(InputError):
    """An unknown preset, or an invalid number of questions or branches."""


class ContractError(InputError):
    """A controller that breaks the contract; the message says how, and what to change."""


class FetchError(RuntimeError):
    """A failed download; the message says which file, why, and what to do."""


def check_whole(name: str, value: Any, least: int, most: int, remedy: str = "") -> int:
    """The value as an int.

    Raises:
      InputError: if it is not a whole number from `least` to `most`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{name} {value!r}: not a whole number from {least} to {most}. {remedy}".rstrip()) from None
    if not least <= number <= most:
        raise InputError(f"{name} {number}: outside {least} to {most}. {remedy}".rstrip())
    return number


def check_seed(seed: Any) -> int:
    """The seed as an int.

    Raises:
      InputError: if it is not a whole number from 0 to 2³² − 1, of which JAX and NumPy use every bit.
    """
    return check_whole("seed", seed, 0, 2**32 - 1)


def one_line(error: Exception) -> str:
    """What an exception says, in a line of at most 200 characters."""
    said = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    line = " ".join(said.split())
    return line if len(line) <= 200 else f"{line[:199]}…"
