"""The results of a sweep: tables, and the folder that keeps them with what they come from.

A results folder holds tables for people and programs (``results.csv``, ``results.parquet``), the sums that they are
made of (``sums.parquet``), an artefact of each controller (``controllers/DIGEST.zip``), and ``sweep.json``: rows,
provenance, and the digests of all these files. `read` believes nothing that does not match.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet
import pydantic
from jaxtyping import Int64

from autotts_jax.artefacts import Artefact, export_controller, read_artefact, write_artefact
from autotts_jax.controllers import Controller
from autotts_jax.errors import InputError
from autotts_jax.files import writable, write_together
from autotts_jax.provenance import Provenance, UsedSetting
from autotts_jax.replay import RESULTS
from autotts_jax.settings import Row, Setting

__all__ = ["FIELDS", "Origin", "Results", "is_results", "read", "write_csv"]

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
    "unshown",
)


#: Rows that a notebook shows.
_SHOWN = 40

_HTML = jinja2.Environment(autoescape=True).from_string(
    """<table><caption>{{ about }}{% if more %}; {{ more }} more rows in .table{% endif %}</caption>
<tr><th>dataset</th><th>controller</th><th>β</th><th>accuracy %</th><th>± %</th><th>tokens</th><th>sequential</th></tr>
{% for row in rows -%}
<tr><td>{{ row.dataset }}</td><td>{{ row.controller }}</td>
<td>{{ "" if row.beta is none else "%g"|format(row.beta) }}</td><td>{{ "%.2f"|format(100 * row.accuracy) }}</td>
<td>{{ "" if row.accuracy_se is none else "%.1f"|format(100 * row.accuracy_se) }}</td>
<td>{{ "{:,.0f}".format(row.tokens) }}</td><td>{{ "{:,.0f}".format(row.sequential_tokens) }}</td></tr>
{% endfor %}</table>"""
)


@dataclasses.dataclass(frozen=True, eq=False)
class Origin:
    """What the results of a sweep come from.

    Attributes:
      settings: The controllers with their fixed parameters.
      widths: By label, the numbers of slots that a setting was replayed with.
      feature_names: The features of the data.
      provenance: All of `Provenance` except its settings, which name their artefacts.
    """

    settings: Sequence[Setting]
    widths: Mapping[str, tuple[int, ...]]
    feature_names: tuple[str, ...]
    provenance: Callable[..., Provenance]


@dataclasses.dataclass(frozen=True, eq=False)
class Results:
    """The results of a sweep.

    Attributes:
      rows: Controllers with a parameter vector, R of them.
      parts: Label and number of questions of each dataset; Q questions in total.
      golds: The gold answer of each question.
      sums: For each of `FIELDS`, ``[R, Q]`` its sum over a question's shuffles.
      shuffles: Branch orders per question.
      notes: What a reader should know about the rows.
      origin: What they come from; None for results put together by hand, which cannot be written.
    """

    rows: Sequence[Row]
    parts: Sequence[tuple[str, int]]
    golds: Sequence[str]
    sums: Mapping[str, Int64[np.ndarray, "R Q"]]
    shuffles: int
    notes: tuple[str, ...] = ()
    origin: Origin | None = dataclasses.field(default=None, repr=False)

    def __repr__(self) -> str:
        """In a line: what is in the tables."""
        labels = dict.fromkeys(row.label for row in self.rows)
        return (
            f"Results({len(self.rows)} rows of {', '.join(labels)}; {', '.join(name for name, _ in self.parts)}; "
            f"{len(self.golds)} questions × {self.shuffles} shuffles)"
        )

    def _repr_html_(self) -> str:
        """In a notebook: the table, its first rows if it is long."""
        rows = self.table.slice(0, _SHOWN).to_pylist()
        return _HTML.render(rows=rows, more=self.table.num_rows - len(rows), about=repr(self))

    @functools.cached_property
    def artefacts(self) -> Mapping[str, Artefact]:
        """The exported controller of each setting, by label.

        Raises:
          InputError: if a controller cannot be exported, or the results were put together by hand.
        """
        origin = self._origin()
        return {
            setting.label: _exported(setting.controller, origin.widths[setting.label], origin.feature_names)
            for setting in origin.settings
        }

    @functools.cached_property
    def provenance(self) -> Provenance:
        """What the results come from, whoever made them: the command or a call.

        Raises:
          InputError: as for `artefacts`.
        """
        origin = self._origin()
        return origin.provenance(
            settings=tuple(
                UsedSetting(
                    label=setting.label,
                    controller=setting.controller.name,
                    given=dict(setting.given),
                    artefact=self.artefacts[setting.label].digest,
                    source=setting.controller.source,
                )
                for setting in origin.settings
            )
        )

    def _origin(self) -> Origin:
        if self.origin is None:
            raise InputError("results: put together by hand, so nothing says what they come from. Make them by sweep.")
        return self.origin

    @functools.cached_property
    def table(self) -> pa.Table:
        """One row per dataset × setting × parameters; the columns `dataset` and `controller` hold their labels.

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
        """Writes the results folder (and ``questions.*``), all of it or nothing, and lists the files.

        Of earlier results in the folder nothing remains; other files stay.

        Raises:
          InputError: if the directory cannot be written to, a controller cannot be exported, or the results were put
            together by hand.
        """
        directory, artefacts = writable(directory), self.artefacts
        tables = {"results": self.table} | ({"questions": self.per_question} if per_question else {})
        writers: dict[str, Callable[[Path], object]] = {}
        for name, table in tables.items():
            writers[f"{name}.csv"] = functools.partial(write_csv, table)
            writers[f"{name}.parquet"] = functools.partial(_write_parquet, table)
        writers["sums.parquet"] = functools.partial(_write_parquet, self._integers())
        for artefact in artefacts.values():
            writers[f"controllers/{artefact.digest}.zip"] = functools.partial(write_artefact, artefact)
        names = tuple(writers)
        writers[RESULTS] = lambda path: path.write_text(self._manifest(path.parent, names), encoding="utf-8")
        earlier = _files_of(directory)
        written = write_together(directory, writers)
        for stale in earlier - set(writers):
            (directory / stale).unlink(missing_ok=True)
        return written

    def _integers(self) -> pa.Table:
        """The sums with one line per row and question."""
        rows, questions = len(self.rows), len(self.golds)
        places = {
            "row": np.repeat(np.arange(rows, dtype=np.int32), questions),
            "question": np.tile(np.arange(questions, dtype=np.int32), rows),
        }
        return pa.table(places | {field: self.sums[field].reshape(-1) for field in FIELDS})

    def _manifest(self, directory: Path, files: Sequence[str]) -> str:
        """``sweep.json``: all that the tables do not hold, and the digests of the files in a directory."""
        return _Manifest(
            provenance=self.provenance,
            rows=tuple(
                _ManifestRow(label=row.label, beta=row.beta, params=json.loads(row.described())) for row in self.rows
            ),
            golds=tuple(self.golds),
            notes=self.notes,
            files={name: _digest_of((directory / name).read_bytes()) for name in files},
        ).sealed()

    def slices(self) -> list[tuple[str, slice]]:
        """Each part's name and the slice of its questions among the Q."""
        stops = np.cumsum([questions for _, questions in self.parts]).tolist()
        return [(name, slice(stop - n, stop)) for (name, n), stop in zip(self.parts, stops, strict=True)]

    def _heads(self, dataset: str, rows: np.ndarray) -> dict[str, Any]:
        """The columns that identify a table's rows; `rows` are indices into `self.rows`."""
        columns: dict[str, list[Any]] = {
            "controller": [row.label for row in self.rows],
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


# --- the folder ------------------------------------------------------------------------------------------------------

_REMEDY = "Name the directory that `autotts sweep --out` or `Results.write` wrote."

#: The names that a results folder may hold. Nothing else in a manifest is opened.
_FILE = re.compile(r"(results|questions)\.(csv|parquet)|sums\.parquet|controllers/[0-9a-f]{32}\.zip")


class _ManifestRow(pydantic.BaseModel, frozen=True, extra="forbid"):
    """A row: its setting, β and parameters."""

    label: str
    beta: float | None
    params: dict[str, Any]


class _Manifest(pydantic.BaseModel, frozen=True, extra="forbid"):
    """``sweep.json``."""

    format: Literal[1] = 1
    provenance: Provenance
    rows: tuple[_ManifestRow, ...]
    golds: tuple[str, ...]
    notes: tuple[str, ...]
    files: dict[Annotated[str, pydantic.Field(pattern=f"^({_FILE.pattern})$")], str]
    digest: str = ""

    def sealed(self) -> str:
        """As JSON, with a digest of everything else in it."""
        return self.model_copy(update={"digest": self._digest()}).model_dump_json(indent=1)

    def intact(self) -> bool:
        """Whether the digest is that of the rest."""
        return self.digest == self._digest()

    def _digest(self) -> str:
        return _digest_of(self.model_copy(update={"digest": ""}).model_dump_json().encode())


def is_results(path: Path) -> bool:
    """Whether a path is a results folder."""
    return (path / RESULTS).is_file()


def read(directory: str | os.PathLike[str]) -> Results:
    """Reads a results folder. Its controllers are the exported ones; no Python is run.

    Raises:
      InputError: if it is not a results folder, or anything in it is damaged or was changed.
    """
    directory = Path(directory)
    manifest = _read_manifest(directory)
    for name, digest in manifest.files.items():
        try:
            found = _digest_of((directory / name).read_bytes())
        except OSError as error:
            raise InputError(f"{directory / name}: cannot be read ({error.strerror}). Sweep again.") from None
        if found != digest:
            raise InputError(f"{directory / name}: not the file that the sweep wrote. Sweep again.")
    digests = dict.fromkeys(setting.artefact for setting in manifest.provenance.settings)
    artefacts = {digest: read_artefact(directory / "controllers" / f"{digest}.zip") for digest in digests}
    controllers = {digest: artefact.controller() for digest, artefact in artefacts.items()}
    settings = {
        setting.label: Setting(controllers[setting.artefact], setting.given, setting.label)
        for setting in manifest.provenance.settings
    }
    rows = [
        Row(settings[row.label].controller, row.beta, settings[row.label].params_from(row.params), row.label)
        for row in manifest.rows
    ]
    integers = pa.parquet.read_table(directory / "sums.parquet", page_checksum_verification=True)
    shape = len(rows), len(manifest.golds)
    return Results(
        rows=rows,
        parts=[(data.label, data.questions) for data in manifest.provenance.datasets],
        golds=manifest.golds,
        sums={field: integers[field].to_numpy().reshape(shape) for field in FIELDS},
        shuffles=manifest.provenance.shuffles,
        notes=manifest.notes,
        origin=Origin(
            settings=tuple(settings.values()),
            widths={label: setting.controller.widths for label, setting in settings.items()},
            feature_names=next(iter(artefacts.values())).described.feature_names,
            provenance=functools.partial(_restored, manifest.provenance),
        ),
    )


def _restored(provenance: Provenance, settings: tuple[UsedSetting, ...]) -> Provenance:
    """The provenance that was read; the settings, exported again, are what they were."""
    return provenance.model_copy(update={"settings": settings})


def _read_manifest(directory: Path) -> _Manifest:
    file = directory / RESULTS
    try:
        manifest = _Manifest.model_validate_json(file.read_bytes())
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}). {_REMEDY}") from None
    except pydantic.ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        place = ".".join(map(str, wrong["loc"])) or "the file"
        raise InputError(f"{file}: {place}: {wrong['msg']}. {_REMEDY}") from None
    if not manifest.intact():
        raise InputError(f"{file}: its digest is not that of its contents: damaged or changed. Sweep again.")
    return manifest


def _files_of(directory: Path) -> set[str]:
    """The files of the results that a directory holds, if any."""
    try:
        return {*_read_manifest(directory).files}
    except InputError:
        return set()


@functools.cache
def _exported(controller: Controller, widths: tuple[int, ...], feature_names: tuple[str, ...]) -> Artefact:
    return export_controller(controller, widths, feature_names)


def _digest_of(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _write_parquet(table: pa.Table, path: Path) -> None:
    pa.parquet.write_table(table, path, write_page_checksum=True)


def write_csv(table: pa.Table, sink: Path | BinaryIO) -> None:
    """Writes a table as CSV. A cell that a spreadsheet would take for a formula begins with an apostrophe."""
    for index, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            plain = pa.compute.replace_substring_regex(table[index], pattern=r"^([=+\-@\t\r])", replacement=r"'\1")
            table = table.set_column(index, field, plain)
    pa.csv.write_csv(table, sink, pa.csv.WriteOptions(quoting_style="needed"))
