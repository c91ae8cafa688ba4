"""``autotts info``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from autotts_jax import trajectories
from autotts_jax.cli.console import OUT
from autotts_jax.cli.options import Shown
from autotts_jax.cli.tables import Form, print_records
from autotts_jax.replay import open_trajectories

__all__ = ["EXAMPLES", "info"]

EXAMPLES = ("autotts info traces.json", "autotts info trajectories --format markdown")


def info(
    data: Annotated[list[Path], typer.Argument(help=f"Files ({trajectories.suffixes()}), stores or directories.")],
    form: Shown = Form.TABLE,
) -> None:
    """Summarize trajectories: counts, lengths, accuracies."""
    found = [one for path in data for one in open_trajectories(path)]
    if form is not Form.TABLE:
        print_records(OUT, [trajectories.facts(one) for one in found], form)
        return
    for one in found:
        table = Table(show_header=False, box=None)
        for label, text in trajectories.describe(one).items():
            table.add_row(label, text)
        OUT.print(table)
