"""Benchmarks: each controller's grid, timed on the available devices."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from autotts_jax import (
    COMPILER_OPTIONS,
    Controller,
    Dataset,
    InputError,
    Outcome,
    Row,
    Rules,
    environment,
    published_orders,
)
from autotts_jax.rollout import LANES, begin, evaluate_and_count, play_round
from autotts_jax.sweeps import width_of

__all__ = ["Timing", "load_oracle", "measure", "oracle_file"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """How long one controller's grid took; fields that were not requested are None.

    Attributes:
      controller: Its name.
      device: Kind and number of the devices.
      jax: JAX's version.
      episodes: Parameter vectors × questions × shuffles.
      width: Slots of an episode, as few as `sweep` would use.
      compile_seconds: Tracing and compiling, without a compilation cache.
      run_seconds: Running the compiled program until its results are ready; the median of the repeats.
      run_seconds_least: The fastest of them.
      us_per_episode: Microseconds per episode.
      episodes_per_second: Its inverse.
      rounds_per_second: Rounds of all episodes per second.
      rounds_per_episode: The mean number of rounds.
      occupancy: The share of the rounds executed by the lanes in which an episode was running.
      memory_bytes: Memory of the compiled program per device: arguments, results and temporaries.
      python_us_per_episode: The same for the plain-Python oracle, one process, on a random subset of the episodes.
      times_python: How many times as fast as the oracle the grid is.
      round_bytes: Bytes that one round of a device's lanes reads and writes, by the compiler's count.
      round_operations: Its operations, likewise.
      bandwidth: Bytes per second that a device reads and writes when all of them add one to a large array.
      bandwidth_share: The share of it that the rounds reach. Above 1, the lanes' state stays in a cache.
    """

    controller: str
    device: str
    jax: str
    episodes: int
    width: int
    compile_seconds: float
    run_seconds: float
    run_seconds_least: float
    us_per_episode: float
    episodes_per_second: float
    rounds_per_second: float
    rounds_per_episode: float
    occupancy: float
    memory_bytes: int | None
    python_us_per_episode: float | None = None
    times_python: float | None = None
    round_bytes: float | None = None
    round_operations: float | None = None
    bandwidth: float | None = None
    bandwidth_share: float | None = None


def measure(
    controller: Controller,
    rows: Sequence[Row],
    dataset: Dataset,
    *,
    shuffles: int = 100,
    repeats: int = 5,
    devices: Sequence[jax.Device] | None = None,
    lanes: int | None = None,
    oracle: ModuleType | None = None,
    sample: int = 100,
    roofline: bool = False,
) -> Timing:
    """Times one controller on a dataset under the published orders.

    Args:
      controller: The controller.
      rows: Its parameter vectors, from `settings.rows_of`.
      dataset: What to replay.
      shuffles: Branch orders per question.
      repeats: Timed runs, after an untimed one.
      devices: Defaults to all of JAX's local devices.
      lanes: As for `evaluate`.
      oracle: From `load_oracle`; its outcomes are compared, too.
      sample: Episodes that the oracle replays.
      roofline: Whether to compare the rounds with the devices' bandwidth.

    Raises:
      AssertionError: if the oracle's outcome of an episode differs.
    """
    devices = tuple(jax.local_devices() if devices is None else devices)
    several = devices if len(devices) > 1 else None
    everywhere = NamedSharding(Mesh(np.asarray(devices), "devices"), PartitionSpec())
    params = jax.tree.map(lambda *leaves: np.stack(leaves), *(row.params for row in rows))
    width = width_of(rows, int(dataset.store.branches.max()))
    arrays = dataset.store, params, published_orders(dataset.store, shuffles, width)
    store, params, orders = jax.device_put(arrays, everywhere)
    run = jax.jit(
        functools.partial(evaluate_and_count, controller, devices=several, lanes=lanes),
        compiler_options=COMPILER_OPTIONS,
    )
    with _no_compilation_cache():
        start = time.perf_counter()
        program = run.lower(store, params, orders).compile()
        compile_seconds = time.perf_counter() - start
    outcome, ran = program(store, params, orders)
    seconds = _times(lambda: program(store, params, orders), repeats)
    rounds, episodes = int(np.asarray(outcome.rounds).sum(dtype=np.int64)), outcome.correct.size
    middle = statistics.median(seconds)
    memory = program.memory_analysis()
    timing = Timing(
        controller=controller.name,
        device=f"{devices[0].device_kind} × {len(devices)}",
        jax=jax.__version__,
        episodes=episodes,
        width=width,
        compile_seconds=compile_seconds,
        run_seconds=middle,
        run_seconds_least=min(seconds),
        us_per_episode=1e6 * middle / episodes,
        episodes_per_second=episodes / middle,
        rounds_per_second=rounds / middle,
        rounds_per_episode=rounds / episodes,
        occupancy=rounds / int(ran),
        memory_bytes=memory
        and memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes,
    )
    if oracle is not None and controller.name in oracle.CONTROLLERS:
        python = _python_seconds(oracle, dataset, rows, np.asarray(orders), outcome, sample)
        timing = dataclasses.replace(
            timing, python_us_per_episode=1e6 * python, times_python=1e6 * python / timing.us_per_episode
        )
    if roofline:
        width = min(lanes or LANES.get(devices[0].platform, LANES[None]), episodes)
        cost = _cost_of_a_round(controller, store, params, orders, width)
        bandwidth = _bandwidth(devices)
        # Rounds executed per device, times bytes per round, per second.
        rate = int(ran) / width / len(devices) * cost["bytes accessed"] / middle
        timing = dataclasses.replace(
            timing,
            round_bytes=cost["bytes accessed"],
            round_operations=cost["flops"],
            bandwidth=bandwidth,
            bandwidth_share=rate / bandwidth,
        )
    return timing


def load_oracle() -> ModuleType:
    """The plain-Python oracle, tests/reference.py: in a checkout, not in the installed library.

    Raises:
      InputError: if it is not found.
    """
    path = oracle_file()
    if path is None:
        raise InputError("python: tests/reference.py not found. Run this in a checkout of the library's repository.")
    spec = importlib.util.spec_from_file_location("autotts_oracle", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def oracle_file() -> Path | None:
    """The oracle's file: in the checkout that the library runs from, or in which the process is."""
    for parent in (Path(__file__).parents[1], Path.cwd()):
        if (parent / "autotts_jax").is_dir() and (parent / "tests" / "reference.py").is_file():
            return parent / "tests" / "reference.py"
    return None


@contextlib.contextmanager
def _no_compilation_cache() -> Iterator[None]:
    before = jax.config.values["jax_enable_compilation_cache"]
    try:
        jax.config.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()  # JAX decides only once whether to use one
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def _times(run: Callable[[], PyTree], repeats: int) -> list[float]:
    """Seconds per run; the first is not counted."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def _python_seconds(
    oracle: ModuleType, dataset: Dataset, rows: Sequence[Row], orders: np.ndarray, outcome: Outcome, sample: int
) -> float:
    """Seconds per episode of the oracle, on a random subset, whose outcomes are compared."""
    host = jax.device_get(outcome)
    draw = np.random.default_rng(0)
    total = 0.0
    for _ in range(sample):
        p, q, s = (int(draw.integers(size)) for size in host.correct.shape)
        names = dataset.choices[q]
        branches = []
        for n in orders[q, s][orders[q, s] >= 0]:
            *probes, final = (names[i] for i in dataset.store.answers[q, n, : dataset.store.intervals[q, n]])
            branches.append(
                oracle.Branch(probes, int(dataset.store.tokens[q, n]), final, int(dataset.store.delta[q, n]))
            )
        params = json.loads(rows[p].described())
        start = time.perf_counter()
        expected, margin = oracle.replay(rows[p].controller.name, branches, dataset.golds[q], params)
        total += time.perf_counter() - start
        found = (bool(host.correct[p, q, s]), int(host.tokens[p, q, s]))
        # The oracle computes in float64: where a decision hangs on the last bits, either outcome is right.
        assert margin < 1e-5 or found == (expected.correct, expected.tokens), (rows[p], q, s, found, expected)
    return total / sample


def _cost_of_a_round(
    controller: Controller, store: PyTree, params: PyTree, orders: jax.Array, width: int
) -> Mapping[str, Any]:
    """The compiler's count of bytes and operations in one round of `width` lanes."""
    rules = jax.tree.map(jnp.asarray, Rules())
    world = environment.World.of(store, rules, probe_everything=controller.probe_everything)
    row = jax.tree.map(lambda leaf: leaf[0], params)

    def start(number: jax.Array) -> PyTree:
        question = (number % len(orders)).astype(jnp.int32)
        episode = environment.deal(store, question, orders[question, 0])
        return episode, row, *begin(controller, world, episode, row)

    def play(world: environment.World, lane: PyTree) -> PyTree:
        episode, row, state, memory = lane
        return play_round(controller, world, episode, row, state, memory)[:2]

    lanes = jax.vmap(start)(jnp.arange(width, dtype=jnp.int32))
    run = jax.jit(jax.vmap(play, in_axes=(None, 0)), compiler_options=COMPILER_OPTIONS)
    return run.lower(world, lanes).compile().cost_analysis() or {}


def _bandwidth(devices: Sequence[jax.Device]) -> float:
    """Bytes per second and device of adding one to a large array on all of them at once."""
    passes = 8  # over an array that is written in place, so that no time goes into allocation
    arrays = [jax.device_put(np.zeros(2**25, np.float32), device) for device in devices]
    add = jax.jit(lambda x: jax.lax.fori_loop(0, passes, lambda _, x: x + 1, x))
    seconds = _times(lambda: [add(array) for array in arrays], 5)
    return 2 * arrays[0].nbytes * passes / statistics.median(seconds)
