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
    controller: Annotated[str, typer.Option(help="NAME[:…] or FILE.py:ATTRIBUTE[:…].")] = "confidence_momentum",
    beta: Annotated[float, typer.Option(min=0, max=1, help="The controller's β.")] = 0.5,
    question: Annotated[int | None, typer.Option(min=0, help="Question number; defaults to a summary of all.")] = None,
    shuffle: Annotated[int, typer.Option(min=0, help="Which of the published orders.")] = 0,
    shuffles: Annotated[int, typer.Option(min=1, help="In a summary: orders per question.")] = 100,
    characters: Annotated[int, typer.Option(min=1, help="In a summary: its maximum length.")] = 6000,
    figure: Annotated[Path | None, typer.Option(help="Figure of the episode (.png, .pdf or .svg).")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="JSON Lines file for the episode's trace.")] = None,
) -> None:
    """Trace one episode round by round, or summarize all episodes."""
    row = tts.rows_of(tts.Setting.parse(controller), [beta])[0]
    for output in (figure, json_file):
        if output is not None and question is None:
            raise tts.InputError(f"{output}: a summary has no such output. Add --question N.")
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
