"""The command line: ``autotts --help`` lists the commands."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np
import platformdirs
import pyarrow as pa
import pyarrow.parquet as pq
import pydantic
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from autotts_jax import bench as timing
from autotts_jax import display, failures, replay, synthetic, traces, trajectories
from autotts_jax.controllers import CONTROLLERS
from autotts_jax.downloads import FILES, URL
from autotts_jax.downloads import fetch as download
from autotts_jax.environment import CostModel, Rules
from autotts_jax.errors import FetchError, InputError
from autotts_jax.files import writable, write_whole
from autotts_jax.orders import Orders, draw_orders, published_orders
from autotts_jax.settings import Setting, rows_of
from autotts_jax.sweeps import sweep as run_sweep
from autotts_jax.testing import check_controller

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
_Data = Annotated[
    list[Path] | None,
    typer.Argument(help="Files (.json, .parquet), stores or directories; the built-in traces if left out."),
]
_Controllers = Annotated[
    list[str] | None,
    typer.Option(help="NAME[:key=value,…] or FILE.py:ATTRIBUTE[:…]; repeatable; all built-in ones if left out."),
]
_Betas = Annotated[str, typer.Option(help="START:STOP:COUNT, or values: 0,0.5,1.")]


class _Arguments(pydantic.BaseModel, extra="forbid"):
    """What a sweep was asked for, in a file beside its results."""

    FILE: ClassVar = "arguments.json"

    data: list[Path]
    controller: list[str] | None
    betas: list[float]
    shuffles: int
    orders: Orders
    seed: int
    cost: CostModel
    probe_cost: int
    budget: int | None


_out = Console()
_err = Console(stderr=True)


@app.callback()
def _autotts() -> None:
    """Replay test-time scaling controllers on recorded reasoning branches."""


@app.command()
def sweep(
    data: _Data = None,
    controller: _Controllers = None,
    beta: _Betas = "0:1:11",
    shuffles: Annotated[int, typer.Option(help="Branch orders per question.")] = 100,
    orders: Annotated[str, typer.Option(help="published, random, or bootstrap (with replacement).")] = "published",
    seed: Annotated[int, typer.Option(help="Of random and bootstrap orders.")] = 0,
    cost: Annotated[CostModel, typer.Option(help="What an episode is charged for.")] = CostModel.RELEASED,
    probe_cost: Annotated[int, typer.Option(help="κ_probe, in the cost model's unit.")] = 0,
    budget: Annotated[int | None, typer.Option(help="What an episode may cost; no limit if left out.")] = None,
    out: Annotated[Path | None, typer.Option(help="Directory for results.csv and results.parquet.")] = None,
    per_question: Annotated[bool, typer.Option("--per-question", help="Also write questions.csv, .parquet.")] = False,
    chunk: Annotated[int | None, typer.Option(min=1, help="Questions at a time; as many as fit if left out.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Directory that keeps finished chunks: run the same again to go on from there.")
    ] = None,
    coordinator: Annotated[
        str | None, typer.Option(help="To share the work with other processes: HOST:PORT of the first, or auto.")
    ] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="How many processes there are.")] = None,
    process: Annotated[int | None, typer.Option(min=0, help="Which of them this is, from 0.")] = None,
) -> None:
    """Replay controllers over a grid of β and print their accuracy and cost."""
    _join_processes(coordinator, processes, process)
    betas = _betas(beta)
    drawn: Orders = _one_of(orders, "orders", get_args(Orders))
    settings = [Setting.parse(text) for text in controller] if controller else None
    if checkpoint is not None:
        writable(checkpoint)
    if out is not None:
        writable(out)
    elif per_question:
        raise InputError("--per-question: there is nowhere to write the second table. Add --out DIR.")
    with _bar("episodes") as bar:
        task = bar.add_task("reading", total=None)
        results = run_sweep(
            _open(data),
            settings,
            betas=betas,
            shuffles=shuffles,
            orders=drawn,
            seed=seed,
            rules=Rules(cost=cost, probe_cost=probe_cost, budget=budget),
            chunk=chunk,
            checkpoint=checkpoint,
            progress=lambda name, done, total: bar.update(task, description=name, completed=done, total=total),
        )
    if jax.process_index() != 0:
        return
    display.results_tables(_out, results)
    for note in results.notes:
        _err.print(f"note: {note}", highlight=False, soft_wrap=True)
    if out is not None:
        arguments = _Arguments(
            data=[path.absolute() for path in data or ()],
            controller=controller,
            betas=betas,
            shuffles=shuffles,
            orders=drawn,
            seed=seed,
            cost=cost,
            probe_cost=probe_cost,
            budget=budget,
        )
        written = results.write(out, per_question=per_question)
        written.append(write_whole(out / arguments.FILE, arguments.model_dump_json(indent=1)))
        for path in written:
            _out.print(f"wrote {path}", highlight=False, soft_wrap=True)


@app.command()
def bench(
    data: _Data = None,
    controller: _Controllers = None,
    beta: _Betas = "0:1:11",
    shuffles: Annotated[int, typer.Option(min=1, help="Branch orders per question.")] = 100,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs; medians are given.")] = 5,
    devices: Annotated[int | None, typer.Option(min=1, help="How many devices; all if left out.")] = None,
    lanes: Annotated[int | None, typer.Option(min=1, help="Episodes side by side on a device.")] = None,
    against: Annotated[str | None, typer.Option(help="python: also time the plain-Python oracle.")] = None,
    roofline: Annotated[bool, typer.Option("--roofline", help="Compare with the devices' bandwidth.")] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File for the figures, as a list of records.")
    ] = None,
) -> None:
    """Time controllers: compiling, running, the lanes' occupancy, and what they are measured against."""
    betas = _betas(beta)
    settings = [Setting.parse(text) for text in controller or CONTROLLERS]
    if against not in (None, "python"):
        raise InputError(f"--against {against!r}: not understood. Use python.")
    oracle = timing.load_oracle() if against else None
    if devices is not None and devices > jax.local_device_count():
        raise InputError(f"--devices {devices}: there are only {jax.local_device_count()}. Ask for at most that many.")
    if json_file is not None:
        writable(json_file.parent)
    dataset = replay.concatenate(_open(data))
    timings = []
    with _bar("controllers") as bar:
        task = bar.add_task("", total=len(settings))
        for setting in settings:
            bar.update(task, description=setting.controller.name)
            timings.append(
                timing.measure(
                    setting.controller,
                    rows_of(setting, betas),
                    dataset,
                    shuffles=shuffles,
                    repeats=repeats,
                    devices=jax.local_devices()[:devices],
                    lanes=lanes,
                    oracle=oracle,
                    roofline=roofline,
                )
            )
            bar.advance(task)
    display.timing_tables(_out, timings)
    if json_file is not None:
        write_whole(json_file, json.dumps([dataclasses.asdict(timing) for timing in timings], indent=1))
        _out.print(f"wrote {json_file}", highlight=False, soft_wrap=True)


@app.command()
def trace(
    file: Annotated[Path, typer.Argument(help="A trajectory file, store or directory.")],
    controller: Annotated[str, typer.Option(help="As for sweep.")] = "confidence_momentum",
    beta: Annotated[float, typer.Option(min=0, max=1)] = 0.5,
    question: Annotated[int | None, typer.Option(min=0, help="Its number; a summary of all if left out.")] = None,
    shuffle: Annotated[int, typer.Option(min=0, help="Which of the published orders.")] = 0,
    shuffles: Annotated[int, typer.Option(min=1, help="Of a summary: orders per question.")] = 100,
    characters: Annotated[int, typer.Option(min=1, help="Of a summary: how long it may be.")] = 6000,
    figure: Annotated[Path | None, typer.Option(help="File for a figure of the episode (.png, .pdf, .svg).")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for the episode as JSON Lines.")] = None,
) -> None:
    """Say what a controller did: in one episode round by round, or in all of them in short."""
    row = rows_of(Setting.parse(controller), [beta])[0]
    for output in (figure, json_file):
        if output is not None and question is None:
            raise InputError(f"{output}: a summary has neither. Add --question N.")
        if output is not None:
            writable(output.parent)
    _check_figure(figure)
    dataset = replay.concatenate(_open([file]))
    if question is None:
        orders = published_orders(dataset.store, shuffles)
        with _err.status("replaying"):
            watched = failures.watch(dataset, row, orders)
        _out.print(failures.summarize(dataset, row, watched, characters=characters), highlight=False, soft_wrap=True)
        return
    if question >= len(dataset):
        raise InputError(f"--question {question}: {file} has {len(dataset)}. Count from 0 to {len(dataset) - 1}.")
    orders = published_orders(dataset.store, shuffle + 1)
    with _err.status("replaying"):
        told = traces.trace(dataset, row, orders, question, shuffle)
    display.trace_account(_out, told)
    if figure is not None:
        _save_figure(figure, lambda plots: plots.episode_path(told))
    if json_file is not None:
        _out.print(f"wrote {traces.write([told], json_file)}", highlight=False, soft_wrap=True)


@app.command()
def plot(
    results: Annotated[list[Path], typer.Argument(help="results.parquet of a sweep, or the directory it is in.")],
    out: Annotated[Path, typer.Option(help="The figure (.png, .pdf, .svg).")] = Path("curves.png"),
) -> None:
    """Draw accuracy against tokens along β, a panel for each dataset."""
    writable(out.parent)
    _check_figure(out)
    tables = [_read_results(path) for path in results]
    _save_figure(out, lambda plots: plots.scaling_curves(pa.concat_tables(tables)))


@app.command()
def report(
    results: Annotated[Path, typer.Argument(help="The directory that `autotts sweep --out` wrote.")],
    out: Annotated[Path, typer.Option(help="The page.")] = Path("report.html"),
) -> None:
    """Write a page about a sweep: curves, comparisons, failures, and episodes to step through. Replays it again."""
    from autotts_jax import report as reporting  # matplotlib takes a second to import

    writable(out.parent)
    file = results / _Arguments.FILE
    try:
        asked = _Arguments.model_validate_json(file.read_bytes())
    except (OSError, pydantic.ValidationError) as error:
        wrong = error.errors()[0] if isinstance(error, pydantic.ValidationError) else None
        why = error if wrong is None else f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}"
        raise InputError(f"{file}: not read ({why}). Name the directory that `autotts sweep --out` wrote.") from None
    rules = Rules(cost=asked.cost, probe_cost=asked.probe_cost, budget=asked.budget)
    datasets = _open(asked.data)
    with _bar("episodes") as bar:
        task = bar.add_task("reading", total=None)
        found = run_sweep(
            datasets,
            [Setting.parse(text) for text in asked.controller or CONTROLLERS],
            betas=asked.betas,
            shuffles=asked.shuffles,
            orders=asked.orders,
            seed=asked.seed,
            rules=rules,
            progress=lambda name, done, total: bar.update(task, description=name, completed=done, total=total),
        )
        dataset = replay.concatenate(datasets)
        dealt = draw_orders(datasets, asked.shuffles, asked.orders, asked.seed)
        page = reporting.page(
            found, dataset, dealt, rules, progress=lambda name: bar.update(task, description=f"watching {name}")
        )
    _out.print(f"wrote {write_whole(out, page)}", highlight=False, soft_wrap=True)


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


def _join_processes(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Starts `jax.distributed`; ``auto`` leaves it to JAX, which knows SLURM, Open MPI and TPU pods."""
    given = (processes is not None, process is not None)
    if coordinator is None or coordinator == "auto":
        if any(given):
            raise InputError("--processes, --process: without meaning here. Add --coordinator HOST:PORT.")
        if coordinator is None:
            return
    elif not all(given):
        raise InputError(f"--coordinator {coordinator}: incomplete. Add --processes N and --process I.")
    elif not 0 <= cast(int, process) < cast(int, processes):
        raise InputError(f"--process {process}: outside 0 to {cast(int, processes) - 1}. Count from 0.")
    try:
        if coordinator == "auto":
            jax.distributed.initialize()
        else:
            jax.distributed.initialize(coordinator, processes, process)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"--coordinator {coordinator}: the processes cannot meet ({reason}).") from None


def _open(paths: Sequence[Path] | None) -> list[replay.Dataset]:
    if not paths:
        return [replay.pack(synthetic.generate())]
    return [dataset for path in paths for dataset in replay.open_datasets(path)]


def _bar(unit: str) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), unit, TimeElapsedColumn())
    return Progress(*columns, console=_err, disable=jax.process_index() != 0)


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


def _cores() -> int:
    """The cores that this process may use: a cluster's scheduler may have given it some of the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read_results(path: Path) -> pa.Table:
    file = path / "results.parquet" if path.is_dir() else path
    try:
        table = pq.read_table(file)
        missing = {"dataset", "controller", "accuracy", "accuracy_se", "tokens"} - set(table.column_names)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{file}: no table ({error}). Name what `autotts sweep --out` wrote.") from None
    if missing:
        raise InputError(f"{file}: no sweep's results, {', '.join(sorted(missing))} missing. Name results.parquet.")
    return table


def _check_figure(file: Path | None) -> None:
    if file is not None and file.suffix not in (".png", ".pdf", ".svg"):
        raise InputError(f"{file}: suffix {file.suffix!r} is not understood. Use .png, .pdf or .svg.")


def _save_figure(file: Path, draw: Callable[[Any], Any]) -> None:
    from autotts_jax import plots  # matplotlib takes a second to import

    figure = draw(plots)
    write_whole(file, lambda path: figure.savefig(path, dpi=200, format=file.suffix[1:]))
    _out.print(f"wrote {file}", highlight=False, soft_wrap=True)


def _configure_jax() -> None:
    """One device per core, and compiled programs kept on disk, unless the user has said otherwise."""
    # It is too late for more devices where another program has already opened JAX's backend.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", _cores())
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
