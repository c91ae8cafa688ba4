"""The bench: search data, shuffles, βs, and what known controllers reach there; and a candidate's verdict on it."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from jaxtyping import Float32, Int32, PyTree

from autotts_discovery.fitness import BUDGETS, Assessment, Means, Terms, assess, means_of
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
from autotts_jax.artefacts import Artefact
from autotts_jax.digests import Digest
from autotts_jax.errors import check_whole
from autotts_jax.provenance import distinct_datasets
from autotts_jax.sweeps import width_of

__all__ = ["Bench", "Replayer", "Verdict", "by_question", "make_bench", "program_of", "replay"]

#: The reference that sets the pace and, by default, the upper end of the range: CMC.
_PACE = "confidence_momentum"

#: Every so many of the budgets is shown.
_MARK = 8

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
      margins: Accuracy above the references' best at `Bench.marks`, the mean over the datasets; none for an objective
        other than "gain".
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
    betas: tuple[_Finite, ...]
    accuracy: tuple[_Finite, ...]
    tokens: tuple[_Finite, ...]
    sequential_tokens: tuple[_Finite, ...]
    latency: _Finite
    margins: tuple[_Finite, ...] = ()
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

    @functools.cached_property
    def marks(self) -> tuple[tuple[float, float], ...]:
        """Budgets along the range, in tokens, and the references' best within them: means over the datasets."""
        pace = jax.tree.map(lambda values: values[0], self.references[self.shuffles])
        known = self._assessed(pace, self.shuffles).known
        tokens = np.exp(np.log(self.budgets).mean(axis=0))
        return tuple(zip(tokens[::_MARK].tolist(), known[::_MARK].tolist(), strict=True))

    def known(self, shuffles: int | None = None) -> dict[str, dict[str, Any]]:
        """The references' figures, as `judged` gives them, by name; of all shuffles, or of `looks`."""
        shuffles = shuffles or self.shuffles
        stacked = self.references[shuffles]
        each = (jax.tree.map(lambda values, place=place: values[place], stacked) for place in range(len(self.names)))
        return {name: self.judged(means, shuffles) for name, means in zip(self.names, each, strict=True)}

    def _assessed(self, found: Means, shuffles: int) -> Assessment:
        args = (found, self.references[shuffles], self.start, self.budgets, self.member, self.clusters)
        said: Assessment = jax.device_get(assess(*args, terms=self.terms))
        return said

    def judged(self, found: Means, shuffles: int) -> dict[str, Any]:
        """A verdict's figures.

        Args:
          found: A candidate's means by question, ``[P, Q]``.
          shuffles: Of how many shuffles: S or `looks`.
        """
        said = self._assessed(found, shuffles)
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
            "margins": tuple(said.margins[::_MARK].tolist()) if self.terms.objective == "gain" else (),
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
    terms = Terms() if terms is None else terms
    betas = tuple(sorted(map(float, betas)))
    if not betas or len(set(betas)) < len(betas) or not 0 <= betas[0] <= betas[-1] <= 1:
        raise InputError(f"betas {betas}: not distinct numbers from 0 to 1. Use 0, 0.1, …, 1, say.")
    check_whole("looks", looks, 1, check_whole("shuffles", shuffles, 1, 10_000))
    if tokens is not None and not 0 < tokens[0] < tokens[1] < math.inf:
        raise InputError(f"tokens {tokens}: not a range. Give a lower and an upper bound above 0.")
    parts, _ = distinct_datasets([datasets] if isinstance(datasets, Dataset) else list(datasets))
    if not parts:
        raise InputError("data: no dataset. Name at least one.")
    data = concatenate(parts)
    orders = draw_orders(parts, shuffles, "random", seed)
    pace = CONTROLLERS[_PACE]
    known = [pace, *(c for c in (CONTROLLERS.values() if references is None else references) if c != pace)]
    store, grid = jax.device_put(data.store), jnp.asarray(betas, jnp.float32)
    found = [_replay(controller, store, jax.vmap(controller.schedule)(grid), orders) for controller in known]
    by_shuffles = {
        count: jax.tree.map(lambda *each: np.stack(each), *(by_question(outcome, count) for outcome in found))
        for count in {looks, shuffles}
    }
    start, member = _one_branch(data.store), _member(data)
    if tokens is None:
        lows, highs = (
            np.asarray(means_of(means, member).tokens)[:, -1]
            for means in (start, jax.tree.map(lambda values: values[0], by_shuffles[shuffles]))
        )
    else:
        lows, highs = (np.full(len(member), bound) for bound in tokens)
    for (name, _), low, high in zip(data.parts, lows, highs, strict=True):
        if not low < high:
            raise InputError(
                f"data {name}: one branch takes {low:.0f} tokens and CMC at β = {betas[-1]:g} only {high:.0f}. Give "
                "the range of tokens yourself."
            )
    return Bench(
        data=data,
        betas=betas,
        orders=orders,
        looks=looks,
        terms=terms,
        budgets=np.geomspace(lows, highs, BUDGETS, axis=1).astype(np.float32),
        start=start,
        names=tuple(controller.name for controller in known),
        references=by_shuffles,
    )


class Replayer:
    """A bench's data on the devices of this process, where artefacts are replayed.

    One program serves every schedule, and every number of shuffles: those that are left out are orders without
    branches, whose episodes end at once.

    Attributes:
      bench: The bench.
      store: Its data.
      betas: Its βs.
      floor: The gain of the worst reference on the quick look's shuffles.
    """

    def __init__(self, bench: Bench) -> None:
        """Moves the data to the devices, and compiles what every verdict needs."""
        self.bench = bench
        self.store = jax.device_put(bench.data.store)
        self.betas = jnp.asarray(bench.betas, jnp.float32)
        self.floor = min(float(figures["gain"]) for figures in bench.known(bench.looks).values())

    def verdict(self, artefact: Artefact, shuffles: int) -> Verdict:
        """Replays a candidate.

        Args:
          artefact: The candidate.
          shuffles: S or `looks`.

        Raises:
          InputError: if it cannot be replayed on this data.
        """
        return self.evaluate(artefact, shuffles)[0]

    def evaluate(self, artefact: Artefact, shuffles: int) -> tuple[Verdict, Means]:
        """The same, with the means by question that the verdict is made of, ``[P, Q]``."""
        began = time.perf_counter()
        schedule = artefact.schedule or artefact.controller().schedule
        outcome = self.outcome(artefact, jax.vmap(schedule)(self.betas), shuffles)
        means = by_question(outcome, shuffles)
        verdict = Verdict(
            **self.bench.judged(means, shuffles),
            shuffles=shuffles,
            episodes=outcome.correct[..., :shuffles].size,
            seconds=time.perf_counter() - began,
            signature=_signature(outcome, self.bench.looks),
        )
        return verdict, means

    def outcome(self, artefact: Artefact, params: PyTree, shuffles: int) -> Outcome:
        """Replays parameter vectors, one for each of the bench's βs; beyond the first shuffles nothing is there."""
        rows = [jax.tree.map(lambda leaf, p=p: leaf[p], jax.device_get(params)) for p in range(len(self.betas))]
        orders = self.bench.orders[..., : self.width(artefact, rows)].copy()
        orders[:, shuffles:] = -1
        return _replay(program_of(artefact).controller(), self.store, params, orders)

    def width(self, artefact: Artefact, rows: Sequence[PyTree]) -> int:
        """Slots that suffice for these parameter vectors."""
        controller = artefact.controller()
        return width_of([Row(controller, None, row) for row in rows], int(self.bench.data.store.branches.max()))


def program_of(artefact: Artefact) -> Artefact:
    """The artefact without its schedule, names and texts: what is compiled, and equal if only those differ."""
    bare: dict[str, Any] = {"bounds": {}, "lines": None, "samples": None, "opens": ()}
    about = artefact.described.model_copy(update={"name": "candidate", "source": "", "source_text": "", **bare})
    programs = {name: program for name, program in artefact.programs.items() if name != "schedule"}
    return Artefact(about.model_dump_json(), programs)


#: `evaluate`, compiled; one program for all parameters, shuffles and data of the same shapes.
replay = jax.jit(evaluate, static_argnames=("controller", "devices"), compiler_options=COMPILER_OPTIONS)


def _replay(controller: Controller, store: ReplayStore, params: PyTree, orders: Int32[np.ndarray, "Q S B"]) -> Outcome:
    return jax.device_get(replay(controller, store, params, orders, devices=tuple(jax.devices())))


def by_question(outcome: Outcome, shuffles: int) -> Means:
    """Means over the first shuffles, ``[P, Q]``."""
    fields = (outcome.correct, outcome.tokens, outcome.sequential_tokens)
    return Means(*(np.asarray(field)[..., :shuffles].mean(axis=-1).astype(np.float32) for field in fields))


def _one_branch(store: ReplayStore) -> Means:
    """Reading one branch to its end, by question: the mean over its branches, ``[1, Q]``."""
    intervals, there = np.asarray(store.intervals), np.asarray(store.branch_mask)
    last = np.maximum(intervals - 1, 0)[..., None]
    final = np.take_along_axis(np.asarray(store.answers), last, axis=-1)[..., 0]
    right = (final == np.asarray(store.gold)[:, None]) & (np.asarray(store.gold) >= 0)[:, None]
    accuracy, tokens = (
        np.mean(values, axis=1, where=there)[None].astype(np.float32) for values in (right, np.asarray(store.tokens))
    )
    return Means(accuracy, tokens, tokens)


def _member(data: Dataset) -> Float32[np.ndarray, "D Q"]:
    """1 where a question belongs to a dataset."""
    sizes = [questions for _, questions in data.parts]
    return np.repeat(np.eye(len(sizes), dtype=np.float32), sizes, axis=1)


def _signature(outcome: Outcome, looks: int) -> str:
    digest = Digest()
    for field in ("answer", "tokens", "sequential_tokens", "opened", "pruned"):
        digest.array(field, np.asarray(getattr(outcome, field))[..., :looks])
    return digest.hex()
