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
from autotts_jax.cli import bench, check, controllers, fetch, info, plot, report, sweep, synth, trace
from autotts_jax.cli.options import ERR

__all__ = ["app", "main"]

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


for command in (
    sweep.sweep,
    bench.bench,
    trace.trace,
    plot.plot,
    report.report,
    info.info,
    controllers.controllers,
    check.check,
    fetch.fetch,
    synth.synth,
):
    app.command()(command)


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


def main() -> None:
    """The ``autotts`` command. Bad input exits with one line and code 2, a failed download with code 1."""
    _configure_jax()
    try:
        app()
    except (tts.InputError, tts.FetchError) as error:
        ERR.print(f"Error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2 if isinstance(error, tts.InputError) else 1)


def _cores() -> int:
    """The cores that this process may use: a cluster's scheduler may have assigned it only some."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
