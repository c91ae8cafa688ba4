"""``autotts controllers``."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from rich.box import SIMPLE_HEAD
from rich.table import Table

import autotts_jax as tts
from autotts_jax.cli.options import OUT

__all__ = ["controllers"]


def controllers() -> None:
    """List the built-in controllers and their schedules."""
    table = Table("parameter", "β = 0", "β = 1", "bounds", box=SIMPLE_HEAD)
    for controller in tts.CONTROLLERS.values():
        table.add_row(f"[bold]{controller.name}[/bold] ({controller.source})", end_section=False)
        ends = jax.device_get(jax.vmap(controller.schedule)(jnp.array([0, 1], jnp.float32)))
        for name, (low, high) in ends._asdict().items():
            bounds = "{:g} … {:g}".format(*controller.bounds[name])
            table.add_row(f"  {name}", str(low), str(high), bounds)
        table.add_section()
    OUT.print(table)
