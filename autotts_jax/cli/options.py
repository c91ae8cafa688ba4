"""What the commands share: options, data, output files."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, cast, get_args

import numpy as np
import typer

import autotts_jax as tts
from autotts_jax import sweeps
from autotts_jax.cli.console import OUT, quiet
from autotts_jax.cli.tables import Form
from autotts_jax.files import writable, write_whole
from autotts_jax.trajectories import suffixes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Betas",
    "Budget",
    "Controllers",
    "Cost",
    "Data",
    "Drawn",
    "ProbeCost",
    "Quiet",
    "Seed",
    "Shown",
    "Shuffles",
    "Swept",
    "check_directory",
    "check_figure",
    "check_file",
    "opened",
    "parsed_betas",
    "parsed_orders",
    "replayed",
    "save",
    "save_figure",
    "wing",
    "wrote",
]

Data = Annotated[
    list[Path] | None,
    typer.Argument(help=f"Files ({suffixes()}), stores or directories; defaults to built-in trajectories."),
]
Swept = Annotated[
    list[Path] | None,
    typer.Option("--data", help="Where the swept data are now; repeatable. Defaults to where they were."),
]
Controllers = Annotated[
    list[str] | None,
    typer.Option(
        help="[LABEL=]NAME[:key=value,…] or [LABEL=]FILE.py:ATTRIBUTE[:…]; repeatable; defaults to all built-in ones."
    ),
]
Betas = Annotated[str, typer.Option(help="The β grid: START:STOP:COUNT, or values as in 0,0.5,1.")]
Drawn = Annotated[str, typer.Option(help="published, random, or bootstrap (with replacement).")]
Shuffles = Annotated[int, typer.Option(min=1, help="Branch orders per question.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of random and bootstrap orders.")]
Cost = Annotated[tts.CostModel, typer.Option(help="What an episode is charged for.")]
ProbeCost = Annotated[int, typer.Option(min=0, help="κ_probe, in the cost model's unit.")]
Budget = Annotated[int | None, typer.Option(min=0, help="The most an episode may cost; defaults to no limit.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.", callback=quiet)]
Shown = Annotated[Form, typer.Option("--format", help="How the result is printed.")]


#: More βs than a grid can need.
_MOST_BETAS = 100_000


def opened(paths: Sequence[Path] | None) -> list[tts.Dataset]:
    """The datasets at the paths, or the built-in trajectories."""
    if not paths:
        return [tts.pack(tts.synthetic_trajectories())]
    return [dataset for path in paths for dataset in tts.open_datasets(path)]


def replayed(results: tts.Results, paths: Sequence[Path] | None) -> tuple[tts.Dataset, np.ndarray, tts.Rules]:
    """Data, orders and rules of a results folder; the data are where they were unless paths say otherwise."""
    sources = dict.fromkeys(Path(used.source) for used in results.provenance.datasets if used.source)
    for source in sources if not paths else ():
        if not source.exists():
            raise tts.InputError(f"{source}: swept, but no longer there. Say where it is now, with --data.")
    return sweeps.replayed(results, opened(paths or list(sources)))


def parsed_betas(text: str) -> list[float]:
    """The values of START:STOP:COUNT, or of a comma-separated list."""
    try:
        if ":" in text:
            start, stop, count = text.split(":")
            if int(count) > _MOST_BETAS:
                raise tts.InputError(f"--beta {text!r}: more than {_MOST_BETAS} βs. Choose fewer.")
            values = np.linspace(float(start), float(stop), int(count))
        else:
            values = np.array([float(value) for value in text.split(",")])
    except tts.InputError:
        raise
    except ValueError:
        raise tts.InputError(f"--beta {text!r}: not understood. Write START:STOP:COUNT or 0,0.5,1.") from None
    if not len(values) or not np.all((values >= 0) & (values <= 1)):
        raise tts.InputError(f"--beta {text!r}: every β must lie in 0 to 1, and there must be at least one.")
    # A grid of decimals should read as one: 0.3, not 0.30000000000000004.
    return [float(value) for value in values.round(12)]


def parsed_orders(text: str) -> tts.Orders:
    """How orders are drawn."""
    if text not in get_args(tts.Orders):
        raise tts.InputError(f"--orders {text!r}: not understood. Use one of {', '.join(get_args(tts.Orders))}.")
    return cast(tts.Orders, text)


def check_directory(directory: Path | None) -> None:
    """Creates an output directory, before any work."""
    if directory is not None:
        writable(directory)


def check_file(file: Path | None) -> None:
    """Likewise the directory of an output file."""
    check_directory(None if file is None else file.parent)
    if file is not None and file.is_dir():
        raise tts.InputError(f"{file}: a directory. Name a file.")


def check_figure(file: Path | None) -> None:
    """Likewise that of a figure, whose suffix must name a format."""
    check_file(file)
    if file is not None and file.suffix not in (".png", ".pdf", ".svg"):
        raise tts.InputError(f"{file}: suffix {file.suffix!r} is not understood. Use .png, .pdf or .svg.")


def save(file: Path, content: str | Callable[[Path], None]) -> None:
    """Writes a file, whole or not at all, and says so."""
    wrote(write_whole(file, content))


def save_figure(file: Path, figure: Figure) -> None:
    """Writes a figure in the format that the suffix names, and says so."""
    save(file, lambda path: figure.savefig(path, dpi=200, format=file.suffix[1:]))


def wrote(file: Path) -> None:
    """Says that a file was written."""
    OUT.print(f"wrote {file}", soft_wrap=True)


def wing(command: str, module: str, extra: str) -> ModuleType:
    """A module of a wing, which is an extra.

    Raises:
      InputError: if a package that it needs is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("autotts"):
            raise
        raise tts.InputError(
            f"{command}: the package {error.name} is missing. Install the extra: pip install 'autotts-jax[{extra}]'."
        ) from None
