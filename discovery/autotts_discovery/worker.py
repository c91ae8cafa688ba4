"""The other side of the wall: the process that candidates' Python runs in.

The wall starts this file as a script, isolated (`python -I -S`), with an empty environment. It goes behind the wall,
imports JAX and the library once, and then forks a process for each task that it reads from standard input: to `export`
a source, or to `inspect` the artefact that came out of another. What a task answers is bytes; when it has answered, or
its time is up, all its processes are killed.
"""

from __future__ import annotations

import contextlib
import io
import json
import linecache
import os
import select
import signal
import struct
import sys
import time
import types
from collections.abc import Callable
from typing import Any, NoReturn

_Request = dict[str, Any]
# Where a task's process writes its answer to.
_ANSWER = 3


def main() -> None:
    """Sets itself up as it is told, then serves until standard input ends."""
    null, answers = os.open(os.devnull, os.O_RDWR), os.dup(1)
    os.dup2(null, 1)  # whatever is printed is no answer
    setup = _read_json(0)
    try:
        layers, restrict = _set_up(setup)
    except Exception as error:
        return _write(answers, json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
    _write(answers, json.dumps({"layers": layers}).encode())
    while request := _read_json(0):
        body = _read(0)
        assert body is not None
        if setup["forks"]:
            how, answer = _run(request, body, null, lambda: restrict(request["limits"]))
        else:  # one task, then the wall ends this process
            how, answer = "answered", _answer(request, body)
        _write(answers, how.encode())
        _write(answers, answer)
    return None


def _set_up(setup: dict[str, Any]) -> tuple[list[str], Callable[[dict[str, float]], None]]:
    """Enters the namespaces and imports; returns the layers and what puts a task's process behind the rest of them.

    JAX's backend, which has threads, is left to the tasks' own processes.
    """
    sys.path += setup["path"]
    from autotts_discovery import confinement

    readable, layers = setup["readable"], ["environment"]
    if setup["forks"]:
        layers = confinement.available(readable)
    layers = [name for name in layers if name not in setup["without"]]
    if "namespaces" in layers:
        confinement.enter(readable)
        if first := os.fork():  # the first process in the PID namespace: all others end with it
            os.waitpid(first, 0)
            os._exit(0)
        confinement.die_with_parent()
    import jax.export

    import autotts_jax.testing
    from autotts_discovery import programs

    assert all((jax, autotts_jax, programs))  # imported for the tasks
    return layers, lambda limits: confinement.restrict(layers, readable, limits)


# --- a task's process ------------------------------------------------------------------------------------------------


def _run(request: _Request, body: bytes, null: int, restrict: Callable[[], None]) -> tuple[str, bytes]:
    """Runs a task in a process of its own; returns how that ended, and its answer."""
    reader, writer = os.pipe()
    deadline = time.monotonic() + request["limits"]["seconds"]
    if not (child := os.fork()):
        _be_the_child(request, body, null, writer, restrict)
    os.close(writer)
    how, answer = _collected(reader, deadline, request["limits"]["output_bytes"])
    os.close(reader)
    status, usage = _end(child)
    if how == "ended":
        code = os.waitstatus_to_exitcode(status)
        how = f"exit {code}" if code >= 0 else f"{signal.Signals(-code).name} {usage}"
    return how, answer


def _be_the_child(request: _Request, body: bytes, null: int, writer: int, restrict: Callable[[], None]) -> NoReturn:
    """What the process of a task does, from its first moment to its last."""
    try:
        from autotts_discovery import confinement

        os.setsid()
        if sys.platform == "linux":
            confinement.die_with_parent()
        for wanted in range(3):
            os.dup2(null, wanted)
        os.dup2(writer, _ANSWER)
        os.closerange(_ANSWER + 1, 1024)
        try:
            restrict()
        except OSError as error:  # without its wall it does not run
            answer = _refusal("wall", f"cannot be put up: {error}")
        else:
            answer = _answer(request, body)
        _write(_ANSWER, answer)
    finally:
        os._exit(0)


def _collected(reader: int, deadline: float, most: int) -> tuple[str, bytes]:
    """How a task answers, "answered", "deadline", "output" (too much of it) or "ended", and its answer."""
    found, needed = bytearray(), 8
    while len(found) < needed:
        ready = select.select([reader, 0], [], [], max(0, deadline - time.monotonic()))[0]
        if reader not in ready:  # too late; or standard input has ended, and nobody waits any more
            return "deadline", b""
        if not (piece := os.read(reader, min(1 << 20, needed - len(found)))):
            return "ended", b""
        found += piece
        if len(found) == needed == 8:
            needed += int.from_bytes(found, "big")
            if needed > most:
                return "output", b""
    return "answered", bytes(found[8:])


def _end(child: int) -> tuple[int, int]:
    """Kills a task's processes; returns the wait status of the first, and the most memory that it held, in bytes."""
    os.kill(child, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if os.getpid() == 1:  # of the PID namespace, in which there is nobody else
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    while True:  # orphans fall to the first process of a namespace
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return status, usage.ru_maxrss * 1024


# --- tasks -----------------------------------------------------------------------------------------------------------


def _answer(request: _Request, body: bytes) -> bytes:
    """A task's answer: "+" and bytes, or a refusal."""
    task = {"export": _export, "inspect": _inspect}[request["task"]]
    try:
        return b"+" + task(request, body)
    except BaseException as error:
        return _refusal(*_explained(error))


def _refusal(stage: str, reason: str) -> bytes:
    return b"-" + json.dumps({"stage": stage, "reason": reason[:2000]}).encode()


def _export(request: _Request, body: bytes) -> bytes:
    """Runs a candidate's source and exports its controller; the artefact as a zip file."""
    from autotts_jax.artefacts import export_controller, write_artefact
    from autotts_jax.controllers import Controller
    from autotts_jax.errors import ContractError, InputError

    text, name = body.decode("utf-8", "surrogatepass"), "candidate.py"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)  # for lines in messages
    module = types.ModuleType("candidate")
    module.__file__ = name
    sys.modules["candidate"] = module
    exec(compile(text, name, "exec", dont_inherit=True), vars(module))
    controller = vars(module).get("CONTROLLER")
    if not isinstance(controller, Controller):
        raise ContractError(f"CONTROLLER is {type(controller).__name__}. Define CONTROLLER = Controller(…).")
    written = io.BytesIO()
    try:
        artefact = export_controller(controller, request["widths"], request["feature_names"])
    except ContractError:
        raise
    except InputError as error:
        raise _ExportError(str(error)) from error
    write_artefact(artefact, written)
    return written.getvalue()


def _inspect(request: _Request, body: bytes) -> bytes:
    """Looks at an artefact that another process made; nothing if there is nothing wrong with it.

    The contract is checked here, too: in the candidate's own process it could have done away with the check.
    """
    from autotts_discovery.programs import check_artefact
    from autotts_jax.testing import check_controller

    features = tuple(request["feature_names"])
    artefact = check_artefact(body, tuple(request["widths"]), features)
    if request["check"]:
        check_controller(artefact.controller(), features)
    return b""


class _ExportError(Exception):
    """Refused by `export_controller`."""


def _explained(error: BaseException) -> tuple[str, str]:
    """The stage and the reason of a refusal."""
    from autotts_discovery.candidates import Refused
    from autotts_jax.errors import InputError

    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    why = str(error).strip() or "no message"
    frames = [frame for frame in _lines(error) if frame]
    if not isinstance(error, InputError | _ExportError):  # ours say where they come from
        why = f"{frames[-1] if frames else ''}{type(error).__name__}: {why}"
    if isinstance(error, Refused):
        return error.stage, error.reason
    if any(isinstance(cause, MemoryError) for cause in causes) or "RESOURCE_EXHAUSTED" in why:
        return "memory", why
    if any(isinstance(cause, OSError) for cause in causes):
        return "wall", why
    return "export" if isinstance(error, _ExportError) else "contract", why


def _lines(error: BaseException) -> list[str]:
    """Where in the candidate an error was raised."""
    lines, step = [], error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename == "candidate.py":
            lines.append(f"line {step.tb_lineno}: ")
        step = step.tb_next
    return lines


# --- frames: a length, and so many bytes -----------------------------------------------------------------------------


def _read(file: int) -> bytes | None:
    """The next frame; None at the end."""
    length = _exactly(file, 8)
    return None if length is None else _exactly(file, int.from_bytes(length, "big"))


def _exactly(file: int, count: int) -> bytes | None:
    found = bytearray()
    while len(found) < count:
        if not (piece := os.read(file, min(1 << 20, count - len(found)))):
            return None
        found += piece
    return bytes(found)


def _read_json(file: int) -> Any:
    """The next frame's JSON; None at the end."""
    frame = _read(file)
    return None if frame is None else json.loads(frame)


def _write(file: int, content: bytes) -> None:
    rest = memoryview(struct.pack(">Q", len(content)) + content)
    while rest:
        rest = rest[os.write(file, rest) :]


if __name__ == "__main__":
    main()
