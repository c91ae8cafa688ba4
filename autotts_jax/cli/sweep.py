"""``autotts sweep``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, cast

import jax
import typer

import autotts_jax as tts
from autotts_jax.cli.options import (
    ERR,
    OUT,
    Betas,
    Budget,
    Controllers,
    Cost,
    Data,
    Drawn,
    ProbeCost,
    Seed,
    bar,
    check_directory,
    opened,
    parsed_betas,
    parsed_orders,
    wrote,
)
from autotts_jax.cli.tables import results_tables

__all__ = ["sweep"]


def sweep(
    data: Data = None,
    controller: Controllers = None,
    beta: Betas = "0:1:11",
    shuffles: Annotated[int, typer.Option(help="Branch orders per question.")] = 100,
    orders: Drawn = "published",
    seed: Seed = 0,
    cost: Cost = tts.CostModel.RELEASED,
    probe_cost: ProbeCost = 0,
    budget: Budget = None,
    out: Annotated[Path | None, typer.Option(help="Directory for results.csv and results.parquet.")] = None,
    per_question: Annotated[bool, typer.Option("--per-question", help="Also write questions.csv, .parquet.")] = False,
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
    betas = parsed_betas(beta)
    drawn = parsed_orders(orders)
    settings = [tts.Setting.parse(text) for text in controller] if controller else None
    check_directory(checkpoint)
    check_directory(out)
    if out is None and per_question:
        raise tts.InputError("--per-question: nowhere to write the second table. Add --out DIR.")
    with bar("episodes") as shown:
        task = shown.add_task("reading", total=None)
        results = tts.sweep(
            opened(data),
            settings,
            betas=betas,
            shuffles=shuffles,
            orders=drawn,
            seed=seed,
            rules=tts.Rules(cost=cost, probe_cost=probe_cost, budget=budget),
            chunk=chunk,
            checkpoint=checkpoint,
            command=("autotts", *sys.argv[1:]),
            progress=lambda name, done, total: shown.update(task, description=name, completed=done, total=total),
        )
    if jax.process_index() != 0:
        return
    written = [] if out is None else results.write(out, per_question=per_question)
    results_tables(OUT, results)
    for note in results.notes:
        ERR.print(f"note: {note}", highlight=False, soft_wrap=True)
    for path in written:
        wrote(path)


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
