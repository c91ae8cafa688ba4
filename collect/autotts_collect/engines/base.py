"""What generates tokens: one protocol for a model in this process, a server, and recorded branches.

An engine keeps no branches. It is handed a branch's token ids, and generates what comes next; a model's prefix cache
makes that cheap. So a branch can be continued by another process, reading an answer disturbs nothing, a request that
failed can be made again, and cancelling the task that awaits a request cancels the request.
"""

from __future__ import annotations

import array
import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Float32, Int32

from autotts_jax.environment import MAX_WIDTH
from autotts_jax.errors import InputError, check_seed, check_whole
from autotts_jax.trajectories import MAX_INTERVALS, MAX_TOKENS

__all__ = [
    "DYNASOR",
    "Branch",
    "Engine",
    "EngineError",
    "LogProbs",
    "Piece",
    "Pool",
    "Reading",
    "Sampling",
    "Suffix",
    "UnavailableError",
]


class EngineError(RuntimeError):
    """What an engine cannot do, however often it is asked."""


class UnavailableError(EngineError):
    """What an engine could not do this time.

    Attributes:
      after: Seconds after which it asks to be tried again; None if it does not say.
    """

    def __init__(self, message: str, after: float | None = None) -> None:
        """An error with this message."""
        super().__init__(message)
        self.after = after


class Suffix(NamedTuple):
    """What is appended to a branch to read its answer so far.

    Attributes:
      text: The text.
      most: Tokens that the reply may have.
    """

    text: str
    most: int = 20


#: Dynasor's suffix (arXiv 2412.20993): the model is made to say that it has the answer; its thinking stays open.
DYNASOR = Suffix("... Oh, I suddenly got the answer to the whole problem, **Final Answer**\n\n\\[ \\boxed{", 20)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a model's branches are sampled.

    Attributes:
      branches: N, the branches that may be opened for a question, at most 256.
      delta: Δ, tokens per interval.
      max_tokens: A branch of so many tokens has ended, whatever it says.
      temperature: Of the softmax; 0 for the likeliest token.
      top_p: The least probable tokens, beyond this sum of probabilities, are never sampled.
      top_k: Nor those beyond the k likeliest; 0 for no such limit.
      seed: Of everything that is sampled.

    Raises:
      InputError: if one is out of range.
    """

    branches: int = 64
    delta: int = 500
    max_tokens: int = 32_768
    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the ranges."""
        check_whole("branches", self.branches, 1, MAX_WIDTH)
        check_whole("max_tokens", self.max_tokens, 1, MAX_TOKENS)
        check_whole("delta", self.delta, 1, self.max_tokens, "An interval cannot be longer than a branch.")
        if self.intervals > MAX_INTERVALS:
            raise InputError(
                f"delta {self.delta}: branches of {self.max_tokens} tokens have {self.intervals} intervals, more than "
                f"{MAX_INTERVALS}. Choose a larger one."
            )
        if not 0 <= self.temperature <= 2:
            raise InputError(f"temperature {self.temperature}: outside 0 to 2. Choose one in that range.")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p {self.top_p}: not above 0 and at most 1. Choose one in that range.")
        check_whole("top_k", self.top_k, 0, 2**20)
        check_seed(self.seed)

    @property
    def intervals(self) -> int:
        """The most intervals that a branch can have."""
        return -(-self.max_tokens // self.delta)

    def pool(self) -> Pool:
        """The branches that may be opened for any question."""
        return Pool(
            delta=np.full(self.branches, self.delta, np.int32), intervals=self.intervals, tokens=self.max_tokens
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pool:
    """What is known of a question's n branches before they are opened, in the order in which they would be.

    Attributes:
      delta: ``[n]`` Δ of each.
      intervals: None has more.
      tokens: None has more.
      model: ``[n]`` which of several models each comes from; None if there is only one.
      price: ``[n]`` price per token; None if all are 1.
    """

    delta: Int32[np.ndarray, " n"]
    intervals: int
    tokens: int
    model: Int32[np.ndarray, " n"] | None = None
    price: Float32[np.ndarray, " n"] | None = None


@dataclasses.dataclass(kw_only=True)
class Branch:
    """A branch as far as it has been generated.

    Attributes:
      question: The question's number.
      shuffle: Which of its runs this is.
      slot: The branch's slot in that run.
      prompt: Token ids of the question, as `Engine.prompt` gives them.
      tokens: Token ids generated so far.
      seed: Of the run.
    """

    question: int
    shuffle: int
    slot: int
    prompt: Sequence[int] = ()
    tokens: array.array[int] = dataclasses.field(default_factory=lambda: array.array("i"))
    seed: int = 0

    def cut(self, length: int) -> Branch:
        """The branch as it was with so many tokens; it stays so when this one grows."""
        return dataclasses.replace(self, tokens=self.tokens[:length])

    def seed_here(self) -> int:
        """A seed for what comes next, 63 bits: of its own for each question, run, slot and place in the branch."""
        place = f"{self.seed} {self.question} {self.shuffle} {self.slot} {len(self.tokens)}"
        return int.from_bytes(hashlib.blake2b(place.encode(), digest_size=8).digest(), "big") >> 1


class LogProbs(NamedTuple):
    """Log-probabilities of generated tokens.

    Attributes:
      chosen: ``[n]`` of the token that was sampled.
      top: ``[n, k]`` of the k likeliest, the likeliest first; −inf where the engine names fewer.
    """

    chosen: Float32[np.ndarray, " n"]
    top: Float32[np.ndarray, "n k"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Piece:
    """What came next in a branch.

    Attributes:
      tokens: Its token ids.
      text: The same as text.
      ended: Whether the branch has come to its end.
      counted: Intervals and tokens of a branch that has ended, where a recording has other ones than follow from Δ
        and the token ids.
      features: Of the last interval in it, by `Engine.feature_names`.
      logprobs: If they were asked for.
    """

    tokens: Sequence[int]
    text: str
    ended: bool
    counted: tuple[int, int] | None = None
    features: Sequence[float] = ()
    logprobs: LogProbs | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """What a branch says when it is asked for its answer.

    Attributes:
      text: The suffix and the reply to it.
      tokens: Tokens of the reply.
      features: Of the interval before it, by `Engine.feature_names`.
      logprobs: Of the reply, if they were asked for.
    """

    text: str
    tokens: int
    features: Sequence[float] = ()
    logprobs: LogProbs | None = None


class Engine(Protocol):
    """What generates tokens.

    Every method but `pool` and `about` may raise `EngineError`, or `UnavailableError` where asking again can help.
    """

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the features that come with every interval."""

    @property
    def context(self) -> int | None:
        """The most tokens that question, branch, suffix and reply may have together; None for no limit."""

    def about(self) -> Mapping[str, Any]:
        """All that what it generates depends on, as JSON can say it: equal for equal engines."""

    def pool(self, question: int, shuffle: int) -> Pool:
        """The branches that may be opened in a run of a question."""

    async def start(self) -> None:
        """Makes it ready, before anything else is asked of it.

        Raises:
          InputError: if it cannot be had, naming what is wrong, and what to do.
        """

    async def prompt(self, text: str) -> Sequence[int]:
        """The token ids of a question, ready to be answered.

        Raises:
          InputError: if there can be none.
        """

    async def extend(self, branch: Branch, most: int, *, logprobs: int = 0) -> Piece:
        """Samples what comes next in a branch, which is left as it is.

        Args:
          branch: The branch so far.
          most: Tokens to generate unless it ends before; 1 or more.
          logprobs: How many of the likeliest tokens to give log-probabilities of.
        """

    async def read(self, branch: Branch, suffix: Suffix, *, logprobs: int = 0) -> Reading:
        """Reads a branch's answer so far, by greedy decoding; the branch is left as it is."""

    async def close(self) -> None:
        """Lets go of all that it holds."""
