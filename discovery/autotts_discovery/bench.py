"""The bench: search data, shuffles, βs, and what the known controllers reach there; and a candidate's verdict on it."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from jaxtyping import Bool, Float32, Int, Int32, PyTree

from autotts_discovery.fitness import BUDGETS, Means, Terms, assess
from autotts_jax import (
    BETAS,
    COMPILER_OPTIONS,
    CONTROLLERS,
    Controller,
    Dataset,
    InputError,
    Outcome,
    ReplayStore,
    Row,
    concatenate,
    draw_orders,
    evaluate,
)
from autotts_jax.artefacts import Artefact, export_controller
from autotts_jax.digests import Digest
from autotts_jax.errors import check_whole
from autotts_jax.orders import WIDTH
from autotts_jax.provenance import distinct_datasets
from autotts_jax.sweeps import width_of

__all__ = ["Bench", "Replayer", "Verdict", "make_bench"]

#: The reference that sets the pace and, by default, the upper end of the range: CMC.
_PACE = "confidence_momentum"

_Fraction = Annotated[float, pydantic.Field(ge=0, le=1)]
_Finite = pydantic.FiniteFloat


class Verdict(pydantic.BaseModel, frozen=True, extra="forbid"):
    """How a candidate did on a bench; accuracies and gains are fractions, tokens are per episode.

    Attributes:
      lower: What candidates are ranked by: gain − gain_se − penalty.
      gain: Mean gain over the datasets, see `autotts_discovery.fitness`.
      gain_se: Its standard error, clustered by question text.
      penalty: For sequential tokens beyond the cap; 0 without a cap.
      gains: The gain on each dataset.
      betas: The βs.
      accuracy: Mean accuracy over the datasets, by β.
      tokens: Mean tokens, likewise.
      sequential_tokens: Mean sequential tokens, likewise.
      latency: Sequential tokens relative to CMC's at the same β, the geometric mean.
      shuffles: Shuffles per question.
      episodes: Episodes replayed.
      seconds: Time it took, compilation included.
      signature: A digest of what it did in the quick look's episodes: candidates with equal ones behave alike.
    """

    lower: _Finite
    gain: _Finite
    gain_se: _Finite
    penalty: _Finite
    gains: dict[str, _Finite]
    betas: tuple[_Fraction, ...]
    accuracy: tuple[_Fraction, ...]
    tokens: tuple[_Finite, ...]
    sequential_tokens: tuple[_Finite, ...]
    latency: _Finite
    shuffles: int
    episodes: int
    seconds: _Finite
    signature: Annotated[str, pydantic.Field(max_length=64)]


@dataclasses.dataclass(frozen=True, eq=False)
class Bench:
    """What candidates are judged on.

    Attributes:
      data: The search data, D datasets as the parts of one.
      betas: The βs, ascending.
      orders: ``[Q, S, B]`` the branch orders of a verdict; a quick look takes the first `looks` of the S.
      looks: Shuffles of a quick look.
      terms: What counts.
      budgets: ``[D, G]`` token budgets at which curves are compared.
      start: ``[1, Q]`` one branch, read to its end: the mean over all branches.
      names: Names of the R references; the first is CMC.
      references: Their means by question, ``[R, P, Q]`` for P βs, by number of shuffles: S and `looks`.
    """

    data: Dataset
    betas: tuple[float, ...]
    orders: Int32[np.ndarray, "Q S B"]
    looks: int
    terms: Terms
    budgets: Float32[np.ndarray, "D G"]
    start: Means
    names: tuple[str, ...]
    references: Mapping[int, Means]

    def __repr__(self) -> str:
        """One line: what it holds, not the values."""
        return f"Bench({self.data!r}, {len(self.betas)} βs, {self.shuffles} shuffles)"

    @property
    def shuffles(self) -> int:
        """Shuffles of a verdict."""
        return self.orders.shape[1]

    @functools.cached_property
    def member(self) -> Float32[np.ndarray, "D Q"]:
        """1 where a question belongs to a dataset."""
        return _member(self.data)

    @functools.cached_property
    def clusters(self) -> Float32[np.ndarray, "C Q"]:
        """1 where a question belongs to a cluster: questions with one text are one, whichever model answered."""
        _, cluster = np.unique([" ".join(text.split()) for text in self.data.texts], return_inverse=True)
        return np.equal.outer(np.arange(cluster.max() + 1), cluster).astype(np.float32)

    def judged(self, found: Means, shuffles: int) -> dict[str, Any]:
        """A verdict's figures.

        Args:
          found: A candidate's means by question, ``[P, Q]``.
          shuffles: Of how many shuffles: S or `looks`.
        """
        args = (found, self.references[shuffles], self.start, self.budgets, self.member, self.clusters)
        said = jax.device_get(assess(*args, terms=self.terms))
        gain, penalty, gains = said.score
        curve = {field: tuple(values.mean(axis=0).tolist()) for field, values in said.means._asdict().items()}
        return {
            "lower": float(gain - said.gain_se - penalty),
            "gain": float(gain),
            "gain_se": float(said.gain_se),
            "penalty": float(penalty),
            "gains": {name: float(part) for (name, _), part in zip(self.data.parts, gains, strict=True)},
            "betas": self.betas,
            **curve,
            "latency": float(said.latency),
        }


def make_bench(
    datasets: Dataset | Sequence[Dataset],
    *,
    betas: Sequence[float] = BETAS,
    shuffles: int = 64,
    looks: int = 8,
    seed: int = 0,
    terms: Terms | None = None,
    tokens: tuple[float, float] | None = None,
    references: Sequence[Controller] | None = None,
) -> Bench:
    """Replays the references on the search data.

    Args:
      datasets: The search data; datasets that are there twice are counted once.
      betas: The βs of references and candidates.
      shuffles: Branch orders per question for a verdict: 64 to 100.
      looks: For a quick look; at most `shuffles`.
      seed: Of the orders, which are drawn at random.
      terms: What counts; defaults to ``Terms()``.
      tokens: Range of the gain in tokens per episode. Defaults, on each dataset, to the range from one branch to CMC
        at β = 1.
      references: What a candidate must beat, beside CMC; defaults to all built-in controllers.

    Raises:
      InputError: before any work, naming field, value and remedy.
    """
    raise NotImplementedError
