"""The command line: ``autotts sweep``, ``info``, ``controllers``, ``check``, ``fetch``, ``synth``."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import platformdirs
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from autotts_jax import replay, synthetic, trajectories
from autotts_jax.controllers import CONTROLLERS
from autotts_jax.environment import CostModel, Rules
from autotts_jax.fetch import FILES, URL, FetchError
from autotts_jax.fetch import fetch as download
from autotts_jax.results import Results, writable
from autotts_jax.settings import Setting
from autotts_jax.sweep import Orders
from autotts_jax.sweep import sweep as run_sweep
from autotts_jax.testing import check_controller
from autotts_jax.trajectories import InputError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
_out = Console()
_err = Console(stderr=True)


@app.callback()
def _autotts() -> None:
    """Replay test-time scaling controllers on recorded reasoning branches."""


@app.command()
def sweep(
    data: Annotated[
        list[Path] | None,
        typer.Argument(help="Files (.json, .parquet), stores or directories; the built-in traces if left out."),
    ] = None,
    controller: Annotated[
        list[str] | None,
        typer.Option(help="NAME[:key=value,…] or FILE.py:ATTRIBUTE[:…]; repeatable; all built-in ones if left out."),
    ] = None,
    beta: Annotated[str, typer.Option(help="START:STOP:COUNT, or values: 0,0.5,1.")] = "0:1:11",
    shuffles: Annotated[int, typer.Option(help="Branch orders per question.")] = 100,
    orders: Annotated[str, typer.Option(help="published, random, or bootstrap (with replacement).")] = "published",
    seed: Annotated[int, typer.Option(help="Of random and bootstrap orders.")] = 0,
    cost: Annotated[CostModel, typer.Option(help="What an episode is charged for.")] = CostModel.RELEASED,
    probe_cost: Annotated[int, typer.Option(help="κ_probe, in the cost model's unit.")] = 0,
    budget: Annotated[int | None, typer.Option(help="What an episode may cost; no limit if left out.")] = None,
    out: Annotated[Path | None, typer.Option(help="Directory for results.csv and results.parquet.")] = None,
    per_question: Annotated[bool, typer.Option("--per-question", help="Also write questions.csv, .parquet.")] = False,
) -> None:
    """Replay controllers over a grid of β and print their accuracy and cost."""
    betas = _betas(beta)
    settings = [Setting.parse(text) for text in controller] if controller else None
    if out is not None:
        writable(out)
    elif per_question:
        raise InputError("--per-question: there is nowhere to write the second table. Add --out DIR.")
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        "episodes",
        TimeElapsedColumn(),
        console=_err,
    ) as bar:
        task = bar.add_task("reading", total=None)
        if data:
            datasets = [dataset for path in data for dataset in replay.open_datasets(path)]
        else:
            datasets = [replay.pack(synthetic.generate())]
        results = run_sweep(
            datasets,
            settings,
            betas=betas,
            shuffles=shuffles,
            orders=_one_of(orders, "orders", get_args(Orders)),
            seed=seed,
            rules=Rules(cost=cost, probe_cost=probe_cost, budget=budget),
            progress=lambda name, done, total: bar.update(task, description=name, completed=done, total=total),
        )
    _print_results(results)
    for note in results.notes:
        _err.print(f"note: {note}", highlight=False, soft_wrap=True)
    if out is not None:
        for path in results.write(out, per_question=per_question):
            _out.print(f"wrote {path}", highlight=False, soft_wrap=True)


@app.command()
def info(file: Annotated[Path, typer.Argument(help="A trajectory file (.json or .parquet).")]) -> None:
    """Say what is in a data file: counts, lengths, accuracies, odd things."""
    table = Table(show_header=False, box=None)
    for label, text in trajectories.describe(trajectories.read(file)).items():
        table.add_row(label, text)
    _out.print(table)


@app.command()
def controllers() -> None:
    """List the built-in controllers and their parameters from β = 0 to β = 1."""
    table = Table("parameter", "β = 0", "β = 1", "bounds", box=SIMPLE_HEAD)
    for controller in CONTROLLERS.values():
        table.add_row(f"[bold]{controller.name}[/bold] ({controller.source})", end_section=False)
        ends = jax.device_get(jax.vmap(controller.schedule)(jnp.array([0, 1], jnp.float32)))
        for name, (low, high) in ends._asdict().items():
            bounds = "{:g} … {:g}".format(*controller.bounds[name])
            table.add_row(f"  {name}", str(low), str(high), bounds)
        table.add_section()
    _out.print(table)


@app.command()
def check(
    controller: Annotated[str, typer.Argument(help="FILE.py:ATTRIBUTE, or a built-in controller's name.")],
) -> None:
    """Check a controller against the contract."""
    setting = Setting.parse(controller)
    with _err.status("checking"):
        report = check_controller(setting.controller)
    for passed in report.passed:
        _out.print(f"ok    {passed}", highlight=False)
    for note in report.notes:
        _out.print(f"note  {note}", highlight=False)
    _out.print(f"{setting.controller.name} keeps the contract.", highlight=False)


@app.command()
def fetch(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="MODEL or MODEL/BENCHMARK; all files if left out.", metavar="[NAME]…"),
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Directory; the user's cache if left out.")] = None,
    url: Annotated[str, typer.Option(help="A mirror's directory that holds MODEL/BENCHMARK.json.")] = URL,
) -> None:
    """Download the public AutoTTS replay files."""
    with _err.status(f"fetching {', '.join(names) if names else f'{len(FILES)} files'}"):
        directory = download(names or (), url=url, cache=to)
    _out.print(str(directory), highlight=False, soft_wrap=True)


@app.command()
def synth(
    file: Annotated[Path, typer.Argument(help="The file to write (.json or .parquet).")],
    preset: Annotated[str, typer.Option(help=f"What to imitate: {', '.join(FILES)}.")] = "Qwen3-8B/aime24",
    questions: Annotated[int, typer.Option(min=1)] = 30,
    branches: Annotated[int, typer.Option(min=1)] = 128,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Write synthetic traces."""
    if file.suffix.lower() not in (".json", ".parquet"):
        raise InputError(f"{file}: suffix {file.suffix!r} is not understood. Use .json or .parquet.")
    writable(file.parent)
    made = synthetic.generate(preset, questions=questions, branches=branches, seed=seed)
    trajectories.write(made, file)
    _out.print(f"wrote {file}", highlight=False, soft_wrap=True)


def _betas(text: str) -> list[float]:
    """START:STOP:COUNT, or values separated by commas."""
    try:
        if ":" in text:
            start, stop, count = text.split(":")
            values = np.linspace(float(start), float(stop), int(count))
        else:
            values = np.array([float(value) for value in text.split(",")])
    except ValueError:
        raise InputError(f"--beta {text!r}: not understood. Write START:STOP:COUNT or 0,0.5,1.") from None
    if not len(values) or not np.all((values >= 0) & (values <= 1)):
        raise InputError(f"--beta {text!r}: every β must lie in 0 to 1, and there must be at least one.")
    # A grid of decimals should read as one: 0.3, not 0.30000000000000004.
    return [float(value) for value in values.round(12)]


def _one_of(value: str, option: str, allowed: Sequence[str]) -> Any:
    if value not in allowed:
        raise InputError(f"--{option} {value!r}: not understood. Use one of {', '.join(allowed)}.")
    return value


def _print_results(results: Results) -> None:
    """A table per dataset; columns that say little there stay in the files."""
    tables: dict[str, Table] = {}
    last = ""
    for row in results.table.to_pylist():
        if row["dataset"] not in tables:
            table = tables[row["dataset"]] = Table(title=row["dataset"], title_justify="left", box=SIMPLE_HEAD)
            table.add_column("controller", min_width=20, overflow="fold")
            for name in ("β", "accuracy %", "tokens", "sequential", "opened"):
                table.add_column(name, justify="right", no_wrap=True)
            last = row["controller"]
        table = tables[row["dataset"]]
        if last != row["controller"]:
            table.add_section()
            last = row["controller"]
        params = {} if row["beta"] is not None else json.loads(row["params"])
        given = "".join(f"\n  {name}={value}" for name, value in params.items())
        error = "" if row["accuracy_se"] is None else f" ± {100 * row['accuracy_se']:.1f}"
        table.add_row(
            row["controller"] + given,
            "" if row["beta"] is None else f"{row['beta']:g}",
            f"{100 * row['accuracy']:.2f}{error}",
            *(f"{row[name]:,.0f}" for name in ("tokens", "sequential_tokens")),
            f"{row['opened']:.1f}",
        )
    for table in tables.values():
        _out.print(table)


def _configure_jax() -> None:
    """One device per core, and compiled programs kept on disk, unless the user has said otherwise."""
    # It is too late for more devices where another program has already opened JAX's backend.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    if jax.config.values["jax_compilation_cache_dir"] is None:
        # Compiled for this host by this compiler.
        compiler_and_host = f"jaxlib-{importlib.metadata.version('jaxlib')}-{platform.node()}"
        place = platformdirs.user_cache_path("autotts_jax") / "compiled" / compiler_and_host
        jax.config.update("jax_compilation_cache_dir", str(place))


def main() -> None:
    """The ``autotts`` command. Bad input ends it with one line and exit code 2, a failed download with 1."""
    _configure_jax()
    try:
        app()
    except (InputError, FetchError) as error:
        _err.print(f"Error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2 if isinstance(error, InputError) else 1)
