"""A sweep's arguments, in a file beside its results."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pydantic

import autotts_jax as tts

__all__ = ["Arguments"]


class Arguments(pydantic.BaseModel, extra="forbid"):
    """The arguments of `autotts sweep` that its results depend on."""

    FILE: ClassVar = "arguments.json"

    data: list[Path]
    controller: list[str] | None
    betas: list[float]
    shuffles: int
    orders: tts.Orders
    seed: int
    cost: tts.CostModel
    probe_cost: int
    budget: int | None

    @classmethod
    def read(cls, directory: Path) -> Arguments:
        """The arguments of the sweep that wrote this directory.

        Raises:
          InputError: if the file is missing or not understood.
        """
        file = directory / cls.FILE
        try:
            return cls.model_validate_json(file.read_bytes())
        except (OSError, pydantic.ValidationError) as error:
            wrong = error.errors()[0] if isinstance(error, pydantic.ValidationError) else None
            why = error if wrong is None else f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}"
            raise tts.InputError(
                f"{file}: cannot be read ({why}). Name the directory that `autotts sweep --out` wrote."
            ) from None
