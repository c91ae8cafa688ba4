"""The fitness of a controller: what it gains over known controllers at equal tokens.

Means of accuracy and tokens by β make a *curve*, read as in `autotts_jax.frontier`: the best accuracy within a number
of tokens, linear over log tokens between two βs. Every curve begins with reading *one branch* to its end, which
anybody can do, so a controller neither gains nor loses by where its own β = 0 lies; a smaller budget counts as that.

The *gain* on a dataset is the mean, over `BUDGETS` token budgets evenly spaced over log tokens, of the controller's
accuracy minus the best of the references'. Both are replayed on the same shuffles and on equally many of them: the
best of many noisy points lies too high, the more so the fewer the shuffles. Datasets count alike.

Total tokens alone drive a search to one branch at a time. So sequential tokens may be capped at `Terms.latency` times
CMC's, at the same β. (CMC's vary little along β; at equal accuracy, the noise of the accuracy would move the cap.)
The penalty is `PRICE` times the mean over β of log(sequential tokens / cap) where they exceed it: one percent costs
0.6 points of accuracy, so that the cap holds.

The unit of evidence is the question: one that several models answered is one *cluster*. The standard error is the
delete-one-cluster jackknife's, with the references computed anew each time: their shuffles are the same, so the
difference is paired.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float32

from autotts_jax import InputError
from autotts_jax.frontier import accuracy_at
from autotts_jax.replay import AnyArray

__all__ = ["BUDGETS", "PRICE", "Assessment", "Bar", "Means", "Terms", "assess", "bar_of", "fitness", "means_of"]

#: Budgets at which curves are compared, both ends of the range included.
BUDGETS = 65

#: Accuracy that a controller pays for each e-fold of sequential tokens beyond the cap.
PRICE = 0.6


@dataclasses.dataclass(frozen=True)
class Terms:
    """What counts.

    Attributes:
      objective: "gain" is the gain described above. The paper's own, relative to the best of the references:
        "accuracy" is the highest accuracy over β, "reward" the highest accuracy − gamma × tokens.
      gamma: Accuracy that one token must buy; for "reward" only.
      latency: Cap on sequential tokens, in multiples of CMC's at the same β; None for no cap.

    Raises:
      InputError: if one of them is out of range.
    """

    objective: Literal["gain", "accuracy", "reward"] = "gain"
    gamma: float = 0.0
    latency: float | None = None

    def __post_init__(self) -> None:
        """Rejects what is out of range."""
        if self.objective not in ("gain", "accuracy", "reward"):
            raise InputError(f"objective {self.objective!r}: not understood. Use gain, accuracy or reward.")
        if not 0 <= self.gamma < 1 or (self.gamma > 0) != (self.objective == "reward"):
            raise InputError(
                f"gamma {self.gamma}, objective {self.objective}: reward needs a gamma between 0 and 1, the accuracy "
                "that one token must buy; the others none."
            )
        if self.latency is not None and not 0 < self.latency < float("inf"):
            raise InputError(f"latency {self.latency}: not above 0. Give a multiple of CMC's sequential tokens.")


class Means(NamedTuple):
    """Means over episodes: by β and question, ``[…, B, Q]``, or by dataset and β, ``[…, D, B]``."""

    accuracy: Float32[Array, ...]
    tokens: Float32[Array, ...]
    sequential_tokens: Float32[Array, ...]


class Bar(NamedTuple):
    """What a candidate is measured against, on D datasets.

    Attributes:
      start: One branch, read to its end.
      budgets: Token budgets.
      known: The references' best within each budget; for other objectives than "gain", their best value.
      pace: CMC's sequential tokens by β.
      there: 1 for a dataset with questions, 0 for one without: a fold may have none of its questions.
    """

    start: Means  # [D, 1]
    budgets: Float32[AnyArray, "D G"]
    known: Float32[Array, "D K"]
    pace: Float32[Array, "D B"]
    there: Float32[Array, " D"]


class Score(NamedTuple):
    """A candidate's score on D datasets: its fitness is `gain` − `penalty`."""

    gain: Float32[Array, ""]
    penalty: Float32[Array, ""]
    gains: Float32[Array, " D"]


class Assessment(NamedTuple):
    """A score with its standard error and what it was computed from."""

    score: Score
    gain_se: Float32[Array, ""]
    means: Means  # [D, B]
    latency: Float32[Array, ""]  # sequential tokens relative to CMC's at the same β, the geometric mean
    margins: Float32[Array, " K"]  # accuracy above the references' best, at each budget, the mean over datasets
    known: Float32[Array, " K"]  # that best


def means_of(by_question: Means, member: Float32[AnyArray, "D Q"]) -> Means:
    """Means by dataset from those by question; 0 for a dataset without questions.

    Args:
      by_question: ``[…, B, Q]``.
      member: Weight of each question in each dataset.
    """
    total = jnp.sum(member, axis=1)
    share = member / jnp.maximum(total, 1e-9)[:, None]
    mean = functools.partial(jnp.einsum, "...bq,dq->...db", precision=jax.lax.Precision.HIGHEST)
    return Means(*(mean(values, share) for values in by_question))


def bar_of(
    references: Means,
    start: Means,
    budgets: Float32[AnyArray, "D G"],
    member: Float32[AnyArray, "D Q"],
    terms: Terms,
    every: int = 1,
) -> Bar:
    """The bar that references set on some questions.

    Args:
      references: Of R controllers by question, ``[R, B, Q]``; the first is CMC.
      start: One branch by question, ``[1, Q]``.
      budgets: Token budgets.
      member: Weight of each question in each dataset.
      terms: What counts.
      every: A candidate is replayed on every so many of the βs.
    """
    by_dataset, begin = means_of(references, member), means_of(start, member)
    offered = jax.vmap(lambda curve: _offered(curve, begin, budgets, terms))(by_dataset)
    return Bar(
        start=begin,
        budgets=budgets,
        known=jnp.max(offered, axis=0),
        pace=by_dataset.sequential_tokens[0, :, ::every],
        there=(jnp.sum(member, axis=1) > 0).astype(jnp.float32),
    )


def fitness(curve: Means, bar: Bar, terms: Terms) -> Score:
    """The fitness of a controller with the given means by dataset and β, ``[D, B]``; see this module's head."""
    gains = jnp.mean(_offered(curve, bar.start, bar.budgets, terms) - bar.known, axis=1)
    excess = jnp.zeros_like(bar.there)
    if terms.latency is not None:
        over = _log(curve.sequential_tokens) - _log(terms.latency * bar.pace)
        excess = jnp.mean(jnp.maximum(over, 0), axis=1)
    return Score(_mean(gains, bar.there), PRICE * _mean(excess, bar.there), gains)


@functools.partial(jax.jit, static_argnames="terms")
def assess(
    found: Means,
    references: Means,
    start: Means,
    budgets: Float32[AnyArray, "D G"],
    member: Float32[AnyArray, "D Q"],
    clusters: Float32[AnyArray, "C Q"],
    terms: Terms,
) -> Assessment:
    """A controller's score and its standard error.

    Args:
      found: Its means by question, ``[B, Q]``.
      references: As for `bar_of`; so are the others.
      start: See there.
      budgets: See there.
      member: See there.
      clusters: 1 where a question belongs to a cluster. With a single one the standard error is 0.
      terms: What counts.
    """

    def without(cluster: Float32[Array, " Q"]) -> tuple[Score, Means, Float32[Array, ""], Bar]:
        left = member * (1 - cluster)[None]
        curve, bar = means_of(found, left), bar_of(references, start, budgets, left, terms)
        ratio = jnp.mean(_log(curve.sequential_tokens) - _log(bar.pace), axis=1)
        return fitness(curve, bar, terms), curve, jnp.exp(_mean(ratio, bar.there)), bar

    none = jnp.zeros((1, member.shape[1]), jnp.float32)
    every = jax.vmap(without)(jnp.concatenate([none, clusters]))
    score, means, latency, bar = jax.tree.map(lambda leaf: leaf[0], every)
    margins = jnp.mean(_offered(means, bar.start, budgets, terms) - bar.known, axis=0)
    gain, count = every[0].gain[1:], len(clusters)
    variance = jnp.sum((gain - jnp.mean(gain)) ** 2) * ((count - 1) / count)
    return Assessment(score, jnp.sqrt(variance), means, latency, margins, jnp.mean(bar.known, axis=0))


def _offered(curve: Means, start: Means, budgets: Float32[AnyArray, "D G"], terms: Terms) -> Float32[Array, "D K"]:
    """What a controller offers on each dataset: its accuracy within each budget, at least one branch, or its value."""
    accuracy, tokens, _ = (jnp.concatenate(pair, axis=-1) for pair in zip(start, curve, strict=True))
    if terms.objective != "gain":
        return jnp.max(accuracy - jnp.float32(terms.gamma) * tokens, axis=-1, keepdims=True)
    within = jax.vmap(accuracy_at, (None, None, 0))  # over budgets
    return jax.vmap(within)(tokens, accuracy, jnp.maximum(budgets, start.tokens))


def _mean(values: Float32[Array, " D"], there: Float32[Array, " D"]) -> Float32[Array, ""]:
    return jnp.sum(values * there) / jnp.sum(there)


def _log(tokens: Float32[Array, ...]) -> Float32[Array, ...]:
    return jnp.log(jnp.maximum(tokens, 1))
