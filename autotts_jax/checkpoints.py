"""Finished pieces of a sweep on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Int64

from autotts_jax.errors import InputError
from autotts_jax.files import writable, write_whole

__all__ = ["Checkpoint"]


class Checkpoint:
    """Finished pieces on disk by name, each an Orbax checkpoint of its own.

    Attributes:
      size: Questions per chunk of the sweep; a resumed sweep keeps the number it began with.
    """

    def __init__(self, directory: Path, fingerprint: Mapping[str, str], size: int) -> None:
        """Opens a directory, or starts one.

        Args:
          directory: An empty one, or one with pieces of the same sweep.
          fingerprint: Digests by what they are of; equal for equal sweeps.
          size: Questions per chunk.

        Raises:
          InputError: if the directory cannot be written to or holds anything else.
        """
        import orbax.checkpoint as ocp  # takes a second to import

        self._directory = writable(directory).absolute()
        # Processes share the directory, and none waits for another.
        me = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(
            primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process{me}"
        )
        self._checkpointer = ocp.Checkpointer(
            ocp.StandardCheckpointHandler(multiprocessing_options=alone), multiprocessing_options=alone
        )
        self._args = ocp.args
        name = self._directory / "sweep.json"
        self.size = size
        if name.exists():
            found = json.loads(name.read_text(encoding="utf-8"))
            self.size = found.get("size", size)
            begun = found.get("fingerprint", {})
            other = [name for name, digest in fingerprint.items() if begun.get(name) != digest]
            if other:
                raise InputError(
                    f"{directory}: belongs to another sweep (other {', '.join(other)}). Name another directory."
                )
        elif any(self._directory.iterdir()):
            raise InputError(f"{directory}: not empty, and not a sweep's checkpoint. Name another directory.")
        else:
            write_whole(name, json.dumps({"fingerprint": dict(fingerprint), "size": size}))

    def load(self, part: str) -> dict[str, Int64[np.ndarray, "P q"]] | None:
        """The sums of a piece; None if it is not finished."""
        path = self._directory / part
        if not path.is_dir():
            return None
        sums: dict[str, np.ndarray] = self._checkpointer.restore(path, self._args.StandardRestore())
        return sums

    def save(self, part: str, sums: dict[str, Int64[np.ndarray, "P q"]]) -> None:
        """Keeps the sums of a finished piece."""
        self._checkpointer.save(self._directory / part, self._args.StandardSave(sums))
