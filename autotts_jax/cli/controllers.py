"""``autotts controllers``."""

from __future__ import annotations

import jax
import jax.numpy as jnp

import autotts_jax as tts
from autotts_jax.cli.console import OUT
from autotts_jax.cli.options import Shown
from autotts_jax.cli.tables import Form, print_records, print_table
from autotts_jax.controllers.schedules import named_leaves, plain

__all__ = ["EXAMPLES", "controllers"]

EXAMPLES = ("autotts controllers", "autotts controllers --format json")


def controllers(form: Shown = Form.TABLE) -> None:
    """List the built-in controllers and their schedules."""
    records = []
    for controller in tts.CONTROLLERS.values():
        both = jax.device_get(jax.vmap(controller.schedule)(jnp.array([0, 1], jnp.float32)))
        for name, (low, high) in named_leaves(both).items():
            least, greatest = controller.bounds[name]
            about = {"controller": controller.name, "source": controller.source, "parameter": name}
            ends = {"beta_0": plain(low), "beta_1": plain(high), "least": least, "greatest": greatest}
            records.append(about | ends)
    if form is not Form.TABLE:
        print_records(OUT, records, form)
        return
    for controller in tts.CONTROLLERS.values():
        mine = [record for record in records if record["controller"] == controller.name]
        columns = {
            "parameter": [record["parameter"] for record in mine],
            "β = 0": [str(record["beta_0"]) for record in mine],
            "β = 1": [str(record["beta_1"]) for record in mine],
            "bounds": [f"{record['least']:g} … {record['greatest']:g}" for record in mine],
        }
        print_table(OUT, f"{controller.name} ({controller.source})", columns, texts=["parameter"], spare=["bounds"])
