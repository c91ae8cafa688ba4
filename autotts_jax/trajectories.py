"""Recorded reasoning trajectories on the host: read, validate and write them. NumPy only, no JAX.

The suffix selects the format, see `FORMATS`:

* ``.json``: the public AutoTTS release (arXiv 2605.08083), a list of questions with their branches;
* ``.parquet``: our own, one row per question, integer columns that index the question's distinct answers, and
  in the file's metadata the recording settings as JSON (``autotts_jax``) and a digest of all that the file holds
  (``autotts_jax_digest``). Files of other tools may lack both.

Whatever is read, written or packed passes `validated`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pydantic
from jaxtyping import Bool, Int, Int32

from autotts_jax.digests import Digest
from autotts_jax.errors import InputError, one_line
from autotts_jax.files import existing, writable, write_whole

__all__ = [
    "FORMATS",
    "Format",
    "Question",
    "Trajectories",
    "check_branches",
    "check_texts",
    "describe",
    "facts",
    "format_of",
    "read",
    "suffixes",
    "validated",
    "write",
]

#: The answer strings that stand for "no answer could be parsed" in the public release.
UNPARSABLE = ("ERR",)

#: Bounds that packed words and int32 sums rely on (see `finish_keys` in environment.py; 256 slots × 2²² = 2³⁰).
MAX_INTERVALS = 4095
MAX_TOKENS = 2**22


@dataclasses.dataclass(frozen=True, eq=False)
class Question:
    """One question with its recorded branches, in columns.

    Attributes:
      text: The question.
      gold: The right answer; grading is string equality.
      delta: Δ, tokens per interval.
      choices: The distinct answers of the question, in order of first appearance.
      answers: ``[N, D]`` indices into `choices`: ``answers[n, d]`` is what interval d + 1 of branch n reveals,
        the final answer last; −1 beyond the branch's end.
      intervals: ``[N]`` intervals per branch: its probes plus one.
      tokens: ``[N]`` total tokens per branch.
    """

    text: str
    gold: str
    delta: int
    choices: tuple[str, ...]
    answers: Int32[np.ndarray, "N D"]
    intervals: Int32[np.ndarray, " N"]
    tokens: Int32[np.ndarray, " N"]

    @classmethod
    def from_branches(
        cls, text: str, gold: str, delta: int, branches: Iterable[tuple[Sequence[str], int, str]]
    ) -> Question:
        """A question from (probes, tokens, final answer) per branch, as the public release lists them."""
        ids: dict[str, int] = {}
        rows, tokens = [], []
        for probes, spent, final in branches:
            rows.append([ids.setdefault(answer, len(ids)) for answer in (*probes, final)])
            tokens.append(spent)
        intervals = np.array([len(row) for row in rows], np.int32)
        answers = np.full((len(rows), max(intervals)), -1, np.int32)
        for row, target in zip(rows, answers, strict=True):
            target[: len(row)] = row
        return cls(text, gold, delta, tuple(ids), answers, intervals, np.array(tokens, np.int32))

    def branches(self) -> Iterator[tuple[list[str], int, str]]:
        """The branches as (probes, tokens, final answer)."""
        for row, intervals, tokens in zip(self.answers, self.intervals, self.tokens, strict=True):
            *probes, final = (self.choices[i] for i in row[:intervals])
            yield probes, int(tokens), final


@dataclasses.dataclass(frozen=True, eq=False)
class Trajectories:
    """The questions of one benchmark as one model answered them, and how they were recorded.

    Attributes:
      questions: At least one.
      model: For instance ``Qwen3-8B``; empty if unknown.
      benchmark: For instance ``aime24``; empty if unknown.
      unparsable: The answer strings that mean "no answer could be parsed".
      sampling: The sampling settings (temperature, top_p, …).
      probe_suffix: The text appended to a branch to probe its answer.
      grading: The rule by which answers are graded.
    """

    questions: Sequence[Question]
    model: str = ""
    benchmark: str = ""
    unparsable: tuple[str, ...] = UNPARSABLE
    sampling: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    probe_suffix: str = ""
    grading: str = "string equality"

    @property
    def name(self) -> str:
        """``<model>/<benchmark>`` where known."""
        return "/".join(part for part in (self.model, self.benchmark) if part) or "unnamed"


def read(path: str | os.PathLike[str]) -> Trajectories:
    """Reads a ``.json`` or ``.parquet`` file of trajectories and checks every field.

    A JSON file does not name its model and benchmark; they are taken from its path: ``<model>/<benchmark>.json``.

    Raises:
      InputError: naming file, field, value and remedy.
    """
    path = existing(path)
    if not path.is_file():
        raise InputError(f"{path}: not a file. Name one {suffixes()} file.")
    read_as = format_of(path).read
    try:
        return validated(read_as(path), str(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)}). Check its permissions.") from None


def write(trajectories: Trajectories, path: str | os.PathLike[str]) -> None:
    """Writes trajectories, whole or not at all, in the format that the suffix names.

    JSON keeps only the public release's fields: the recording settings are lost.

    Raises:
      InputError: if the suffix is unknown, a field is wrong, or the file cannot be written.
    """
    path = Path(path)
    write_as = format_of(path).write
    validated(trajectories, trajectories.name)
    writable(path.parent)
    write_whole(path, functools.partial(write_as, trajectories))


def format_of(path: Path) -> Format:
    """The format of a file of this name.

    Raises:
      InputError: if its suffix is unknown.
    """
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path}: suffix {path.suffix!r} is not understood. Use {suffixes()}.")
    return FORMATS[path.suffix.lower()]


def suffixes() -> str:
    """The known suffixes, for messages."""
    return " or ".join(FORMATS)


def facts(trajectories: Trajectories) -> dict[str, Any]:
    """Counts, lengths, accuracies and oddities of trajectories.

    Lengths are ``NAME_least``, ``NAME_greatest`` and ``NAME_mean``; accuracies and shares lie in [0, 1].
    """
    questions = trajectories.questions
    branches = np.array([len(q.intervals) for q in questions])
    probes = np.concatenate([q.intervals - 1 for q in questions])
    tokens = np.concatenate([q.tokens for q in questions])
    rest = np.concatenate([q.tokens - q.delta * (q.intervals - 1) for q in questions])
    deltas = np.array([q.delta for q in questions])
    distinct = np.array([len(q.choices) for q in questions])
    finals = [q.answers[np.arange(len(q.intervals)), q.intervals - 1] for q in questions]
    right = [np.array([choice == q.gold for choice in q.choices])[f] for q, f in zip(questions, finals, strict=True)]
    leaders = [np.bincount(f).argmax() for f in finals]
    majority = [q.choices[leader] == q.gold for q, leader in zip(questions, leaders, strict=True)]
    bad = [np.array([choice in trajectories.unparsable for choice in q.choices]) for q in questions]
    unparsable = np.concatenate([b[q.answers[q.answers >= 0]] for q, b in zip(questions, bad, strict=True)])
    unsettled = np.concatenate(
        [
            q.answers[np.arange(len(f)), np.maximum(q.intervals - 2, 0)] != f
            for q, f in zip(questions, finals, strict=True)
        ]
    )

    lengths = {
        "branches": branches,
        "delta": deltas,
        "probes": probes,
        "tokens": tokens,
        "distinct_answers": distinct,
    }
    oddities = {
        "unparsable": unparsable,
        "unsettled": unsettled,
        "probed_beyond_tokens": rest < 0,
        "long_last_interval": rest > np.repeat(deltas, branches),
    }
    return {
        "name": trajectories.name,
        "questions": len(questions),
        **{
            f"{name}_{which}": function(values).item()
            for name, values in lengths.items()
            for which, function in (("least", np.min), ("greatest", np.max), ("mean", np.mean))
        },
        "branch_accuracy": float(np.mean([r.mean() for r in right])),
        "plurality_accuracy": float(np.mean(majority)),
        "any_right": float(np.mean([r.any() for r in right])),
        "gold_never_given": sum(q.gold not in q.choices for q in questions),
        **{name: int(flags.sum()) for name, flags in oddities.items()},
        **{f"{name}_share": float(flags.mean()) for name, flags in oddities.items()},
        "duplicate_questions": len(questions) - len({q.text for q in questions}),
        "sampling": json.dumps(dict(trajectories.sampling)) if trajectories.sampling else None,
        "probe_suffix": trajectories.probe_suffix or None,
        "grading": trajectories.grading,
    }


def describe(trajectories: Trajectories) -> dict[str, str]:
    """The `facts` in words, text by label."""
    found = facts(trajectories)

    def spread(name: str) -> str:
        least, greatest = found[f"{name}_least"], found[f"{name}_greatest"]
        return f"{least}" if least == greatest else f"{least} to {greatest}, mean {found[f'{name}_mean']:.1f}"

    def share(name: str) -> str:
        return f"{found[name]} ({100 * found[f'{name}_share']:.1f} %)"

    return {
        "name": found["name"],
        "questions": str(found["questions"]),
        "branches per question": spread("branches"),
        "Δ, tokens per interval": spread("delta"),
        "probes per branch": spread("probes"),
        "tokens per branch": spread("tokens"),
        "distinct answers per question": spread("distinct_answers"),
        "accuracy of one branch": f"{100 * found['branch_accuracy']:.2f} %",
        "accuracy of the plurality vote": f"{100 * found['plurality_accuracy']:.2f} %",
        "questions with any branch right": f"{100 * found['any_right']:.2f} %",
        "questions whose gold answer no branch ever gives": str(found["gold_never_given"]),
        f"unparsable answers ({', '.join(trajectories.unparsable)})": share("unparsable"),
        "branches whose last probe differs from the final answer": share("unsettled"),
        "branches probed beyond their tokens": share("probed_beyond_tokens"),
        "branches with more than Δ tokens after the last probe": share("long_last_interval"),
        "duplicate questions": str(found["duplicate_questions"]),
        "sampling": found["sampling"] or "not recorded",
        "probe suffix": repr(found["probe_suffix"]) if found["probe_suffix"] else "not recorded",
        "grading": found["grading"],
    }


# --- what trajectories must be -----------------------------------------------------------------------------------


def validated(trajectories: Trajectories, where: str) -> Trajectories:
    """The same trajectories, every field of them checked.

    Args:
      trajectories: Read from a file, or made by hand.
      where: The file, or their name, for messages.

    Raises:
      InputError: naming question, field, value and remedy.
    """
    if not len(trajectories.questions):
        raise InputError(f"{where}: it holds no question; there must be at least one.")
    settings = (trajectories.model, trajectories.benchmark, trajectories.probe_suffix, trajectories.grading)
    check_texts([*settings, *trajectories.unparsable], f"{where}: the recording settings")
    for index, question in enumerate(trajectories.questions):
        _check_question(question, f"{where}: question {index}")
    return trajectories


def _check_question(q: Question, where: str) -> None:
    def fail(field: str, what: str, branch: int | None = None) -> NoReturn:
        place = f"field {field}" if branch is None else f"field {field}, branch {branch}"
        raise InputError(f"{where}, {place}: {what}. Write it again or drop the question.")

    check_texts([q.text, q.gold, *q.choices], where)
    if len(set(q.choices)) < len(q.choices):
        fail("choices", f"{_short(max(q.choices, key=q.choices.count))} is there twice; answers must be distinct")
    if not len(q.intervals):
        fail("intervals", "no branch; there must be at least one")
    if not isinstance(q.delta, int | np.integer):
        fail("delta", f"{_short(q.delta)} is not a whole number")
    for name, array in {"answers": q.answers, "intervals": q.intervals, "tokens": q.tokens}.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind != "i" or array.ndim != 1 + (name == "answers"):
            fail(name, "not an array of signed integers, [N, D] or [N]")
        if len(array) != len(q.intervals):
            fail(name, f"{len(array)} values for {len(q.intervals)} branches")
    if (q.intervals < 1).any():  # 0 would stand for no branch
        fail("intervals", f"{q.intervals.min()}, outside 1 to {MAX_INTERVALS}", int(q.intervals.argmin()))
    delta, known = np.full(len(q.intervals), q.delta), np.ones(len(q.choices), bool)
    columns = (q.answers, q.intervals, q.tokens, delta, known)
    check_branches(lambda _, branch, field, what: fail(field, what, branch), *(column[None] for column in columns))


def check_texts(texts: Sequence[Any], where: str) -> None:
    """Checks that strings are strings that can be written.

    Raises:
      InputError: naming the first that is not.
    """
    for text in texts:
        try:
            text.encode()
        except (AttributeError, UnicodeEncodeError):
            raise InputError(f"{where}: {_short(text)} is not a string of Unicode. Write it again.") from None


def check_branches(
    fail: Callable[[int, int, str, str], NoReturn],
    answers: Int[np.ndarray, "Q N D"],
    intervals: Int[np.ndarray, "Q N"],
    tokens: Int[np.ndarray, "Q N"],
    delta: Int[np.ndarray, "Q N"],
    known: Bool[np.ndarray, "Q A"],
) -> None:
    """Checks padded branches: what evaluation relies on, and sums over an episode that int32 must hold.

    Args:
      fail: Called as ``fail(question, branch, field, what is wrong)``; must raise.
      answers: Ids, −1 beyond a branch's end.
      intervals: 0 where there is no branch; the branches come first.
      tokens: Tokens per branch; 0 where there is none.
      delta: Tokens per interval; 0 where there is no branch.
      known: Which ids have a string.
    """

    def demand(right: np.ndarray, field: str, values: np.ndarray, what: str) -> None:
        if not right.all():
            place = tuple(np.argwhere(~right)[0])
            fail(int(place[0]), int(place[1]), field, f"{values[place]}, {what}")

    D, there = answers.shape[-1], intervals != 0
    demand((intervals >= 0) & (intervals <= MAX_INTERVALS), "intervals", intervals, f"outside 1 to {MAX_INTERVALS}")
    demand(intervals <= D, "intervals", intervals, f"more than the {D} that answers has room for")
    demand(
        np.logical_and.accumulate(there, axis=-1) == there, "intervals", intervals, "after a gap: branches come first"
    )
    demand(there | (np.arange(there.shape[-1]) > 0), "intervals", intervals, "no branch; there must be at least one")
    for field, values in {"tokens": tokens, "delta": delta}.items():
        demand((values >= 1) & (values <= MAX_TOKENS) | ~there, field, values, f"outside 1 to {MAX_TOKENS}")
        demand((values == 0) | there, field, values, "where there is no branch")
    probed = delta.astype(np.int64) * np.maximum(intervals - 1, 0)
    demand(
        probed <= MAX_TOKENS,
        "delta",
        delta,
        f"makes the branch's probes reach {probed.max()} tokens, beyond {MAX_TOKENS}",
    )
    generated = np.arange(D) < intervals[..., None]
    listed = (answers >= 0) & (answers < known.shape[-1])
    numbers = np.where(listed, answers, 0).reshape(len(known), -1)
    listed &= np.take_along_axis(known, numbers, axis=-1).reshape(listed.shape)
    demand(listed | ~generated, "answers", answers, "an answer that choices does not have")
    demand((answers == -1) | generated, "answers", answers, "not −1 beyond the branch's end")


# --- the public release's JSON -------------------------------------------------------------------------------

_Tokens = Annotated[int, pydantic.Field(ge=1, le=MAX_TOKENS)]
_Probes = Annotated[list[str], pydantic.Field(max_length=MAX_INTERVALS - 1)]


class _JsonQuestion(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)

    question: str
    gold_answer: str
    probe_freq: Annotated[int, pydantic.Field(ge=1, le=MAX_TOKENS)]
    each_branch: Annotated[list[tuple[_Probes, _Tokens, str]], pydantic.Field(min_length=1)]
    final_answers_trace: list[str] | None = None


_JSON_FILE = pydantic.TypeAdapter(Annotated[list[_JsonQuestion], pydantic.Field(min_length=1)])

_REMEDY = {
    "missing": "add the field",
    "too_short": "there must be at least one",
    "greater_than_equal": "record the branch again or drop it",
    "json_invalid": "the file is not JSON or is truncated; fetch or write it again",
}


def _read_json(path: Path) -> Trajectories:
    try:
        # JSON mode is strict except for tuples, which JSON writes as lists.
        rows = _JSON_FILE.validate_json(path.read_bytes())
    except pydantic.ValidationError as error:
        raise InputError(_explain(path, error)) from None
    questions = []
    for index, row in enumerate(rows):
        finals = [final for _, _, final in row.each_branch]
        if row.final_answers_trace is not None and row.final_answers_trace != finals:
            raise InputError(
                f"{path}: question {index}, field final_answers_trace: it differs from the final answers in "
                "each_branch. Write it from them, or omit it."
            )
        questions.append(Question.from_branches(row.question, row.gold_answer, row.probe_freq, row.each_branch))
    model = path.resolve().parent.name
    return Trajectories(questions, model=model, benchmark=path.stem)


def _explain(path: Path, error: pydantic.ValidationError) -> str:
    """The first problem of a file in one line: where, what was found, what to do."""
    problem = error.errors(include_url=False)[0]
    place, where = list(problem["loc"]), []
    if place and isinstance(place[0], int):
        where.append(f"question {place.pop(0)}")
    if place:
        where.append(f"field {place.pop(0)}")
    if place:
        where.append(f"branch {place.pop(0)}")
    if place:
        where.append(("probes", "tokens", "final answer")[part] if (part := place.pop(0)) in (0, 1, 2) else str(part))
    if place:
        where.append(f"probe {place.pop(0)}")
    found = "" if problem["type"] in ("missing", "json_invalid") else f" (found {_short(problem['input'])})"
    remedy = _REMEDY.get(problem["type"], "see the format in notebooks/guide/data.md")
    return f"{path}: {', '.join(where) or 'the file'}: {problem['msg']}{found}. Remedy: {remedy}."


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _write_json(trajectories: Trajectories, path: Path) -> None:
    rows = []
    for question in trajectories.questions:
        branches = list(question.branches())
        rows.append(
            {
                "question": question.text,
                "gold_answer": question.gold,
                "probe_freq": question.delta,
                "each_branch": branches,
                "final_answers_trace": [final for _, _, final in branches],
            }
        )
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")


# --- our own Parquet -------------------------------------------------------------------------------------------

_SCHEMA = pa.schema(
    [
        pa.field("question", pa.string(), nullable=False),
        pa.field("gold", pa.string(), nullable=False),
        pa.field("delta", pa.int32(), nullable=False),
        pa.field("choices", pa.list_(pa.string()), nullable=False),
        pa.field("intervals", pa.list_(pa.int32()), nullable=False),
        pa.field("tokens", pa.list_(pa.int32()), nullable=False),
        # The branches' answers, concatenated: sum(intervals) indices into choices.
        pa.field("answers", pa.list_(pa.int32()), nullable=False),
    ]
)


class _Recording(pydantic.BaseModel):
    """The recording settings in the Parquet file's metadata. Format 2 has a digest beside them."""

    model_config = pydantic.ConfigDict(strict=True)

    format: Annotated[int, pydantic.Field(ge=1, le=2)] = 1
    model: str = ""
    benchmark: str = ""
    unparsable: list[str] = list(UNPARSABLE)
    sampling: dict[str, Any] = {}
    probe_suffix: str = ""
    grading: str = "string equality"


_RECORDING, _DIGEST = "autotts_jax", "autotts_jax_digest"


def _write_parquet(trajectories: Trajectories, path: Path) -> None:
    try:
        sampling = json.loads(json.dumps(dict(trajectories.sampling), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"{trajectories.name}: field sampling: {error}. Keep what JSON can say.") from None
    recording = _Recording(
        format=2,
        model=trajectories.model,
        benchmark=trajectories.benchmark,
        unparsable=list(trajectories.unparsable),
        sampling=sampling,
        probe_suffix=trajectories.probe_suffix,
        grading=trajectories.grading,
    )
    rows = [
        {
            "question": q.text,
            "gold": q.gold,
            "delta": q.delta,
            "choices": q.choices,
            "intervals": q.intervals,
            "tokens": q.tokens,
            "answers": q.answers[q.answers >= 0],
        }
        for q in trajectories.questions
    ]
    table = pa.Table.from_pylist(rows, _SCHEMA)
    metadata = {_RECORDING: recording.model_dump_json(), _DIGEST: _digest(table, recording)}
    pq.write_table(table.replace_schema_metadata(metadata), path, compression="zstd", write_page_checksum=True)


def _read_parquet(path: Path) -> Trajectories:
    content = path.read_bytes()
    footer = content[-8 - int.from_bytes(content[-8:-4], "little") :]
    try:
        with pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True) as file:
            table = file.read().combine_chunks()
        table.validate(full=True)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({one_line(error)}). Write it again.") from None
    for field in _SCHEMA:
        if table.column_names.count(field.name) != 1:
            raise InputError(f"{path}: column {field.name} is missing. Write the file with write_trajectories.")
    for field in _SCHEMA:
        if not _alike(found := table.schema.field(field.name).type, field.type):
            raise InputError(f"{path}: column {field.name} is {found}, not {field.type}. Cast it.")
        flat = pc.list_flatten(table[field.name]) if pa.types.is_nested(field.type) else table[field.name]
        if table[field.name].null_count or flat.null_count:
            raise InputError(f"{path}: column {field.name} holds nulls. Fill or drop those rows.")
    metadata, table = table.schema.metadata or {}, table.select(_SCHEMA.names).cast(_SCHEMA)
    try:
        recording = _Recording.model_validate_json(metadata.get(_RECORDING.encode(), b"{}"))
    except pydantic.ValidationError as error:
        raise InputError(_explain(path, error).replace("question", "metadata")) from None
    digest = metadata.get(_DIGEST.encode())
    # A damaged footer may read as one without metadata.
    if digest is None and (recording.format > 1 or _DIGEST.encode() in footer):
        raise InputError(f"{path}: metadata: {_DIGEST} is missing: the file is damaged. Fetch or write it again.")
    if digest is not None and digest != _digest(table, recording).encode():
        raise InputError(
            f"{path}: its contents are not those that its digest is of: it was damaged or edited. Fetch or write it "
            f"again; after an edit of your own, drop {_DIGEST} and format from the metadata."
        )
    columns = {field.name: table[field.name] for field in _SCHEMA}
    questions = []
    for index in range(table.num_rows):
        intervals, tokens, flat = (columns[key][index].values.to_numpy() for key in ("intervals", "tokens", "answers"))

        def fail(field: str, what: str, index: int = index) -> NoReturn:
            raise InputError(f"{path}: question {index}, column {field}: {what}. Write it again or drop the row.")

        if not len(intervals):
            fail("intervals", "no branch")
        if not 1 <= intervals.min() <= intervals.max() <= MAX_INTERVALS:
            fail("intervals", f"{intervals.min()} to {intervals.max()}, outside 1 to {MAX_INTERVALS}")
        if len(flat) != intervals.sum():
            fail("answers", f"{len(flat)} values for {intervals.sum()} intervals")
        answers = np.full((len(intervals), intervals.max()), -1, np.int32)
        answers[np.arange(answers.shape[1]) < intervals[:, None]] = flat
        questions.append(
            Question(
                text=columns["question"][index].as_py(),
                gold=columns["gold"][index].as_py(),
                delta=columns["delta"][index].as_py(),
                choices=tuple(columns["choices"][index].as_py()),
                answers=answers,
                intervals=intervals,
                tokens=tokens,
            )
        )
    return Trajectories(
        questions,
        model=recording.model,
        benchmark=recording.benchmark,
        unparsable=tuple(recording.unparsable),
        sampling=recording.sampling,
        probe_suffix=recording.probe_suffix,
        grading=recording.grading,
    )


def _alike(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether types differ at most in how tools store them: large or not, and how a list names its items."""
    if pa.types.is_list(wanted):
        listed = pa.types.is_list(found) or pa.types.is_large_list(found)
        return listed and _alike(found.value_type, wanted.value_type)
    return found == wanted or (pa.types.is_string(wanted) and pa.types.is_large_string(found))


def _digest(table: pa.Table, recording: _Recording) -> str:
    """The digest of all that a Parquet file says: the recording settings and the columns, row by row."""
    digest = Digest()
    digest.json("recording", recording.model_dump())
    for field in _SCHEMA:
        column = table[field.name].combine_chunks()
        if pa.types.is_list(field.type):
            digest.array(f"{field.name} per question", pc.list_value_length(column))
            column = column.flatten()
        if pa.types.is_string(column.type):
            digest.texts(field.name, column.to_pylist())
        else:
            digest.array(field.name, column)
    return digest.hex()


# --- the table of formats ------------------------------------------------------------------------------------


class Format(NamedTuple):
    """The functions that read and write files of one format."""

    read: Callable[[Path], Trajectories]
    write: Callable[[Trajectories, Path], None]


#: The formats by their suffix.
FORMATS = {".json": Format(_read_json, _write_json), ".parquet": Format(_read_parquet, _write_parquet)}
