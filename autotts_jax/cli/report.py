"""``autotts report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import autotts_jax as tts
from autotts_jax.cli.arguments import Arguments
from autotts_jax.cli.options import bar, check_file, opened, save

__all__ = ["report"]


def report(
    results: Annotated[Path, typer.Argument(help="The directory that `autotts sweep --out` wrote.")],
    out: Annotated[Path, typer.Option(help="The HTML file.")] = Path("report.html"),
) -> None:
    """Write an HTML report on a sweep, which is replayed.

    It holds curves, comparisons, failures, and episodes to step through.
    """
    from autotts_jax import report as reporting  # matplotlib takes a second to import

    check_file(out)
    asked = Arguments.read(results)
    rules = tts.Rules(cost=asked.cost, probe_cost=asked.probe_cost, budget=asked.budget)
    datasets = opened(asked.data)
    with bar("episodes") as shown:
        task = shown.add_task("reading", total=None)
        found = tts.sweep(
            datasets,
            [tts.Setting.parse(text) for text in asked.controller or tts.CONTROLLERS],
            betas=asked.betas,
            shuffles=asked.shuffles,
            orders=asked.orders,
            seed=asked.seed,
            rules=rules,
            progress=lambda name, done, total: shown.update(task, description=name, completed=done, total=total),
        )
        dataset = tts.concatenate(datasets)
        dealt = tts.draw_orders(datasets, asked.shuffles, asked.orders, asked.seed)
        page = reporting.page(
            found, dataset, dealt, rules, progress=lambda name: shown.update(task, description=f"watching {name}")
        )
    save(out, page)
