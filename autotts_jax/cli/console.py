"""The terminal: whatever is printed is plain text, and printing does not fail; Ctrl-C ends every command at once."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

__all__ = [
    "ERR",
    "OUT",
    "Interrupted",
    "Plain",
    "bar",
    "interruptible",
    "open_streams",
    "printable",
    "quiet",
    "status",
]


def printable(text: str, longest: int | None = None) -> str:
    """The text without control characters, which could move the cursor or colour the terminal.

    Args:
      text: Any text.
      longest: Characters to show at most; the middle of longer texts is left out.
    """
    if longest is not None and len(text) > longest:
        text = f"{text[: longest // 2]}…{text[-(longest // 2) :]}"
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


class Plain(Console):
    """A console to which nothing is markup, an emoji code, or something to highlight."""

    def __init__(self, **options: Any) -> None:
        """A console; the options are those of rich."""
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def on_broken_pipe(self) -> None:
        """Goes on without a reader, who has seen enough; Python, too, flushes stdout once more at exit."""
        self.quiet = True
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())

    def render_str(self, text: str, **options: Any) -> Text:
        """The text, as it is shown."""
        return super().render_str(printable(text), **options)


OUT, ERR = Plain(), Plain(stderr=True)


def quiet(wanted: bool) -> None:
    """Prints nothing but errors, or everything again."""
    OUT.quiet = ERR.quiet = wanted


@contextlib.contextmanager
def bar(unit: str) -> Iterator[Progress]:
    """A progress bar on stderr; with several processes, only the first shows it. After an error it is gone."""
    description = TextColumn("{task.description}", markup=False)
    columns = (description, BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeElapsedColumn())
    with Progress(*columns, console=ERR, disable=jax.process_index() != 0 or ERR.quiet) as shown:
        try:
            yield shown
        except BaseException:
            shown.live.transient = True
            raise


@contextlib.contextmanager
def status(text: str) -> Iterator[None]:
    """A line on stderr while something runs."""
    with ERR.status(Text(printable(text))):
        yield


# --- what may happen to the streams ----------------------------------------------------------------------------------


def open_streams() -> None:
    """Makes stdout and stderr take all text: where they are closed, and on terminals without Unicode."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, open to the end
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


# --- Ctrl-C ----------------------------------------------------------------------------------------------------------


class Interrupted(BaseException):
    """Ctrl-C; unlike KeyboardInterrupt, no library takes it for its own on its way."""


#: Seconds between Ctrl-C and the end of a command that is deep in a compiled program.
_PATIENCE = 0.7


@contextlib.contextmanager
def interruptible(farewell: str, warned: Callable[[], None] | None = None) -> Iterator[None]:
    """Ends the process on Ctrl-C, in order if Python gets to run within a second, and else at once.

    Python runs no signal handler while the main thread waits for a compiled program. But the signal is written to a
    pipe, and a second thread reads it.

    Args:
      farewell: What is said at the end: what was kept, and how to go on.
      warned: Called at the first Ctrl-C, from any thread; then only the second one ends the process.
    """
    if threading.current_thread() is not threading.main_thread() or os.name != "posix":
        yield
        return

    warnings = itertools.count(0 if warned else 1)

    def stop(number: int, frame: FrameType | None) -> None:
        if next(warnings):
            raise Interrupted

    def watch() -> None:
        spared = warned
        while received := os.read(reading, 1):
            if received != bytes([signal.SIGINT]):
                continue
            if spared:
                spared()
                spared = None
            elif not ended.wait(_PATIENCE):
                os.write(2, f"\n{farewell}\n".encode())
                os._exit(130)

    def unraisable(caught: Any) -> None:
        # Raised in a destructor or callback, where Python cannot pass it on: the watcher ends the process.
        if caught.exc_type is not Interrupted:
            sys.__unraisablehook__(caught)

    ended = threading.Event()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    handler, wakeup = signal.signal(signal.SIGINT, stop), signal.set_wakeup_fd(writing)
    sys.unraisablehook, hook = unraisable, sys.unraisablehook
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    except Interrupted:
        ended.set()
        ERR.quiet = False
        ERR.print(f"\n{farewell}", soft_wrap=True)
        sys.stdout.flush()
        # Not by sys.exit: XLA may still be running programs, which do not survive the interpreter's teardown.
        os._exit(130)
    finally:
        ended.set()
        sys.unraisablehook = hook
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGINT, handler)
        os.close(writing)
        watcher.join()
        os.close(reading)
