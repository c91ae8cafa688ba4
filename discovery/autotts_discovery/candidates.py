"""Candidates: controllers as Python source that nobody has read, and a first refusal on their syntax tree.

`check_source` allows what a controller needs and nothing else. It is there for clear messages, before anything runs;
what holds a candidate that gets past it is `autotts_discovery.wall`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from typing import Any

from autotts_jax.errors import InputError

__all__ = ["MAX_SOURCE", "Candidate", "Refused", "check_source", "with_ends"]

#: The longest source, in characters.
MAX_SOURCE = 60_000


class Refused(InputError):
    """A candidate that was refused.

    Attributes:
      stage: Where: "syntax", "wall", "contract", "export", "program", "deadline", "memory", "output" or "judge".
      reason: Why, in one printable line.
    """

    def __init__(self, stage: str, reason: str) -> None:
        """With the message ``stage: reason``, the reason in one printable line of at most 300 characters."""
        line = " ".join("".join(mark if mark.isprintable() else " " for mark in reason[:2000]).split())
        reason = line if len(line) <= 300 else f"{line[:299]}…"
        super().__init__(f"{stage}: {reason}")
        self.stage, self.reason = stage, reason

    def __reduce__(self) -> tuple[type[Refused], tuple[str, str]]:
        """As it was made, for other processes."""
        return type(self), (self.stage, self.reason)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A proposed controller: a Python module that defines ``CONTROLLER``.

    Attributes:
      source: The module's text.
      name: The controller's name in tables.
      parents: Digests of the candidates that it was made from.
      proposer: Who proposed it.
      idea: What it tries, in a line.
    """

    source: str
    name: str
    parents: tuple[str, ...] = ()
    proposer: str = ""
    idea: str = ""

    @functools.cached_property
    def digest(self) -> str:
        """A digest of the source: candidates with equal digests are the same."""
        return hashlib.blake2b(self.source.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def check_source(source: str) -> None:
    """Refuses a source that uses more of Python than a controller needs, before it runs anywhere.

    Raises:
      Refused: at stage "syntax", naming the line, what is there, and what to write instead.
    """
    raise NotImplementedError


def with_ends(source: str, ends: Mapping[str, tuple[Any, Any]]) -> str:
    """A source with other values at β = 0 and β = 1, everything else as it stands.

    Args:
      source: A module whose parameters are `whole` or `real` calls named by keywords, as in
        ``Params(quorum=tts.whole(1, 6))``.
      ends: By parameter, the value at β = 0 and that at β = 1: numbers, or nested sequences of them.

    Returns:
      The source with the first two arguments of those calls replaced, and bounds that were left to default to the two
      ends written out as they were: the search space stays.

    Raises:
      InputError: if a parameter has no such call, or more than one, or a value lies outside written bounds.
    """
    raise NotImplementedError
