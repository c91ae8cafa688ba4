"""What a sweep is evidence for: confidence intervals, paired comparisons, frontiers. The unit is the question.

A resampled question brings along all its shuffles and all rows of the sweep: they replay the same branches in the
same orders (common random numbers), so that their differences are paired.

A *curve* is what one controller offers: tokens and accuracy of its rows, in any order. Between two rows it is
interpolated linearly over log tokens, which stands for the βs between them, along the *envelope*: the best accuracy
within each number of tokens. Fewer than one token counts as one.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
from collections.abc import Iterator, Sequence
from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from jax import Array
from jaxtyping import Bool, Float32

from autotts_jax.errors import InputError
from autotts_jax.results import Results

__all__ = [
    "accuracy_at",
    "area",
    "areas",
    "bootstrap",
    "compare",
    "differences",
    "held_out",
    "holm",
    "hypervolume",
    "interval",
    "intervals",
    "p_value",
    "pareto",
    "tokens_at",
    "tokens_to_reach",
]

#: Differences up to this are ties: float32 rounding of accuracies and of log tokens.
_ROUNDING = 1e-6

# Resampled questions held at a time, 4 bytes each.
_CHUNK = 2**22


# --- resampling ------------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames="resamples")
def bootstrap(key: Array, values: Float32[Array, "Q M"], resamples: int) -> Float32[Array, "Kplus1 M"]:
    """Means over questions: first the observed ones, then those of K resamples of Q questions with replacement.

    Means of integers are exact, up to one rounding, while their sums are below 2²⁴.
    """
    questions = values.shape[0]

    def mean(counts: Float32[Array, " Q"]) -> Float32[Array, " M"]:
        return jnp.matmul(counts, values, precision=jax.lax.Precision.HIGHEST) / jnp.float32(questions)

    def resample(key: Array) -> Float32[Array, " M"]:
        drawn = jax.random.randint(key, (questions,), 0, questions, jnp.int32)
        return mean(jnp.zeros(questions, jnp.float32).at[drawn].add(jnp.float32(1)))

    chunk = min(resamples, max(1, _CHUNK // questions))
    draws = jax.lax.map(resample, jax.random.split(key, resamples), batch_size=chunk)
    return jnp.concatenate([mean(jnp.ones(questions, jnp.float32))[None], draws])


@functools.partial(jax.jit, static_argnames=("questions", "level"))
def interval(
    draws: Float32[Array, "K ..."], questions: int, level: float = 0.95
) -> tuple[Float32[Array, " ..."], Float32[Array, " ..."]]:
    """The expanded percentile interval of a bootstrap (Hesterberg 2015, The American Statistician 69(4)).

    With few questions, bootstrap percentiles lie too close together: the variance lacks the factor Q/(Q − 1), and is
    taken for known. Both are corrected by going further out, as far as Student's t would: for 30 questions, to the
    percentiles 1.9 and 98.1 instead of 2.5 and 97.5. Only the order of the draws matters: the interval of a logarithm
    is the logarithm of the interval, and ±∞ (never reached) is a value like any other. A NaN draw is uninformative
    and lies beyond both ends.
    """
    tail = NormalDist().cdf(-math.sqrt(questions / (questions - 1)) * _students_t(level, questions - 1))
    rank = math.floor(tail * (len(draws) - 1)) + 1
    last = jnp.moveaxis(draws, 0, -1)

    def top(values: Float32[Array, "... K"]) -> Float32[Array, " ..."]:
        # top_k, 15 times as fast as a sort. (Given its last entry instead of the least, XLA would sort after all.)
        return jax.lax.top_k(jnp.where(jnp.isnan(last), jnp.inf, values), rank)[0].min(axis=-1)

    return -top(-last), top(last)


def p_value(draws: Float32[Array, "K ..."], questions: int) -> Float32[Array, " ..."]:
    """Two-sided p-value of a difference of 0: one minus the level whose `interval` just reaches 0.

    Ties and NaN count on both sides. With K resamples no tail is smaller than 1/(K + 1).
    """
    unknown = jnp.isnan(draws)
    sides = jnp.stack([(draws <= _ROUNDING) | unknown, (draws >= -_ROUNDING) | unknown])
    tail = (1 + sides.sum(axis=1, dtype=jnp.int32).min(axis=0)).astype(jnp.float32) / jnp.float32(len(draws) + 1)
    z = jax.scipy.special.ndtri(jnp.minimum(tail, jnp.float32(0.5)))
    freedom = jnp.float32(questions - 1)
    t_squared = z**2 * freedom / jnp.float32(questions)
    p: Array = jax.scipy.special.betainc(freedom / 2, jnp.float32(0.5), freedom / (freedom + t_squared))
    return p


def holm(p: Float32[Array, " M"]) -> Float32[Array, " M"]:
    """p-values corrected for M tests (Holm 1979), which controls the family-wise error rate."""
    order = jnp.argsort(p)
    left = jnp.arange(len(p), 0, -1).astype(p.dtype)  # hypotheses not yet rejected
    corrected = jnp.minimum(jax.lax.cummax(p[order] * left), jnp.ones((), p.dtype))
    return jnp.zeros_like(p).at[order].set(corrected)


def _students_t(level: float, freedom: int) -> float:
    """Two-sided quantile (Abramowitz & Stegun 26.7.5): accurate to 1e-4 from 10 degrees of freedom."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))


def _log(tokens: Float32[Array, ...]) -> Float32[Array, ...]:
    """Log tokens. An episode that spends nothing counts as one that spends a token, lest it be infinitely cheap."""
    return jnp.log(jnp.maximum(tokens, jnp.ones((), tokens.dtype)))


# --- one curve -------------------------------------------------------------------------------------------------------


def _envelope(
    tokens: Float32[Array, " B"], accuracy: Float32[Array, " B"]
) -> tuple[Float32[Array, " B"], Float32[Array, " B"]]:
    """Log tokens in ascending order, and the best accuracy within each."""
    # XLA's CPU compiler compiles a sort of numbers and B² comparisons far faster than a sort of pairs.
    ascending = jnp.sort(tokens)
    return _log(ascending), jnp.max(jnp.where(tokens[None] <= ascending[:, None], accuracy[None], -jnp.inf), axis=1)


def tokens_at(
    tokens: Float32[Array, " B"], accuracy: Float32[Array, " B"], target: Float32[Array, ""]
) -> Float32[Array, ""]:
    """Fewest tokens that reach an accuracy: the cheapest row's if it already does, ∞ if none does."""
    x, y = _envelope(tokens, accuracy)
    reached = y >= target - _ROUNDING
    after = jnp.argmax(reached)
    before = jnp.maximum(after - 1, 0)
    rise = jnp.where(after > 0, y[after] - y[before], jnp.float32(1))
    share = jnp.clip((target - y[before]) / rise, 0, 1)
    return jnp.where(jnp.any(reached), jnp.exp(x[before] + share * (x[after] - x[before])), jnp.inf)


def accuracy_at(
    tokens: Float32[Array, " B"], accuracy: Float32[Array, " B"], budget: Float32[Array, ""]
) -> Float32[Array, ""]:
    """Best accuracy within a token budget; NaN below the cheapest row."""
    x, y = _envelope(tokens, accuracy)
    at = _log(budget)
    return jnp.where(at < x[0] - _ROUNDING, jnp.nan, jnp.interp(at, x, y))


def pareto(tokens: Float32[Array, " B"], accuracy: Float32[Array, " B"]) -> Bool[Array, " B"]:
    """Which points are Pareto-optimal: none is better in one of the two without being worse in the other."""
    no_worse = (tokens[:, None] <= tokens[None]) & (accuracy[:, None] >= accuracy[None])
    better = (tokens[:, None] < tokens[None]) | (accuracy[:, None] > accuracy[None])
    return ~jnp.any(no_worse & better, axis=0)


def area(
    tokens: Float32[Array, " B"],
    accuracy: Float32[Array, " B"],
    low: Float32[Array, ""],
    high: Float32[Array, ""],
) -> Float32[Array, ""]:
    """Mean accuracy of the envelope over log tokens from `low` to `high`; 0 below the cheapest row."""
    x, y = _envelope(tokens, accuracy)
    start, stop = jnp.maximum(_log(low), x[0]), _log(high)
    knots = jnp.clip(jnp.concatenate([start[None], x, stop[None]]), start, stop)
    wide = jnp.where(stop > _log(low), stop - _log(low), jnp.float32(1))
    return jnp.where(stop > _log(low), jnp.trapezoid(jnp.interp(knots, x, y), knots) / wide, y[-1])


def hypervolume(
    tokens: Float32[Array, " B"],
    accuracy: Float32[Array, " B"],
    reference: tuple[Float32[Array, ""], Float32[Array, ""]],
) -> Float32[Array, ""]:
    """The area that the points dominate, up to a reference (tokens, accuracy), in accuracy × e-folds of tokens.

    Without interpolation: between two points, a user gets the accuracy of the cheaper one.
    """
    x, y = _envelope(tokens, accuracy)
    stops = jnp.minimum(jnp.append(x[1:], jnp.inf), _log(reference[0]))
    return jnp.sum(jnp.maximum(stops - x, 0) * jnp.maximum(y - reference[1], 0))


# Vectorized over draws, and over curves or the points they are compared at.
_tokens_at = jax.jit(jnp.vectorize(tokens_at, signature="(b),(b),()->()"))
_accuracy_at = jax.jit(jnp.vectorize(accuracy_at, signature="(b),(b),()->()"))
_area = jax.jit(jnp.vectorize(area, signature="(b),(b),(),()->()"))
_hypervolume = jax.jit(
    jnp.vectorize(lambda t, a, tokens, accuracy: hypervolume(t, a, (tokens, accuracy)), signature="(b),(b),(),()->()")
)


# --- tables ----------------------------------------------------------------------------------------------------------


def intervals(results: Results, *, resamples: int = 10_000, level: float = 0.95, seed: int = 0) -> pa.Table:
    """Every row of a sweep with confidence intervals of its accuracy and tokens, clustered by question.

    `pareto` says whether the row is on its dataset's frontier, by point estimates. Arguments as for `compare`.

    Raises:
      InputError: if there is only one question, or `resamples` or `level` is out of range.
    """
    tables = []
    for sample in _samples(results, None, resamples, level, seed):
        on = np.asarray(pareto(sample.tokens[0], sample.accuracy[0]))
        tables.append(
            sample.table("accuracy", sample.accuracy) | sample.table("tokens", sample.tokens) | {"pareto": on}
        )
    ends = pa.concat_tables(map(pa.table, tables))
    heads = results.table.select(["dataset", "controller", "beta", "params", "questions", "accuracy", "tokens"])
    names = [*heads.column_names[:5], *ends.column_names]
    return pa.table({name: (heads if name in heads.column_names else ends)[name] for name in names})


def tokens_to_reach(
    results: Results,
    target: str | float,
    controllers: Sequence[str] | None = None,
    *,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> pa.Table:
    """Tokens that each controller needs to reach an accuracy, on each dataset.

    `target` is an accuracy from 0 to 1, or the row that has it, as in "self_consistency:samples=64"; that row's
    accuracy is resampled with the rest. `controllers` are curves, see `compare`; defaults to all controllers.

    Columns: dataset, controller, accuracy (the target), tokens, tokens_low, tokens_high (∞: not reached), and
    `never`, the share of resamples in which the accuracy is not reached.

    Raises:
      InputError: as `compare`.
    """
    curves = _curves(results, _names(results) if controllers is None else controllers)
    at = _row(results, target) if isinstance(target, str) else None
    if not isinstance(target, str) and not 0 <= target <= 1:
        raise InputError(f"target {target}: outside 0 to 1. Give an accuracy as a fraction.")
    tables = []
    for sample in _samples(results, None, resamples, level, seed):
        goal = jnp.float32(target) if at is None else sample.accuracy[:, at, None]
        needed = _tokens_at(*sample.of(curves), goal)
        tables.append(
            {
                "dataset": [sample.dataset] * len(curves),
                "controller": list(curves),
                "accuracy": np.full(len(curves), goal if at is None else goal[0], np.float64),
                **sample.table("tokens", needed),
                "never": np.isinf(needed[1:]).mean(axis=0),
            }
        )
    return pa.concat_tables(map(pa.table, tables))


def areas(
    results: Results,
    controllers: Sequence[str] | None = None,
    tokens: tuple[float, float] | None = None,
    *,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> pa.Table:
    """`area` and `hypervolume` (reference: the upper bound, accuracy 0) of each controller's curve on each dataset.

    `tokens` are the bounds; they default to where all curves have begun and where the last one ends.

    Raises:
      InputError: as `compare`.
    """
    if tokens is not None and not 0 < tokens[0] < tokens[1]:
        raise InputError(f"tokens {tokens}: not a range. Give a lower and an upper bound above 0.")
    curves = _curves(results, _names(results) if controllers is None else controllers)
    tables = []
    for sample in _samples(results, None, resamples, level, seed):
        offered, accuracy = sample.of(curves)
        # Resampled like the curves: with fixed bounds, a curve would now and then begin too late.
        low, high = (
            (offered.min(axis=2).max(axis=1)[:, None], offered.max(axis=(1, 2))[:, None])
            if tokens is None
            else map(jnp.float32, tokens)
        )
        tables.append(
            {
                "dataset": [sample.dataset] * len(curves),
                "controller": list(curves),
                **sample.table("area", _area(offered, accuracy, low, high)),
                **sample.table("hypervolume", _hypervolume(offered, accuracy, high, jnp.float32(0))),
            }
        )
    return pa.concat_tables(map(pa.table, tables))


def compare(
    results: Results,
    controller: str,
    baselines: Sequence[str] | None = None,
    datasets: Sequence[str] | None = None,
    *,
    at: str | None = None,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> pa.Table:
    """One controller against others, paired by question, at equal accuracy and at equal tokens.

    Args:
      results: Of one sweep, in which all controllers had the same questions and branch orders.
      controller: A curve: all rows of a setting, by its label, or, given parameters or ``beta``, the rows that have
        them, as in "parallel_probe:chains=64" or "confidence_momentum:beta=0.5".
      baselines: Curves; defaults to all other settings.
      datasets: By name; defaults to all.
      at: The row at whose accuracy, and at whose tokens, curves are compared. Defaults to each baseline's most
        expensive row, by its tokens over all questions of all datasets.
      resamples: Bootstrap resamples, at least 100.
      level: Level of the confidence intervals, which are not corrected for multiplicity.
      seed: Seed of the bootstrap.

    Returns:
      Two rows per dataset and baseline. ``at`` "equal accuracy": `effect` is the ratio of the controller's tokens to
      the baseline's (below 1: the controller is cheaper; ∞: it never gets there; 0: the baseline never does; null:
      neither does). ``at`` "equal tokens": the difference in accuracy (above 0: the controller is better; null where
      one cannot run on so few tokens).
      Then `low`, `high`, `p`, and `p_corrected` by `holm` over all rows of this table.

    Raises:
      InputError: if a name is not in the results, there is only one question, or a number is out of range.
    """
    if baselines is None:
        baselines = _others(results, controller)
    if not baselines:
        raise InputError("baselines: none. Sweep at least one other controller, or name one.")
    curves = _curves(results, [controller, *baselines])
    total = np.asarray(results.sums["tokens"]).sum(axis=1)
    anchors = np.array(
        [max(curves[name], key=lambda row: total[row]) if at is None else _row(results, at) for name in baselines]
    )
    tables, p_values = [], []
    for sample in _samples(results, datasets, resamples, level, seed):
        # The controller once for each baseline, then the baselines: one program for all.
        both = sample.of(curves, [controller] * len(baselines) + [*baselines])
        accuracy, tokens = (jnp.tile(values[:, anchors], 2) for values in (sample.accuracy, sample.tokens))
        mine, theirs = jnp.split(jnp.log(_tokens_at(*both, accuracy)), 2, axis=1)
        factor = mine - theirs
        mine, theirs = jnp.split(_accuracy_at(*both, tokens), 2, axis=1)
        gain = mine - theirs
        for kind, draws, shown in (("accuracy", factor, np.exp), ("tokens", gain, np.positive)):
            effect, low, high = map(shown, sample.table("effect", draws).values())
            tables.append(
                {
                    "dataset": [sample.dataset] * len(baselines),
                    "controller": [controller] * len(baselines),
                    "baseline": list(baselines),
                    "at": [f"equal {kind}"] * len(baselines),
                    "effect": pa.array(effect, from_pandas=True),  # NaN is null
                    "low": low,
                    "high": high,
                }
            )
            p_values.append(p_value(draws[1:], sample.questions))
    table, p = pa.concat_tables(map(pa.table, tables)), jnp.concatenate(p_values)
    for name, values in (("p", p), ("p_corrected", holm(p))):
        table = table.append_column(name, pa.array(np.float64(values)))
    return table


def differences(
    results: Results,
    reference: str,
    controllers: Sequence[str] | None = None,
    *,
    budgets: Sequence[float] | None = None,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> pa.Table:
    """How much more accurate controllers are than a reference at equal tokens, along their whole curves.

    As `compare` at equal tokens, but at many budgets and without p-values, for figures.

    Args:
      results: Of one sweep.
      reference: A curve, see `compare`.
      controllers: Curves to compare with it; defaults to all other settings.
      budgets: Tokens per episode. Defaults, for each dataset, to 33 from the cheapest of these rows to the dearest,
        evenly spaced over log tokens.
      resamples: As for `compare`; so are `level` and `seed`. Each interval is of one budget.
      level: See there.
      seed: See there.

    Returns:
      One row per dataset, controller and budget: dataset, controller, reference, tokens, then `difference` in accuracy
      (above 0: the controller is better; null where one of the two cannot run on so few tokens), `low` and `high`
      (−∞ and ∞ where too many resamples cannot).

    Raises:
      InputError: as `compare`.
    """
    if controllers is None:
        controllers = _others(results, reference)
    if not controllers:
        raise InputError("controllers: none. Sweep at least one other controller, or name one.")
    if budgets is not None and not all(0 < budget < math.inf for budget in budgets):
        raise InputError("budgets: not tokens. Give numbers above 0.")
    curves = _curves(results, [reference, *controllers])
    tables = []
    for sample in _samples(results, None, resamples, level, seed):
        tokens, accuracy = sample.of(curves, [reference, *controllers])
        if budgets is None:
            observed = np.maximum(tokens[0], 1)
            grid = np.geomspace(observed.min(), observed.max(), 33)
        else:
            grid = np.asarray(budgets, np.float64)
        # [K + 1, C, budgets]
        reached = _accuracy_at(tokens[:, :, None], accuracy[:, :, None], jnp.asarray(grid, jnp.float32)[None, None])
        gain, low, high = sample.table("difference", reached[:, 1:] - reached[:, :1]).values()
        count = len(controllers) * len(grid)
        tables.append(
            {
                "dataset": [sample.dataset] * count,
                "controller": np.repeat(list(controllers), len(grid)),
                "reference": [reference] * count,
                "tokens": np.tile(grid, len(controllers)),
                "difference": pa.array(gain.ravel(), from_pandas=True),  # NaN is null
                "low": low.ravel(),
                "high": high.ravel(),
            }
        )
    return pa.concat_tables(map(pa.table, tables))


def held_out(
    results: Results,
    search: Sequence[str],
    report: Sequence[str],
    tokens: float | None = None,
    *,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> pa.Table:
    """Picks each controller's best row on the `search` datasets, and reports it on the `report` datasets.

    The best row has the highest mean accuracy over `search` among those that take at most `tokens` there on average.
    The table has the columns of `intervals`, plus `search_accuracy` and `search_tokens`.

    Raises:
      InputError: as `compare`, or if a dataset is in both, or no row takes so few tokens.
    """
    both = set(search) & set(report)
    if both:
        raise InputError(f"dataset {min(both)}: both searched and reported. Drop it from one of them.")
    parts, size = dict(results.slices()), len(results.rows)
    inside = [parts[_known(name, parts)] for name in search]
    if not inside:
        raise InputError("search: no dataset. Name at least one.")
    accuracy, spent = (
        np.mean([results.sums[field][:, part].mean(axis=1) for part in inside], axis=0) / results.shuffles
        for field in ("correct", "tokens")
    )
    chosen = []
    for name, rows in _curves(results, _names(results)).items():
        allowed = [row for row in rows if tokens is None or spent[row] <= tokens]
        if not allowed:
            raise InputError(f"tokens {tokens:g}: {name} takes at least {min(spent[rows]):.0f}. Allow more.")
        chosen.append(max(allowed, key=lambda row: (accuracy[row], -spent[row])))
    table = intervals(results, resamples=resamples, level=level, seed=seed)
    order = list(parts)
    taken = table.take([order.index(_known(name, parts)) * size + row for name in report for row in chosen])
    for name, values in (("search_accuracy", accuracy), ("search_tokens", spent)):
        taken = taken.append_column(name, pa.array(np.tile(values[chosen], len(report))))
    return taken


# --- what the tables are made of -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class _Sample:
    """A dataset's rows: as observed, then as resampled."""

    dataset: str
    questions: int
    level: float
    tokens: Float32[Array, "Kplus1 R"]
    accuracy: Float32[Array, "Kplus1 R"]

    def of(self, curves: dict[str, list[int]], names: Sequence[str] | None = None) -> tuple[Array, Array]:
        """Tokens and accuracy of curves, each ``[K + 1, C, B]``."""
        chosen = [curves[name] for name in (curves if names is None else names)]
        most = max(map(len, chosen))
        # Repeating a row changes no curve, and curves of equal length share a program.
        rows = np.array([[*curve, *[curve[-1]] * (most - len(curve))] for curve in chosen])
        return self.tokens[:, rows], self.accuracy[:, rows]

    def table(self, name: str, values: Float32[Array, "Kplus1 M"]) -> dict[str, np.ndarray]:
        """Columns with the observed values and the ends of their confidence intervals."""
        columns = (values[0], *interval(values[1:], self.questions, self.level))
        ends = (name, f"{name}_low", f"{name}_high")
        return {end: np.asarray(column, np.float64) for end, column in zip(ends, columns, strict=True)}


def _samples(
    results: Results, datasets: Sequence[str] | None, resamples: int, level: float, seed: int
) -> Iterator[_Sample]:
    """The datasets, resampled. Those of equal size are resampled alike, such as several models on one benchmark."""
    if resamples < 100:
        raise InputError(f"resamples {resamples}: too few for an interval. Use at least 100.")
    if not 0 < level < 1:
        raise InputError(f"level {level}: outside 0 to 1. Use 0.95, say.")
    parts = dict(results.slices())
    for name in parts if datasets is None else [_known(name, parts) for name in datasets]:
        sums = [np.asarray(results.sums[field])[:, parts[name]] for field in ("tokens", "correct")]
        questions = sums[0].shape[1]
        if questions < 2:
            raise InputError(f"dataset {name}: a single question, which says nothing about others. Use more.")
        means = bootstrap(jax.random.key(seed), jnp.asarray(np.concatenate(sums).T, jnp.float32), resamples)
        tokens, accuracy = jnp.split(means / jnp.float32(results.shuffles), 2, axis=1)
        yield _Sample(name, questions, level, tokens, accuracy)


def _known(dataset: str, parts: dict[str, slice]) -> str:
    if dataset not in parts:
        raise InputError(f"dataset {dataset!r}: not in these results. Use one of {', '.join(parts)}.")
    return dataset


def _names(results: Results) -> list[str]:
    return list(dict.fromkeys(row.label for row in results.rows))


def _others(results: Results, text: str) -> list[str]:
    """The labels but that of a curve."""
    (chosen,) = {results.rows[row].label for row in _curves(results, [text])[text]}
    return [label for label in _names(results) if label != chosen]


def _curves(results: Results, texts: Sequence[str]) -> dict[str, list[int]]:
    """Indices of the rows that each ``LABEL[:key=value,…]`` selects."""
    curves: dict[str, list[int]] = {}
    labels = _names(results)
    for text in texts:
        # A label may hold colons and commas itself.
        label = max((name for name in labels if re.match(f"{re.escape(name)}([:,]|$)", text)), key=len, default=None)
        if label is None:
            raise InputError(f"controller {text!r}: not in these results. Use one of {', '.join(labels)}.")
        try:
            pairs = re.split("[:,]", text[len(label) + 1 :]) if text != label else []
            wanted = {key: float(value) for key, _, value in (pair.partition("=") for pair in pairs)}
        except ValueError:
            raise InputError(f"controller {text}: not understood. Write {label}:key=value,key=value.") from None
        curves[text] = [
            index
            for index, row in enumerate(results.rows)
            if row.label == label and wanted.items() <= (json.loads(row.described()) | {"beta": row.beta}).items()
        ]
        if not curves[text]:
            raise InputError(f"controller {text}: no row has these parameters. Sweep it too, or choose another.")
    return curves


def _row(results: Results, text: str) -> int:
    """The one row that a text selects."""
    rows = _curves(results, [text])[text]
    if len({results.rows[row].described() for row in rows}) > 1:
        raise InputError(f"controller {text}: {len(rows)} different rows. Say which, as in {text}:beta=1.")
    return rows[0]
