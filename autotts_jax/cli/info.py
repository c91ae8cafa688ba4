"""``autotts info``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from autotts_jax import trajectories
from autotts_jax.cli.options import OUT

__all__ = ["info"]


def info(file: Annotated[Path, typer.Argument(help=f"A trajectory file ({trajectories.suffixes()}).")]) -> None:
    """Summarize a trajectory file: counts, lengths, accuracies."""
    table = Table(show_header=False, box=None)
    for label, text in trajectories.describe(trajectories.read(file)).items():
        table.add_row(label, text)
    OUT.print(table)
