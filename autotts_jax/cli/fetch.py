"""``autotts fetch``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autotts_jax import downloads
from autotts_jax.cli.console import OUT, interruptible, status

__all__ = ["EXAMPLES", "fetch"]

EXAMPLES = ("autotts fetch --to trajectories", "autotts fetch Qwen3-8B Qwen3-4B/aime24")


def fetch(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="MODEL or MODEL/BENCHMARK; defaults to all files.", metavar="NAME"),
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Directory to download to; defaults to the user's cache.")] = None,
    url: Annotated[
        str, typer.Option(help="Mirror that holds MODEL/BENCHMARK.json.", show_default="the AutoTTS repository")
    ] = downloads.URL,
) -> None:
    """Download the public AutoTTS replay files."""
    said = "Interrupted: files that are complete are kept. The same command goes on from there."
    with interruptible(said), status(f"fetching {', '.join(names) if names else f'{len(downloads.FILES)} files'}"):
        directory = downloads.fetch(names or (), url=url, cache=to)
    OUT.print(str(directory), soft_wrap=True)
