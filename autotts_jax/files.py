"""Atomic file writes: whole or not at all."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from autotts_jax.errors import InputError

__all__ = ["writable", "write_together", "write_whole"]


def write_whole(file: Path, content: str | Callable[[Path], object]) -> Path:
    """Writes a file, whole or not at all, and returns it: the text, or what the function writes to its path."""
    write = functools.partial(Path.write_text, data=content, encoding="utf-8") if isinstance(content, str) else content
    with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
        write(Path(scratch, file.name))
        return Path(scratch, file.name).replace(file)


def write_together(directory: Path, files: Mapping[str, Callable[[Path], object]]) -> list[Path]:
    """Writes several files, in order, and moves them into the directory only when all are complete, the last one last.

    Args:
      directory: An existing directory.
      files: By name, which may lie in a folder of the directory, what writes a file to a path.
    """
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        for name, write in files.items():
            Path(scratch, name).parent.mkdir(exist_ok=True)
            (directory / name).parent.mkdir(exist_ok=True)
            write(Path(scratch, name))
        return [Path(scratch, name).replace(directory / name) for name in files]


def writable(directory: str | os.PathLike[str]) -> Path:
    """The directory, created if needed.

    Raises:
      InputError: if it cannot be created or written to.
    """
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            return directory
    except OSError as error:
        raise InputError(f"{directory}: cannot be written to ({error.strerror}). Choose another directory.") from None
