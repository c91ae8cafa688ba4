"""Faults on purpose: an engine around another one that fails now and then, for tests."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any

from autotts_collect.engines.base import Branch, Engine, Piece, Pool, Reading, Suffix, UnavailableError

__all__ = ["Faulty"]


class Faulty:
    """An engine that fails with a given probability, before or after the work is done, and dawdles.

    Attributes:
      faults: How often it has failed.
    """

    def __init__(self, engine: Engine, *, share: float, seconds: float = 0.0, seed: int = 0) -> None:
        """An engine around another one.

        Args:
          engine: What does the work.
          share: Of requests that fail, 0 to 1.
          seconds: The longest delay of a request; each has its own.
          seed: Of faults and delays.
        """
        self._engine, self._share, self._seconds = engine, share, seconds
        self._random = random.Random(seed)
        self.faults = 0

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The engine's."""
        return self._engine.feature_names

    @property
    def context(self) -> int | None:
        """The engine's."""
        return self._engine.context

    def about(self) -> Mapping[str, Any]:
        """The engine's: faults change nothing in what is generated."""
        return self._engine.about()

    def pool(self, question: int, shuffle: int) -> Pool:
        """The engine's."""
        return self._engine.pool(question, shuffle)

    async def start(self) -> None:
        """Starts the engine."""
        await self._engine.start()

    async def prompt(self, text: str) -> Sequence[int]:
        """The engine's, perhaps."""
        await self._stumble()
        return await self._engine.prompt(text)

    async def extend(self, branch: Branch, most: int, *, logprobs: int = 0) -> Piece:
        """The engine's, perhaps; perhaps the reply is lost."""
        await self._stumble()
        piece = await self._engine.extend(branch, most, logprobs=logprobs)
        await self._stumble()
        return piece

    async def read(self, branch: Branch, suffix: Suffix, *, logprobs: int = 0) -> Reading:
        """The engine's, perhaps; perhaps the reply is lost."""
        await self._stumble()
        reading = await self._engine.read(branch, suffix, logprobs=logprobs)
        await self._stumble()
        return reading

    async def close(self) -> None:
        """Closes the engine."""
        await self._engine.close()

    async def _stumble(self) -> None:
        if self._seconds:
            await asyncio.sleep(self._seconds * self._random.random())
        if self._random.random() < self._share:
            self.faults += 1
            raise UnavailableError("a fault on purpose")
