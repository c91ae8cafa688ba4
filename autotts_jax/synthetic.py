"""Realistic trajectories without a model: a generator, and presets fitted to recorded trajectories.

A `QuestionModel` describes in some hundred numbers how the branches of one question come out. `fit` measures these
numbers on recorded trajectories, `generate` draws branches from them. The presets are fits of the public AutoTTS
release (arXiv 2605.08083), four Qwen3 models on AIME 2024 and 2025; they hold numbers only, no texts and no
answers. ``python -m autotts_jax.synthetic REPLAY_DIRECTORY > presets.json`` makes them from the release's
``<model>/<benchmark>.json``. NumPy only, no JAX.

How a branch is drawn:

1. *Where it ends*: on the gold answer, a rival, ``ERR``, ``No`` or one of many other answers, by the
   question's shares. These are met to within one branch, so that a question is equally hard under every seed.
2. *Its length*: log-normal, with a median and a spread for each of these ends. Right branches are mostly
   shorter, so a controller that trusts early finishers can beat a vote of all.
3. *Its probes*: they lag behind the tokens, by a share that varies a little between branches, so that
   ``tokens − Δ · probes`` ranges from −Δ to some thousands.
4. *When it settles*: after a fraction of its probes, from quantiles for right and for wrong branches.
5. *What a probe shows*: there are four phases, three equal ones until the branch settles, and settled. Some
   probes repeat the one before; of the rest, some show the branch's final answer; the others follow the
   question's distribution for this phase, the same for all its branches.

What it leaves out: before it settles, a recorded branch keeps returning to wrong answers of its own; a drawn one
favours no answer but its final one. This affects methods that vote on unfinished branches: Parallel-Probe's
accuracy differs by up to four points from that on the recorded trajectories, that of the others by less than two.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import json
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int, Int32

from autotts_jax import trajectories
from autotts_jax.errors import PresetError, check_seed
from autotts_jax.trajectories import UNPARSABLE, Question, Trajectories

__all__ = ["PRESETS", "Preset", "QuestionModel", "fit", "generate", "load_preset"]

#: Names of the presets.
PRESETS = tuple(
    f"Qwen3-{size}/{benchmark}" for size in ("0.6B", "1.7B", "4B", "8B") for benchmark in ("aime24", "aime25")
)

# The columns of a question's answers; its rivals follow.
_GOLD, _ERR, _NO, _OTHER, _RIVALS = range(5)

#: Rivals that `fit` distinguishes; all further wrong answers are the others.
_FITTED_RIVALS = 6
_FITTED_PHASES = 4
_FITTED_QUANTILES = 5

_GRID = np.linspace(0.0, 1.0, 1025)[1:-1]
_NORMAL = np.array([statistics.NormalDist().inv_cdf(p) for p in _GRID])


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class QuestionModel:
    """How the branches of one question come out.

    The C columns of answers are the gold answer, ``ERR``, ``No``, the others (many, each of them rare), and
    then the rivals, wrong answers with a column of their own. The last of the P phases is that of settled
    branches; those before it divide the way there equally.

    Attributes:
      delta: Δ, tokens per interval.
      shares: ``[C]`` share of the branches that end on each column.
      length: ``[C]`` median tokens of the branches that end there.
      spread: ``[C]`` standard deviation of the logarithm of these tokens.
      tokens: Least and most tokens of a branch; lengths are clipped to them, as by a recording's limit.
      probes: Least and most probes of a branch.
      clock: Δ · probes is about ``clock[0] + clock[1] · tokens``; ``clock[2]`` is the standard deviation,
        over branches, of the slope ``clock[1]``.
      settling: ``[2, K]`` quantiles, evenly spaced from the least to the greatest, of the fraction of its
        probes after which a branch settles; for right branches, then for wrong ones.
      repeat: ``[P]`` probability that a probe shows what the one before it showed.
      own: ``[P]`` probability that any other probe shows its branch's final answer.
      shown: ``[P, C]`` distribution of what the remaining probes show.
      others: Answers in the column of others; the i-th is drawn with a probability of about ``1 / √i``.
    """

    delta: int
    shares: Float64[np.ndarray, " C"]
    length: Float64[np.ndarray, " C"]
    spread: Float64[np.ndarray, " C"]
    tokens: tuple[int, int]
    probes: tuple[int, int]
    clock: Float64[np.ndarray, " 3"]
    settling: Float64[np.ndarray, "2 K"]
    repeat: Float64[np.ndarray, " P"]
    own: Float64[np.ndarray, " P"]
    shown: Float64[np.ndarray, "P C"]
    others: int


@dataclasses.dataclass(frozen=True, eq=False)
class Preset:
    """The figures of one model on one benchmark.

    Attributes:
      name: ``<model>/<benchmark>``.
      questions: One model per question, at least one.
    """

    name: str
    questions: Sequence[QuestionModel]


def load_preset(name: str) -> Preset:
    """The preset of this name, one of `PRESETS`.

    Raises:
      PresetError: if there is none.
    """
    if name not in PRESETS:
        raise PresetError(f"no preset {name!r}. Use one of {', '.join(PRESETS)}, or `fit` one.")
    return _presets()[name]


def generate(
    preset: str | Preset = "Qwen3-8B/aime24",
    *,
    questions: int = 30,
    branches: int | Sequence[int] = 128,
    seed: int = 0,
) -> Trajectories:
    """Draws trajectories that resemble recorded ones.

    Args:
      preset: Its name, or the preset itself.
      questions: How many. The preset's question models are used in order, in as many full passes as fit; the rest of
        the questions use different models, drawn by the seed, in order. A model used twice gives two questions
        with different answers and branches.
      branches: How many each question has: one number, or one per question.
      seed: The same seed gives the same trajectories. Question i depends on its model, its number of
        branches, the seed and i, not on the other questions.

    Raises:
      PresetError: if there is no such preset or a number is less than 1.
      InputError: if the seed is not a whole number from 0 to 2³² − 1.
    """
    seed = check_seed(seed)
    figures = preset if isinstance(preset, Preset) else load_preset(preset)
    counts = [branches] * questions if isinstance(branches, int) else list(branches)
    if questions < 1 or len(counts) != questions or min(counts) < 1:
        raise PresetError(
            f"{questions} questions with {branches} branches cannot be drawn. Request at least one question "
            "and at least one branch: give one number, or one per question."
        )
    models = len(figures.questions)
    whole, rest = divmod(questions, models)
    picked = np.random.default_rng([seed, questions]).permutation(models)[:rest]
    rows = [*np.tile(np.arange(models), whole), *np.sort(picked)]
    return Trajectories(
        [
            _draw(
                figures.questions[row],
                count,
                f"Synthetic question {index} of seed {seed}, after question {row} of {figures.name}",
                np.random.default_rng([seed, 0, index]),
            )
            for index, (row, count) in enumerate(zip(rows, counts, strict=True))
        ],
        model="synthetic",
        benchmark=figures.name.replace("/", "-"),
        sampling={"preset": figures.name, "seed": seed},
    )


def fit(recorded: Trajectories) -> Preset:
    """Fits a preset to recorded trajectories, from which `generate` draws similar ones."""
    return Preset(recorded.name, [_measure(question, recorded.unparsable) for question in recorded.questions])


# --- drawing ------------------------------------------------------------------------------------------------


def _draw(model: QuestionModel, N: int, text: str, rng: np.random.Generator) -> Question:
    ends = _ends(model, N, rng)
    tokens, probes = _lengths(model, ends, rng)
    ids = _show(model, ends, probes, rng)
    shuffle = rng.permutation(N)
    ids, tokens, probes = ids[shuffle], tokens[shuffle], probes[shuffle]

    # Ids become strings like the benchmarks' answers: numbers below 1000, while these suffice.
    pool = len(model.shares) + model.others
    strings = rng.permutation(max(1000, pool))[:pool].astype(str).astype(object)
    strings[[_ERR, _NO]] = UNPARSABLE[0], "No"
    there = ids >= 0
    used, first, position = np.unique(ids[there], return_index=True, return_inverse=True)
    by_appearance = np.argsort(first)
    answers = np.full(ids.shape, -1, np.int32)
    answers[there] = np.argsort(by_appearance)[position]
    return Question(
        text=text,
        gold=strings[_GOLD],
        delta=model.delta,
        choices=tuple(strings[used[by_appearance]]),
        answers=answers,
        intervals=(probes + 1).astype(np.int32),
        tokens=tokens.astype(np.int32),
    )


def _ends(model: QuestionModel, N: int, rng: np.random.Generator) -> Int[np.ndarray, " N"]:
    """The column that each branch ends on, ascending."""
    bounds = np.cumsum(model.shares)
    # Systematic sampling: equidistant points under one random shift hit each share in proportion to its size.
    points = (np.arange(N) + rng.random()) / N
    return np.searchsorted(bounds[:-1] / bounds[-1], points, side="right")


def _lengths(
    model: QuestionModel, ends: Int[np.ndarray, " N"], rng: np.random.Generator
) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]]:
    """Tokens and probes of each branch."""
    normal = np.interp(_stratified(ends, rng), _GRID, _NORMAL)
    tokens = model.length[ends] * np.exp(model.spread[ends] * normal)
    tokens = np.clip(tokens, *model.tokens).astype(int)
    offset, slope, deviation = model.clock
    probed = offset + (slope + deviation * rng.standard_normal(len(ends))) * tokens
    least, most = model.probes
    # Recorded probes are never ahead of the tokens by more than the interval that was begun.
    probes = np.clip(probed // model.delta, least, np.minimum(most, tokens // model.delta + 1))
    return tokens, probes.astype(int)


def _show(
    model: QuestionModel, ends: Int[np.ndarray, " N"], probes: Int[np.ndarray, " N"], rng: np.random.Generator
) -> Int[np.ndarray, "N D"]:
    """What each interval reveals: an answer's column, or a number after the columns for others; −1 beyond."""
    P, C = model.shown.shape
    shape = (len(ends), int(probes.max()) + 1)

    def identify(columns: Int[np.ndarray, "*S"]) -> Int[np.ndarray, "*S"]:
        others = C + (model.others * rng.random(columns.shape) ** 2).astype(int)
        return np.where(columns == _OTHER, others, columns)

    finals = identify(ends)[:, None]
    grid = np.linspace(0.0, 1.0, model.settling.shape[1])
    right, wrong = (np.interp(_stratified(ends, rng), grid, quantiles) for quantiles in model.settling)
    settled = np.rint(np.where(ends == _GOLD, right, wrong) * probes)[:, None]
    depth = np.arange(shape[1])
    phase = np.where(depth < settled, (P - 1) * depth // np.maximum(settled, 1), P - 1).astype(int)

    # One sorted table for all phases: phase p's distribution lies between p and p + 1.
    table = np.cumsum(model.shown, axis=1)
    table = np.arange(P)[:, None] + table / table[:, -1:]
    columns = np.searchsorted(table.ravel(), phase + rng.random(shape), side="right") - C * phase
    fresh = np.where(rng.random(shape) < model.own[phase], finals, identify(np.minimum(columns, C - 1)))
    repeats = (rng.random(shape) < model.repeat[phase]) & (depth > 0)
    source = np.maximum.accumulate(np.where(repeats, 0, depth), axis=1)
    ids = np.take_along_axis(fresh, source, axis=1)
    # The last probe always shows the final answer.
    ids = np.where(depth >= probes[:, None] - 1, finals, ids)
    return np.where(depth <= probes[:, None], ids, -1)


def _stratified(groups: Int[np.ndarray, " N"], rng: np.random.Generator) -> Float64[np.ndarray, " N"]:
    """Uniform numbers in (0, 1), evenly spread within each group of equal (ascending) values.

    Even a few branches then have the mean and the extremes of their distribution.
    """
    N = len(groups)
    rank = np.empty(N, int)
    rank[np.lexsort((rng.random(N), groups))] = np.arange(N)
    start, end = (np.searchsorted(groups, groups, side) for side in ("left", "right"))
    return (rank - start + rng.random(N)) / (end - start)


# --- measuring ----------------------------------------------------------------------------------------------


def _measure(question: Question, unparsable: Iterable[str]) -> QuestionModel:
    probes = question.intervals - 1
    finals = question.answers[np.arange(len(probes)), probes]
    column = _columns(question, finals, unparsable)
    ends, others = column[finals], max(int(np.sum(column == _OTHER)), 1)
    length, spread = _log_lengths(question.tokens, ends)
    settled, settling = _settling(question.answers == finals[:, None], probes, ends)
    repeat, own, shown = _showing(question.answers, column, finals, probes, settled, others)
    return QuestionModel(
        delta=question.delta,
        shares=np.bincount(ends, minlength=len(length)) / len(ends),
        length=length,
        spread=spread,
        tokens=(int(question.tokens.min()), int(question.tokens.max())),
        probes=(int(probes.min()), int(probes.max())),
        clock=_clock(question.tokens, probes, question.delta),
        settling=settling,
        repeat=repeat,
        own=own,
        shown=shown,
        others=others,
    )


def _columns(question: Question, finals: Int[np.ndarray, " N"], unparsable: Iterable[str]) -> Int[np.ndarray, " A"]:
    """The column of each of the question's choices."""
    A = len(question.choices)
    named = {**dict.fromkeys(unparsable, _ERR), "No": _NO, question.gold: _GOLD}
    column = np.array([named.get(choice, _OTHER) for choice in question.choices])
    # A rival is an answer that many branches end on, or that many probes show.
    shown = question.answers[question.answers >= 0]
    often = sum(np.bincount(ids, minlength=A) / len(ids) for ids in (finals, shown))
    weight = np.where(column == _OTHER, often, 0.0)
    rivals = np.argsort(-weight, kind="stable")[:_FITTED_RIVALS]
    column[rivals] = np.where(weight[rivals] > 0, _RIVALS + np.arange(len(rivals)), column[rivals])
    return column


def _log_lengths(
    tokens: Int32[np.ndarray, " N"], ends: Int[np.ndarray, " N"]
) -> tuple[Float64[np.ndarray, " C"], Float64[np.ndarray, " C"]]:
    """Median and spread of the log-normal lengths, by where the branches end."""
    logarithm = np.log(tokens)
    length, spread = np.zeros((2, _RIVALS + _FITTED_RIVALS))
    for end in np.unique(ends):
        among = ends == end
        length[end] = np.exp(logarithm[among].mean())
        # A few branches have a mean but no spread of their own: use that of similar ones.
        like = among if np.sum(among) >= 4 else (ends == _GOLD) == (end == _GOLD)
        spread[end] = logarithm[like].std()
    return length, spread


def _clock(tokens: Int32[np.ndarray, " N"], probes: Int32[np.ndarray, " N"], delta: int) -> Float64[np.ndarray, " 3"]:
    """Offset, slope and the slope's deviation of Δ · probes as a linear function of the tokens."""
    # Counting whole intervals loses half of one on average; it also adds the variance of a uniform remainder.
    probed = delta * (probes + 0.5)
    line, *_ = np.linalg.lstsq(np.stack([np.ones(len(tokens)), tokens], axis=1), probed)
    left = probed - line[0] - line[1] * tokens
    variance = max(float(np.mean(left**2)) - delta**2 / 12, 0.0)
    return np.array([*line, np.sqrt(variance / np.mean(np.square(tokens, dtype=float)))])


def _settling(
    agrees: Bool[np.ndarray, "N D"], probes: Int32[np.ndarray, " N"], ends: Int[np.ndarray, " N"]
) -> tuple[Int[np.ndarray, " N"], Float64[np.ndarray, "2 K"]]:
    """The probe from which each branch is settled, and the quantiles of these as fractions.

    A branch settles where it agrees most with its final answer from there on, a disagreement weighing two
    agreements: a settled branch may waver, an unsettled one may show its answer in passing.
    """
    gain = np.where(agrees, 1, -2) * (np.arange(agrees.shape[1]) < probes[:, None])
    settled = np.argmax(np.cumsum(gain[:, ::-1], axis=1)[:, ::-1], axis=1)
    fraction, right = settled / np.maximum(probes, 1), ends == _GOLD
    grid = np.linspace(0.0, 1.0, _FITTED_QUANTILES)
    groups = [group if group.any() else np.ones_like(right) for group in (right, ~right)]
    return settled, np.array([np.quantile(fraction[group], grid) for group in groups])


def _showing(
    answers: Int32[np.ndarray, "N D"],
    column: Int[np.ndarray, " A"],
    finals: Int32[np.ndarray, " N"],
    probes: Int32[np.ndarray, " N"],
    settled: Int[np.ndarray, " N"],
    others: int,
) -> tuple[Float64[np.ndarray, " P"], Float64[np.ndarray, " P"], Float64[np.ndarray, "P C"]]:
    """Probabilities that a probe repeats, shows its branch's final answer, or else each column; by phase.

    A probe that shows what the one before it showed may be a repeat or a coincidence, and likewise with the
    final answer: expectation maximization divides each probe among the three.
    """
    P, C = _FITTED_PHASES, _RIVALS + _FITTED_RIVALS
    depth = np.broadcast_to(np.arange(answers.shape[1]), answers.shape)
    way = np.maximum(settled, 1)[:, None]
    phases = np.where(depth < settled[:, None], (P - 1) * depth // way, P - 1)
    seen = depth < probes[:, None] - 1  # the last probe shows the final answer by rule
    phase, shows, later = phases[seen], column[answers[seen]], depth[seen] > 0
    same = later & (answers == np.roll(answers, 1, axis=1))[seen]
    ends = (answers == finals[:, None])[seen]
    chance = np.where(shows == _OTHER, 1 / others, 1.0)

    def total(weights: Float64[np.ndarray, " M"]) -> Float64[np.ndarray, " P"]:
        return np.bincount(phase, weights, minlength=P)

    # A phase without probes shows others, so that a hopeless question never shows its gold answer.
    nothing = 1e-9 * np.eye(C)[_OTHER]
    repeat, own, shown = np.full(P, 0.5), np.full(P, 0.5), np.full((P, C), 1 / C)
    for _ in range(60):
        fresh = 1 - repeat[phase] * later
        weights = np.stack(
            [
                repeat[phase] * same,
                fresh * own[phase] * ends,
                fresh * (1 - own[phase]) * shown[phase, shows] * chance,
            ]
        )
        by_repeat, by_own, by_rest = weights / np.maximum(weights.sum(axis=0), 1e-300)
        repeat = total(by_repeat) / np.maximum(total(later.astype(float)), 1e-9)
        own = total(by_own) / np.maximum(total(by_own + by_rest), 1e-9)
        counts = np.bincount(C * phase + shows, by_rest, minlength=P * C).reshape(P, C) + nothing
        shown = counts / counts.sum(axis=1, keepdims=True)
    return repeat, own, shown


# --- presets on disk ----------------------------------------------------------------------------------------


@functools.cache
def _presets() -> dict[str, Preset]:
    text = importlib.resources.files("autotts_jax").joinpath("presets.json").read_text(encoding="utf-8")
    return {name: Preset(name, [_from_json(row) for row in rows]) for name, rows in json.loads(text).items()}


def _from_json(row: dict[str, Any]) -> QuestionModel:
    plain = {"delta": int, "tokens": tuple, "probes": tuple, "others": int}
    fields: dict[str, Any] = {key: plain.get(key, np.array)(value) for key, value in row.items()}
    return QuestionModel(**fields)


def _to_json(presets: Iterable[Preset]) -> str:
    """An object of presets by name, one line per question."""
    write = functools.partial(json.dumps, separators=(",", ":"))
    parts = []
    for preset in presets:
        rows = ",\n".join(write(_short(dataclasses.asdict(model))) for model in preset.questions)
        parts.append(f"{write(preset.name)}: [\n{rows}\n]")
    return "{" + ",\n".join(parts) + "}"


def _short(value: Any) -> Any:
    """The value as lists and numbers, with at most four significant digits and four decimals."""
    match value:
        case dict():
            return {key: _short(item) for key, item in value.items()}
        case np.ndarray() | tuple() | list():
            return [_short(item) for item in value]
        case int():
            return value
    rounded = round(float(f"{value:.4g}"), 4)
    return int(rounded) if rounded.is_integer() else rounded


if __name__ == "__main__":
    print(_to_json(fit(trajectories.read(path)) for path in sorted(Path(sys.argv[1]).glob("*/*.json"))))
