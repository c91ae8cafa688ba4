"""``autotts sweep``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, cast

import jax
import typer

import autotts_jax as tts
from autotts_jax.cli.console import ERR, OUT, bar, interruptible
from autotts_jax.cli.options import (
    Betas,
    Budget,
    Controllers,
    Cost,
    Data,
    Drawn,
    ProbeCost,
    Quiet,
    Seed,
    Shown,
    Shuffles,
    check_directory,
    opened,
    parsed_betas,
    parsed_orders,
    wrote,
)
from autotts_jax.cli.tables import Form, print_records, results_tables

__all__ = ["EXAMPLES", "sweep"]

EXAMPLES = (
    "autotts sweep --out results",
    "autotts sweep trajectories --controller confidence_momentum --controller parallel_probe:chains=8",
    "autotts sweep traces.json --controller quorum.py:QUORUM --beta 0:1:5 --checkpoint kept",
    "autotts sweep --controller a=quorum.py:QUORUM:chains=8 --controller b=quorum.py:QUORUM:chains=16 --format csv",
)


def sweep(
    data: Data = None,
    controller: Controllers = None,
    beta: Betas = "0:1:11",
    shuffles: Shuffles = 100,
    orders: Drawn = "published",
    seed: Seed = 0,
    cost: Cost = tts.CostModel.RELEASED,
    probe_cost: ProbeCost = 0,
    budget: Budget = None,
    out: Annotated[Path | None, typer.Option(help="Results folder to write.")] = None,
    per_question: Annotated[bool, typer.Option("--per-question", help="Also write questions.csv, .parquet.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Print all βs.")] = False,
    form: Shown = Form.TABLE,
    quiet: Quiet = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Replay twice more under other answer ids; refuse other decisions.")
    ] = False,
    check: Annotated[bool, typer.Option(help="Check controllers from files against the contract first.")] = True,
    chunk: Annotated[int | None, typer.Option(min=1, help="Questions per chunk; defaults to what fits.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Directory for finished chunks; run the same command again to resume.")
    ] = None,
    coordinator: Annotated[
        str | None, typer.Option(help="Share the work with other processes: HOST:PORT of the first, or auto.")
    ] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Number of processes.")] = None,
    process: Annotated[int | None, typer.Option(min=0, help="Number of this process, from 0.")] = None,
) -> None:
    """Replay controllers over a β grid; print accuracy and cost."""
    _join_processes(coordinator, processes, process)
    betas, drawn = parsed_betas(beta), parsed_orders(orders)
    settings = [tts.Setting.parse(text) for text in controller] if controller else None
    check_directory(checkpoint)
    check_directory(out)
    if out is None and per_question:
        raise tts.InputError("--per-question: nowhere to write the second table. Add --out DIR.")
    with interruptible(_farewell(checkpoint)), bar("episodes") as shown:
        task = shown.add_task("reading", total=None)
        datasets = opened(data)
        for text, setting in zip(controller or (), settings or (), strict=True):
            if check and ".py:" in text:
                shown.update(task, description=f"checking {setting.label}")
                tts.check_controller(setting.controller, datasets[0].store.feature_names)
        results = tts.sweep(
            datasets,
            settings,
            betas=betas,
            shuffles=shuffles,
            orders=drawn,
            seed=seed,
            rules=tts.Rules(cost=cost, probe_cost=probe_cost, budget=budget),
            chunk=chunk,
            checkpoint=checkpoint,
            strict=strict,
            command=("autotts", *sys.argv[1:]),
            progress=lambda name, done, total: shown.update(task, description=name, completed=done, total=total),
        )
    if jax.process_index() != 0:
        return
    written = [] if out is None else results.write(out, per_question=per_question)
    if form is Form.TABLE:
        results_tables(OUT, results, full=full)
        for path in written:
            wrote(path)
    else:
        print_records(OUT, results.table.to_pylist(), form)
    for note in results.notes:
        ERR.print(f"note: {note}", soft_wrap=True)


def _farewell(checkpoint: Path | None) -> str:
    if checkpoint is None:
        return "Interrupted: nothing was kept. With --checkpoint DIR, finished chunks are, and a sweep can go on."
    return f"Interrupted: finished chunks are kept in {checkpoint}. The same command goes on from there."


def _join_processes(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Starts `jax.distributed`; ``auto`` leaves it to JAX, which knows SLURM, Open MPI and TPU pods."""
    given = (processes is not None, process is not None)
    if coordinator is None or coordinator == "auto":
        if any(given):
            raise tts.InputError("--processes, --process: not used without an address. Add --coordinator HOST:PORT.")
        if coordinator is None:
            return
    elif not all(given):
        raise tts.InputError(f"--coordinator {coordinator}: incomplete. Add --processes N and --process I.")
    elif not 0 <= cast(int, process) < cast(int, processes):
        raise tts.InputError(f"--process {process}: outside 0 to {cast(int, processes) - 1}. Count from 0.")
    try:
        if coordinator == "auto":
            jax.distributed.initialize()
        else:
            jax.distributed.initialize(coordinator, processes, process)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise tts.InputError(f"--coordinator {coordinator}: the processes cannot connect ({reason}).") from None
