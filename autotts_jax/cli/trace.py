"""``autotts trace``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import autotts_jax as tts
from autotts_jax.cli.console import OUT, interruptible, status
from autotts_jax.cli.options import (
    Budget,
    Cost,
    Drawn,
    ProbeCost,
    Seed,
    Shuffles,
    Swept,
    check_figure,
    check_file,
    opened,
    parsed_orders,
    replayed,
    save_figure,
    wrote,
)
from autotts_jax.cli.tables import trace_account
from autotts_jax.files import existing
from autotts_jax.results import is_results

__all__ = ["EXAMPLES", "trace"]

EXAMPLES = (
    "autotts trace traces.json --controller confidence_momentum --beta 0.5",
    "autotts trace results --controller parallel_probe:chains=8 --question 4 --shuffle 27 --figure episode.png",
)


def trace(
    path: Annotated[Path, typer.Argument(help="A trajectory file, store or directory, or a sweep's results.")],
    controller: Annotated[
        str | None,
        typer.Option(
            help="NAME[:…] or FILE.py:ATTRIBUTE[:…], by default confidence_momentum; of results, a setting's label, "
            "by default the first."
        ),
    ] = None,
    beta: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="The controller's β; defaults to 0.5, of results to the middle of the grid."),
    ] = None,
    question: Annotated[
        int | None, typer.Option(min=0, help="Question number, over all files; defaults to a summary of all.")
    ] = None,
    data: Swept = None,
    shuffle: Annotated[int, typer.Option(min=0, help="Which of the orders.")] = 0,
    shuffles: Shuffles = 100,
    orders: Drawn = "published",
    seed: Seed = 0,
    cost: Cost = tts.CostModel.RELEASED,
    probe_cost: ProbeCost = 0,
    budget: Budget = None,
    characters: Annotated[int, typer.Option(min=1, help="In a summary: its maximum length.")] = 6000,
    figure: Annotated[Path | None, typer.Option(help="Figure of the episode (.png, .pdf or .svg).")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="JSON Lines file for the episode's trace.")] = None,
) -> None:
    """Trace one episode round by round, or summarize all episodes.

    Of a sweep's results, controllers, data, orders and costs are those of the sweep.
    """
    for output in (figure, json_file):
        if output is not None and question is None:
            raise tts.InputError(f"{output}: a summary has no such output. Add --question N.")
    check_figure(figure)
    check_file(json_file)
    if is_results(path):
        results = tts.read_results(path)
        row = _swept_row(results, controller, beta)
        dataset, drawn, rules = replayed(results, data)
        if shuffle >= results.shuffles:
            raise tts.InputError(f"--shuffle {shuffle}: {path} has {results.shuffles}. Count from 0.")
    else:
        if data:
            raise tts.InputError("--data: only for a sweep's results. Name the data themselves.")
        existing(path)
        setting = tts.Setting.parse(controller or "confidence_momentum")
        row = tts.rows_of(setting, [0.5 if beta is None else beta])[0]
        rules = tts.Rules(cost=cost, probe_cost=probe_cost, budget=budget)
        datasets = opened([path])
        dataset = tts.concatenate(datasets)
        needed = shuffles if question is None else shuffle + 1
        drawn = tts.draw_orders(datasets, needed, parsed_orders(orders), seed)
    if question is None:
        with interruptible("Interrupted."), status("replaying"):
            watched = tts.failures.watch(dataset, row, drawn, rules)
        OUT.print(tts.failures.summarize(dataset, row, watched, characters=characters), soft_wrap=True)
        return
    if question >= len(dataset):
        raise tts.InputError(f"--question {question}: {path} has {len(dataset)}. Count from 0 to {len(dataset) - 1}.")
    with interruptible("Interrupted: nothing was written."), status("replaying"):
        told = tts.traces.trace(dataset, row, np.asarray(drawn), question, shuffle, rules)
    if figure is not None:
        save_figure(figure, tts.plots.episode_path(told))
    if json_file is not None:
        wrote(tts.traces.write([told], json_file))
    trace_account(OUT, told)


def _swept_row(results: tts.Results, label: str | None, beta: float | None) -> tts.Row:
    rows = [row for row in results.rows if row.label == (label or results.rows[0].label)]
    if not rows:
        labels = ", ".join(dict.fromkeys(row.label for row in results.rows))
        raise tts.InputError(f"--controller {label}: not in these results. Use one of {labels}.")
    if beta is None:
        return rows[len(rows) // 2]
    for row in rows:
        if row.beta is None or np.float32(row.beta) == np.float32(beta):
            return row
    raise tts.InputError(f"--beta {beta:g}: not swept. Use one of {', '.join(f'{row.beta:g}' for row in rows)}.")
