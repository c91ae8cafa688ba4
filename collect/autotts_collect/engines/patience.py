"""Asking again: requests that failed are repeated, ever later, until they succeed or patience ends."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from autotts_collect.engines.base import EngineError, UnavailableError

__all__ = ["Patience"]

_Reply = TypeVar("_Reply")


@dataclasses.dataclass(frozen=True)
class Patience:
    """When to ask again.

    Delays are drawn between half and all of `first` · 2ⁿ, at most `longest`, so that requests which failed together
    do not come back together. An engine that says when it wants to be asked again is not asked before.

    Attributes:
      seconds: How long a request may keep failing.
      first: The longest delay after the first failure, in seconds.
      longest: The longest delay.
    """

    seconds: float = 600.0
    first: float = 0.5
    longest: float = 30.0

    async def ask(self, request: Callable[[], Awaitable[_Reply]]) -> _Reply:
        """The reply to a request.

        Raises:
          EngineError: what the engine raised, if it is not `UnavailableError`, or as it was when patience ended.
        """
        began = time.monotonic()
        failures = 0
        while True:
            try:
                return await request()
            except UnavailableError as error:
                delay = min(self.longest, self.first * 2.0**failures) * random.uniform(0.5, 1.0)
                delay = max(delay, error.after or 0.0)
                failures += 1
                if time.monotonic() + delay - began > self.seconds:
                    raise EngineError(f"{error} (asked {failures} times)") from error
            await asyncio.sleep(delay)
