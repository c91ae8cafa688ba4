"""Files that are written whole or not at all, and errors of the file system in one line."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from autotts_jax.errors import InputError, one_line

__all__ = ["Content", "existing", "explained", "writable", "write_together", "write_whole"]

#: What a file is to hold: a text, or what a function writes to the path that it is given.
Content: TypeAlias = str | Callable[[Path], object]


def write_whole(file: Path, content: Content) -> Path:
    """Writes a file, whole or not at all, and returns it.

    Raises:
      InputError: if it cannot be written.
    """
    return write_together(file.parent, {file.name: content})[0]


def write_together(directory: Path, files: Mapping[str, Content]) -> list[Path]:
    """Writes files to a directory, all of them or none, and lists them.

    They are moved to their places, the last one last, once all are written: a full disk changes nothing.

    Args:
      directory: An existing one. What else is in it stays.
      files: What each file is to hold, by name, which may lie in a folder of the directory.

    Raises:
      InputError: if they cannot be written.
    """
    with explained(directory), tempfile.TemporaryDirectory(dir=directory) as scratch:
        for name, content in files.items():
            with explained(directory / name):
                if (directory / name).is_dir():
                    raise InputError(f"{directory / name}: a directory. Move it away, or choose another name.")
                Path(scratch, name).parent.mkdir(exist_ok=True)
                _write(Path(scratch, name), content)
        for name in files:
            (directory / name).parent.mkdir(exist_ok=True)
        return [Path(scratch, name).replace(directory / name) for name in files]


def _write(file: Path, content: Content) -> None:
    if isinstance(content, str):
        file.write_text(content, encoding="utf-8")
    else:
        content(file)
    # Else, after a power failure, the file could be in its place without its contents.
    with file.open("rb+") as written:
        os.fsync(written)


def writable(directory: str | os.PathLike[str]) -> Path:
    """The directory, created if needed.

    Raises:
      InputError: if it cannot be created or written to.
    """
    directory = Path(directory)
    with explained(directory, "Choose another directory."):
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            return directory


def existing(path: str | os.PathLike[str]) -> Path:
    """The path, if there is something.

    Raises:
      InputError: if there is nothing, or the way there is barred.
    """
    path = Path(path)
    try:
        path.stat()
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file. Check the path, or `autotts fetch` the public trajectories."
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)}). Check the path.") from None
    return path


@contextlib.contextmanager
def explained(path: Path, remedy: str = "Make room, or choose another place.") -> Iterator[None]:
    """Turns errors of the file system into one line."""
    try:
        yield
    except (OSError, UnicodeEncodeError) as error:
        raise InputError(f"{path}: cannot be written to ({one_line(error)}). {remedy}") from None
