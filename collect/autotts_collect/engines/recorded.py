"""Recorded branches, served as if a model were generating them: the bridge between replay and live use."""

from __future__ import annotations

import array
import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from autotts_collect.engines.base import Branch, Piece, Pool, Reading, Suffix
from autotts_jax.digests import Digest
from autotts_jax.errors import InputError
from autotts_jax.orders import check_orders
from autotts_jax.replay import Dataset
from autotts_jax.trajectories import MAX_TOKENS

__all__ = ["Recorded"]


class Recorded:
    """A dataset as an engine.

    Slot k of shuffle s holds the branch that the order lists k-th, as in replay. Token ids are made up. What a reading
    says is the recorded answer itself, whatever the suffix.

    A recording knows intervals only. So generating is asked for in multiples of Δ, and the last interval comes whole:
    in the public files it may be longer than Δ, and a branch may have fewer tokens than its probes say
    (`Piece.counted` has the recorded numbers).
    """

    context = None

    def __init__(self, dataset: Dataset, orders: Int[np.ndarray, "Q S B"], *, token_seconds: float = 0.0) -> None:
        """An engine.

        Args:
          dataset: The recorded branches.
          orders: The branch that each slot holds, −1 for none.
          token_seconds: How long a token takes, to see a run as it would go with a model.

        Raises:
          InputError: if the orders are none of this dataset's.
        """
        check_orders(dataset.store, orders)
        self._dataset = dataset
        self._orders = np.asarray(orders)
        self._token_seconds = token_seconds
        store = dataset.store
        self._answers, self._intervals = np.asarray(store.answers), np.asarray(store.intervals)
        self._tokens, self._delta = np.asarray(store.tokens), np.asarray(store.delta)
        stepped = self._delta * np.maximum(self._intervals - 1, 0)
        most = min(self._answers.shape[-1] * int(self._delta.max()), MAX_TOKENS)
        self._longest = max(int(np.maximum(self._tokens, stepped).max()), most)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The dataset's."""
        return self._dataset.store.feature_names

    def about(self) -> Mapping[str, Any]:
        """The data and the orders."""
        digest = Digest()
        digest.array("orders", self._orders)
        return {"engine": "recorded", "data": self._dataset.digest, "orders": digest.hex()}

    def pool(self, question: int, shuffle: int) -> Pool:
        """The branches in their order."""
        order = self._orders[question, shuffle]
        order = order[order >= 0]
        store = self._dataset.store
        return Pool(
            delta=self._delta[question, order],
            intervals=self._answers.shape[-1],
            tokens=self._longest,
            model=None if store.model is None else np.asarray(store.model)[question, order],
            price=None if store.price is None else np.asarray(store.price)[question, order],
        )

    async def start(self) -> None:
        """Nothing to do."""

    async def prompt(self, text: str) -> Sequence[int]:
        """None: a branch knows its question's number."""
        return ()

    async def extend(self, branch: Branch, most: int, *, logprobs: int = 0) -> Piece:
        """The intervals that come next, as far as there are tokens for them; the last one whole."""
        if logprobs:
            raise InputError("logprobs: not in recorded branches. Read features, or use an engine that has a model.")
        q, n = self._branch(branch)
        delta, intervals, tokens = int(self._delta[q, n]), int(self._intervals[q, n]), int(self._tokens[q, n])
        depth = len(branch.tokens) // delta
        more = max(1, most // delta)
        ended = depth + more >= intervals
        end = max(tokens, delta * (intervals - 1)) if ended else (depth + more) * delta
        length = max(0, end - len(branch.tokens))
        if self._token_seconds:
            await asyncio.sleep(self._token_seconds * length)
        last = min(depth + more, intervals)
        return Piece(
            tokens=array.array("i", bytes(4 * length)),
            text=self._said(q, n, last) if ended else "",
            ended=ended,
            counted=(intervals, tokens) if ended else None,
            features=self._features(q, n, last),
        )

    async def read(self, branch: Branch, suffix: Suffix, *, logprobs: int = 0) -> Reading:
        """The answer that was recorded after the newest interval."""
        if logprobs:
            raise InputError("logprobs: not in recorded branches. Read features, or use an engine that has a model.")
        q, n = self._branch(branch)
        depth = len(branch.tokens) // int(self._delta[q, n])
        return Reading(text=self._said(q, n, depth), tokens=0, features=self._features(q, n, depth))

    async def close(self) -> None:
        """Nothing to do."""

    def _branch(self, branch: Branch) -> tuple[int, int]:
        return branch.question, int(self._orders[branch.question, branch.shuffle, branch.slot])

    def _said(self, question: int, branch: int, depth: int) -> str:
        return self._dataset.answer(question, self._answers[question, branch, depth - 1]) or ""

    def _features(self, question: int, branch: int, depth: int) -> Sequence[float]:
        features = self._dataset.store.features
        return () if features is None else np.asarray(features)[question, branch, depth - 1].tolist()
