"""A sweep's pieces on disk: whose they are, who may use them, and what damage does."""

import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from autotts_jax import InputError
from autotts_jax.checkpoints import Checkpoint

FINGERPRINT = {"data": "d", "controllers": "c", "grid": "g", "rules": "r", "versions": "v"}
SUMS = {name: np.arange(33, dtype=np.int64).reshape(3, 11) * 10**9 for name in ("correct", "tokens")}


def opened(directory: Path, size: int = 7, **changes: str) -> Checkpoint:
    return Checkpoint(directory, FINGERPRINT | changes, size)


def test_pieces_are_kept(tmp_path: Path) -> None:
    with opened(tmp_path / "kept") as kept:
        assert kept.load("0-7-rows-0") is None
        kept.save("0-7-rows-0", SUMS)
    with opened(tmp_path / "kept", size=9) as kept:
        assert kept.size == 7
        found = kept.load("0-7-rows-0")
        assert kept.load("7-14-rows-0") is None
    assert found is not None
    assert found.keys() == SUMS.keys()
    for name, values in SUMS.items():
        assert found[name].dtype == np.int64
        np.testing.assert_array_equal(found[name], values)


def test_another_sweeps_directory_says_what_differs(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    with pytest.raises(InputError, match=r"another sweep \(other controllers, rules\)\. Name another directory\.$"):
        opened(tmp_path, rules="other", controllers="other")
    with pytest.raises(InputError, match=r"another sweep \(other orders\)"):
        opened(tmp_path, orders="new")
    with opened(tmp_path):  # what was refused holds no lock
        pass


def test_one_sweep_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path):
        with pytest.raises(InputError, match="another sweep is using it"):
            opened(tmp_path)
        with monkeypatch.context() as second:
            second.setattr(jax, "process_index", lambda: 1)
            with opened(tmp_path):
                pass
    with opened(tmp_path):
        pass


HOLD = """
import sys
from pathlib import Path
from autotts_jax.checkpoints import Checkpoint
with Checkpoint(Path(sys.argv[1]), {"data": "d"}, 7):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_killed_sweep_holds_no_lock(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    running = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    assert running.stdin is not None
    with running.stdout, running.stdin:
        assert running.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="another sweep is using it"):
            Checkpoint(tmp_path, {"data": "d"}, 7)
        running.send_signal(signal.SIGKILL)
        running.wait()
    with Checkpoint(tmp_path, {"data": "d"}, 7):
        pass


def test_what_interrupted_saves_leave(tmp_path: Path) -> None:
    strays = [tmp_path / name for name in ("tmpabcd_123", "0-7-rows-0.orbax-checkpoint-tmp-17", "tmp12345678")]
    for stray in strays:
        (stray / "part").mkdir(parents=True)
    with opened(tmp_path) as kept:  # not another's directory
        kept.save("0-7-rows-0", SUMS)
    with opened(tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0-7-rows-0", "lock-0", "sweep.json"]


@pytest.mark.parametrize("name", ["thesis.tex", "tmp", "tmp_my_results", "0-7-rows-0"])
def test_a_directory_of_other_things_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match="not empty, and not a sweep's checkpoint"):
        opened(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("content", [b"", b"{", b'{"fingerprint": "abc", "size": 3}', b"\xff", b"[]", None])
def test_a_damaged_sweep_file_is_one_line(tmp_path: Path, content: bytes | None) -> None:
    with opened(tmp_path):
        pass
    good = (tmp_path / "sweep.json").read_bytes()
    (tmp_path / "sweep.json").write_bytes(good.replace(b'"size":7', b'"size":8') if content is None else content)
    with pytest.raises(InputError, match=r"sweep\.json: damaged, .* Name another directory\.$"):
        opened(tmp_path)


def test_a_piece_in_anothers_place_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "one") as one, opened(tmp_path / "two", data="other") as two:
        for kept in (one, two):
            kept.save("0-7-rows-0", SUMS)
        (tmp_path / "one" / "0-7-rows-0").rename(tmp_path / "one" / "7-14-rows-0")
        (tmp_path / "two" / "0-7-rows-0").rename(tmp_path / "one" / "0-7-rows-0")
        for name in ("0-7-rows-0", "7-14-rows-0"):
            with pytest.raises(InputError, match=f"{name}: the piece 0-7-rows-0 of a sweep, .* Delete this directory"):
                one.load(name)
