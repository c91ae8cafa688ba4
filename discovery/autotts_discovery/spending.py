"""What calls of a language model cost: tokens into dollars by a dated table of prices, and the limits of a run."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.resources
import tomllib
from pathlib import Path
from typing import Annotated, NamedTuple

import pydantic

from autotts_jax.errors import InputError, check_whole
from autotts_jax.files import explained

__all__ = ["LimitReached", "Limits", "Price", "Spent", "Usage", "price_of"]

_Count = Annotated[int, pydantic.Field(ge=0)]
_Dollars = Annotated[pydantic.FiniteFloat, pydantic.Field(ge=0)]


class Usage(pydantic.BaseModel, frozen=True, extra="forbid"):
    """Tokens of a call.

    Attributes:
      input: Of the prompt, cached ones included.
      cached: Of those, the ones that the provider had in its cache.
      written: Of those, the ones that it put there, where that has a price of its own.
      output: Of the reply, thinking included.
      thinking: Of those, the thinking.
      estimated: Whether the provider did not say, and this is a guess from the number of characters.
    """

    input: _Count = 0
    cached: _Count = 0
    written: _Count = 0
    output: _Count = 0
    thinking: _Count = 0
    estimated: bool = False


class _Rates(pydantic.BaseModel, frozen=True, extra="forbid"):
    """US dollars per million tokens; what is not given costs as much as other input."""

    input: _Dollars
    output: _Dollars
    cached: _Dollars | None = None
    written: _Dollars | None = None

    def dollars(self, usage: Usage) -> float:
        """What a call costs at these rates."""
        cached = self.input if self.cached is None else self.cached
        written = self.input if self.written is None else self.written
        other = max(usage.input - usage.cached - usage.written, 0)
        parts = (
            (other, self.input),
            (usage.cached, cached),
            (usage.written, written),
            (usage.output, self.output),
        )
        return sum(tokens * rate for tokens, rate in parts) / 1e6


class _LongRates(_Rates, frozen=True):
    """Rates of calls whose prompt has more tokens than `above`."""

    above: _Count


class Price(_Rates, frozen=True):
    """A model's price.

    Attributes:
      model: Its name, as in a call.
      since: The day from which the price holds, or on which it was looked up.
      source: Where it was looked up.
      long: Of calls with long prompts, where they cost more.
    """

    model: Annotated[str, pydantic.Field(min_length=1)]
    since: datetime.date
    source: str = ""
    long: _LongRates | None = None

    def dollars(self, usage: Usage) -> float:
        """What a call costs."""
        if self.long is not None and usage.input > self.long.above:
            return self.long.dollars(usage)
        return super().dollars(usage)


class _Table(pydantic.BaseModel, frozen=True, extra="forbid"):
    price: tuple[Price, ...]


class Spent(NamedTuple):
    """What a run has spent, over all its sessions."""

    dollars: float = 0.0
    calls: int = 0
    tokens: int = 0


class LimitReached(Exception):  # noqa: N818, it is no error
    """A run may spend no more of what this names: "dollars", "calls" or "tokens"."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """The most that a run may spend; None for no limit.

    They are looked at before each call, so they are passed by no more than the call in flight.

    Raises:
      InputError: if one is not above 0.
    """

    dollars: float = 5.0
    calls: int | None = None
    tokens: int | None = None

    def __post_init__(self) -> None:
        """Checks the limits."""
        if not self.dollars > 0:
            raise InputError(f"dollars {self.dollars:g}: not above 0. Give the most to spend; inf is no limit.")
        for name in ("calls", "tokens"):
            if (value := getattr(self, name)) is not None:
                check_whole(name, value, 1, 10**15, "Leave it out for no limit.")

    def check(self, spent: Spent) -> None:
        """Raises `LimitReached` if nothing may be spent any more."""
        for name, value in spent._asdict().items():
            limit = getattr(self, name)
            if limit is not None and value >= limit:
                raise LimitReached(name)


def price_of(model: str, file: Path | None = None, today: datetime.date | None = None) -> Price | None:
    """The price of a model that holds today; None if it is not known.

    Args:
      model: Its name.
      file: A table of prices that goes before the built-in one, ``prices.toml``, and looks like it.
      today: The day.

    Raises:
      InputError: if the file cannot be read, naming what is wrong with it.
    """
    built_in = importlib.resources.files(__package__).joinpath("prices.toml").read_text("utf-8")
    tables = [_table(built_in, "prices.toml")]
    if file is not None:
        with explained(file, "Name a table of prices, in TOML."):
            text = file.read_bytes().decode("utf-8", "replace")
        tables.insert(0, _table(text, str(file)))
    today = today or datetime.datetime.now(datetime.UTC).date()
    for table in tables:
        known = sorted((price for price in table if price.model == model), key=lambda price: price.since)
        if known:
            return next((price for price in reversed(known) if price.since <= today), known[0])
    return None


def _table(text: str, name: str) -> tuple[Price, ...]:
    try:
        return _Table.model_validate(tomllib.loads(text)).price
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{name}: {error}. Write TOML, one [[price]] per model.") from None
    except pydantic.ValidationError as error:
        found = error.errors()[0]
        where = ".".join(map(str, found["loc"]))
        raise InputError(
            f"{name}: {where}: {found['msg']}. Give [[price]] with model, since, input and output, in US dollars per "
            "million tokens."
        ) from None
