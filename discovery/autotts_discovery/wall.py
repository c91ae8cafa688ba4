"""The wall: a candidate's Python runs behind it, and only an artefact, checked, comes out.

`export` hands a source to a worker process without network, keys or files but those of the interpreter and the
libraries; `layers` says what holds it on this machine. The worker's answer is taken for nothing but bytes: they are
looked through by another confined process, and what is read here is JSON in a zip file of bounded size.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import io
import json
import os
import struct
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic

import autotts_jax
from autotts_discovery import confinement, worker
from autotts_discovery.candidates import Refused, check_source
from autotts_discovery.programs import read_description
from autotts_jax.artefacts import Artefact, write_artefact
from autotts_jax.errors import InputError

__all__ = ["Limits", "check", "export", "layers"]

#: How long a worker may take to import JAX, in seconds.
_STARTING = 120
#: How much longer than a task's own deadline the worker has to end it, in seconds.
_GRACE = 20


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one candidate may use.

    Attributes:
      seconds: Until its processes are killed.
      memory_bytes: Address space, of which the libraries take about 1 GB.
      processes: Threads and processes of the user; root's are bounded by the memory for their stacks.
      file_bytes: The largest file that it could write, if it could write any.
      output_bytes: The largest answer.
    """

    seconds: float = 120
    memory_bytes: int = 4 << 30
    processes: int = 256
    file_bytes: int = 0
    output_bytes: int = 8 << 20


def layers() -> tuple[str, ...]:
    """What the wall is made of on this machine; empty where there is none."""
    found = _worker(frozenset()).layers
    return () if confinement.missing(found) else found


def export(
    source: str,
    *,
    widths: Sequence[int] = (64,),
    feature_names: Sequence[str] = (),
    limits: Limits | None = None,
    check: bool = True,
    trust: bool = False,
) -> Artefact:
    """Turns a candidate into an artefact; none of its Python runs in this process.

    Args:
      source: A module that defines ``CONTROLLER``.
      widths: Numbers of slots to export it for.
      feature_names: Features of the stores that it will be replayed on.
      limits: What it may use; defaults to ``Limits()``.
      check: Run `check_controller` on the artefact, too, likewise behind the wall. It takes far longer than all else;
        without it the artefact has the right shapes, but may break the contract otherwise.
      trust: Run it also where there is no wall.

    Returns:
      The artefact; its text is `source`.

    Raises:
      Refused: naming the stage and the reason.
      InputError: where there is no wall, unless it is trusted.
    """
    check_source(source)
    return _exported(source, tuple(widths), tuple(feature_names), limits or Limits(), check, trust)


def check(artefact: Artefact, *, limits: Limits | None = None) -> None:
    """Runs `check_controller` on an artefact that `export` made unchecked, likewise behind the wall.

    Raises:
      Refused: if it breaks the contract.
    """
    described, body = artefact.described, io.BytesIO()
    write_artefact(artefact, body)
    about = {"widths": described.widths, "feature_names": described.feature_names, "check": True}
    _worker(frozenset()).ask({"task": "inspect", **about}, body.getvalue(), limits or Limits())


def _exported(
    source: str,
    widths: tuple[int, ...] = (64,),
    feature_names: tuple[str, ...] = (),
    limits: Limits | None = None,
    check: bool = True,
    trust: bool = False,
    without: Collection[str] = (),
) -> Artefact:
    """Likewise, whatever is in the source, and without some layers: see the tests."""
    limits, behind = limits or Limits(), _worker(frozenset(without))
    if not trust and not without and (lacks := confinement.missing(behind.layers)):
        raise InputError(
            f"no wall on this machine: nothing would keep a candidate's Python from {lacks}. It takes Linux with user "
            "namespaces, or with Landlock and seccomp. Trust the candidates (--trust), or run in such a container."
        )
    about = {"widths": widths, "feature_names": feature_names, "check": check}
    answer = behind.ask({"task": "export", **about}, source.encode("utf-8", "surrogatepass"), limits)
    behind.ask({"task": "inspect", **about}, answer, limits)
    artefact = read_description(answer, widths, feature_names)
    # Whatever the worker says, the text is what went in.
    described = artefact.described.model_copy(update={"source_text": source})
    return Artefact(described.model_dump_json(indent=1), artefact.programs)


# --- the worker ------------------------------------------------------------------------------------------------------

# Where processes cannot be forked after JAX is imported, a worker serves one task and ends.
_FORKS = sys.platform == "linux"


@functools.cache
def _worker(without: frozenset[str]) -> _Worker:
    """The worker of this process, or one without some layers."""
    return _Worker(without)


class _Worker:
    """A worker process, started when it is needed."""

    def __init__(self, without: frozenset[str]) -> None:
        self._without = without
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self.end)

    @functools.cached_property
    def layers(self) -> tuple[str, ...]:
        """The layers that hold it."""
        with self._lock:
            self._started()
        return self._layers

    def ask(self, request: dict[str, Any], body: bytes, limits: Limits) -> bytes:
        """Has a task done, and returns its answer.

        Raises:
          Refused: with what it says, or with what happened to it.
        """
        told = json.dumps({**request, "limits": dataclasses.asdict(limits)}).encode()
        with self._lock:
            process = self._started()
            how = answer = None
            with _deadline(process, limits.seconds + _GRACE * _FORKS) as late, contextlib.suppress(OSError):
                _write(process, told, body)
                how, answer = _read(process, 1000), _read(process, limits.output_bytes)
            if how is None or answer is None or not _FORKS:
                self.end()
        if how is None or answer is None:
            raise Refused("deadline" if late.is_set() else "wall", "the worker process was lost")
        return _judged(how.decode(errors="replace"), answer, limits)

    def end(self) -> None:
        """Ends it, and all that it started."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.end()
        file = worker.__file__
        self._process = process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", file],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=Path(file).anchor,
            env=_environment(self._without),
            start_new_session=True,  # Ctrl-C is not meant for it
        )
        path, readable = _places()
        why = "it was ended"
        setup = {"path": path, "readable": readable, "without": sorted(self._without), "forks": _FORKS}
        with _deadline(process, _STARTING), contextlib.suppress(OSError):
            _write(process, json.dumps(setup).encode())
            hello = json.loads(_read(process, 10_000) or '{"error": "no answer"}')
            if "layers" in hello:
                self._layers = tuple(hello["layers"])
                return process
            why = hello["error"]
        self.end()
        raise InputError(f"candidates' worker process does not start ({why}). Is the library's installation whole?")


def _judged(how: str, answer: bytes, limits: Limits) -> bytes:
    """A task's answer, if it is one.

    Raises:
      Refused: if it is not.
    """
    if how == "deadline":
        raise Refused("deadline", f"not done after {limits.seconds:g} seconds")
    if how == "output":
        raise Refused("output", f"answers with more than {limits.output_bytes} bytes")
    if how != "answered":
        ended, _, held = how.partition(" ")
        if ended == "SIGXCPU":
            raise Refused("deadline", f"has used the processor time of {limits.seconds:g} seconds")
        if held.isdecimal() and ended != "exit" and int(held) > limits.memory_bytes / 2:
            raise Refused("memory", f"ended by {ended}, holding {int(held) >> 20} MB")
        raise Refused("wall", f"ended without an answer ({how if ended == 'exit' else ended})")
    if answer[:1] == b"+":
        return answer[1:]
    try:
        said = _Refusal.model_validate_json(answer[1:] if answer[:1] == b"-" else b"")
    except pydantic.ValidationError:
        raise Refused("wall", "does not answer as a worker does") from None
    raise Refused(said.stage, said.reason)


class _Refusal(pydantic.BaseModel):
    """What a worker may say of a candidate."""

    stage: Literal["wall", "contract", "export", "memory", "program"]
    reason: str


def _environment(without: Collection[str]) -> dict[str, str]:
    """The worker's environment: what keeps its libraries to one thread until it forks, and no more."""
    ours = {
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        "JAX_PLATFORMS": "cpu",
        "MALLOC_ARENA_MAX": "2",
        "NPROC": "2",  # threads of XLA
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    if os.name == "nt":  # no process starts without
        ours["SYSTEMROOT"] = os.environ.get("SYSTEMROOT", "")
    return {**os.environ, **ours} if "environment" in without else ours


def _places() -> tuple[list[str], list[str]]:
    """Where a worker imports from besides the standard library, and what it must be able to read for its imports."""
    packages = [Path(module.__file__ or "").resolve().parent for module in (autotts_jax, worker)]
    sites = [
        str(Path(place).resolve()) for place in sys.path if Path(place).name in ("site-packages", "dist-packages")
    ]
    path = [*dict.fromkeys([*(str(package.parent) for package in packages), *sites])]
    standard = [sysconfig.get_paths()["stdlib"], *(os.path.join(sys.base_prefix, name) for name in ("lib", "lib64"))]
    system = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/dev/urandom"]
    system += ["/proc/cpuinfo", "/sys/devices/system/cpu"]  # XLA's YNNPACK fails without
    real = dict.fromkeys(os.path.realpath(place) for place in standard)
    return path, [place for place in (*map(str, packages), *sites, *real, *system) if os.path.exists(place)]


@contextlib.contextmanager
def _deadline(process: subprocess.Popen[bytes], seconds: float) -> Iterator[threading.Event]:
    """Kills a process when its time is up, and then sets the event: whoever reads from it goes on."""
    late = threading.Event()

    def kill() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(seconds, kill)
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


def _write(process: subprocess.Popen[bytes], *frames: bytes) -> None:
    assert process.stdin is not None
    for frame in frames:
        process.stdin.write(struct.pack(">Q", len(frame)) + frame)
    process.stdin.flush()


def _read(process: subprocess.Popen[bytes], most: int) -> bytes | None:
    """The next frame; None at the end, or if it is too long."""
    assert process.stdout is not None
    length = process.stdout.read(8)
    if len(length) < 8 or int.from_bytes(length, "big") > most:
        return None
    frame = process.stdout.read(int.from_bytes(length, "big"))
    return frame if len(frame) == int.from_bytes(length, "big") else None
