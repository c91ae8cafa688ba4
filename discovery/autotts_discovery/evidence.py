"""What the search set says of a run's candidates, once luck is allowed for; all from means by question.

The best of many candidates was chosen on the questions that show its gain, so that gain is too high. `corrected`
redoes the choice on bootstrap samples of the questions, and judges what it chose on the questions that are not in the
sample: the mean over samples is what the choice is worth (the bias-corrected bootstrap of Tsamardinos, Greasidou and
Borboudakis 2018, Machine Learning 107). It errs on the low side: a sample has fewer questions to choose by.

Tuning fits questions, too, and cannot be redone here. What it is credited with is what it gained on questions that it
did not see: see `gaps`, and `Ledger.lower`.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from jax import Array
from jaxtyping import Bool, Float32, Int32, Key

from autotts_discovery.evaluations import References, kept_means, kept_references
from autotts_discovery.fitness import Means, Terms, bar_of, fitness, means_of
from autotts_discovery.ledger import Benched, Ledger, transferred
from autotts_jax.errors import InputError, check_seed, check_whole
from autotts_jax.failures import Failure, Watched
from autotts_jax.frontier import interval
from autotts_jax.replay import AnyArray

__all__ = [
    "Correction",
    "Gap",
    "Loss",
    "choose_again",
    "corrected",
    "correction",
    "gaps",
    "losses",
    "sentence",
    "told",
]

#: Questions that a proposer is told of.
_TOLD = 6


class Correction(pydantic.BaseModel, frozen=True, extra="forbid"):
    """What a run's best candidate gains on the search set; gains are fractions, 0.01 is one point of accuracy.

    Attributes:
      candidate: The best candidate's digest.
      candidates: Judged ones that it was chosen from.
      seen: Its gain as seen.
      cross_fitted: The same, with no more credit for tuning than it gained on questions that it did not see.
      gain: The cross-fitted gain, corrected for choosing the best of so many.
      low: The lower end of an interval of `gain`.
      high: The upper end.
      level: Of the interval.
      resamples: Bootstrap samples of the questions.
    """

    candidate: str
    candidates: int
    seen: pydantic.FiniteFloat
    cross_fitted: pydantic.FiniteFloat
    gain: pydantic.FiniteFloat
    low: pydantic.FiniteFloat
    high: pydantic.FiniteFloat
    level: float
    resamples: int


class Gap(NamedTuple):
    """What tuning gained on the questions that it searched and on the others, over its splits; and both of them.

    Attributes:
      candidate: The digest of the candidate that was tuned.
      seen: Gained on the halves that were searched.
      unseen: Gained on the other halves: cross-fitted.
    """

    candidate: str
    seen: float
    unseen: float


class Draws(NamedTuple):
    """What choosing again gives, for N candidates on K samples; credited gains, see `choose_again`."""

    observed: Float32[Array, " N"]  # on all questions
    within: Float32[Array, "K N"]  # on the sample
    outside: Float32[Array, "K N"]  # on the questions that are not in it
    chosen: Int32[Array, " K"]
    usable: Bool[Array, " K"]  # whether any question is not in it


def corrected(run: str | Path | Ledger, *, resamples: int = 500, level: float = 0.95, seed: int = 0) -> Correction:
    """The gain of a run's best candidate, corrected for choosing the best of all that were judged.

    The interval is that of the chosen one's own gain, by the same samples of questions, moved to the corrected gain.

    Args:
      run: The run's directory, or its ledger.
      resamples: Bootstrap samples, at least 100.
      level: Level of the interval.
      seed: Of the samples.

    Raises:
      InputError: if there is no such run, nothing was judged, its evaluations were not kept or are damaged, or the
        search data are a single question.
    """
    ledger = run if isinstance(run, Ledger) else Ledger(Path(run))
    check_whole("resamples", resamples, 100, 1_000_000)
    if not 0 < level < 1:
        raise InputError(f"level {level}: outside 0 to 1. Use 0.95, say.")
    if ledger.best is None:
        raise InputError(f"{ledger.directory}: no candidate was judged. Go on with the run by --resume.")
    places = [place for place, fate in ledger.fates.items() if fate.full]
    references, found = _kept(ledger, places)
    if len(references.clusters) < 2:
        raise InputError("data: a single question, which says nothing about others. Search on more.")
    parents, credits, errors = [], [], []
    for number, place in enumerate(places):
        figures, full = ledger.tuning_of(place), ledger.fates[place].full
        assert full is not None
        parents.append(number if figures is None else places.index(place[:-1]))
        credits.append(np.inf if figures is None else transferred(figures))
        errors.append(full.verdict["gain_se"])
    # One program for so many candidates or fewer; what fills up the places is never chosen.
    fill = (0, 2 ** max(5, (len(places) - 1).bit_length()) - len(places))
    draws = choose_again(
        jax.tree.map(lambda values: np.pad(values, [fill, (0, 0), (0, 0)], mode="edge"), found),
        np.pad(np.array(errors, np.float32), fill, constant_values=np.inf),
        np.pad(np.array(parents, np.int32), fill),
        np.pad(np.array(credits, np.float32), fill, constant_values=np.inf),
        references.means,
        references.start,
        references.budgets,
        references.member,
        references.clusters,
        jax.random.key(check_seed(seed)),
        terms=Terms(latency=ledger.begun.settings.latency),
        resamples=resamples,
    )
    best = places.index(ledger.best.proposed.place)
    gain, low, high = correction(draws, best, len(references.clusters), level)
    assert ledger.best.full is not None
    return Correction(
        candidate=ledger.best.proposed.candidate,
        candidates=len(places),
        seen=ledger.best.full.verdict["gain"],
        cross_fitted=float(draws.observed[best]),
        gain=gain,
        low=low,
        high=high,
        level=level,
        resamples=resamples,
    )


@functools.partial(jax.jit, static_argnames=("terms", "resamples"))
def choose_again(
    found: Means,
    errors: Float32[AnyArray, " N"],
    parents: Int32[AnyArray, " N"],
    credits: Float32[AnyArray, " N"],
    references: Means,
    start: Means,
    budgets: Float32[AnyArray, "D G"],
    member: Float32[AnyArray, "D Q"],
    clusters: Float32[AnyArray, "C Q"],
    key: Key[Array, ""],
    *,
    terms: Terms,
    resamples: int,
) -> Draws:
    """Redoes the choice of the best candidate on bootstrap samples of the clusters, references and all.

    As in the run, the choice is by lower bound, gain − standard error − penalty, and what was tuned is credited with
    no more than its parent plus what tuning gained on questions that it did not see. The standard errors are those on
    all questions.

    Args:
      found: Means by question of N candidates, ``[N, P, Q]``.
      errors: Standard errors of their gains; ∞ for one that is never to be chosen.
      parents: Of each that was tuned, the number of the one that it was made from; of others, their own.
      credits: What tuning gained on questions that it did not see; ∞ for what was not tuned.
      references: As for `fitness.assess`; so are the others.
      start: See there.
      budgets: See there.
      member: See there.
      clusters: See there.
      key: Of the samples.
      terms: What counts.
      resamples: K.
    """

    def credited(values: Float32[Array, " N"]) -> Float32[Array, " N"]:
        return jnp.minimum(values, values[parents] + credits)

    def gains(times: Float32[Array, " C"]) -> tuple[Float32[Array, " N"], Float32[Array, " N"]]:
        """Gains and lower bounds with each cluster so many times."""
        some = member * jnp.matmul(times, clusters, precision=jax.lax.Precision.HIGHEST)[None]
        bar = bar_of(references, start, budgets, some, terms)
        score = jax.vmap(lambda one: fitness(means_of(one, some), bar, terms))(found)
        return credited(score.gain), credited(score.gain - score.penalty - errors)

    def one(times: Float32[Array, " C"]) -> tuple[Array, Array, Array, Array]:
        left = (times == 0).astype(jnp.float32)
        (within, outside), (lower, _) = jax.vmap(gains)(jnp.stack([times, left]))
        return within, outside, jnp.argmax(lower).astype(jnp.int32), jnp.any(left > 0)

    count = len(clusters)
    drawn = jax.random.randint(key, (resamples, count), 0, count, jnp.int32)
    times = jax.vmap(lambda each: jnp.zeros(count, jnp.float32).at[each].add(jnp.float32(1)))(drawn)
    # The first one is all questions, once each.
    every = jnp.concatenate([jnp.ones((1, count), jnp.float32), times])
    within, outside, chosen, usable = jax.lax.map(one, every)
    return Draws(within[0], within[1:], outside[1:], chosen[1:], usable[1:])


def correction(draws: Draws, best: int, clusters: int, level: float) -> tuple[float, float, float]:
    """The corrected gain, and an interval of it.

    With fewer questions curves are noisier, and the envelope of many is higher, which has nothing to do with the
    choice. So each candidate's gains outside the samples are moved until their mean is its gain on all questions.
    """
    observed, within, outside, chosen, usable = jax.device_get(draws)
    moved = outside[usable] - outside[usable].mean(axis=0) + observed
    gain = float(np.take_along_axis(moved, chosen[usable][:, None], axis=1).mean())
    low, high = interval(jnp.asarray(within[:, best] - within[:, best].mean()), clusters, level)
    return gain, gain + float(low), gain + float(high)


def sentence(found: Correction) -> str:
    """A correction in words."""
    fitted = found.seen - found.cross_fitted > 1e-6  # more than rounding
    cross_fitted = f", cross-fitted {100 * found.cross_fitted:+.2f}" if fitted else ""
    return (
        f"Seen {100 * found.seen:+.2f} points{cross_fitted}, corrected for choosing the best of {found.candidates} "
        f"{100 * found.gain:+.2f} ({100 * found.level:g} %: {100 * found.low:+.2f} … {100 * found.high:+.2f})."
    )


def gaps(run: str | Path | Ledger) -> list[Gap]:
    """How much of what tuning gains is gone on questions that it did not see, for each candidate that was tuned."""
    ledger = run if isinstance(run, Ledger) else Ledger(Path(run))
    found = []
    for fate in ledger.fates.values():
        if fate.tuned is not None and "curve" in fate.tuned.figures:
            (seen, unseen), (later, elsewhere) = fate.tuned.figures["curve"][0], fate.tuned.figures["curve"][-1]
            found.append(Gap(fate.proposed.candidate, later - seen, elsewhere - unseen))
    return found


def _kept(ledger: Ledger, places: Sequence[str]) -> tuple[References, Means]:
    """The references of a run, and the means by question of some candidates, ``[N, P, Q]``."""
    benched = ledger.of(Benched)
    digests = [full.means for place in places if (full := ledger.fates[place].full)]
    if not benched or not all(digests):
        raise InputError(
            f"{ledger.directory}: judged before means by question were kept, so nothing can be corrected. Start "
            "another run."
        )
    references = kept_references(ledger.directory, benched[-1].means)
    each = [kept_means(ledger.directory, digest, references) for digest in digests]
    return references, jax.tree.map(lambda *values: np.stack(values), *each)


# --- by question -----------------------------------------------------------------------------------------------------


class Loss(NamedTuple):
    """How a candidate does on a question against the best reference within as many tokens, mean over β.

    Attributes:
      question: Its number.
      accuracy: The candidate's.
      best: The references'.
      reference: The one that it most often is; empty if it is reading one branch.
    """

    question: int
    accuracy: float
    best: float
    reference: str


def losses(means: Means, references: References) -> list[Loss]:
    """All questions, the worst loss first.

    At each β, what the candidate takes on average on a dataset buys one reference there: the row of the highest
    accuracy within so many tokens, or reading one branch.
    """
    accuracy = np.asarray(means.accuracy)
    names = ["", *(name for name in references.names for _ in references.betas)]
    best = np.zeros_like(accuracy)
    bought: list[collections.Counter[str]] = [collections.Counter() for _ in accuracy.T]
    for mine in references.member > 0:
        offered, price = (
            np.concatenate([start[:, mine], rows[..., mine].reshape(-1, mine.sum())])
            for start, rows in (
                (references.start.accuracy, references.means.accuracy),
                (references.start.tokens, references.means.tokens),
            )
        )
        price[0] = 0  # a smaller budget counts as one branch
        for beta, tokens in enumerate(np.asarray(means.tokens)[:, mine].mean(axis=1)):
            affordable = np.where(price.mean(axis=1) <= tokens, offered.mean(axis=1), -1)
            row = int(np.argmax(affordable))
            best[beta, mine] = offered[row]
            for question in np.flatnonzero(mine):
                bought[question][names[row]] += 1
    found = [
        Loss(
            question, float(accuracy[:, question].mean()), float(best[:, question].mean()), counts.most_common(1)[0][0]
        )
        for question, counts in enumerate(bought)
    ]
    return sorted(found, key=lambda loss: loss.accuracy - loss.best)


def told(found: Sequence[Loss], watched: Watched, beta: float) -> tuple[str, list[int]]:
    """A few lines on where a candidate loses, with an episode of each question that was watched, at one β.

    Returns:
      The text, and the questions that it tells of.
    """
    lost = [loss for loss in found if loss.accuracy < loss.best][:_TOLD]
    lines = ["against the best hand-made controllers within as many tokens, mean over β:"]
    for loss in lost:
        failures = np.asarray(watched.failure[loss.question])
        wrong = np.flatnonzero(failures)
        episode = ""
        if wrong.size:
            reason = Failure(int(failures[wrong[0]])).name.lower().replace("_", " ")
            episode = f"; in shuffle {wrong[0]} at β = {beta:g}: {reason}"
        lines.append(
            f"  lost on question {loss.question}: {loss.accuracy:.0%} right instead of {loss.best:.0%} "
            f"({loss.reference or 'one branch'}){episode}"
        )
    won = [loss for loss in reversed(found) if loss.accuracy > loss.best][:_TOLD]
    lines += [
        "  won on questions "
        + ", ".join(f"{loss.question} ({loss.accuracy:.0%} instead of {loss.best:.0%})" for loss in won)
    ] * bool(won)
    alike = len(found) - sum(loss.accuracy != loss.best for loss in found)
    lines.append(f"  alike on {alike} of {len(found)}")
    return "\n".join(lines) + "\n", [loss.question for loss in lost]
