"""``autotts bench``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import jax
import typer

import autotts_jax as tts
from autotts_jax import bench as timing
from autotts_jax.cli.console import OUT, bar
from autotts_jax.cli.options import (
    Betas,
    Controllers,
    Data,
    Quiet,
    Shown,
    Shuffles,
    check_file,
    opened,
    parsed_betas,
    save,
)
from autotts_jax.cli.tables import Form, print_records, timing_tables

__all__ = ["EXAMPLES", "bench"]

EXAMPLES = (
    "autotts bench --controller confidence_momentum",
    "autotts bench trajectories/Qwen3-8B/aime24.json --against python --json timings.json",
)


def bench(
    data: Data = None,
    controller: Controllers = None,
    beta: Betas = "0:1:11",
    shuffles: Shuffles = 100,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs; the median is reported.")] = 5,
    devices: Annotated[int | None, typer.Option(min=1, help="Number of devices; defaults to all.")] = None,
    lanes: Annotated[int | None, typer.Option(min=1, help="Episodes side by side per device.")] = None,
    against: Annotated[
        str | None,
        typer.Option(help="python: also time the plain-Python oracle.", hidden=timing.oracle_file() is None),
    ] = None,
    roofline: Annotated[bool, typer.Option("--roofline", help="Compare with the devices' memory bandwidth.")] = False,
    form: Shown = Form.TABLE,
    quiet: Quiet = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="JSON file for the timings.")] = None,
) -> None:
    """Time controllers: compilation, runs, lane occupancy."""
    betas = parsed_betas(beta)
    settings = [tts.Setting.parse(text) for text in controller or tts.CONTROLLERS]
    if against not in (None, "python"):
        raise tts.InputError(f"--against {against!r}: not understood. Use python.")
    oracle = timing.load_oracle() if against else None
    if devices is not None and devices > jax.local_device_count():
        raise tts.InputError(f"--devices {devices}: there are only {jax.local_device_count()}. Use at most that many.")
    check_file(json_file)
    dataset = tts.concatenate(opened(data))
    timings = []
    with bar("controllers") as shown:
        task = shown.add_task("", total=len(settings))
        for setting in settings:
            shown.update(task, description=setting.controller.name)
            timings.append(
                timing.measure(
                    setting.controller,
                    tts.rows_of(setting, betas),
                    dataset,
                    shuffles=shuffles,
                    repeats=repeats,
                    devices=jax.local_devices()[:devices],
                    lanes=lanes,
                    oracle=oracle,
                    roofline=roofline,
                )
            )
            shown.advance(task)
    records = [dataclasses.asdict(timing) for timing in timings]
    if json_file is not None:
        save(json_file, json.dumps(records, indent=1))
    if form is Form.TABLE:
        timing_tables(OUT, timings)
    else:
        print_records(OUT, records, form)
