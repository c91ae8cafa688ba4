"""Named arrays and what describes them, in a directory on disk with Orbax, under a digest."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from autotts_jax.digests import Digest
from autotts_jax.errors import InputError, one_line
from autotts_jax.files import explained

__all__ = ["is_archive", "load_archive", "save_archive"]

#: The layout on disk; another number for another layout.
_FORMAT = 4


def save_archive(path: Path, arrays: Mapping[str, np.ndarray], contents: Mapping[str, Any]) -> None:
    """Writes a directory, whole or not at all, in place of one that is there.

    Args:
      path: The directory.
      arrays: What Orbax keeps as arrays.
      contents: What JSON can say.

    Raises:
      InputError: if it cannot be written.
    """
    metadata: dict[str, Any] = {"autotts_jax": _FORMAT, "arrays": _described(arrays), "contents": dict(contents)}
    metadata["digest"] = _digest(metadata)
    with explained(path), tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        made = Path(scratch, path.name)
        ocp, checkpointer = _orbax()
        with checkpointer:
            try:
                items = ocp.args.Composite(arrays=ocp.args.StandardSave(arrays), metadata=ocp.args.JsonSave(metadata))
                checkpointer.save(made, items)
            except Exception as error:  # Orbax and TensorStore have one of their own for each way a disk fails
                raise OSError(one_line(error)) from error
        if path.exists():
            path.rename(Path(scratch, "replaced"))
        made.rename(path)


def load_archive(path: Path, remedy: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and contents that `save_archive` wrote.

    Args:
      path: The directory.
      remedy: What to do if it cannot be read, for the message.

    Raises:
      InputError: if it was written by another version, or damaged.
    """
    ocp, checkpointer = _orbax()
    with checkpointer:
        try:
            # Metadata first: it says what the arrays must be.
            restored = checkpointer.restore(path, ocp.args.Composite(metadata=ocp.args.JsonRestore()))
            metadata = dict(restored["metadata"])
            if (found := metadata.get("autotts_jax")) != _FORMAT:
                raise InputError(f"{path}: written by another version (format {found!r}, not {_FORMAT}). {remedy}")
            digest = metadata.pop("digest", None)
            if digest != _digest(metadata):
                raise InputError(f"{path}: its metadata are not those that its digest is of: damaged. {remedy}")
            restored = checkpointer.restore(path, ocp.args.Composite(arrays=ocp.args.StandardRestore()))
            arrays = {name: np.asarray(array) for name, array in dict(restored["arrays"]).items()}
        except InputError:
            raise
        except Exception as error:  # whatever Orbax, TensorStore and JSON make of damaged bytes
            raise InputError(f"{path}: cannot be read ({one_line(error)}): damaged. {remedy}") from None
    described = _described(arrays)
    for name in {**metadata["arrays"], **described}:
        if described.get(name) != metadata["arrays"].get(name):
            raise InputError(f"{path}: array {name} is not the one that was written: damaged. {remedy}")
    return arrays, metadata["contents"]


def is_archive(path: Path) -> bool:
    """Whether a directory looks like one that `save_archive` wrote."""
    return os.path.isdir(path / "arrays") and os.path.isdir(path / "metadata")


def _described(arrays: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Each array's type, shape and digest."""
    found = {}
    for name, array in arrays.items():
        digest = Digest()
        digest.array(name, array)
        found[name] = {"dtype": str(array.dtype), "shape": list(array.shape), "digest": digest.hex()}
    return found


def _digest(metadata: Mapping[str, Any]) -> str:
    digest = Digest()
    digest.json("metadata", metadata)
    return digest.hex()


def _orbax() -> tuple[Any, Any]:
    """Orbax, and a checkpointer that waits for no other process: each writes what is its own."""
    import orbax.checkpoint as ocp  # takes a second to import

    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process{me}"
    )
    handler = ocp.CompositeCheckpointHandler(composite_options=ocp.CompositeOptions(multiprocessing_options=alone))
    return ocp, ocp.Checkpointer(handler, multiprocessing_options=alone)
