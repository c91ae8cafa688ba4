"""Tuning: a numeric search for the ends of a candidate's schedule, and how much of what it finds carries over.

A search fits its shuffles and its questions. So every generation has fresh shuffles, common to all of its population;
a search is short, since what carries over comes first; it returns the mean of its last iterates, never the best
candidate; and its gain is measured on questions that it did not see: on random halves of the clusters, both ways.
"""

from __future__ import annotations

from typing import Any

import pydantic

__all__ = ["Tuned"]


class Tuned(pydantic.BaseModel, frozen=True, extra="forbid"):
    """What tuning found; gains are fitness, that is with the penalty for sequential tokens deducted.

    Attributes:
      ends: The schedule's ends, refitted on all questions: for `Schedule.moved`.
      values: The same by parameter, its values at β = 0 and at β = 1: for `with_ends`.
      before: Fitness of the schedule as it was, on all questions.
      after: Fitness of `ends` on all questions, all of them seen.
      seen: Mean fitness on the halves that were searched.
      unseen: Mean fitness on the other halves: what a candidate is ranked by.
      curve: Mean fitness by generation on the halves that were searched, and on the others.
      splits: Random splits, each used both ways.
      generations: Generations per search.
      free: Numbers that moved.
      episodes: Episodes replayed.
      seconds: Time it took, compilation included.
    """

    ends: tuple[float, ...]
    values: dict[str, tuple[Any, Any]]
    before: pydantic.FiniteFloat
    after: pydantic.FiniteFloat
    seen: pydantic.FiniteFloat
    unseen: pydantic.FiniteFloat
    curve: tuple[tuple[pydantic.FiniteFloat, pydantic.FiniteFloat], ...]
    splits: int
    generations: int
    free: int
    episodes: int
    seconds: pydantic.FiniteFloat
