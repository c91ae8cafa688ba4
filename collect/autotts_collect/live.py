"""Live use: a controller steps many questions at once, against a model instead of recorded branches."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autotts_collect.answers import BOXED, Grading
from autotts_collect.engines.base import DYNASOR, Engine, EngineError, Suffix
from autotts_collect.engines.patience import Patience
from autotts_collect.growing import Growing
from autotts_collect.journal import Finished, Journal
from autotts_collect.playing import Means, Place, play, together
from autotts_collect.programs import Decider
from autotts_collect.tables import CLOCK, LiveResults, check_recordable, recording
from autotts_jax.artefacts import export_controller
from autotts_jax.controllers import Controller, check_shapes
from autotts_jax.digests import Digest
from autotts_jax.environment import Rules, check_rules
from autotts_jax.errors import InputError, check_seed, check_whole
from autotts_jax.provenance import distinct_settings, versions
from autotts_jax.results import FIELDS
from autotts_jax.settings import Row, Setting, rows_of
from autotts_jax.sweeps import width_of

__all__ = ["Asked", "Progress", "UnfinishedError", "run"]


class Asked(NamedTuple):
    """A question and its gold answer, which only grading sees."""

    text: str
    gold: str


class Progress(NamedTuple):
    """Where a run stands, in questions times runs of each."""

    finished: int
    failed: int
    total: int
    correct: int
    tokens: int


class UnfinishedError(RuntimeError):
    """A run in which some questions could not be answered.

    Attributes:
      failures: What was wrong, by place.
      finished: What was answered; the journal keeps it as well.
    """

    def __init__(self, failures: Mapping[Place, str], finished: Sequence[Finished]) -> None:
        """Names the first failure, and says how many there are."""
        place, why = next(iter(failures.items()))
        super().__init__(
            f"question {place.question}, shuffle {place.shuffle}: {why}. "
            f"{len(failures)} of {len(failures) + len(finished)} could not be answered; run again to try them again"
        )
        self.failures, self.finished = dict(failures), tuple(finished)


async def run(
    engine: Engine,
    questions: Sequence[Asked],
    settings: Setting | Controller | str | Sequence[Setting | Controller | str],
    *,
    parts: Sequence[tuple[str, int]] = (),
    betas: Sequence[float] = (0.5,),
    shuffles: int = 1,
    rules: Rules | None = None,
    suffix: Suffix = DYNASOR,
    grading: Grading = BOXED,
    seed: int = 0,
    at_once: int = 64,
    patience: Patience | None = None,
    journal: Path | None = None,
    record: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> LiveResults:
    """Answers questions with a model that controllers steer, many at once; none waits for another.

    The environment's rules are replay's own code, so budget, probe costs, cost models and sequential tokens mean the
    same. The one figure that can differ from replay's is `refused` under a budget: what a branch would still have had
    beyond it is unknown, and counts up to the most that it could have had.

    Args:
      engine: What generates. It is started and closed here.
      questions: What is asked.
      settings: Controllers, settings, or their texts (see `Setting.parse`).
      parts: Name and number of questions of each dataset that they are from, in order; defaults to one.
      betas: The β grid.
      shuffles: Runs of each question; each with branches of its own, or a branch order of recorded ones.
      rules: What actions cost; defaults to the published tables' accounting.
      suffix: What a branch's answer so far is read with.
      grading: How answers are read and compared.
      seed: Of everything that is drawn here.
      at_once: Questions that are played at once.
      patience: When to ask an engine again that failed.
      journal: A file that keeps what is finished. A run that was killed goes on from there when it is called again
        with the same arguments.
      record: Whether to keep what was generated, as `LiveResults.recording`; for one controller, β and shuffle.
      progress: Called when something was finished or failed.

    Returns:
      The result tables, and every episode.

    Raises:
      InputError: before anything is generated, naming field, value and remedy.
      UnfinishedError: at the end, if some questions could not be answered.
    """
    rules = Rules() if rules is None else rules
    patience = Patience() if patience is None else patience
    parts = list(parts) or [("questions", len(questions))]
    plan = _plan(engine, questions, settings, parts, betas, shuffles, rules)
    check_seed(seed)
    check_whole("at_once", at_once, 1, 2**16)
    golds = [grading.normal(asked.gold) for asked in questions]
    about = {
        "questions": {"parts": [list(part) for part in parts], "digest": _digest_of([*map(list, questions)])},
        "engine": dict(engine.about()),
        "rules": _said_of(rules),
        "suffix": suffix._asdict(),
        "grading": grading.name,
        "seed": seed,
        "shuffles": shuffles,
        "versions": versions(),
    }
    if record:
        check_recordable(len(plan.rows), shuffles, [engine.pool(q, 0) for q in range(len(questions))])
    means = Means(engine=engine, patience=patience, suffix=suffix, grading=grading, seed=seed, record=record)
    try:
        await engine.start()
        prompts = await together(*(patience.ask(functools.partial(engine.prompt, asked.text)) for asked in questions))
        _check_context(engine, prompts, suffix)
        with _opened(journal, plan, about, record) as kept:
            failures = await _play_all(means, plan, questions, golds, prompts, kept, at_once, progress)
            finished = kept.finished
    finally:
        await engine.close()
    if failures:
        raise UnfinishedError(failures, finished)
    results = _results(plan, parts, golds, finished, about)
    if not record:
        return results
    deltas = [int(engine.pool(q, 0).delta[0]) for q in range(len(questions))]
    return dataclasses.replace(results, recording=recording(results, [asked.text for asked in questions], deltas))


# --- before anything is generated ------------------------------------------------------------------------------------


class _Plan(NamedTuple):
    """What is played."""

    rows: Sequence[Row]
    widths: Sequence[int]  # of each row
    notes: Sequence[str]
    questions: int
    shuffles: int
    rules: Rules
    feature_names: tuple[str, ...]

    def places(self) -> Iterator[Place]:
        """All episodes; those of a question follow each other, since a prefix cache knows it then."""
        for question in range(self.questions):
            for row in range(len(self.rows)):
                for shuffle in range(self.shuffles):
                    yield Place(row, question, shuffle)


def _plan(
    engine: Engine,
    questions: Sequence[Asked],
    settings: Setting | Controller | str | Sequence[Setting | Controller | str],
    parts: Sequence[tuple[str, int]],
    betas: Sequence[float],
    shuffles: int,
    rules: Rules,
) -> _Plan:
    check_rules(rules)
    check_whole("shuffles", shuffles, 1, 2**20)
    if not questions:
        raise InputError("questions: none. Name a file that has some.")
    if sum(count for _, count in parts) != len(questions):
        raise InputError(f"parts: {sum(count for _, count in parts)} questions of {len(questions)}. List them all.")
    _refuse_duplicates(questions, parts)
    if any(not 0 <= beta <= 1 for beta in betas) or not len(betas):
        raise InputError(f"beta {', '.join(map(str, betas)) or 'none'}: outside 0 to 1. Choose values in that range.")
    listed = [settings] if isinstance(settings, str | Setting | Controller) else list(settings)
    if not listed:
        raise InputError("settings: empty; there must be at least one.")
    features = engine.feature_names
    chosen, notes = distinct_settings(
        [_as_setting(setting) for setting in listed],
        lambda controller: export_controller(controller, controller.widths or (64,), features).digest,
    )
    grids = [rows_of(setting, list(dict.fromkeys(betas))) for setting in chosen]
    rows = [row for grid in grids for row in grid]
    pool = max(len(engine.pool(q, s).delta) for q in range(len(questions)) for s in range(shuffles))
    # One program for all rows of a controller.
    widths = [width_of([other for other in rows if other.controller == row.controller], pool) for row in rows]
    for controller, width in {row.controller: width for row, width in zip(rows, widths, strict=True)}.items():
        check_shapes(controller, width, features)
    return _Plan(rows, widths, notes, len(questions), shuffles, rules, features)


def _refuse_duplicates(questions: Sequence[Asked], parts: Sequence[tuple[str, int]]) -> None:
    start = 0
    for name, count in parts:
        first: dict[str, int] = {}
        for number, asked in enumerate(questions[start : start + count]):
            if first.setdefault(asked.text, number) != number:
                raise InputError(
                    f"{name}: question {number} is the same as question {first[asked.text]}. Drop one of them."
                )
        start += count


def _as_setting(setting: Setting | Controller | str) -> Setting:
    if isinstance(setting, str):
        return Setting.parse(setting)
    return Setting(setting) if isinstance(setting, Controller) else setting


def _check_context(engine: Engine, prompts: Sequence[Sequence[int]], suffix: Suffix) -> None:
    """Refuses questions whose branches, with suffix and reply, could outgrow the model's context."""
    if engine.context is None:
        return
    for q, prompt in enumerate(prompts):
        # A token is at least a byte.
        needed = len(prompt) + engine.pool(q, 0).tokens + len(suffix.text.encode()) + suffix.most
        if needed > engine.context:
            raise InputError(
                f"question {q}: {len(prompt)} tokens, and with the longest branch, suffix and reply up to {needed}; "
                f"the model's context has {engine.context}. Allow fewer tokens per branch, or drop the question."
            )


@contextlib.contextmanager
def _opened(file: Path | None, plan: _Plan, about: Mapping[str, Any], record: bool) -> Iterator[Journal]:
    if file is None:
        yield Journal()
        return
    controllers = {row.controller: width for row, width in zip(plan.rows, plan.widths, strict=True)}
    exported = [export_controller(c, (width,), plan.feature_names).digest for c, width in controllers.items()]
    rows = [[row.label, row.described()] for row in plan.rows]
    digests = {name: _digest_of(value) for name, value in about.items()}
    digests |= {"controllers": _digest_of(exported), "parameters": _digest_of(rows), "record": str(record)}
    with Journal.opened(file, digests) as journal:
        yield journal


def _digest_of(value: Any) -> str:
    digest = Digest()
    digest.json("value", value)
    return digest.hex()


def _said_of(rules: Rules) -> dict[str, Any]:
    budget = None if rules.budget is None else int(np.asarray(rules.budget))
    return {"cost": rules.cost.value, "probe_cost": int(np.asarray(rules.probe_cost)), "budget": budget}


# --- the work --------------------------------------------------------------------------------------------------------


async def _play_all(
    means: Means,
    plan: _Plan,
    questions: Sequence[Asked],
    golds: Sequence[str],
    prompts: Sequence[Sequence[int]],
    journal: Journal,
    at_once: int,
    progress: Callable[[Progress], None] | None,
) -> dict[Place, str]:
    """Plays what the journal does not have yet, and returns what could not be had."""
    done = {Place(finished.row, finished.question, finished.shuffle) for finished in journal.finished}
    total = plan.questions * plan.shuffles * len(plan.rows)
    waiting = iter([place for place in plan.places() if place not in done])
    deciders = [Decider(row.controller, row.params, plan.rules) for row in plan.rows]
    failures: dict[Place, str] = {}
    for decider, width in zip(deciders, plan.widths, strict=True):
        decider.compile(Growing(means.engine.pool(0, 0), "", width, plan.feature_names, ()).store)

    sums = collections.Counter[str]()
    for earlier in journal.finished:
        sums.update(earlier.outcome)

    def report() -> None:
        if progress:
            progress(Progress(len(journal.finished), len(failures), total, sums["correct"], sums["tokens"]))

    async def worker() -> None:
        for place in waiting:
            q = place.question
            try:
                finished = await play(
                    means,
                    place,
                    deciders[place.row],
                    width=plan.widths[place.row],
                    text=questions[q].text,
                    gold=golds[q],
                    prompt=prompts[q],
                )
            except EngineError as error:
                failures[place] = str(error)
            else:
                journal.append(finished)
                sums.update(finished.outcome)
            report()

    report()
    await together(*(worker() for _ in range(min(at_once, max(1, total - len(done))))))
    return failures


def _results(
    plan: _Plan,
    parts: Sequence[tuple[str, int]],
    golds: Sequence[str],
    finished: Sequence[Finished],
    about: Mapping[str, Any],
) -> LiveResults:
    shape = len(plan.rows), plan.questions
    sums = {field: np.zeros(shape, np.int64) for field in FIELDS}
    clock = {field: np.zeros(shape, np.float64) for field in CLOCK}
    for one in finished:
        for field in FIELDS:
            sums[field][one.row, one.question] += one.outcome[field]
        times = (one.seconds, one.seconds if one.first_answer is None else one.first_answer, one.engine_tokens)
        for field, value in zip(CLOCK, times, strict=True):
            clock[field][one.row, one.question] += value
    return LiveResults(
        rows=plan.rows,
        parts=parts,
        golds=golds,
        sums=sums,
        shuffles=plan.shuffles,
        notes=tuple(plan.notes),
        clock=clock,
        about=dict(about),
        finished=tuple(sorted(finished, key=lambda one: (one.row, one.question, one.shuffle))),
    )
