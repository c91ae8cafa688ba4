"""``autotts report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

import autotts_jax as tts
from autotts_jax.cli.options import ERR, check_file, replayed, save

__all__ = ["report"]


def report(
    results: Annotated[Path, typer.Argument(help="The directory that `autotts sweep --out` wrote.")],
    data: Annotated[
        list[Path] | None, typer.Option(help="Where the swept data are now; repeatable. Defaults to where they were.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The HTML file.")] = Path("report.html"),
) -> None:
    """Write an HTML report on a sweep.

    It holds curves, comparisons, failures, and episodes to step through.
    """
    from autotts_jax import report as reporting  # matplotlib takes a second to import

    check_file(out)
    found = tts.read_results(results)
    with ERR.status("reading") as shown:
        dataset, orders, rules = replayed(found, data)
        page = reporting.page(
            found, dataset, orders, rules, progress=lambda name: shown.update(f"watching {escape(name)}")
        )
    save(out, page)
