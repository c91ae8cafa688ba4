"""Files are written whole or not at all, and what the file system says is one line."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import autotts_jax
from autotts_jax import InputError
from autotts_jax.files import writable, write_together, write_whole


def raising(number: int) -> Callable[[Any], None]:
    """A writer that writes a part, and then fails."""

    def write(path: Path) -> None:
        path.write_text("half")
        raise OSError(number, os.strerror(number), str(path))

    return write


def contents(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.iterdir()}


def test_files_are_written_together(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "a").write_text("old")
    made = write_together(tmp_path, {"folder/b": lambda path: path.write_bytes(b"bytes"), "a": "new"})
    assert made == [tmp_path / "folder" / "b", tmp_path / "a"]
    assert contents(tmp_path / "folder") == {"b": "bytes"}
    (tmp_path / "folder" / "b").unlink()
    (tmp_path / "folder").rmdir()
    assert contents(tmp_path) == {"kept": "kept", "a": "new"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EFBIG])
def test_a_failed_write_changes_nothing(tmp_path: Path, number: int) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(InputError) as error:
        write_together(tmp_path, {"a": "new", "folder/c": "new", "b": raising(number)})
    said = f"{tmp_path / 'b'}: cannot be written to ({os.strerror(number)}). Make room, or choose another place."
    assert str(error.value) == said
    with pytest.raises(InputError, match="cannot be written to"):
        write_whole(tmp_path / "a", raising(number))
    assert contents(tmp_path) == {"a": "old"}


def test_a_disk_that_is_full_when_the_file_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_whole(tmp_path / "a", "new")
    assert not list(tmp_path.iterdir())


def test_errors_that_are_the_writers_own_stay(tmp_path: Path) -> None:
    def wrong(path: Path) -> None:
        raise KeyError("column")

    with pytest.raises(KeyError):
        write_together(tmp_path, {"a": "new", "b": wrong})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("x" * 300, "File name too long"),
        ("directory", "a directory. Move it away"),
        ("file/a", "cannot be written to (Not a directory)"),
        ("none/a", "cannot be written to (No such file or directory)"),
    ],
)
def test_names_that_no_file_can_have(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(InputError) as error:
        write_whole(tmp_path / name, "new")
    assert said in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["directory", "file"]
    if name != "none/a":
        with pytest.raises(InputError, match=r"cannot be written to .* Choose another directory\."):
            writable(tmp_path / ("file" if name == "directory" else name))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.skipif(sys.platform == "win32", reason="limits a process's files as a full disk would")
def test_a_store_on_a_full_disk(tmp_path: Path, limited_files: None) -> None:
    data = autotts_jax.pack(autotts_jax.synthetic_trajectories(questions=2, branches=9))
    with pytest.raises(InputError, match="cannot be written to") as error:
        autotts_jax.save(data, tmp_path / "store")
    assert len(str(error.value).splitlines()) == 1
    with pytest.raises(InputError, match=r"cannot be written to \(File too large\)"):
        autotts_jax.write_trajectories(autotts_jax.synthetic_trajectories(questions=2), tmp_path / "a.json")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def limited_files() -> Any:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
