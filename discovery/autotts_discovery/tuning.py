"""Tuning: a numeric search for the ends of a candidate's schedule, and how much of what it finds carries over.

A search fits its shuffles and its questions. So every generation has fresh shuffles, common to all of its population;
a search is short, since what carries over comes first; it returns the mean of its last iterates, never the best
candidate; and its gain is measured on questions that it did not see: on random halves of the clusters, both ways.

What moves is one number for a parameter that does not depend on β, and two for one that does. The search is CMA-ES
(Hansen 2016, arXiv 1604.00772). A generation is one call of `evaluate`, population × β × questions × shuffles, by one
program for all halves: of questions that are left out, the orders hold no branches, and their episodes end at once.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from jax import Array
from jaxtyping import Float32, Key, PyTree

from autotts_discovery.bench import Replayer, by_question, program_of, replay
from autotts_discovery.candidates import Refused
from autotts_discovery.fitness import Bar, Means, Terms, bar_of, fitness, means_of
from autotts_jax import InputError, Line, Schedule, random_orders
from autotts_jax.artefacts import Artefact

__all__ = ["Tuned", "tune"]

#: Candidates per generation; shuffles that they are replayed on; and of the bench's βs every so many.
_POPULATION, _SHUFFLES, _EVERY = 16, 8, 2

#: Generations of a search: what carries over comes in the first 10 to 20.
_GENERATIONS = 15

#: Standard deviation of the first population, as a share of the bounds.
_STEP = 0.05

#: Random splits at most.
_SPLITS = 3

#: Generations from one point of the curve to the next.
_WATCHED = 5


class Tuned(pydantic.BaseModel, frozen=True, extra="forbid"):
    """What tuning found; fitness is the gain with the penalty for sequential tokens deducted.

    Attributes:
      ends: The schedule's ends, refitted on all questions: for `Schedule.moved`.
      values: The same by parameter, its values at β = 0 and at β = 1: for `with_ends`.
      before: Fitness of the schedule as it was, on all questions.
      after: Fitness of `ends` on all questions, all of them seen.
      seen: Mean fitness on the halves that were searched.
      unseen: Mean fitness on the other halves.
      curve: Mean fitness on the halves that were searched and on the others, at the start, every five generations, and
        at the end; on the quick look's shuffles.
      splits: Random splits, each used both ways.
      free: Numbers that moved.
      episodes: Episodes replayed.
      seconds: Time it took, compilation included.
    """

    ends: tuple[pydantic.FiniteFloat, ...]
    values: dict[str, tuple[Any, Any]]
    before: pydantic.FiniteFloat
    after: pydantic.FiniteFloat
    seen: pydantic.FiniteFloat
    unseen: pydantic.FiniteFloat
    curve: tuple[tuple[pydantic.FiniteFloat, pydantic.FiniteFloat], ...]
    splits: int
    free: int
    episodes: int
    seconds: pydantic.FiniteFloat


def tune(
    replayer: Replayer,
    artefact: Artefact,
    *,
    free: Sequence[str] | None = None,
    seconds: float = 60,
    seed: int = 0,
    generations: int = _GENERATIONS,
    splits: int = _SPLITS,
) -> Tuned:
    """Tunes the ends of a candidate's schedule.

    One split, both ways, and the search on all questions are always done; `seconds` decides how many further splits
    there are, and cuts searches short where it is too little even for these.

    Args:
      replayer: The bench.
      artefact: The candidate.
      free: Names of the parameters that may move; defaults to all. Those whose bounds leave no room never do.
      seconds: Time to take, compilation included.
      seed: Of splits, populations and shuffles.
      generations: Generations per search.
      splits: Random splits at most.

    Returns:
      What was found.

    Raises:
      Refused: at stage "judge" if there is nothing to move.
      InputError: if a name is no parameter, or the search data are a single question.
    """
    now = time.perf_counter
    began, bench, schedule = now(), replayer.bench, artefact.schedule
    if schedule is None:
        raise Refused("judge", "its schedule is a function; only a Schedule of whole(…) and real(…) can be tuned")
    if len(bench.clusters) < 2:
        raise InputError("data: a single question, so there is none to hold out. Search on more.")
    space = _Space.of(schedule, free)
    if not space.start.size:
        raise Refused("judge", "no parameter has room between its bounds to be tuned")
    search = _Search(replayer, artefact, schedule, space)
    everything = np.ones(len(bench.data), np.float32)
    (before,) = search.fitness(jax.vmap(schedule)(replayer.betas), [everything], bench.shuffles)
    rng, keys = np.random.default_rng(seed), iter(jax.random.split(jax.random.key(seed), 2 * splits + 2))
    search.run(next(keys), everything, None, 1, math.inf)  # compiles it, so that what follows can be timed
    end, pair = began + seconds, 0.0
    curves, halves = [], []
    for split in range(splits):
        if split and end - now() < 2 * pair:  # this split, and as much again for all questions
            break
        started = now()
        drawn = rng.permutation(len(bench.clusters)) < len(bench.clusters) // 2
        for side, mine in enumerate((drawn, ~drawn)):
            seen, unseen = (which.astype(np.float32) @ bench.clusters for which in (mine, ~mine))
            until = now() + (end - now()) / (4 - side)  # shared with the other side and, twice as dear, all questions
            found, curve = search.run(next(keys), seen, unseen, generations, until)
            halves.append(search.fitness(search.params(found), [seen, unseen], bench.shuffles))
            curves.append(curve)
        pair = now() - started
    found, _ = search.run(next(keys), everything, None, generations, end)
    moved = space.moved(found)
    (after,) = search.fitness(jax.vmap(moved)(replayer.betas), [everything], bench.shuffles)
    seen_unseen = np.mean(halves, axis=0).tolist()
    length = min(map(len, curves))
    return Tuned(
        ends=tuple(moved.ends.tolist()),
        values={name: (line.start, line.stop) for name, line in moved.named_lines.items() if name in space.names},
        before=before,
        after=after,
        seen=seen_unseen[0],
        unseen=seen_unseen[1],
        curve=tuple(map(tuple, np.mean([curve[:length] for curve in curves], axis=0).tolist())),
        splits=len(halves) // 2,
        free=space.start.size,
        episodes=search.episodes,
        seconds=now() - began,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Space:
    """The F numbers that move: ends = fixed + numbers @ moves.

    Attributes:
      schedule: The schedule as it was.
      names: The parameters that they belong to.
      start: Their values in `schedule`, as shares of the way between the bounds.
      fixed: The ends, 0 where they move.
      moves: 1 where a number is an end: at both ends of a parameter that does not depend on β.
    """

    schedule: Schedule
    names: tuple[str, ...]
    start: Float32[np.ndarray, " F"]
    fixed: Float32[np.ndarray, " E"]
    moves: Float32[np.ndarray, "F E"]

    @classmethod
    def of(cls, schedule: Schedule, free: Sequence[str] | None) -> _Space:
        """The space of the given parameters, or of all; without those whose bounds leave no room."""
        lines, ends = schedule.named_lines, schedule.ends
        for name in free or ():
            if name not in lines:
                raise InputError(f"free: {name!r} is no parameter of the schedule. Use some of {', '.join(lines)}.")
        names = tuple(n for n, line in lines.items() if line.least < line.greatest and (free is None or n in free))
        owners = np.repeat(list(lines), [math.prod(line.shape) for line in lines.values()])
        count, unit = len(owners), np.eye(ends.size, dtype=np.float32)
        rows: list[np.ndarray] = []
        for place in np.flatnonzero(np.isin(owners, names)):
            both = unit[place], unit[count + place]
            rows += [both[0] + both[1]] if ends[place] == ends[count + place] else both
        moves = np.array(rows, np.float32).reshape(-1, ends.size)
        start = ends[np.argmax(moves, axis=1)] if rows else np.zeros(0, np.float32)
        return cls(schedule, names, start, ends * (1 - moves.sum(axis=0)), moves)

    def ends(self, numbers: Float32[Array, " F"]) -> Float32[Array, " E"]:
        """The schedule's ends."""
        return jnp.asarray(self.fixed) + jnp.matmul(numbers, self.moves, precision=jax.lax.Precision.HIGHEST)

    def moved(self, numbers: Float32[np.ndarray, " F"]) -> Schedule:
        """The schedule, with what moved rounded to four digits and the rest as it was."""
        found, lines = self.schedule.moved(self.ends(jnp.asarray(numbers))), self.schedule.named_lines
        some = {name: _rounded(line) for name, line in found.named_lines.items() if name in self.names}
        return Schedule(collections.OrderedDict(lines | some))


def _rounded(line: Line) -> Line:
    def short(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(short, value))
        return int(value) if line.integer else min(max(float(f"{value:.4g}"), line.least), line.greatest)

    return dataclasses.replace(line, start=short(line.start), stop=short(line.stop))


class _Search:
    """Searches over one candidate's space, on any of the bench's questions; what is compiled is its replay alone."""

    def __init__(self, replayer: Replayer, artefact: Artefact, schedule: Schedule, space: _Space) -> None:
        """Compiles nothing yet."""
        bench = replayer.bench
        self.episodes = 0
        self._replayer, self._artefact, self._schedule, self._space = replayer, artefact, schedule, space
        self._references = {count: jax.device_put(means) for count, means in bench.references.items()}
        self._strategy, self._settings = _strategy(space.start.size)
        self._controller = program_of(artefact).controller()
        most = {name: np.asarray(greatest) for name, (_, greatest) in schedule.bounds.items()}
        self._width = replayer.width(artefact, [most])

    def params(self, numbers: Float32[np.ndarray, " F"]) -> PyTree:
        """Parameter vectors at the bench's βs."""
        ends = self._space.ends(jnp.asarray(numbers))
        return jax.vmap(lambda beta: self._schedule.at(beta, ends))(self._replayer.betas)

    def fitness(self, params: PyTree, weights: Sequence[Float32[np.ndarray, " Q"]], shuffles: int) -> list[float]:
        """Fitness of parameter vectors, one for each β, on the questions that each of the weights selects."""
        bench = self._replayer.bench
        outcome = self._replayer.outcome(self._artefact, params, shuffles)
        self.episodes += outcome.correct[..., :shuffles].size
        found = by_question(outcome, shuffles)
        bars = [self._bar(some, shuffles) for some in weights]
        return [
            float(_fitness_of(found, bench.member * some, bar, bench.terms))
            for some, bar in zip(weights, bars, strict=True)
        ]

    def run(
        self,
        key: Key[Array, ""],
        seen: Float32[np.ndarray, " Q"],
        unseen: Float32[np.ndarray, " Q"] | None,
        generations: int,
        until: float,
    ) -> tuple[Float32[np.ndarray, " F"], list[tuple[float, float]]]:
        """One search.

        Args:
          key: Of populations and shuffles.
          seen: 1 for the questions to search on.
          unseen: 1 for others, if the curve is wanted.
          generations: Generations at most.
          until: When to stop, in the seconds of `time.perf_counter`; two generations are always done.

        Returns:
          The mean of the last third of the iterates, and fitness on both kinds of questions along the way.
        """
        bar = self._bar(seen, self._replayer.bench.shuffles, _EVERY)
        first, *keys = jax.random.split(key, generations + 1)
        state = self._strategy.init(first, jnp.asarray(self._space.start), self._settings)
        # Without weak types, which the first update would remove, there is one program for all generations.
        state = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.asarray(leaf).dtype), state)
        iterates, curve = [self._space.start], []
        for number, each in enumerate(keys):
            if number > 1 and time.perf_counter() > until:
                break
            if unseen is not None and number % _WATCHED == 0:
                curve.append(self._both(iterates[-1], seen, unseen))
            drawing, shuffling, updating = jax.random.split(each, 3)
            population, state = self._strategy.ask(drawing, state, self._settings)
            population = jnp.clip(population, 0, 1)
            score = self._scores(population, shuffling, seen, bar)
            state, _ = self._strategy.tell(updating, population, -score, state, self._settings)
            iterates.append(np.asarray(state.mean))
        found = np.clip(np.mean(iterates[-max(1, len(iterates) // 3) :], axis=0), 0, 1)
        if unseen is not None:
            curve.append(self._both(found, seen, unseen))
        return found, curve

    def _both(
        self, numbers: Float32[np.ndarray, " F"], seen: Float32[np.ndarray, " Q"], unseen: Float32[np.ndarray, " Q"]
    ) -> tuple[float, float]:
        here, there = self.fitness(self.params(numbers), [seen, unseen], self._replayer.bench.looks)
        return here, there

    def _bar(self, weights: Float32[np.ndarray, " Q"], shuffles: int, every: int = 1) -> Bar:
        bench = self._replayer.bench
        return _bar_of(
            self._references[shuffles], bench.start, bench.budgets, bench.member * weights, bench.terms, every
        )

    def _scores(
        self, population: Float32[Array, "P F"], key: Key[Array, ""], weights: Float32[np.ndarray, " Q"], bar: Bar
    ) -> Float32[np.ndarray, " P"]:
        """Fitness of a population on fresh shuffles, the same for all of it; one call of `evaluate`."""
        bench, store, betas = self._replayer.bench, self._replayer.store, self._replayer.betas[::_EVERY]
        ends = jax.vmap(self._space.ends)(population)
        params = jax.vmap(lambda each: jax.vmap(lambda beta: self._schedule.at(beta, each))(betas))(ends)
        joined = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), params)
        orders = np.array(random_orders(key, store, _SHUFFLES, width=self._width))
        orders[weights == 0] = -1
        outcome = replay(self._controller, store, joined, orders, devices=tuple(jax.devices()))
        self.episodes += len(population) * len(betas) * int(weights.sum()) * _SHUFFLES
        found = (outcome.correct, outcome.tokens, outcome.sequential_tokens)
        score = _population_fitness(found, len(population), bench.member * weights, bar, terms=bench.terms)
        return jax.device_get(score)  # or the next population would lie on all devices, and need another program


@functools.cache
def _strategy(numbers: int) -> tuple[Any, Any]:
    """CMA-ES with its settings; one object for all candidates, whose programs are compiled once."""
    from evosax.algorithms import CMA_ES  # takes a second, and is needed in the judge's process only

    strategy = CMA_ES(population_size=_POPULATION, solution=jnp.zeros(numbers, jnp.float32))
    return strategy, strategy.default_params.replace(std_init=jnp.float32(_STEP))


@functools.partial(jax.jit, static_argnames=("population", "terms"))
def _population_fitness(
    found: tuple[Array, Array, Array], population: int, member: Float32[Array, "D Q"], bar: Bar, *, terms: Terms
) -> Float32[Array, " P"]:
    """Fitness from correctness, tokens and sequential tokens of all episodes, each ``[P · B, Q, S]``."""
    means = Means(*(jnp.mean(field.astype(jnp.float32), axis=-1) for field in found))
    each = jax.tree.map(lambda field: field.reshape(population, -1, field.shape[-1]), means)
    return jax.vmap(lambda one: _fitness_of(one, member, bar, terms))(each)


_bar_of = jax.jit(bar_of, static_argnames=("terms", "every"))


@functools.partial(jax.jit, static_argnames="terms")
def _fitness_of(by_question: Means, member: Float32[Array, "D Q"], bar: Bar, terms: Terms) -> Float32[Array, ""]:
    score = fitness(means_of(by_question, member), bar, terms)
    return score.gain - score.penalty
