"""``autotts synth``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autotts_jax import synthetic, trajectories
from autotts_jax.cli.options import check_file, wrote

__all__ = ["EXAMPLES", "synth"]

EXAMPLES = ("autotts synth traces.parquet --questions 200 --branches 64",)


def synth(
    file: Annotated[Path, typer.Argument(help=f"The file to write ({trajectories.suffixes()}).")],
    preset: Annotated[str, typer.Option(help=f"What to imitate: {', '.join(synthetic.PRESETS)}.")] = "Qwen3-8B/aime24",
    questions: Annotated[int, typer.Option(min=1, help="Number of questions.")] = 30,
    branches: Annotated[int, typer.Option(min=1, help="Branches per question.")] = 128,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the trajectories.")] = 0,
) -> None:
    """Write synthetic trajectories."""
    trajectories.format_of(file)
    check_file(file)
    made = synthetic.generate(preset, questions=questions, branches=branches, seed=seed)
    trajectories.write(made, file)
    wrote(file)
