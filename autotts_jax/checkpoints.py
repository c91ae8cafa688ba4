"""Finished pieces of a sweep on disk."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import filelock
import jax
import numpy as np
import pydantic
from jaxtyping import Int64

from autotts_jax.archives import load_archive, save_archive
from autotts_jax.digests import Digest
from autotts_jax.errors import InputError
from autotts_jax.files import explained, writable, write_whole

__all__ = ["Checkpoint"]

_FILE = "sweep.json"

#: What an interrupted save leaves: scratch directories of `tempfile`, and of Orbax.
_STRAY = re.compile(r"tmp[a-z0-9_]{8}|.*\.orbax-checkpoint-tmp.*")


class _Sweep(pydantic.BaseModel):
    """Which sweep a directory belongs to; in `_FILE`."""

    model_config = pydantic.ConfigDict(strict=True)

    fingerprint: dict[str, str]
    size: pydantic.PositiveInt
    digest: str = ""

    def digested(self) -> str:
        """The digest of all other fields."""
        digest = Digest()
        digest.json("sweep", self.model_dump(exclude={"digest"}))
        return digest.hex()


class Checkpoint:
    """Finished pieces on disk by name, each a directory with a digest of its own.

    A context: while it is open, no other sweep can use the directory. Processes of one sweep share it.

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
          InputError: if the directory cannot be written to, is in use, is damaged, or holds anything else.
        """
        self._directory = writable(directory).absolute()
        self._fingerprint = dict(fingerprint)
        self._lock = self._locked()
        try:
            self.size = self._begun(size)
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Checkpoint:
        """The checkpoint."""
        return self

    def __exit__(self, *_: object) -> None:
        """Lets other sweeps use the directory."""
        self._lock.release()

    def load(self, part: str) -> dict[str, Int64[np.ndarray, "P q"]] | None:
        """The sums of a piece; None if it is not finished.

        Raises:
          InputError: if the piece is damaged, or is another one.
        """
        path = self._directory / part
        if not path.is_dir():
            return None
        remedy = "Delete this directory: the piece will be replayed."
        sums, contents = load_archive(path, remedy)
        if contents != self._contents(part):
            raise InputError(f"{path}: the piece {contents.get('piece')} of a sweep, but not this one. {remedy}")
        return sums

    def save(self, part: str, sums: dict[str, Int64[np.ndarray, "P q"]]) -> None:
        """Keeps the sums of a finished piece.

        Raises:
          InputError: if it cannot be written.
        """
        save_archive(self._directory / part, sums, self._contents(part))

    def _contents(self, part: str) -> dict[str, Any]:
        return {"piece": part, "sweep": self._fingerprint}

    def _locked(self) -> filelock.BaseFileLock:
        """The lock of this process; the system releases it however the process ends."""
        mine, others = f"lock-{jax.process_index()}", re.compile(r"lock-\d+")
        names = {path.name for path in self._directory.iterdir()}
        if _FILE not in names and any(not (_STRAY.fullmatch(n) or others.fullmatch(n)) for n in names):
            raise InputError(f"{self._directory}: not empty, and not a sweep's checkpoint. Name another directory.")
        lock = filelock.FileLock(self._directory / mine, thread_local=False)
        with explained(self._directory):
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:  # an OSError as well
                raise InputError(
                    f"{self._directory}: another sweep is using it. Wait until that ends, or name another directory."
                ) from None
        return lock

    def _begun(self, size: int) -> int:
        """The size of the sweep's chunks: that of the sweep that began here, or the given one, which is noted."""
        file = self._directory / _FILE
        if not file.exists():
            sweep = _Sweep(fingerprint=self._fingerprint, size=size)
            write_whole(file, sweep.model_copy(update={"digest": sweep.digested()}).model_dump_json())
            return size
        try:
            found = _Sweep.model_validate_json(file.read_bytes())
        except (OSError, pydantic.ValidationError):
            found = None
        if found is None or found.digest != found.digested():
            raise InputError(f"{file}: damaged, or written by another version. Name another directory.")
        names = self._fingerprint | found.fingerprint
        if other := [name for name in names if found.fingerprint.get(name) != self._fingerprint.get(name)]:
            raise InputError(
                f"{self._directory}: belongs to another sweep (other {', '.join(other)}). Name another directory."
            )
        if jax.process_count() == 1:  # what is there may be another process's, at work
            for path in self._directory.iterdir():
                if _STRAY.fullmatch(path.name):
                    shutil.rmtree(path, ignore_errors=True)
        return found.size
