"""Proposers write controllers. Here is what one is asked and what it answers; each kind has a file of its own.

A proposer that has read a `Request` returns proposals, or the text of a reply that `read` finds them in. Either way
the loop keeps the reply as text and works with what `read` finds there, so that a reply can be replayed from its file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import pydantic

if TYPE_CHECKING:
    from autotts_discovery.ledger import Ledger
    from autotts_discovery.proposers.tools import Tool

__all__ = ["Conversing", "Proposal", "Proposer", "ReplyError", "Request", "Tried", "read", "written"]


class ReplyError(RuntimeError):
    """A proposer that has nothing to say this time: it failed, or took too long. The message is one line."""


class Proposal(pydantic.BaseModel, frozen=True, extra="forbid"):
    """A controller to judge.

    Attributes:
      source: A Python module that defines `CONTROLLER`.
      idea: What is new about it, in a few words.
      parents: Digests of the candidates that it was made from, or what they begin with.
    """

    source: str
    idea: str = ""
    parents: tuple[str, ...] = ()


class Tried(pydantic.BaseModel, frozen=True, extra="forbid"):
    """A candidate that was tried, and what came of it.

    Attributes:
      digest: Of its source.
      round: The round that it was proposed in, from 1.
      source: The module.
      name: The controller's name; empty if it did not come so far.
      idea: See `Proposal`.
      parents: See `Proposal`; a tuned candidate's parent is the one that was tuned.
      gain: Accuracy above the envelope of the hand-made controllers at equal tokens, a fraction, averaged over log
        tokens and datasets; None if it was not judged.
      gain_se: Its standard error.
      lower: What candidates are ranked by, a lower bound of the gain.
      tokens: Tokens per episode at β = 1.
      sequential: Those of them on the critical path.
      latency: Tokens on the critical path relative to CMC's at the same β, the geometric mean over β.
      margins: Accuracy above the envelope along the range of tokens, from its lower to its upper end.
      refused: The stage at which it was refused; empty if it was judged.
      reason: Why, in one line.
      tuned: Whether it is another candidate with tuned schedule ends.
    """

    digest: str
    round: int
    source: str
    name: str = ""
    idea: str = ""
    parents: tuple[str, ...] = ()
    gain: float | None = None
    gain_se: float | None = None
    lower: float | None = None
    tokens: float | None = None
    sequential: float | None = None
    latency: float | None = None
    margins: tuple[float, ...] = ()
    refused: str = ""
    reason: str = ""
    tuned: bool = False


class Request(pydantic.BaseModel, frozen=True, extra="forbid"):
    """What a proposer is asked.

    Attributes:
      number: Of the request in its run, from 1.
      round: Of the run, from 1.
      wanted: How many proposals it is asked for.
      text: All of it as Markdown, for a language model or a person.
      parents: What to build on: judged candidates, the best first, then some that are different.
      tried: All that was tried so far, in order.
      seed: Differs from request to request, and is the same in a run that is repeated.
      seconds: In which an answer is of use.
    """

    number: int
    round: int
    wanted: int
    text: str
    parents: tuple[Tried, ...]
    tried: tuple[Tried, ...]
    seed: int
    seconds: float = float("inf")


class Proposer(Protocol):
    """Anything that proposes controllers.

    Attributes:
      name: Its kind, for the ledger.
      reads: Whether it reads a request's text. What happened in episodes is only told to those that do: it takes time.
    """

    name: str
    reads: bool

    def propose(self, request: Request) -> list[Proposal] | str:
        """Proposals, or a reply that `read` finds them in.

        Raises:
          ReplyError: if there is none this time.
        """
        ...


@runtime_checkable
class Conversing(Proposer, Protocol):
    """A proposer that notes calls in the ledger, and may use tools."""

    def begin(self, ledger: Ledger, note: Callable[..., None], tools: Sequence[Tool]) -> None:
        """A session begins.

        Args:
          ledger: Of the run.
          note: Appends an event to it: its class, and its fields but for the time.
          tools: What may be called before a reply.
        """
        ...


# --- replies as text -------------------------------------------------------------------------------------------------

# A fenced block of Python; the closing fence may be missing where a reply was cut off, and that is not a block.
_BLOCK = re.compile(
    r"^(?P<fence>`{3,})python[^\S\n]*\n(?P<source>.*?)^(?P=fence)`*[^\S\n]*$\n?", re.DOTALL | re.MULTILINE
)
_PARENTS = re.compile(r"^Parents?:\s*(?P<digests>[0-9a-f]{4,}(?:[\s,]+[0-9a-f]{4,})*)\s*$", re.MULTILINE)


def read(reply: str) -> list[Proposal]:
    """The proposals in a reply.

    Each fenced block of Python is one. The text before it, up to the block before, is its idea; a line ``Parents:``
    with digests names what it was made from.
    """
    proposals, start = [], 0
    for block in _BLOCK.finditer(reply):
        about = reply[start : block.start()]
        start = block.end()
        named = _PARENTS.search(about)
        parents = tuple(re.findall("[0-9a-f]+", named["digests"])) if named else ()
        idea = _PARENTS.sub("", about).strip()
        proposals.append(Proposal(source=block["source"], idea=idea, parents=parents))
    return proposals


def written(proposals: Sequence[Proposal]) -> str:
    """A reply with these proposals, as `read` reads it."""
    blocks = []
    for proposal in proposals:
        longest = max((len(ticks) for ticks in re.findall("`{3,}", proposal.source)), default=2)
        fence = "`" * (longest + 1)
        parents = f"Parents: {', '.join(proposal.parents)}\n\n" if proposal.parents else ""
        idea = proposal.idea.strip().replace("```", "'''")
        source = proposal.source if proposal.source.endswith("\n") else proposal.source + "\n"
        blocks.append(f"{idea}\n\n{parents}{fence}python\n{source}{fence}\n")
    return "\n".join(blocks)
