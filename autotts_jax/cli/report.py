"""``autotts report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import autotts_jax as tts
from autotts_jax.cli.console import bar, interruptible
from autotts_jax.cli.options import Quiet, Swept, check_file, replayed, save

__all__ = ["EXAMPLES", "report"]

EXAMPLES = ("autotts report results", "autotts report results --data elsewhere/aime24.json --out page.html")


def report(
    results: Annotated[Path, typer.Argument(help="The directory that `autotts sweep --out` wrote.")],
    data: Swept = None,
    out: Annotated[Path, typer.Option(help="The HTML file.")] = Path("report.html"),
    quiet: Quiet = False,
) -> None:
    """Write an HTML report on a sweep.

    It holds curves, comparisons, failures, and episodes to step through.
    """
    from autotts_jax import report as reporting  # its libraries take a while to import

    check_file(out)
    found = tts.read_results(results)
    with interruptible("Interrupted: nothing was written."), bar("settings") as shown:
        task = shown.add_task("reading", total=len(found.artefacts))
        dataset, orders, rules = replayed(found, data)
        page = reporting.page(
            found, dataset, orders, rules, progress=lambda name: shown.update(task, description=name, advance=1)
        )
    save(out, page)
