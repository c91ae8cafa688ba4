"""The journal of a live run: what was finished, one line each, on disk before the run goes on.

The first line says what the run does, by digests. A run that was killed reads the journal and goes on after the last
whole line; a run that does anything else does not touch it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import filelock
import pydantic

from autotts_jax.errors import InputError
from autotts_jax.files import explained, writable

__all__ = ["Finished", "Generated", "Journal"]


class _Line(pydantic.BaseModel, frozen=True, extra="forbid"):
    """What every line is made of."""


class _Begun(_Line, frozen=True):
    """The first line: digests of all that the run depends on."""

    format: Literal[1] = 1
    run: dict[str, str]


class Generated(_Line, frozen=True):
    """What was generated of a branch.

    Attributes:
      slot: Its slot.
      answers: By interval; None where it was not read.
      tokens: Generated.
      ended: Whether it came to its end.
    """

    slot: int
    answers: tuple[str | None, ...]
    tokens: int
    ended: bool


class Finished(_Line, frozen=True):
    """A question that was answered, in one of its runs.

    Attributes:
      row: The controller and its parameters, by number.
      question: The question, by number.
      shuffle: Which of the question's runs.
      outcome: Fields of `Outcome`, as integers.
      answer: What was answered; None if nothing.
      seconds: From its first request to its answer.
      first_answer: From its first request to the first answer that any branch gave.
      engine_tokens: What the engine generated for it, replies to suffixes included.
      decisions: Seconds that each of the controller's decisions took.
      branches: What was generated; None unless it is recorded.
    """

    row: int
    question: int
    shuffle: int
    outcome: dict[str, int]
    answer: str | None
    seconds: float
    first_answer: float | None
    engine_tokens: int
    decisions: tuple[float, ...] = pydantic.Field(default=(), exclude=True)
    branches: tuple[Generated, ...] | None = None


class Journal:
    """What a run has finished so far; on disk, unless it was made without a file.

    Attributes:
      finished: In the order in which they ended.
    """

    def __init__(self, file: Path | None = None) -> None:
        """An empty journal; `opened` reads one."""
        self._file = file
        self.finished: list[Finished] = []

    @classmethod
    @contextlib.contextmanager
    def opened(cls, file: Path, run: Mapping[str, str]) -> Iterator[Journal]:
        """A journal that no other process writes to meanwhile, new or as an earlier run left it.

        Args:
          file: The journal.
          run: Digests of all that the run depends on, by what they are of.

        Raises:
          InputError: if it is another run's, in use, or damaged, or cannot be written.
        """
        writable(file.parent)
        lock = filelock.FileLock(f"{file}.lock", thread_local=False)
        with explained(file):
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:  # an OSError as well
                raise InputError(
                    f"{file}: another process is writing it. Wait until it ends, or choose another directory."
                ) from None
        try:
            journal = cls(file)
            journal._read(dict(run))
            yield journal
        finally:
            lock.release()

    def append(self, finished: Finished) -> None:
        """Adds what was finished, and returns when it is on disk.

        Raises:
          InputError: if it cannot be written.
        """
        if self._file is not None:
            _append(self._file, finished)
        self.finished.append(finished)

    def _read(self, run: dict[str, str]) -> None:
        assert self._file is not None
        with explained(self._file, "Check its permissions."):
            self._file.touch()
            lines = self._file.read_bytes().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith(b"\n")]  # only the last one can be torn, by a kill
        for number, line in enumerate(whole):
            try:
                if number:
                    self.finished.append(Finished.model_validate_json(line))
                else:
                    begun = _Begun.model_validate_json(line)
            except pydantic.ValidationError as error:
                wrong = error.errors(include_url=False)[0]
                where = ".".join(map(str, wrong["loc"])) or "the line"
                raise InputError(
                    f"{self._file}: line {number + 1}, {where}: {wrong['msg']}. It is damaged, or of another version: "
                    "choose another directory."
                ) from None
        if not whole:
            with explained(self._file):
                os.truncate(self._file, 0)
            _append(self._file, _Begun(run=run))
            return
        differing = sorted(name for name in run.keys() | begun.run.keys() if run.get(name) != begun.run.get(name))
        if differing:
            raise InputError(
                f"{self._file}: of a run with other {', '.join(differing)}. Run that one again, or choose another "
                "directory."
            )
        with explained(self._file):
            os.truncate(self._file, sum(map(len, whole)))


def _append(file: Path, line: _Line) -> None:
    with explained(file), file.open("ab") as written:
        written.write(line.model_dump_json().encode() + b"\n")
        written.flush()
        os.fsync(written.fileno())
