"""Questions from files: JSON Lines, CSV or Parquet."""

from __future__ import annotations

import os

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from autotts_collect.live import Asked
from autotts_jax.errors import InputError, one_line
from autotts_jax.files import existing

__all__ = ["read_questions"]


def read_questions(path: str | os.PathLike[str], question: str = "question", answer: str = "answer") -> list[Asked]:
    """The questions of a ``.jsonl``, ``.csv`` or ``.parquet`` file.

    Args:
      path: The file.
      question: The column that holds the questions.
      answer: The column that holds the gold answers; numbers are read as they are written.

    Raises:
      InputError: naming file, row, column and remedy.
    """
    path = existing(path)
    columns = {question: pa.string(), answer: pa.string()}
    try:
        match path.suffix.lower():
            case ".jsonl":
                table = pa.json.read_json(path)
            case ".csv":
                table = pa.csv.read_csv(
                    path,
                    parse_options=pa.csv.ParseOptions(newlines_in_values=True),
                    convert_options=pa.csv.ConvertOptions(column_types=columns, strings_can_be_null=False),
                )
            case ".parquet":
                table = pa.parquet.read_table(path)
            case suffix:
                raise InputError(f"{path}: suffix {suffix!r} is not understood. Use .jsonl, .csv or .parquet.")
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)}). Write it again.") from None
    for name in columns:
        if name not in table.column_names:
            raise InputError(f"{path}: no column {name!r}, but {', '.join(table.column_names)}. Name the right one.")
    rows = list(zip(table[question].to_pylist(), table[answer].to_pylist(), strict=True))
    if not rows:
        raise InputError(f"{path}: no questions. Name a file that has some.")
    for number, (text, gold) in enumerate(rows):
        if not isinstance(text, str) or not text.strip():
            raise InputError(
                f"{path}: row {number}, column {question}: {text!r} is no question. Write one, or drop it."
            )
        if gold is None or not str(gold).strip():
            raise InputError(f"{path}: row {number}, column {answer}: no answer. Write one, or drop the row.")
    return [Asked(text, str(gold)) for text, gold in rows]
