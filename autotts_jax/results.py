"""The results of a sweep: tables and their files."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from jaxtyping import Int64

from autotts_jax.files import writable, write_whole
from autotts_jax.settings import Row

__all__ = ["FIELDS", "Results"]

#: The fields of an outcome that are reported, in the tables' order.
FIELDS = (
    "correct",
    "tokens",
    "passed",
    "sequential_tokens",
    "cost",
    "intervals",
    "probes",
    "rounds",
    "opened",
    "pruned",
    "refused",
    "idle",
)


@dataclasses.dataclass(frozen=True, eq=False)
class Results:
    """The results of a sweep.

    Attributes:
      rows: Controllers with a parameter vector, R of them.
      parts: Name and number of questions of each part; Q questions in total.
      golds: The gold answer of each question.
      sums: For each of `FIELDS`, ``[R, Q]`` its sum over a question's shuffles.
      shuffles: Branch orders per question.
      notes: What a reader should know about the rows.
    """

    rows: Sequence[Row]
    parts: Sequence[tuple[str, int]]
    golds: Sequence[str]
    sums: Mapping[str, Int64[np.ndarray, "R Q"]]
    shuffles: int
    notes: tuple[str, ...] = ()

    @functools.cached_property
    def table(self) -> pa.Table:
        """One row per dataset × controller × parameters.

        `correct` and `tokens_total` are sums over all episodes, integers; `accuracy`, `tokens` and the rest are
        means over episodes; `accuracy_se` and `tokens_se` are standard errors clustered by question, null for a
        single question.
        """
        tables = []
        for name, inside in self.slices():
            sums = {field: values[:, inside] for field, values in self.sums.items()}
            questions = inside.stop - inside.start
            means = {field: values.sum(axis=1) / (questions * self.shuffles) for field, values in sums.items()}
            tables.append(
                self._heads(name, np.arange(len(self.rows)))
                | {
                    "questions": np.full(len(self.rows), questions),
                    "shuffles": np.full(len(self.rows), self.shuffles),
                    "correct": sums["correct"].sum(axis=1),
                    "accuracy": means["correct"],
                    "accuracy_se": self._standard_errors(sums["correct"]),
                    "tokens": means["tokens"],
                    "tokens_total": sums["tokens"].sum(axis=1),
                    "tokens_se": self._standard_errors(sums["tokens"]),
                }
                | {field: means[field] for field in FIELDS[2:]}
            )
        return pa.concat_tables(map(pa.table, tables))

    @functools.cached_property
    def per_question(self) -> pa.Table:
        """The same with one row per question, without standard errors."""
        tables = []
        for name, inside in self.slices():
            questions = inside.stop - inside.start
            row = np.repeat(np.arange(len(self.rows)), questions)
            sums = {field: values[:, inside].reshape(-1) for field, values in self.sums.items()}
            tables.append(
                self._heads(name, row)
                | {
                    "question": np.tile(np.arange(questions), len(self.rows)),
                    "gold": pa.array(list(self.golds[inside]) * len(self.rows), pa.string()),
                    "shuffles": np.full(len(row), self.shuffles),
                    "correct": sums["correct"],
                    "accuracy": sums["correct"] / self.shuffles,
                    "tokens": sums["tokens"] / self.shuffles,
                    "tokens_total": sums["tokens"],
                }
                | {field: sums[field] / self.shuffles for field in FIELDS[2:]}
            )
        return pa.concat_tables(map(pa.table, tables))

    def write(self, directory: str | os.PathLike[str], *, per_question: bool = False) -> list[Path]:
        """Writes ``results.csv`` and ``.parquet`` (and ``questions.*``), each whole or not at all, and lists them.

        Raises:
          InputError: if the directory cannot be written to.
        """
        directory = writable(directory)
        tables = {"results": self.table} | ({"questions": self.per_question} if per_question else {})
        csv = pa.csv.WriteOptions(quoting_style="needed")
        writers: dict[str, Callable[[pa.Table, Path], None]] = {
            ".csv": lambda table, path: pa.csv.write_csv(table, path, csv),
            ".parquet": pa.parquet.write_table,
        }
        return [
            write_whole(directory / f"{name}{suffix}", functools.partial(write, table))
            for name, table in tables.items()
            for suffix, write in writers.items()
        ]

    def slices(self) -> list[tuple[str, slice]]:
        """Each part's name and the slice of its questions among the Q."""
        stops = np.cumsum([questions for _, questions in self.parts]).tolist()
        return [(name, slice(stop - n, stop)) for (name, n), stop in zip(self.parts, stops, strict=True)]

    def _heads(self, dataset: str, rows: np.ndarray) -> dict[str, Any]:
        """The columns that identify a table's rows; `rows` are indices into `self.rows`."""
        columns: dict[str, list[Any]] = {
            "controller": [row.controller.name for row in self.rows],
            "beta": [row.beta for row in self.rows],
            "params": [row.described() for row in self.rows],
        }
        types = {"controller": pa.string(), "beta": pa.float64(), "params": pa.string()}
        heads = {name: pa.array(values, types[name]).take(pa.array(rows)) for name, values in columns.items()}
        return {"dataset": pa.array([dataset] * len(rows), pa.string())} | heads

    def _standard_errors(self, sums: Int64[np.ndarray, "R q"]) -> pa.Array:
        """Standard errors of means over questions, from the questions' own means: clustered by question."""
        questions = sums.shape[1]
        if questions < 2:
            return pa.nulls(len(sums), pa.float64())
        return pa.array((sums / self.shuffles).std(axis=1, ddof=1) / np.sqrt(questions))
