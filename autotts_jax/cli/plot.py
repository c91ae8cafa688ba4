"""``autotts plot``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.parquet as pq
import typer

import autotts_jax as tts
from autotts_jax.cli.options import check_figure, save_figure

__all__ = ["plot"]


def plot(
    results: Annotated[list[Path], typer.Argument(help="A sweep's results.parquet, or its directory.")],
    out: Annotated[Path, typer.Option(help="The figure (.png, .pdf or .svg).")] = Path("curves.png"),
) -> None:
    """Draw accuracy against tokens along β, one panel per dataset."""
    check_figure(out)
    tables = [_read_results(path) for path in results]
    save_figure(out, tts.plots.scaling_curves(pa.concat_tables(tables)))


def _read_results(path: Path) -> pa.Table:
    file = path / "results.parquet" if path.is_dir() else path
    try:
        table = pq.read_table(file)
        missing = {"dataset", "controller", "accuracy", "accuracy_se", "tokens"} - set(table.column_names)
    except (OSError, pa.ArrowInvalid) as error:
        raise tts.InputError(f"{file}: not a table ({error}). Name what `autotts sweep --out` wrote.") from None
    if missing:
        raise tts.InputError(f"{file}: not a sweep's results: no {', '.join(sorted(missing))}. Name results.parquet.")
    return table
