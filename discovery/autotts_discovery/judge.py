"""The judge: a process of its own that compiles and replays candidates, and is killed when one goes astray.

Requests and answers go through pipes: JSON, with the bytes of an artefact after a request, and those of numbers after
an answer. Only the bench, which is ours, is pickled, on its way in; what comes back is parsed and bounded, never
unpickled.
"""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Annotated, Literal

import jax
import numpy as np
import pydantic

from autotts_discovery.bench import Bench, Replayer, Verdict, make_bench
from autotts_discovery.candidates import Refused
from autotts_discovery.fitness import Means, Terms
from autotts_discovery.tuning import Tuned, tune
from autotts_jax.artefacts import Artefact
from autotts_jax.errors import one_line

__all__ = ["Bench", "Judge", "Terms", "Tuned", "Verdict", "make_bench"]

#: Seconds for the process to start and to read the bench.
_START = 300

#: The longest answer, in bytes.
_ANSWER = 4 << 20

#: What numbers are, in answers.
_NUMBER = np.dtype("<f4")

#: A quick look refuses what is so many standard errors below the floor.
_CLEARLY = 3

#: What the process sees of the environment, by prefix: no keys.
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_", "TMPDIR", "PYTHON", "VIRTUAL_ENV", "LD_", "CUDA", "SYSTEMROOT", "XLA_")

#: The configuration that it shares with this process.
_CONFIGURATION = (
    "jax_platforms",
    "jax_enable_x64",
    "jax_disable_most_optimizations",
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


class Judge:
    """A process that holds a bench and judges candidates on it.

    It starts with the first call, and anew after one that crashed, took too long or too much memory. Use it as a
    context manager, or call `close`.

    Args:
      bench: The bench.
      seconds: Deadline of a call; `tune` may take its own seconds on top.
      memory_bytes: The most memory that the process may take; held on Linux only.

    Raises:
      RuntimeError: by a call, if the process does not start, which is no candidate's fault.
    """

    def __init__(self, bench: Bench, *, seconds: float = 120, memory_bytes: int = 6 << 30) -> None:
        """Starts nothing yet."""
        self._bench = bench
        self._seconds = seconds
        self._memory_bytes = memory_bytes
        self._process: subprocess.Popen[bytes] | None = None

    def look(self, artefact: Artefact, *, floor: float | None = None) -> Verdict:
        """A quick look: a verdict on few shuffles.

        Args:
          artefact: The candidate.
          floor: Refuse what is three standard errors below this gain; defaults to that of the worst reference. The
            penalty for sequential tokens is left to the verdict.

        Raises:
          Refused: at stage "judge" if it is far below everything known, or as `judge` does.
        """
        request = _Request(kind="look", floor=floor)
        answer, _ = self._ask(request, artefact, self._seconds)
        if answer.verdict is None:
            raise self._astray("output", "the judge answered something else")
        return answer.verdict

    def judge(self, artefact: Artefact) -> Verdict:
        """A verdict on all shuffles.

        Raises:
          Refused: at stage "deadline" or "memory" if the process was killed for that, "program" if the artefact
            cannot be replayed, "output" if the answer is none, "judge" if the process ended by itself.
        """
        return self.evaluate(artefact)[0]

    def evaluate(self, artefact: Artefact) -> tuple[Verdict, Means]:
        """The same, with the means by question that the verdict is made of, ``[P, Q]``.

        Raises:
          Refused: as `judge` does.
        """
        answer, numbers = self._ask(_Request(kind="judge"), artefact, self._seconds)
        means = _means_from(numbers, self._shape)
        if answer.verdict is None or means is None:
            raise self._astray("output", "the judge answered something else")
        return answer.verdict, means

    def tune(
        self, artefact: Artefact, *, free: Sequence[str] | None = None, seconds: float = 60, seed: int = 0
    ) -> Tuned:
        """Tunes the ends of a candidate's schedule: see `autotts_discovery.tuning.tune`.

        Raises:
          Refused: as `judge` does, and if there is nothing in its schedule to move.
        """
        moved = None if free is None else tuple(free)
        request = _Request(kind="tune", free=moved, seconds=seconds, seed=seed)
        answer, _ = self._ask(request, artefact, self._seconds + seconds)
        if answer.tuned is None:
            raise self._astray("output", "the judge answered something else")
        return answer.tuned

    def close(self) -> None:
        """Ends the process; a later call starts another one."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()

    def __enter__(self) -> Judge:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the process."""
        self.close()

    @property
    def _shape(self) -> tuple[int, int]:
        """βs and questions of the bench."""
        return len(self._bench.betas), len(self._bench.data)

    def _ask(self, request: _Request, artefact: Artefact, seconds: float) -> tuple[_Answer, bytes]:
        """The process's answer, and its numbers; whatever goes wrong, the next call finds a process that is idle."""
        programs = dict(artefact.programs)
        sized = request.model_copy(
            update={
                "description": artefact.description,
                "programs": {name: len(program) for name, program in programs.items()},
            }
        )
        if self._process is None or self._process.poll() is not None:
            self._start()
        answer, numbers = self._exchange([sized.model_dump_json().encode(), *programs.values()], seconds)
        if _resident(self._process) > self._memory_bytes // 2 or _mapped(self._process) > 0.5:
            self.close()  # programs of candidates long gone fill it
        if answer.refused is not None:
            raise Refused(answer.refused.stage, _printable(answer.refused.reason))
        return answer, numbers

    def _start(self) -> None:
        self.close()
        kept = {name: value for name, value in os.environ.items() if name.upper().startswith(_ENVIRONMENT)}
        values = {name: jax.config.values.get(name) for name in _CONFIGURATION}
        shared = {name.upper(): str(value) for name, value in values.items() if value is not None}
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        with tempfile.TemporaryFile() as said:
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"from autotts_discovery import judge; judge.serve({os.getpid()})"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                env={**kept, **shared, "JAX_NUM_CPU_DEVICES": str(cores)},
                start_new_session=True,
            )
            try:
                self._exchange([pickle.dumps(self._bench)], _START)
            except Refused as refused:
                said.seek(0)
                lines = said.read().decode(errors="replace").strip().splitlines() or [""]
                raise RuntimeError(f"the judge does not start ({refused.reason}): {_printable(lines[-1])}") from None

    def _exchange(self, request: Sequence[bytes], seconds: float) -> tuple[_Answer, bytes]:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        found: queue.Queue[tuple[bytes, bytes] | Exception] = queue.Queue()
        pipes, most = (process.stdin, process.stdout), _bytes_of(self._shape)
        threading.Thread(target=_converse, args=(*pipes, request, most, found), daemon=True).start()
        deadline = time.monotonic() + seconds
        try:
            while True:
                with contextlib.suppress(queue.Empty):
                    said = found.get(timeout=0.05)
                    break
                if time.monotonic() > deadline:
                    raise Refused("deadline", f"no answer from the judge within {seconds:g} s")
                if _resident(process) > self._memory_bytes:
                    raise Refused("memory", f"the judge took more than {self._memory_bytes / 2**30:g} GiB")
            if isinstance(said, _TooLongError):
                raise Refused("output", f"the judge's answer is {said} bytes long")
            if isinstance(said, Exception):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(1)
                self.close()
                raise Refused("judge", f"its process ended ({_ending(process.returncode)})")
            try:
                return _Answer.model_validate_json(said[0]), said[1]
            except pydantic.ValidationError:
                raise Refused("output", "the judge's answer is not one") from None
        except BaseException:  # whatever it was, an interrupt included: an answer that comes later fits no question
            self.close()
            raise

    def _astray(self, stage: str, reason: str) -> Refused:
        self.close()
        return Refused(stage, reason)


class _Request(pydantic.BaseModel, frozen=True):
    """What is asked; the artefact's programs follow, of these lengths."""

    kind: Literal["look", "judge", "tune"]
    floor: float | None = None
    free: tuple[str, ...] | None = None
    seconds: float = 0
    seed: int = 0
    description: str = ""
    programs: dict[str, int] = {}


class _Refusal(pydantic.BaseModel, frozen=True, extra="forbid"):
    stage: Literal["program", "memory", "judge"]
    reason: Annotated[str, pydantic.Field(max_length=1000)]


class _Answer(pydantic.BaseModel, frozen=True, extra="forbid"):
    verdict: Verdict | None = None
    tuned: Tuned | None = None
    refused: _Refusal | None = None


# --- this side -------------------------------------------------------------------------------------------------------


def _converse(
    request_to: IO[bytes],
    answer_from: IO[bytes],
    request: Sequence[bytes],
    most: int,
    found: queue.Queue[tuple[bytes, bytes] | Exception],
) -> None:
    """Sends a request and puts the answer into a queue, with its numbers, of so many bytes at most; or why not."""
    try:
        _send(request_to, request)
        found.put((_receive(answer_from, _ANSWER), _receive(answer_from, most)))
    except (OSError, ValueError) as error:  # it has ended, or the pipe was closed meanwhile
        found.put(error)


def _bytes_of(shape: tuple[int, int]) -> int:
    """Bytes of means by question."""
    return len(Means._fields) * math.prod(shape) * _NUMBER.itemsize


def _means_from(numbers: bytes, shape: tuple[int, int]) -> Means | None:
    """The means by question in an answer; None if they are of another size, or cannot be means."""
    if len(numbers) != _bytes_of(shape):
        return None
    means = Means(*np.frombuffer(numbers, _NUMBER).astype(np.float32).reshape(-1, *shape))
    sound = [np.all((values >= 0) & np.isfinite(values)) for values in means]
    return means if all(sound) and np.all(means.accuracy <= 1) else None


def _resident(process: subprocess.Popen[bytes] | None) -> int:
    """Bytes that the process holds in memory; 0 where that is not known."""
    try:
        assert process is not None
        return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _mapped(process: subprocess.Popen[bytes] | None) -> float:
    """Share of the memory maps that Linux grants a process: a compiled replay takes some 400, one too many crashes."""
    try:
        assert process is not None
        maps = Path(f"/proc/{process.pid}/maps").read_bytes().count(b"\n")
        return maps / int(Path("/proc/sys/vm/max_map_count").read_text())
    except OSError:
        return 0


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)[:300]


# --- the other side --------------------------------------------------------------------------------------------------


def serve(parent: int) -> None:
    """What the process runs: it reads the bench, then answers requests until there are no more."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    threading.Thread(target=_outlive_nobody, args=(parent,), daemon=True).start()
    replayer = Replayer(pickle.loads(_receive(requests, sys.maxsize)))
    os.dup2(nowhere, 2)  # until here, errors are told
    answer, numbers = _Answer(), b""
    while True:
        _send(answers, [answer.model_dump_json().encode()])
        _send(answers, [numbers])
        try:
            request = _Request.model_validate_json(_receive(requests, sys.maxsize))
            programs = {name: _read(requests, length) for name, length in request.programs.items()}
        except OSError:
            return
        answer, numbers = _answered(replayer, request, Artefact(request.description, programs))


def _answered(replayer: Replayer, request: _Request, artefact: Artefact) -> tuple[_Answer, bytes]:
    """The answer to a request, and its numbers as bytes."""
    try:
        match request.kind:
            case "look":
                verdict = replayer.verdict(artefact, replayer.bench.looks)
                _refuse_hopeless(verdict, replayer.floor if request.floor is None else request.floor)
                return _Answer(verdict=verdict), b""
            case "judge":
                verdict, means = replayer.evaluate(artefact, replayer.bench.shuffles)
                return _Answer(verdict=verdict), np.stack(means).astype(_NUMBER).tobytes()
            case "tune":
                found = tune(replayer, artefact, free=request.free, seconds=request.seconds, seed=request.seed)
                return _Answer(tuned=found), b""
    except Refused as refused:
        stage, reason = refused.stage, refused.reason
    except Exception as error:  # of deserializing, tracing, compiling or running what a stranger wrote
        full = isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
        stage, reason = "memory" if full else "program", one_line(error)
    return _Answer(refused=_Refusal.model_validate({"stage": stage, "reason": reason})), b""


def _refuse_hopeless(verdict: Verdict, floor: float) -> None:
    if verdict.gain + _CLEARLY * verdict.gain_se < floor:
        raise Refused(
            "judge",
            f"far below everything known: {100 * verdict.gain:.1f} ± {100 * verdict.gain_se:.1f} points of accuracy "
            f"against the references at equal tokens; the floor is {100 * floor:.1f}",
        )


def _outlive_nobody(parent: int) -> None:
    """Ends this process once its parent is gone, also in the midst of a candidate."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


# --- both sides: a message is a length, a head, and the bytes that the head announces; an answer is two of them ------


class _TooLongError(OSError):
    """A message that is longer than it may be."""


def _send(pipe: IO[bytes], parts: Sequence[bytes]) -> None:
    """Sends the first part with its length, then the others as they are."""
    pipe.write(struct.pack(">Q", len(parts[0])))
    for part in parts:
        pipe.write(part)
    pipe.flush()


def _receive(pipe: IO[bytes], most: int) -> bytes:
    """A message's head.

    Raises:
      OSError: if the other side has ended.
      _TooLongError: if the head is longer than `most` bytes.
    """
    (length,) = struct.unpack(">Q", _read(pipe, 8))
    if length > most:
        raise _TooLongError(length)
    return _read(pipe, length)


def _read(pipe: IO[bytes], length: int) -> bytes:
    found = pipe.read(length)
    if len(found) < length:
        raise OSError("the other side has ended")
    return found
