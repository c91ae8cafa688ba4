"""The command line: ``autotts --help`` lists the commands, each in a file of its own here."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import sys
from typing import Annotated

import jax
import platformdirs
import typer

import autotts_jax as tts
from autotts_jax.cli import (
    bench,
    check,
    console,
    controllers,
    discover,
    fetch,
    info,
    live,
    plot,
    report,
    sweep,
    synth,
    trace,
)

__all__ = ["app", "command", "main"]

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def _print_version(wanted: bool) -> None:
    if wanted:
        versions = (f"{name} {importlib.metadata.version(name)}" for name in ("autotts_jax", "jax", "jaxlib"))
        typer.echo(f"{', '.join(versions)}, Python {platform.python_version()}")
        raise typer.Exit


@app.callback()
def _autotts(
    version: Annotated[
        bool, typer.Option("--version", help="Show versions and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Replay test-time scaling controllers on recorded reasoning branches."""


for module in (sweep, live, bench, trace, plot, report, info, controllers, check, fetch, synth):
    name = module.__name__.rpartition(".")[2]
    # \b: each example on a line of its own.
    app.command(name, epilog="\n".join(["\b", "Examples:", *(f"  {example}" for example in module.EXAMPLES)]))(
        getattr(module, name)
    )
app.add_typer(discover.app, name="discover")


def _configure_jax() -> None:
    """Uses one device per core and keeps compiled programs on disk, unless configured otherwise."""
    # Too late for more devices if JAX's backend is already initialized.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", _cores())
    if jax.config.values["jax_compilation_cache_dir"] is None:
        # Compiled for this host by this compiler.
        compiler_and_host = f"jaxlib-{importlib.metadata.version('jaxlib')}-{platform.node()}"
        place = platformdirs.user_cache_path("autotts_jax") / "compiled" / compiler_and_host
        jax.config.update("jax_compilation_cache_dir", str(place))


def command() -> None:
    """The ``autotts`` command, in a process of its own."""
    try:
        main()
    except SystemExit as end:
        if end.code:
            # XLA may still be running programs, which do not survive the interpreter's teardown.
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(end.code if isinstance(end.code, int) else 1)
        raise


def main() -> None:
    """What ``autotts`` does, up to the process's end.

    Bad input ends in one line and code 2, a failed download or a full disk in one line and code 1, Ctrl-C in one line
    and code 130.
    """
    console.open_streams()
    console.quiet(False)
    _configure_jax()
    try:
        with console.interruptible("Interrupted."):
            app(prog_name="autotts")
    except (tts.InputError, tts.FetchError, OSError, MemoryError, jax.errors.JaxRuntimeError) as error:
        console.quiet(False)
        console.ERR.print(f"Error: {_said(error)}", style="red", soft_wrap=True)
        sys.exit(2 if isinstance(error, tts.InputError) else 1)


def _said(error: Exception) -> str:
    """What an error says, in one line."""
    match error:
        case tts.InputError() | tts.FetchError():
            said = str(error)
        case OSError():
            said = f"{error.filename or 'output'}: {error.strerror or error}."
        case MemoryError():
            said = "out of memory. Sweep fewer shuffles, or smaller --chunk."
        case _:
            said = str(error).splitlines()[0]
            if "RESOURCE_EXHAUSTED" in said:
                said = f"out of memory on the device ({said}). Sweep fewer shuffles, or smaller --chunk."
    return " ".join(said.split())


def _cores() -> int:
    """The cores that this process may use: a cluster's scheduler may have assigned it only some."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
