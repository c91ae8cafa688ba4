"""Which candidates a proposer builds on.

"lineage", as AutoTTS has it, looks at everything so far: the best candidate, then the best one of each other line of
descent, then other good ones.

"archive" keeps what is good in its own way. It looks at one *island*, a part of the run whose candidates descend from
one another; rounds take turns between the islands. There the parents are the Pareto *front* over lower bound, tokens
and sequential tokens, the best one first, then the best one of each behaviour *niche*, as in MAP-Elites (Mouret
and Clune 2015, arXiv 1504.04909). Now and then a round looks at all islands, and so what it makes *migrates*.

Of a candidate and its tuned form, either takes the better one only.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Literal, TypeAlias, get_args

from autotts_discovery.proposers import Tried
from autotts_jax.errors import InputError

__all__ = ["STRATEGIES", "Strategy", "check_strategy", "front", "niche", "parents_among"]

Strategy: TypeAlias = Literal["lineage", "archive"]

#: What `parents_among` knows.
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

#: Islands; and every so many rounds are for all of them.
ISLANDS, MIGRATION = 2, 4


def check_strategy(strategy: str) -> Strategy:
    """The strategy.

    Raises:
      InputError: if there is no such strategy.
    """
    found = next((known for known in STRATEGIES if known == strategy), None)
    if found is None:
        raise InputError(f"strategy {strategy!r}: not understood. Use {' or '.join(STRATEGIES)}.")
    return found


def parents_among(
    tried: Sequence[Tried], count: int = 6, *, strategy: Strategy = "lineage", round: int = 1
) -> list[Tried]:
    """Judged candidates to build on, the most important first.

    Args:
      tried: What was tried, in order.
      count: The most parents.
      strategy: See the head of this module.
      round: The round that they are for, from 1.
    """
    if strategy == "lineage":
        good = _structures(tried)
        first = _best_of_each(good, functools.partial(_founder, tried=tried))
    else:
        mine = [one for one in tried if (one.round - round) % ISLANDS == 0]
        good = _structures(tried if round % MIGRATION == 0 else mine)
        first = [*front(good), *_best_of_each(good, niche)]
    return list({one.digest: one for one in [*first, *good]}.values())[:count]


def front(candidates: Sequence[Tried]) -> list[Tried]:
    """Those that no other one dominates: as good in lower bound, tokens and sequential tokens, and better in one."""

    def merits(one: Tried) -> tuple[float, float, float]:
        return one.lower or 0, -(one.tokens or 0), -(one.sequential or 0)

    def dominates(other: Tried, one: Tried) -> bool:
        pairs = list(zip(merits(other), merits(one), strict=True))
        return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)

    return [one for one in candidates if not any(dominates(other, one) for other in candidates)]


def niche(one: Tried) -> tuple[int, int, int]:
    """How a candidate behaves, in doublings: tokens and width at β = 1, and latency along β.

    Width is how many branches run at once on average: tokens for each one on the critical path.
    """
    tokens, sequential = max(one.tokens or 0, 1), max(one.sequential or 0, 1)
    behaviour = tokens, tokens / sequential, one.latency or 1
    doublings = [round(math.log2(value)) for value in behaviour]
    return doublings[0], doublings[1], doublings[2]


def _best_of_each(good: Sequence[Tried], kind: Callable[[Tried], Hashable]) -> list[Tried]:
    """Of candidates with the best first, the best one of each kind."""
    best: dict[Hashable, Tried] = {}
    for one in good:
        best.setdefault(kind(one), one)
    return list(best.values())


def _structures(tried: Sequence[Tried]) -> list[Tried]:
    """The judged ones, the best first, without the worse one of a candidate and its tuned form."""
    ranked = sorted((one for one in tried if one.lower is not None), key=lambda one: -(one.lower or 0))
    structures: dict[str, Tried] = {}
    for one in ranked:
        structures.setdefault(one.parents[0] if one.tuned else one.digest, one)
    return list(structures.values())


def _founder(one: Tried, tried: Sequence[Tried]) -> str:
    """Where a candidate's line of descent began: its first parent's first parent, and so on."""
    known = {other.digest: other for other in tried}
    seen = {one.digest}
    while one.parents and one.parents[0] in known and one.parents[0] not in seen:
        one = known[one.parents[0]]
        seen.add(one.digest)
    return one.digest
