"""``autotts plot``."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

import autotts_jax as tts
from autotts_jax.cli.options import check_figure, save_figure

__all__ = ["EXAMPLES", "plot"]

EXAMPLES = ("autotts plot results", "autotts plot aime24 aime25 --out curves.pdf")


def plot(
    results: Annotated[list[Path], typer.Argument(help="Directories that `autotts sweep --out` wrote.")],
    out: Annotated[Path, typer.Option(help="The figure (.png, .pdf or .svg).")] = Path("curves.png"),
    controller: Annotated[
        list[str] | None, typer.Option(help="One to show, by its label in the table; repeatable; defaults to all.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="Also draw paired differences to this one, at equal tokens.")
    ] = None,
    bands: Annotated[
        bool | None, typer.Option(help="Draw bands of uncertainty; defaults to yes for up to three controllers.")
    ] = None,
    size: Annotated[
        tuple[float, float] | None, typer.Option(help="Width and height in inches, as in 7 4.", metavar="W H")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Title of the figure.")] = None,
) -> None:
    """Draw accuracy against tokens along β, one panel per dataset."""
    check_figure(out)
    found = [tts.read_results(path) for path in results]
    _check_apart(results, found)
    figure = tts.plots.scaling_curves(
        found, controllers=controller, reference=reference, bands=bands, size=size, title=title
    )
    save_figure(out, figure)


def _check_apart(paths: Sequence[Path], results: Sequence[tts.Results]) -> None:
    """Refuses sweeps in one figure in which one name means two things, or one curve would be drawn twice."""
    meaning: dict[tuple[str, str], tuple[str, Path]] = {}
    curves: dict[tuple[str, str], Path] = {}
    replays: dict[str, tuple[object, Path]] = {}
    for path, found in zip(paths, results, strict=True):
        datasets = [("dataset", used.label, used.digest) for used in found.provenance.datasets]
        settings = [("controller", used.label, used.artefact) for used in found.provenance.settings]
        for kind, label, digest in (*datasets, *settings):
            known, first = meaning.setdefault((kind, label), (digest, path))
            if known != digest:
                raise tts.InputError(f"{path}: {kind} {label} is another one in {first}. Sweep them together.")
        asked = found.provenance
        how = (asked.cost, asked.probe_cost, asked.budget, asked.orders, asked.seed, asked.shuffles)
        for _, label, _ in datasets:
            known_how, first = replays.setdefault(label, (how, path))
            if known_how != how:
                raise tts.InputError(
                    f"{path}: {label} was not replayed as in {first}: other costs, budget, orders, seed or shuffles. "
                    "Draw them apart."
                )
        for curve in itertools.product([d[1] for d in datasets], [s[1] for s in settings]):
            if curves.setdefault(curve, path) != path:
                raise tts.InputError(f"{path}: {' and '.join(curve)} are also in {curves[curve]}. Leave one out.")
