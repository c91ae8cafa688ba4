"""``autotts check``."""

from __future__ import annotations

from typing import Annotated

import typer

import autotts_jax as tts
from autotts_jax.cli.console import OUT, interruptible, status

__all__ = ["EXAMPLES", "check"]

EXAMPLES = ("autotts check quorum.py:QUORUM",)


def check(
    controller: Annotated[str, typer.Argument(help="FILE.py:ATTRIBUTE, or a built-in controller's name.")],
) -> None:
    """Check a controller against the contract."""
    setting = tts.Setting.parse(controller)
    with interruptible("Interrupted: not checked."), status("checking"):
        report = tts.check_controller(setting.controller)
    for passed in report.passed:
        OUT.print(f"ok    {passed}")
    for note in report.notes:
        OUT.print(f"note  {note}")
    OUT.print(f"{setting.controller.name} keeps the contract.")
