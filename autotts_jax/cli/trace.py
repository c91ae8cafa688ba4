"""``autotts trace``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import autotts_jax as tts
from autotts_jax.cli.options import ERR, OUT, check_figure, check_file, opened, save_figure, wrote
from autotts_jax.cli.tables import trace_account

__all__ = ["trace"]


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
    row = tts.rows_of(tts.Setting.parse(controller), [beta])[0]
    for output in (figure, json_file):
        if output is not None and question is None:
            raise tts.InputError(f"{output}: a summary has neither. Add --question N.")
    check_figure(figure)
    check_file(json_file)
    dataset = tts.concatenate(opened([file]))
    if question is None:
        orders = tts.published_orders(dataset.store, shuffles)
        with ERR.status("replaying"):
            watched = tts.failures.watch(dataset, row, orders)
        OUT.print(
            tts.failures.summarize(dataset, row, watched, characters=characters), highlight=False, soft_wrap=True
        )
        return
    if question >= len(dataset):
        raise tts.InputError(f"--question {question}: {file} has {len(dataset)}. Count from 0 to {len(dataset) - 1}.")
    orders = tts.published_orders(dataset.store, shuffle + 1)
    with ERR.status("replaying"):
        told = tts.traces.trace(dataset, row, orders, question, shuffle)
    trace_account(OUT, told)
    if figure is not None:
        save_figure(figure, tts.plots.episode_path(told))
    if json_file is not None:
        wrote(tts.traces.write([told], json_file))
