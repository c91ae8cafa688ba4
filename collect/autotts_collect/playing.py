"""One live question: rounds of decisions, and in between the requests that they ask for, side by side."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Coroutine, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from autotts_collect.answers import Grading
from autotts_collect.engines.base import Branch, Engine, EngineError, Suffix
from autotts_collect.engines.patience import Patience
from autotts_collect.growing import Growing
from autotts_collect.journal import Finished, Generated
from autotts_collect.programs import Decider, Wanted

__all__ = ["Means", "Place", "play", "together"]

_T = TypeVar("_T")


class Place(NamedTuple):
    """Which episode of a run: by the number of its row, its question, and its shuffle."""

    row: int
    question: int
    shuffle: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Means:
    """What all questions of a run are played with.

    Attributes:
      engine: What generates.
      patience: When it is asked again.
      suffix: What answers are read with.
      grading: How they are read.
      seed: Of everything that is drawn.
      record: Whether to keep what was generated.
    """

    engine: Engine
    patience: Patience
    suffix: Suffix
    grading: Grading
    seed: int
    record: bool


async def play(
    means: Means,
    place: Place,
    decider: Decider,
    *,
    width: int,
    text: str,
    gold: str,
    prompt: Sequence[int],
) -> Finished:
    """Answers a question.

    Args:
      means: What it is played with.
      place: Which episode this is.
      decider: The controller.
      width: B, the slots.
      text: The question.
      gold: Its gold answer, in normal form.
      prompt: Its token ids.

    Raises:
      EngineError: if the engine cannot do what is asked of it, or patience ended.
    """
    return await _Player(means, place, decider, width, text, gold, prompt).play()


class _Step(NamedTuple):
    """What became known of a branch: that it goes on, what it answered, or how it ended."""

    depth: int
    answer: str | None = None
    features: Sequence[float] = ()
    tokens: int | None = None  # of a branch that has ended


class _Player:
    def __init__(
        self,
        means: Means,
        place: Place,
        decider: Decider,
        width: int,
        text: str,
        gold: str,
        prompt: Sequence[int],
    ) -> None:
        self._means, self._place, self._decider, self._prompt = means, place, decider, prompt
        engine = means.engine
        self._pool = engine.pool(place.question, place.shuffle)
        # As in `pack`, the text makes ids of other questions unrelated to these.
        entropy = [means.seed, *place, *text.encode()]
        self._growing = Growing(self._pool, gold, width, engine.feature_names, entropy)
        self._branches: dict[int, Branch] = {}
        self._texts: dict[int, list[str]] = {}
        self._began = time.monotonic()
        self._first_answer: float | None = None
        self._engine_tokens = 0
        self._decisions: list[float] = []

    async def play(self) -> Finished:
        decision, wanted = self._timed(self._decider.begin, self._growing.store)
        while wanted.running:
            for slot in np.flatnonzero(wanted.pruned).tolist():
                self._forget(slot)
            await self._generate(decision, wanted)
            decision, wanted = self._timed(self._decider.turn, self._growing.store, decision)
        outcome = self._decider.outcome(self._growing.store, decision)
        fields = {field.name: int(getattr(outcome, field.name)) for field in dataclasses.fields(outcome)}
        return Finished(
            row=self._place.row,
            question=self._place.question,
            shuffle=self._place.shuffle,
            outcome=fields | {"idle": int(outcome.idle)},
            answer=self._growing.answer(fields["answer"]),
            seconds=time.monotonic() - self._began,
            first_answer=self._first_answer,
            engine_tokens=self._engine_tokens,
            decisions=tuple(self._decisions),
            branches=self._generated() if self._means.record else None,
        )

    async def _generate(self, decision: Any, wanted: Wanted) -> None:
        """Has everything generated and read that a decision wants."""
        growing, budgeted = self._growing, self._decider.has_budget
        while True:
            grow = (growing.known < wanted.depth) & ~growing.ended
            read = wanted.probe & ~self._read_at(wanted.depth)
            # Under a budget, what branches turn out to cost decides on others, and on probes.
            slots = np.flatnonzero(grow if budgeted and grow.any() else grow | read).tolist()
            if not slots:
                return
            found = await together(
                *(
                    self._grow(slot, int(wanted.depth[slot]), read=bool(read[slot]) and not (budgeted and grow[slot]))
                    for slot in slots
                )
            )
            for slot, steps in zip(slots, found, strict=True):
                self._learn(slot, steps)
            if budgeted:
                wanted = self._timed(self._decider.again, growing.store, decision)

    def _read_at(self, depth: np.ndarray) -> np.ndarray:
        """Whether each slot's answer at a depth is known, or comes without a probe."""
        store = self._growing.store
        answers = store.answers[0][np.arange(len(depth)), np.maximum(depth - 1, 0)]
        return np.asarray((answers >= 0) | (depth >= store.intervals[0]))

    async def _grow(self, slot: int, depth: int, *, read: bool) -> list[_Step]:
        """Generates a slot's branch to a depth unless it ends before, and reads the answers that are asked for."""
        branch, texts = self._branch(slot), self._texts[slot]
        delta, most_tokens = int(self._pool.delta[slot]), self._pool.tokens
        at, everything = int(self._growing.known[slot]), self._decider.probe_everything
        steps: list[_Step] = []
        readings: list[asyncio.Task[_Step]] = []
        try:
            while at < depth:
                wanted = delta * (1 if everything else depth - at)
                most = max(1, min(wanted, most_tokens - len(branch.tokens)))
                piece = await self._ask(self._means.engine.extend, branch, most)
                self._engine_tokens += len(piece.tokens)
                branch.tokens.extend(piece.tokens)
                texts.append(piece.text)
                if piece.ended or len(branch.tokens) >= most_tokens:
                    intervals = max(-(-len(branch.tokens) // delta), at + 1)
                    intervals, tokens = piece.counted or (intervals, max(1, len(branch.tokens)))
                    answer = self._means.grading.read("".join(texts))
                    self._note_answer()
                    steps.append(_Step(intervals, answer, piece.features, tokens))
                    read = False
                    break
                if len(piece.tokens) != most:
                    raise EngineError(f"{len(piece.tokens)} tokens of {most} were generated, but no end was reported")
                at += most // delta
                steps.append(_Step(at))
                if everything and at < depth:
                    readings.append(asyncio.create_task(self._read(branch, at, delta)))
            if everything and at == depth and steps and steps[-1].tokens is None:
                steps.append(await self._read(branch, at, delta))
            elif read:
                steps.append(await self._read(branch, depth, delta))
            return steps + [await reading for reading in readings]
        finally:
            for reading in readings:
                reading.cancel()

    async def _read(self, branch: Branch, depth: int, delta: int) -> _Step:
        """What a branch answers at a depth."""
        reading = await self._ask(self._means.engine.read, branch.cut(depth * delta), self._means.suffix)
        self._engine_tokens += reading.tokens
        self._note_answer()
        return _Step(depth, self._means.grading.read(reading.text), reading.features)

    def _learn(self, slot: int, steps: Sequence[_Step]) -> None:
        """Puts what became known of a branch into the store."""
        for step in steps:
            if step.tokens is not None and step.answer is not None:
                self._growing.finish(slot, step.depth, step.tokens, step.answer, step.features)
            elif step.answer is not None:
                self._growing.reveal(slot, step.depth, step.answer, step.features)
            else:
                self._growing.grow(slot, step.depth)

    def _branch(self, slot: int) -> Branch:
        if slot not in self._branches:
            _, question, shuffle = self._place
            self._branches[slot] = Branch(
                question=question, shuffle=shuffle, slot=slot, prompt=self._prompt, seed=self._means.seed
            )
            self._texts[slot] = []
        return self._branches[slot]

    def _forget(self, slot: int) -> None:
        """Lets go of a branch that will not be continued."""
        self._branches.pop(slot, None)
        self._texts.pop(slot, None)

    async def _ask(self, method: Any, *args: Any) -> Any:
        return await self._means.patience.ask(lambda: method(*args))

    def _note_answer(self) -> None:
        if self._first_answer is None:
            self._first_answer = time.monotonic() - self._began

    def _timed(self, decide: Any, *args: Any) -> Any:
        began = time.perf_counter()
        decided = decide(*args)
        self._decisions.append(time.perf_counter() - began)
        return decided

    def _generated(self) -> tuple[Generated, ...]:
        found = []
        for slot in np.flatnonzero(self._growing.known).tolist():
            answers, tokens, ended = self._growing.recorded(slot)
            found.append(Generated(slot=slot, answers=tuple(answers), tokens=tokens, ended=ended))
        return tuple(found)


async def together(*coroutines: Coroutine[Any, Any, _T]) -> list[_T]:
    """What all of them return; when one fails, the others are cancelled, and what it raised is raised as it is."""
    if len(coroutines) == 1:
        return [await coroutines[0]]
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
