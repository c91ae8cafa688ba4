"""A live question: a store of one question that grows.

Slot k is branch k. What has been generated stands in it as in replay. A branch that has not ended has as many
intervals and tokens as the pool says that none exceeds: upper bounds, which `environment.admit` is made for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int32

from autotts_collect.engines.base import Pool
from autotts_jax.environment import NO_ANSWER
from autotts_jax.replay import ReplayStore
from autotts_jax.trajectories import UNPARSABLE

__all__ = ["Growing"]

#: Answer ids are drawn from a range of at least this many, as in `replay.pack`.
_IDS = 1024


class Growing:
    """What is known of one question's branches in one run.

    Attributes:
      store: The arrays, `[1, B, …]`, for `environment`. They change in place.
      known: ``[B]`` intervals generated.
      ended: ``[B]`` whether the branch has come to its end.
    """

    def __init__(
        self, pool: Pool, gold: str, width: int, feature_names: tuple[str, ...], entropy: Sequence[int]
    ) -> None:
        """A question with nothing generated.

        Args:
          pool: Its branches.
          gold: The gold answer, in normal form.
          width: B, the slots; branches beyond are never opened.
          feature_names: The features that intervals have.
          entropy: What its answers' ids are drawn with: distinct for distinct runs.
        """
        n = min(len(pool.delta), width)
        there = np.arange(width) < n
        D = pool.intervals
        # However many answers there will be: the shapes of a run's questions must not depend on that.
        A = max(_IDS, 1 << (n * D - 1).bit_length())

        def padded(values: np.ndarray, otherwise: float) -> np.ndarray:
            return np.concatenate([values[:n], np.full(width - n, otherwise, values.dtype)])[None]

        self.store = ReplayStore(
            answers=np.full((1, width, D), -1, np.int16 if A < 2**15 else np.int32),
            intervals=np.where(there, D, 0).astype(np.int32)[None],
            tokens=np.where(there, pool.tokens, 0).astype(np.int32)[None],
            delta=padded(pool.delta.astype(np.int32), 0),
            gold=np.full(1, NO_ANSWER, np.int32),
            unparsable=np.zeros((1, A), bool),
            features=np.zeros((1, width, D, len(feature_names)), np.float32) if feature_names else None,
            model=None if pool.model is None else padded(pool.model.astype(np.int32), 0),
            price=None if pool.price is None else padded(pool.price.astype(np.float32), 1),
            feature_names=feature_names,
        )
        self.known: Int32[np.ndarray, " B"] = np.zeros(width, np.int32)
        self.ended: Bool[np.ndarray, " B"] = np.zeros(width, bool)
        self._gold = gold
        # In the order of first appearance, answers get the numbers of a random permutation: as in replay, an id says
        # nothing about its answer.
        self._free = iter(np.random.default_rng(entropy).permutation(A).tolist())
        self._ids: dict[str, int] = {}
        self._answers: dict[int, str] = {}

    def grow(self, slot: int, depth: int) -> None:
        """A slot's branch has been generated to this depth, and goes on."""
        self.known[slot] = depth

    def reveal(self, slot: int, depth: int, answer: str, features: Sequence[float] = ()) -> None:
        """What a slot's branch answers at a depth."""
        self.store.answers[0, slot, depth - 1] = self._id(answer)
        if self.store.features is not None:
            self.store.features[0, slot, depth - 1] = features

    def finish(self, slot: int, intervals: int, tokens: int, answer: str, features: Sequence[float] = ()) -> None:
        """A slot's branch has ended, after so many intervals and tokens, with this answer."""
        self.store.intervals[0, slot], self.store.tokens[0, slot] = intervals, tokens
        self.known[slot], self.ended[slot] = intervals, True
        self.reveal(slot, intervals, answer, features)

    def answer(self, answer_id: int) -> str | None:
        """The answer behind an id; None if there is none."""
        return self._answers.get(answer_id)

    def recorded(self, slot: int) -> tuple[list[str | None], int, bool]:
        """A slot's branch: its answers by depth, None where it was not asked; its tokens; whether it ended."""
        depth = int(self.known[slot])
        ids = self.store.answers[0, slot, :depth].tolist()
        ended = bool(self.ended[slot])
        tokens = int(self.store.tokens[0, slot]) if ended else depth * int(self.store.delta[0, slot])
        return [self._answers.get(number) for number in ids], tokens, ended

    def _id(self, answer: str) -> int:
        if answer not in self._ids:
            number = next(self._free)
            self._ids[answer], self._answers[number] = number, answer
            self.store.unparsable[0, number] = answer in UNPARSABLE
            if answer == self._gold:
                self.store.gold[0] = number
        return self._ids[answer]
