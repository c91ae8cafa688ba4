"""Work larger than a device, longer than a process's life, wider than a machine; and how it is timed."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import autotts_jax
from autotts_jax import CONTROLLERS, Dataset, InputError, bench, rollout, sweep, sweeps
from autotts_jax.replay import ReplayStore, bucket, joint_shape, part
from autotts_jax.settings import Setting, rows_of

METHODS = ["confidence_momentum", "early_stopping"]


def made(questions: int, branches: int, seed: int = 0) -> Dataset:
    traces = autotts_jax.synthetic_trajectories(questions=questions, branches=branches, seed=seed)
    return autotts_jax.pack(traces)


@pytest.fixture(scope="module")
def datasets() -> list[Dataset]:
    """Two of different sizes."""
    return [made(5, 12), made(3, 20, seed=1)]


# --- chunks ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "orders", ["random", *(pytest.param(o, marks=pytest.mark.slow) for o in ("published", "bootstrap"))]
)
def test_chunks_change_nothing(datasets: list[Dataset], orders: Any) -> None:
    go = partial(sweep, datasets, METHODS, betas=[0, 1], shuffles=3, orders=orders, seed=4)
    whole = go()
    for chunk in (1, 3, 100):
        again = go(chunk=chunk)
        assert again.table.equals(whole.table)
        assert again.per_question.equals(whole.per_question)


@pytest.mark.slow
def test_a_dataset_draws_the_same_orders_in_any_company(datasets: list[Dataset]) -> None:
    go = partial(sweep, settings=METHODS, betas=[0.5], shuffles=3, orders="random")
    together = go(datasets).per_question
    apart = pa.concat_tables([go(dataset).per_question for dataset in datasets])
    assert together.select(range(4, len(together.column_names))).equals(
        apart.select(range(4, len(apart.column_names)))
    )


def test_chunks_are_as_large_as_fits(datasets: list[Dataset], monkeypatch: pytest.MonkeyPatch) -> None:
    def chunk(limit: int) -> int:
        monkeypatch.setattr(sweeps, "_CHUNK_BYTES", {"cpu": limit})
        rows = rows_of(Setting.parse(METHODS[0]), [0, 1])
        return sweeps._Plan(datasets, rows, 2, "published", 0, autotts_jax.Rules()).chunk_size

    assert chunk(2**28) == 8
    assert chunk(1) == 1
    assert chunk(2**14) in range(2, 8)


def test_programs_serve_other_grids_orders_and_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    """One trace for another β grid that may open as many branches, other orders and a store of a similar size."""
    once = chex.assert_max_traces(rollout.evaluate, n=1)
    monkeypatch.setattr(sweeps, "_evaluate", jax.jit(once, static_argnames=("controller", "devices")))
    chex.clear_trace_counter()
    for seed, questions, betas, orders in ((0, 30, [0, 1], "published"), (1, 29, [0.1, 0.9], "random")):
        sweep(made(questions, 31 + seed, seed), METHODS[:1], betas=betas, shuffles=2, orders=orders)


@given(st.integers(1, 10**9))
def test_buckets(size: int) -> None:
    assert size <= bucket(size) <= size * 9 / 8
    assert bucket(bucket(size)) == bucket(size)


@given(start=st.integers(0, 8), length=st.integers(0, 12))
def test_parts_are_slices_of_the_whole(start: int, length: int) -> None:
    stores = [_PARTS[0].store, _PARTS[1].store]
    whole = autotts_jax.concatenate(_PARTS).store
    piece = part(stores, start, start + length, joint_shape(stores))
    for name, array in piece.arrays().items():
        expected = getattr(whole, name)[start : start + length]
        np.testing.assert_array_equal(array[: len(expected)], expected)
        assert (array[len(expected) :] == (-1 if name in ("answers", "gold") else 0)).all()


_PARTS = [made(5, 12), made(3, 20, seed=1)]


def test_a_store_too_large_for_one_call_is_refused() -> None:
    def of(shape: tuple[int, ...], dtype: Any) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype)

    Q, N, D = 2**20, 64, 32
    branch = of((Q, N), jnp.int32)
    store = ReplayStore(
        answers=of((Q, N, D), jnp.int16),
        intervals=branch,
        tokens=branch,
        delta=branch,
        gold=of((Q,), jnp.int32),
        unparsable=of((Q, 4), jnp.bool_),
    )
    controller = CONTROLLERS["self_consistency"]
    params = jax.eval_shape(jax.vmap(controller.schedule), of((1,), jnp.float32))
    with pytest.raises(InputError, match="2147483648 answers"):
        jax.eval_shape(partial(autotts_jax.evaluate, controller), store, params, of((Q, 1, 64), jnp.int32))


# --- going on after a kill -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_stopped_sweep_goes_on(datasets: list[Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = partial(sweep, datasets, METHODS, betas=[0, 1], shuffles=3, chunk=3)
    expected = go().table
    calls = 0

    def stop(name: str, done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(checkpoint=tmp_path / "kept", progress=stop)

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return evaluate(*args, **kwargs)

    evaluate = sweeps._evaluate
    monkeypatch.setattr(sweeps, "_evaluate", counted)
    assert go(checkpoint=tmp_path / "kept").table.equals(expected)
    assert calls in range(1, 4)  # of 3 chunks × 2 controllers
    assert go(checkpoint=tmp_path / "kept").table.equals(expected)
    assert calls in range(1, 4)


@pytest.mark.slow
def test_a_killed_command_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "Model" / "bench.json"
    traces = autotts_jax.synthetic_trajectories(questions=6, branches=16)
    autotts_jax.write_trajectories(traces, file)
    autotts = Path(sys.executable).with_name("autotts")
    command = [autotts, "sweep", file, "--controller", METHODS[0], "--shuffles", "200", "--chunk", "1"]
    keeping = [*command, "--checkpoint", "kept", "--out", "resumed"]
    # Killed while it writes a compiled program, it would leave a broken one to later runs: it may only read.
    reading = os.environ | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "3600"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = subprocess.Popen(keeping, cwd=tmp_path, env=reading, **quiet)
    while running.poll() is None and not list(tmp_path.glob("kept/*rows-0")):
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    finished = len(list(tmp_path.glob("kept/*rows-0")))
    assert finished in range(1, 6)
    assert not (tmp_path / "resumed").exists() or not list((tmp_path / "resumed").iterdir())
    for again in (keeping, [*command, "--out", "anew"]):
        subprocess.run(again, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "resumed/results.csv").read_bytes() == (tmp_path / "anew/results.csv").read_bytes()


def test_an_edited_controllers_checkpoint_is_refused(datasets: list[Dataset], tmp_path: Path) -> None:
    """Another constant in `init` is another controller, though `step` reads the same."""
    cmc = CONTROLLERS["confidence_momentum"]

    def init(params: Any, obs: Any) -> Any:
        return cmc.init(params, obs)._replace(ema=jnp.asarray(0.5, jnp.float32))

    go = partial(sweep, datasets[1], betas=[0], shuffles=1, checkpoint=tmp_path)
    go([cmc])
    with pytest.raises(InputError, match="another sweep"):
        go([dataclasses.replace(cmc, init=init)])


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"betas": [0, 0.9]}, "parameters"),
        ({"shuffles": 4}, "orders"),
        ({"seed": 1}, "orders"),
        ({"settings": METHODS[1:]}, "controllers, parameters"),
    ],
)
def test_another_sweeps_checkpoint_is_refused(
    datasets: list[Dataset], tmp_path: Path, other: dict[str, Any], named: str
) -> None:
    usual = {"settings": METHODS[:1], "betas": [0, 1], "shuffles": 3, "chunk": 8, "checkpoint": tmp_path / "kept"}
    sweep(datasets[:1], **usual)
    with pytest.raises(InputError, match=rf"belongs to another sweep \(other {named}\)"):
        sweep(datasets[:1], **usual | other)


def test_another_machine_goes_on_in_the_same_chunks(
    datasets: list[Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = {"settings": METHODS[:1], "betas": [0, 1], "shuffles": 3, "checkpoint": tmp_path / "kept"}
    expected = sweep(datasets, **usual, chunk=3).table
    pieces = sorted(path.name for path in (tmp_path / "kept").iterdir())
    monkeypatch.setattr(sweeps, "_CHUNK_BYTES", {"cpu": 1})
    assert sweep(datasets, **usual).table.equals(expected)
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == pieces
    assert sweep(datasets, **usual, chunk=4).table.equals(expected)


def test_a_directory_of_other_things_is_refused(datasets: list[Dataset], tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match="not empty"):
        sweep(datasets, METHODS, checkpoint=tmp_path)


# --- many processes --------------------------------------------------------------------------------------------------

TWO_PROCESSES = """
import sys, jax
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
assert (jax.device_count(), jax.local_device_count()) == (4, 2)
import jax.numpy as jnp, numpy as np
from jax.experimental import multihost_utils
import autotts_jax as tts

traces = tts.pack(tts.synthetic_trajectories(questions=7, branches=20))
methods = ["confidence_momentum", "early_stopping"]
results = tts.sweep(traces, methods, betas=[0, 1], shuffles=3, checkpoint=sys.argv[3])
results.write(f"{sys.argv[3]}-{sys.argv[2]}")

# One program over the devices of both processes.
cmc, orders = tts.CONTROLLERS["confidence_momentum"], tts.published_orders(traces.store, 3)
params = jax.device_get(jax.vmap(cmc.schedule)(jnp.linspace(0, 1, 3, dtype=jnp.float32)))
run = jax.jit(tts.evaluate, static_argnames=("controller", "devices"))
shared_out = run(cmc, traces.store, params, orders, devices=tuple(jax.devices()))
alone = run(cmc, traces.store, params, orders)
shared_out = multihost_utils.process_allgather(shared_out, tiled=True)
for a, b in zip(jax.tree.leaves(shared_out), jax.tree.leaves(alone)):
    assert np.array_equal(a, b)
"""


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def _side_by_side(commands: list[list[Any]], cwd: Path) -> list[str]:
    """What the processes print; all must succeed."""
    started = [
        subprocess.Popen(command, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for command in commands
    ]
    outputs = [process.communicate(timeout=300) for process in started]
    for process, (_, error) in zip(started, outputs, strict=True):
        assert process.returncode == 0, error
    return [out for out, _ in outputs]


@pytest.mark.slow
def test_two_processes_of_two_devices(tmp_path: Path) -> None:
    where = f"127.0.0.1:{_free_port()}"
    _side_by_side([[sys.executable, "-c", TWO_PROCESSES, where, str(i), "kept"] for i in (0, 1)], tmp_path)
    alone = sweep(made(7, 20), METHODS, betas=[0, 1], shuffles=3).write(tmp_path / "alone")[0].read_bytes()
    for i in (0, 1):
        assert (tmp_path / f"kept-{i}" / "results.csv").read_bytes() == alone


@pytest.mark.slow
def test_the_command_in_two_processes(tmp_path: Path) -> None:
    autotts = Path(sys.executable).with_name("autotts")
    command = [autotts, "sweep", "--controller", METHODS[1], "--beta", "0,1", "--shuffles", "2"]
    together = ["--coordinator", f"127.0.0.1:{_free_port()}", "--processes", "2", "--out", "out", "--process"]
    printed = _side_by_side([[*command, *together, str(i)] for i in (0, 1)], tmp_path)
    assert "early_stopping" in printed[0]
    assert "early_stopping" not in printed[1]
    _side_by_side([[*command, "--out", "alone"]], tmp_path)
    assert (tmp_path / "out/results.csv").read_bytes() == (tmp_path / "alone/results.csv").read_bytes()


# --- timing ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_timing_adds_up(datasets: list[Dataset]) -> None:
    cmc = CONTROLLERS[METHODS[0]]
    rows = rows_of(Setting(cmc), [0, 0.5, 1])
    timing = bench.measure(
        cmc, rows, datasets[0], shuffles=2, repeats=2, oracle=bench.load_oracle(), sample=5, roofline=True
    )
    assert timing.controller == METHODS[0]
    assert timing.device == "cpu × 2"
    assert timing.episodes == 3 * 5 * 2
    assert timing.us_per_episode == pytest.approx(1e6 * timing.run_seconds / timing.episodes)
    assert timing.episodes_per_second * timing.us_per_episode == pytest.approx(1e6)
    assert timing.times_python == pytest.approx(timing.python_us_per_episode / timing.us_per_episode)
    assert 0 < timing.occupancy <= 1
    assert timing.run_seconds_least <= timing.run_seconds
    for positive in (timing.compile_seconds, timing.memory_bytes, timing.round_bytes, timing.bandwidth_share):
        assert positive > 0


def test_the_oracle_must_agree(datasets: list[Dataset], monkeypatch: pytest.MonkeyPatch) -> None:
    """`bench --against python` compares outcomes too."""
    oracle = bench.load_oracle()
    replay: Callable[..., Any] = oracle.replay

    def wrong(*args: Any) -> Any:
        outcome, margin = replay(*args)
        return outcome._replace(tokens=outcome.tokens + 1), margin

    monkeypatch.setattr(oracle, "replay", wrong)
    rows = rows_of(Setting.parse(METHODS[1]), [0.5])
    with pytest.raises(AssertionError, match="early_stopping"):
        bench.measure(CONTROLLERS[METHODS[1]], rows, datasets[0], shuffles=1, repeats=1, oracle=oracle)


@pytest.mark.slow
def test_the_bench_command_writes_records(tmp_path: Path) -> None:
    autotts = Path(sys.executable).with_name("autotts")
    command = [autotts, "bench", "--controller", METHODS[1], "--controller", "self_consistency:samples=3"]
    options = ["--shuffles", "2", "--beta", "0,1", "--repeats", "1", "--json", "out/bench.json", "--devices", "1"]
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "occup." in done.stdout
    first, second = json.loads((tmp_path / "out/bench.json").read_text(encoding="utf-8"))
    asked_for = ["controller", "device", "compile_seconds", "run_seconds", "us_per_episode", "episodes", "occupancy"]
    assert set(asked_for) < set(first)
    assert (first["controller"], first["episodes"], first["device"]) == (METHODS[1], 2 * 30 * 2, "cpu × 1")
    assert second["episodes"] == 30 * 2
    assert second["times_python"] is None


# --- 100,000 questions -----------------------------------------------------------------------------------------------

MANY_QUESTIONS = """
import jax
jax.config.update("jax_num_cpu_devices", 2)
import resource
import autotts_jax as tts
datasets = [tts.pack(tts.synthetic_trajectories(questions=2_500, branches=64, seed=i)) for i in range(40)]
results = tts.sweep(datasets, ["confidence_momentum"], betas=[0.5], shuffles=2)
assert sum(row["questions"] for row in results.table.to_pylist()) == 100_000
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


@pytest.mark.slow
def test_memory_for_a_hundred_thousand_questions() -> None:
    """The store takes about 1 GiB; it is replayed in chunks."""
    done = subprocess.run([sys.executable, "-c", MANY_QUESTIONS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 8
