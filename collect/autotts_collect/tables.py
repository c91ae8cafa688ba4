"""What a live run found: the tables of a sweep with times, and a recording that replay can use."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from jaxtyping import Float64

from autotts_collect.engines.base import Pool
from autotts_collect.journal import Finished, Generated
from autotts_jax.errors import InputError
from autotts_jax.files import writable, write_together
from autotts_jax.results import Results, write_csv
from autotts_jax.trajectories import UNPARSABLE, Question, Trajectories

__all__ = ["CLOCK", "UNREAD", "LiveResults", "recording"]

#: Columns that a live run's tables have beside those of a sweep: means over runs of a question.
CLOCK = ("seconds", "first_answer_seconds", "engine_tokens")

#: In a recording, what an interval answers that was not asked, or was not generated.
UNREAD = "UNREAD"


@dataclasses.dataclass(frozen=True, eq=False)
class LiveResults(Results):
    """The results of a live run.

    Attributes:
      clock: For each of `CLOCK`, ``[R, Q]`` its sum over a question's runs.
      about: All that the run depends on, as JSON can say it.
      finished: Every answered question of every run.
      recording: What was generated, if it was kept; see `recording`.
    """

    clock: Mapping[str, Float64[np.ndarray, "R Q"]] = dataclasses.field(kw_only=True)
    about: Mapping[str, Any] = dataclasses.field(kw_only=True)
    finished: tuple[Finished, ...] = dataclasses.field(kw_only=True, repr=False)
    recording: Trajectories | None = dataclasses.field(default=None, kw_only=True, repr=False)

    def __repr__(self) -> str:
        """In a line: what is in the tables."""
        return f"Live{super().__repr__()}"

    @functools.cached_property
    def table(self) -> pa.Table:
        """As for `Results`, and the means of `CLOCK`."""
        means = [
            {name: sums[:, inside].mean(axis=1) / self.shuffles for name, sums in self.clock.items()}
            for _, inside in self.slices()
        ]
        return _with(super().table, means)

    @functools.cached_property
    def per_question(self) -> pa.Table:
        """As for `Results`, and `CLOCK`."""
        means = [
            {name: sums[:, inside].reshape(-1) / self.shuffles for name, sums in self.clock.items()}
            for _, inside in self.slices()
        ]
        return _with(super().per_question, means)

    def write(self, directory: str | os.PathLike[str], *, per_question: bool = True) -> list[Path]:
        """Writes ``results.*``, ``questions.*`` and ``live.json``, which says what they come from; all or nothing.

        Raises:
          InputError: if the directory cannot be written to.
        """
        tables = {"results": self.table} | ({"questions": self.per_question} if per_question else {})
        writers: dict[str, Any] = {}
        for name, table in tables.items():
            writers[f"{name}.csv"] = functools.partial(write_csv, table)
            writers[f"{name}.parquet"] = functools.partial(pa.parquet.write_table, table)
        writers["live.json"] = json.dumps(self.about, indent=1, ensure_ascii=False)
        return write_together(writable(directory), writers)


def _with(table: pa.Table, parts: Sequence[Mapping[str, np.ndarray]]) -> pa.Table:
    for name in CLOCK:
        table = table.append_column(name, pa.array(np.concatenate([part[name] for part in parts])))
    return table


def check_recordable(rows: int, shuffles: int, pools: Sequence[Pool]) -> None:
    """Refuses runs that no recording can hold, before anything is generated.

    Raises:
      InputError: if there are several rows or shuffles, or a question's branches differ in Δ.
    """
    if rows != 1 or shuffles != 1:
        raise InputError(
            f"record: {rows} controllers or βs and {shuffles} shuffles; a recording has one of each. Record them one "
            "by one."
        )
    for q, pool in enumerate(pools):
        if (pool.delta != pool.delta[:1]).any():
            raise InputError(f"record: question {q} has branches of several Δ; a recording has one. Leave it out.")


def recording(results: LiveResults, texts: Sequence[str], deltas: Sequence[int]) -> Trajectories:
    """What a run with one row and one shuffle generated, as trajectories.

    A live run stops when it knows enough, so a recording is complete only as far as it went. What was not read, and
    where a branch was not generated to its end what would come next, is `UNREAD`, which counts as unparsable and
    never as right. Such a branch seems to end there. The same controller never goes that far: replayed with slot k
    holding branch k, it decides as it did. Any other one may come upon it, so compare none on such a file; collect
    branches in full for that. Branches that were never opened are not in it.
    """
    questions = []
    for finished in sorted(results.finished, key=lambda finished: finished.question):
        q = finished.question
        branches = [_as_recorded(branch) for branch in finished.branches or ()]
        if not branches:
            raise InputError(f"record: question {q} was answered without a branch; no recording can say that.")
        questions.append(Question.from_branches(texts[q], results.golds[q], deltas[q], branches))
    cut = sum(not branch.ended for finished in results.finished for branch in finished.branches or ())
    about = results.about
    return Trajectories(
        questions,
        model=str(about["engine"].get("model", "")),
        benchmark=results.parts[0][0],
        unparsable=(*UNPARSABLE, UNREAD),
        sampling={**about, "complete": False, "branches_not_generated_to_their_end": cut},
        probe_suffix=about["suffix"]["text"],
        grading=about["grading"],
    )


def _as_recorded(branch: Generated) -> tuple[list[str], int, str]:
    """A branch's probes, tokens and final answer."""
    answers = [UNREAD if answer is None else answer for answer in branch.answers]
    return (answers[:-1], branch.tokens, answers[-1]) if branch.ended else (answers, branch.tokens, UNREAD)
