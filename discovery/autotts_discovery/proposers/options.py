"""Which language model is called, how, and for how much."""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import urllib.parse
from pathlib import Path

from autotts_discovery.spending import Limits
from autotts_jax.errors import InputError, check_whole

__all__ = ["ModelOptions", "completed"]

# Where the environment may have a provider's address, and the model that is called by default.
_DEFAULTS = {"gemini": ("GOOGLE_GEMINI_BASE_URL", "gemini-4-hydrogen"), "http": ("OPENAI_BASE_URL", "")}


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """Which language model is called, how, and for how much.

    Attributes:
      model: Its name; the proposer may have a default.
      temperature: From 0 to 2; None for the model's own.
      thinking: How much it thinks: a level, such as "low", or a number of tokens; empty for the model's own.
      base_url: Where it is, if not with the provider.
      tools: Tool calls that it may make before it replies, per request.
      dollars: The most that the run may spend; inf for no limit.
      calls: The most calls; None for no limit.
      tokens: The most tokens, of prompts and replies; None for no limit.
      prices: A file with prices, see `autotts_discovery.spending.price_of`.

    Raises:
      InputError: naming the option, its value, and what to do.
    """

    model: str = ""
    temperature: float | None = None
    thinking: str = ""
    base_url: str = ""
    tools: int = 0
    dollars: float = 5.0
    calls: int | None = None
    tokens: int | None = None
    prices: Path | None = None

    def __post_init__(self) -> None:
        """Checks what can be checked without the provider."""
        if self.temperature is not None and not 0 <= self.temperature <= 2:
            raise InputError(f"temperature {self.temperature:g}: outside 0 to 2. Leave it out for the model's own.")
        check_whole("tools", self.tools, 0, 1000, "0 is for none.")
        url = urllib.parse.urlsplit(self.base_url)
        if self.base_url and (url.scheme not in ("http", "https") or not url.hostname):
            raise InputError(f"base-url {self.base_url!r}: no address. Give one such as http://localhost:8000/v1.")
        if url.username or url.password or url.query or url.fragment:
            raise InputError("base-url: only host and path may be in it. Put a key into the environment.")
        _ = self.limits

    @property
    def limits(self) -> Limits:
        """The most that the run may spend."""
        return Limits(self.dollars, self.calls, self.tokens)

    @property
    def described(self) -> str:
        """What replies depend on, on a line; a run that goes on must have the same."""
        parts = (
            self.model,
            "" if self.temperature is None else f"temperature {self.temperature:g}",
            f"thinking {self.thinking}" if self.thinking else "",
            f"{self.tools} tool calls" if self.tools else "",
            f"at {self.base_url}" if self.base_url else "",
        )
        return ", ".join(filter(None, parts))

    @property
    def local(self) -> bool:
        """Whether the model is on this machine."""
        host = urllib.parse.urlsplit(self.base_url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"


def completed(kind: str, options: ModelOptions) -> ModelOptions:
    """The options with what the provider and the environment have for those that are left out."""
    address, model = _DEFAULTS[kind]
    return dataclasses.replace(
        options, model=options.model or model, base_url=options.base_url or os.environ.get(address, "")
    )
