"""``autotts check``."""

from __future__ import annotations

from typing import Annotated

import typer

import autotts_jax as tts
from autotts_jax.cli.options import ERR, OUT

__all__ = ["check"]


def check(
    controller: Annotated[str, typer.Argument(help="FILE.py:ATTRIBUTE, or a built-in controller's name.")],
) -> None:
    """Check a controller against the contract."""
    setting = tts.Setting.parse(controller)
    with ERR.status("checking"):
        report = tts.check_controller(setting.controller)
    for passed in report.passed:
        OUT.print(f"ok    {passed}", highlight=False)
    for note in report.notes:
        OUT.print(f"note  {note}", highlight=False)
    OUT.print(f"{setting.controller.name} keeps the contract.", highlight=False)
