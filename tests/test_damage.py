"""Bytes that a disk or a wire changed: what is read is what was written, or an error says so in one line."""

import contextlib
import errno
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import autotts_jax
from autotts_jax import Dataset, InputError, Trajectories
from autotts_jax.checkpoints import Checkpoint

slow = pytest.mark.slow


def recorded() -> Trajectories:
    made = autotts_jax.synthetic_trajectories(questions=3, branches=5)
    return Trajectories(made.questions, "Modell", "bench", sampling={"temperature": 0.6}, probe_suffix="</think>")


def told(trajectories: Trajectories) -> Any:
    """All that trajectories say."""
    settings = {key: value for key, value in vars(trajectories).items() if key != "questions"}
    return settings, [(q.text, q.gold, q.delta, q.choices, list(q.branches())) for q in trajectories.questions]


def says(dataset: Dataset) -> Any:
    """All that a dataset says."""
    arrays = {name: (str(a.dtype), np.asarray(a).tolist()) for name, a in dataset.store.arrays().items()}
    return arrays, dataset.parts, dataset.texts, dataset.golds, dataset.choices, dataset.store.feature_names


def outcome(read: Callable[[], Any]) -> Any:
    """What is read, or the one line of an `InputError`; any other exception is a failure."""
    try:
        return read()
    except InputError as error:
        return str(error)


def assert_same_or_told(found: Any, expected: Any, where: str) -> bool:
    """Whether an error was told."""
    told = isinstance(found, str)
    assert found == expected or (told and len(found.splitlines()) == 1), f"{where}: {found}"
    return told


def flipped(files: list[Path], count: int, seed: int) -> Iterator[str]:
    """Flips one bit at a time, anywhere in the files, each byte as often as any other."""
    rng = random.Random(seed)
    contents = {file: file.read_bytes() for file in files}
    places = [(file, place) for file, content in contents.items() for place in range(len(content))]
    for _ in range(count):
        (file, place), bit = rng.choice(places), rng.randrange(8)
        damaged = bytearray(contents[file])
        damaged[place] ^= 1 << bit
        file.write_bytes(damaged)
        yield f"{file}, byte {place}, bit {bit}"
        file.write_bytes(contents[file])


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=slow)])
def test_flipped_bits_in_parquet(tmp_path: Path, count: int) -> None:
    file = tmp_path / "a.parquet"
    autotts_jax.write_trajectories(recorded(), file)
    expected, seen = told(recorded()), 0
    for where in flipped([file], count, seed=count):
        seen += assert_same_or_told(outcome(lambda: told(autotts_jax.read_trajectories(file))), expected, where)
    assert seen > count / 2


# Orbax leaves tasks behind when it fails.
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("count", [30, pytest.param(500, marks=slow)])
def test_flipped_bits_in_stores(tmp_path: Path, count: int) -> None:
    data = autotts_jax.pack(recorded())
    autotts_jax.save(data, tmp_path / "store")
    expected, seen = says(data), 0
    files = sorted(path for path in (tmp_path / "store").rglob("*") if path.is_file())
    for where in flipped(files, count, seed=count):
        seen += assert_same_or_told(outcome(lambda: says(autotts_jax.load(tmp_path / "store"))), expected, where)
    assert seen > count / 3


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("count", [20, pytest.param(300, marks=slow)])
def test_flipped_bits_in_checkpoints(tmp_path: Path, count: int) -> None:
    """In a piece, or in the file that says which sweep it is of."""
    sums = {name: np.arange(33).reshape(3, 11) * 10**9 for name in ("correct", "tokens")}
    fingerprint = {"data": "d", "controllers": "c"}
    with Checkpoint(tmp_path, fingerprint, 7) as kept:
        kept.save("0-7-rows-0", sums)
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size)
    expected, told_of = {name: values.tolist() for name, values in sums.items()}, 0

    def read() -> Any:
        with Checkpoint(tmp_path, fingerprint, 7) as kept:
            assert kept.size == 7
            return {name: values.tolist() for name, values in (kept.load("0-7-rows-0") or {}).items()}

    for where in flipped(files, count, seed=count):
        found = outcome(read)
        told_of += assert_same_or_told(found, expected, where)
        assert not isinstance(found, str) or "Delete this directory" in found or "sweep.json: damaged" in found
    assert told_of > count / 3


# --- files that something else wrote, or half wrote ---------------------------------------------------------------


STRANGE = [None, True, -1, 0, 2**31, 10**30, 0.5, float("nan"), float("inf"), "", "\ud800", "x" * 999, [], {}, [[[]]]]


def mutated(value: Any, rng: random.Random) -> Any:
    """JSON with something, somewhere, deleted, doubled, or replaced by something strange."""
    if isinstance(value, dict | list) and value and rng.random() < 0.9:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = rng.choice(keys)
        made = value.copy()
        match rng.randrange(8):
            case 0:
                del made[key]
            case 1 if isinstance(made, list):
                made.insert(key, made[key])
            case 2 if isinstance(made, dict):
                made[f"{key}2"] = made.pop(key)
            case _:
                made[key] = mutated(made[key], rng)
        return made
    return rng.choice(STRANGE)


def mangled(text: bytes, rng: random.Random) -> bytes:
    """Bytes cut, doubled, or replaced by others."""
    start, stop = sorted(rng.randrange(len(text)) for _ in range(2))
    match rng.randrange(5):
        case 0:
            return text[:start]
        case 1:
            return text[:start] + text[stop:]
        case 2:
            return text[:stop] + text[start:]
        case 3:
            return text[:start] + bytes([rng.randrange(128, 256)]) + text[start + 1 :]
        case _:
            return text[:start] + rng.choice([b"\x00", b'"', b"{", b"NaN", b"1e999", b"[" * 10_000]) + text[start:]


def test_mutated_json(tmp_path: Path) -> None:
    file, rng, count = tmp_path / "a.json", random.Random(0), 300
    autotts_jax.write_trajectories(recorded(), file)
    good = file.read_bytes()
    read = told_of = 0
    for _ in range(count // 2):
        for bad in (json.dumps(mutated(json.loads(good), rng)).encode(), mangled(good, rng)):
            file.write_bytes(bad)
            found = outcome(lambda: autotts_jax.open_datasets(file)[0].digest)
            read, told_of = read + (len(found) == 32), told_of + found.startswith(str(file))
            assert len(found.splitlines()) == 1, found
    assert read + told_of == count
    assert told_of > count / 2


def test_mutated_parquet(tmp_path: Path) -> None:
    """Columns of other types, with other values, without a digest."""
    file, rng = tmp_path / "a.parquet", random.Random(0)
    autotts_jax.write_trajectories(recorded(), file)
    table = pq.read_table(file).replace_schema_metadata()
    good, expected = file.read_bytes(), told(recorded())
    for _ in range(50):
        file.write_bytes(mangled(good, rng))
        assert_same_or_told(outcome(lambda: told(autotts_jax.read_trajectories(file))), expected, "mangled")
        name = rng.choice(table.column_names)
        column = [mutated([value], rng) for value in table[name].to_pylist()]
        with contextlib.suppress(pa.ArrowException, OverflowError, UnicodeEncodeError):
            kind = table.schema.field(name).type if rng.random() < 0.7 else None
            values = pa.array([row[0] if row and isinstance(row, list) else None for row in column], kind)
            metadata = {"autotts_jax": json.dumps(mutated({"format": 1, "model": "M", "sampling": {}}, rng))}
            index = table.column_names.index(name)
            pq.write_table(table.set_column(index, name, values).replace_schema_metadata(metadata), file)
            found = outcome(lambda: autotts_jax.open_datasets(file)[0].digest)
            assert len(found.splitlines()) == 1, found
            assert len(found) == 32 or found.startswith(str(file))


@pytest.mark.parametrize("suffix", [".json", ".parquet"])
def test_files_that_cannot_be_read(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"empty{suffix}").touch()
    (tmp_path / f"latin{suffix}").write_bytes('[{"question": "Häh?"}]'.encode("latin-1"))
    (tmp_path / f"directory{suffix}").mkdir()
    autotts_jax.write_trajectories(recorded(), tmp_path / f"barred{suffix}")
    for name, said in {
        "empty": "not JSON" if suffix == ".json" else "not a readable Parquet file",
        "latin": "not JSON" if suffix == ".json" else "not a readable Parquet file",
        "directory": "not a file",
        "barred": "cannot be read (Permission denied)",
        "none": "no such file",
        "x" * 300: "cannot be read (File name too long)",
        "null\0byte": "cannot be read",
        "empty.json/a": "cannot be read (Not a directory)" if suffix == ".json" else "",
    }.items():
        if name == "barred":  # even to root

            def barred(path: Path) -> bytes:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

            monkeypatch.setattr(Path, "read_bytes", barred)
        found = outcome(lambda name=name: autotts_jax.read_trajectories(tmp_path / f"{name}{suffix}"))
        assert isinstance(found, str)
        assert said in found
        assert len(found.splitlines()) == 1
        monkeypatch.undo()


def test_anothers_arrays_are_refused(tmp_path: Path) -> None:
    """Whole and well written, but not what the metadata are of."""
    for seed, name in enumerate(("one", "two")):
        made = autotts_jax.synthetic_trajectories(questions=2, branches=4)
        autotts_jax.save(autotts_jax.pack(made, seed=seed), tmp_path / name)
    shutil.rmtree(tmp_path / "one" / "arrays")
    shutil.copytree(tmp_path / "two" / "arrays", tmp_path / "one" / "arrays")
    with pytest.raises(InputError, match="array answers is not the one that was written: damaged"):
        autotts_jax.load(tmp_path / "one")
