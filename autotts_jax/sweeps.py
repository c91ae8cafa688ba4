"""The high-level call: controllers × β × questions × shuffles to result tables."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime
import functools
import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, Int64, PyTree

from autotts_jax.artefacts import export_controller
from autotts_jax.checkpoints import Checkpoint
from autotts_jax.controllers import CONTROLLERS, Controller, check_shapes
from autotts_jax.environment import MAX_BUDGET, CostModel, Rules, check_rules
from autotts_jax.errors import InputError
from autotts_jax.orders import WIDTH, Orders, draw_orders
from autotts_jax.provenance import Provenance, device, distinct_datasets, distinct_settings, used_datasets, versions
from autotts_jax.replay import AnyArray, Dataset, bucket, concatenate, joint_shape, part
from autotts_jax.results import FIELDS, Origin, Results
from autotts_jax.rollout import COMPILER_OPTIONS, Outcome, evaluate
from autotts_jax.settings import Row, Setting, check_pool, rows_of
from autotts_jax.testing import check_replay
from autotts_jax.trajectories import MAX_TOKENS, Trajectories

__all__ = ["BETAS", "needed_orders", "replayed", "sweep", "width_of"]

#: The published β grid.
BETAS = tuple(i / 10 for i in range(11))

#: Bytes that one chunk of questions may take on a device, by platform; elsewhere, this share of its memory.
_CHUNK_BYTES, _CHUNK_SHARE = {"cpu": 2**26}, 1 / 8

#: Numbers of slots that programs are compiled for.
_WIDTHS = (8, 16, 32, 64, 128, 256)

#: Episodes of fewer slots that pay for compiling a program of their own.
_WORTH_A_PROGRAM = 300_000

_evaluate = jax.jit(evaluate, static_argnames=("controller", "devices"), compiler_options=COMPILER_OPTIONS)


def sweep(
    data: Dataset | Sequence[Dataset],
    settings: Setting | Controller | str | Sequence[Setting | Controller | str] | None = None,
    *,
    betas: Sequence[float] = BETAS,
    shuffles: int = 100,
    orders: Orders = "published",
    seed: int = 0,
    rules: Rules | None = None,
    chunk: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    strict: bool = False,
    command: Sequence[str] = (),
    progress: Callable[[str, int, int], None] | None = None,
) -> Results:
    """Replays controllers over a β grid on datasets, on all of JAX's devices.

    Questions go to the devices in chunks, one replayed while the next is transferred, so a store may be larger than a
    device's memory. Under `jax.distributed` every process calls this with the same arguments, replays its
    share of the chunks on its own devices, and gets the whole result.

    Args:
      data: One or several datasets.
      settings: Controllers, settings, or their texts (see `Setting.parse`); defaults to all built-in controllers.
        A setting whose given parameters leave nothing to β gives a single row.
      betas: The grid; numbers in [0, 1].
      shuffles: Branch orders per question.
      orders: How they are drawn.
      seed: Seed of random and bootstrap orders.
      rules: What actions cost; defaults to the published tables' accounting.
      chunk: Questions per chunk; defaults to as many as fit well. The results do not depend on it.
      checkpoint: A directory for finished chunks. A sweep that was killed resumes from there when it is called again
        with the same arguments.
      strict: Whether to replay everything twice more, with other answer ids and other gold answers, and to refuse
        controllers that decide otherwise then: see `testing.check_replay`.
      command: The command behind this call, if any, for `Results.provenance`.
      progress: Called as ``progress(controller, episodes done, total episodes)`` before waiting for a controller's
        chunk, and at the end.

    Returns:
      The result tables.

    Raises:
      InputError: before any work, naming field, value and remedy.
    """
    datasets = [data] if isinstance(data, Dataset | Trajectories) else list(data)
    for dataset in datasets:
        if not isinstance(dataset, Dataset):
            raise InputError(f"data: {type(dataset).__name__}, not a Dataset. Make one with pack or load.")
    if isinstance(settings, str | Setting | Controller):
        settings = [settings]
    chosen = [_as_setting(setting) for setting in (CONTROLLERS.values() if settings is None else settings)]
    rules = Rules() if rules is None else rules
    check_rules(rules)
    for beta in betas:
        if not 0 <= beta <= 1:
            raise InputError(f"beta {beta}: outside 0 to 1. Choose values in that range.")
    for name, number in (("shuffles", shuffles), ("chunk", chunk)):
        if number is not None and number < 1:
            raise InputError(f"{name} {number}: there must be at least one.")
    if orders not in get_args(Orders):
        raise InputError(f"orders {orders!r}: not understood. Use published, random or bootstrap.")
    for name, values in (("data", datasets), ("settings", chosen), ("betas", betas)):
        if len(values) == 0:
            raise InputError(f"{name}: empty; there must be at least one.")
    datasets, said = distinct_datasets(datasets)
    features = datasets[0].store.feature_names
    chosen, more = distinct_settings(
        chosen, lambda controller: export_controller(controller, controller.widths or (WIDTH,), features).digest
    )
    repeated = [beta for beta, times in collections.Counter(betas).items() if times > 1]
    said += [*more, *(f"β = {beta:g}: given more than once; counted once." for beta in repeated)]
    betas = list(dict.fromkeys(betas))
    grid = [rows_of(setting, betas) for setting in chosen]
    branches = np.concatenate([dataset.store.branches for dataset in datasets]).tolist()
    notes = [
        note
        for setting, rows in zip(chosen, grid, strict=True)
        for note in check_pool(setting, rows, branches, replacement=orders == "bootstrap")
    ]
    plan = _Plan(datasets, list(itertools.chain.from_iterable(grid)), shuffles, orders, seed, rules)
    for group in plan.groups:
        check_shapes(group.controller, group.width, features)
    _check_sums(plan)
    if strict:
        _check_strictly(plan, chunk or plan.chunk_size)
    with (
        contextlib.nullcontext()
        if checkpoint is None
        else Checkpoint(Path(checkpoint), plan.fingerprint(), chunk or plan.chunk_size)
    ) as kept:
        sums = _run(plan, chunk, kept, progress)
    return Results(
        rows=plan.rows,
        parts=[part for dataset in datasets for part in dataset.parts],
        golds=[gold for dataset in datasets for gold in dataset.golds],
        sums=sums,
        shuffles=shuffles,
        notes=(*said, *notes, *_unshown(plan.rows, sums["unshown"])),
        origin=plan.origin(chosen, betas, command),
    )


def replayed(results: Results, data: Sequence[Dataset]) -> tuple[Dataset, Int[np.ndarray, "Q S B"], Rules]:
    """The data, orders and rules of results: what `traces` and `failures` need to replay their episodes.

    Args:
      results: Of `sweep`, or read from a folder.
      data: The datasets that were swept, in any order; others are left out.

    Returns:
      The datasets as one, the branch orders, and the rules.

    Raises:
      InputError: if a dataset is missing, or is not what was swept.
    """
    provenance = results.provenance
    missing = list(provenance.datasets)
    found: list[Dataset] = []
    while missing:
        digests = [used.digest for used in missing]
        dataset = next((d for d in data if list(d.digests) == digests[: len(d.parts)]), None)
        if dataset is None:
            raise InputError(
                f"data: {missing[0].label} is not among them as it was swept"
                f"{f', from {missing[0].source}' if missing[0].source else ''}: it is missing or has changed. "
                "Name the files that were swept."
            )
        parts = [(used.label, used.questions) for used in missing[: len(dataset.parts)]]
        found.append(dataclasses.replace(dataset, parts=tuple(parts)))
        del missing[: len(parts)]
    orders = draw_orders(found, provenance.shuffles, provenance.orders, provenance.seed, width=provenance.width)
    return concatenate(found), orders, provenance.rules


def width_of(rows: Sequence[Row], pool: int | None) -> int:
    """The least usual number of slots that suffices for these rows of one controller.

    Args:
      rows: The rows.
      pool: The most branches of any question; None for orders that draw with replacement.

    Raises:
      InputError: if the controller was not exported for that many slots.
    """
    controller = rows[0].controller
    most = [controller.most_branches(row.params) for row in rows]
    needed = WIDTH if None in most else max(cast(list[int], most))
    usual = controller.widths or ((WIDTH,) if None in most else _WIDTHS)
    needed = needed if pool is None else min(needed, pool)
    width = min((width for width in usual if width >= needed), default=None)
    if width is None:
        raise InputError(
            f"controller {controller.name}: needs {needed} slots, but has at most {max(usual)}. Open fewer "
            "branches, or export it with more widths."
        )
    return width


def needed_orders(row: Row, orders: Int[AnyArray, "Q S B"]) -> Int[AnyArray, "Q S b"]:
    """The orders, cut to as many slots as the row's controller was exported for and the row needs.

    Raises:
      InputError: as `width_of`.
    """
    if not row.controller.widths or orders.shape[-1] in row.controller.widths:
        return orders
    branches = int(np.max(np.sum(np.asarray(orders) >= 0, axis=-1)))
    return orders[..., : width_of([row], branches)]


# --- the work --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What to replay."""

    datasets: Sequence[Dataset]
    rows: Sequence[Row]
    shuffles: int
    orders: Orders
    seed: int
    rules: Rules

    @property
    def questions(self) -> int:
        return sum(len(dataset) for dataset in self.datasets)

    @functools.cached_property
    def groups(self) -> list[_Group]:
        """The rows that are replayed together: those of a controller, split by width where that pays."""
        by_width: dict[Controller, dict[int, list[int]]] = {}
        pool = None if self.orders == "bootstrap" else max(int(data.store.branches.max()) for data in self.datasets)
        for index, row in enumerate(self.rows):
            width = width_of([row], pool)
            by_width.setdefault(row.controller, {}).setdefault(width, []).append(index)
        groups = []
        for controller, rows in by_width.items():
            waiting: list[int] = []
            for width in sorted(rows):
                waiting = sorted(waiting + rows[width])
                episodes = len(waiting) * self.questions * self.shuffles
                if episodes >= _WORTH_A_PROGRAM or width == max(rows):
                    groups.append(_Group(controller, width, waiting))
                    waiting = []
        return groups

    def origin(self, settings: Sequence[Setting], betas: Sequence[float], command: Sequence[str]) -> Origin:
        """What the results come from, now that they are there."""
        budget, probe_cost = self.rules.budget, self.rules.probe_cost
        return Origin(
            settings=settings,
            widths={setting.label: self.widths(setting.controller) for setting in settings},
            feature_names=self.datasets[0].store.feature_names,
            provenance=functools.partial(
                Provenance,
                datasets=used_datasets(self.datasets),
                betas=tuple(map(float, betas)),
                shuffles=self.shuffles,
                orders=self.orders,
                seed=self.seed,
                width=self.width,
                cost=self.rules.cost,
                probe_cost=int(cast(int, probe_cost)),
                budget=None if budget is None else int(cast(int, budget)),
                versions=versions(),
                device=device(),
                finished=datetime.datetime.now(datetime.UTC),
                command=tuple(command),
            ),
        )

    def params(self, rows: Sequence[int]) -> PyTree:
        """The parameter vectors of rows of one controller, with a leading axis."""
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(self.rows[index].params for index in rows))

    def widths(self, controller: Controller) -> tuple[int, ...]:
        """The numbers of slots that a controller is replayed with, here and when its episodes are recorded."""
        replayed = {group.width for group in self.groups if group.controller == controller}
        return controller.widths or tuple(sorted(replayed | {self.width}))

    @property
    def width(self) -> int:
        """Slots of the orders that are drawn; narrower groups replay the first ones."""
        return max(WIDTH, *(group.width for group in self.groups))

    @property
    def chunk_size(self) -> int:
        """As many questions as fit well into a device's memory, with all that their replay needs."""
        store = sum(np.asarray(array).nbytes for dataset in self.datasets for array in dataset.store.arrays().values())
        # Per (question, order): what `Episode` and `Outcome` hold. Per question: the store.
        most_rows = max(len(group.rows) for group in self.groups)
        pair = self.width * 4 * 8 + most_rows * len(dataclasses.fields(Outcome)) * 4
        device = jax.local_devices()[0]
        memory = (device.memory_stats() or {}).get("bytes_limit", 2**31)
        limit = _CHUNK_BYTES.get(device.platform, memory * _CHUNK_SHARE) * jax.local_device_count()
        most = max(1, int(limit / (store / self.questions + self.shuffles * pair)))
        # Chunks of equal size, and at least one for each process.
        chunks = max(-(-self.questions // most), min(self.questions, jax.process_count()))
        return -(-self.questions // chunks)

    def fingerprint(self) -> dict[str, str]:
        """Digests of all that the sums depend on: equal for equal sweeps."""
        features = self.datasets[0].store.feature_names
        rules = (self.rules.cost.value, int(cast(int, self.rules.probe_cost)), self.rules.budget)
        parts = {
            "data": [dataset.digests for dataset in self.datasets],
            # Of all that a controller computes: one that was edited is another one.
            "controllers": [(export_controller(c, (width,), features).digest, rows) for c, width, rows in self.groups],
            "parameters": [row.described() for row in self.rows],
            "orders": (self.shuffles, self.orders, self.seed),
            "rules": rules,
            "versions": versions(),
        }
        return {name: hashlib.blake2b(repr(part).encode(), digest_size=16).hexdigest() for name, part in parts.items()}


class _Group(NamedTuple):
    """Rows of a controller that are replayed together."""

    controller: Controller
    width: int  # B
    rows: list[int]


class _Piece(NamedTuple):
    """A group on one chunk of questions."""

    controller: Controller
    rows: list[int]
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Its name in a checkpoint."""
        return f"{self.start}-{self.stop}-rows-{self.rows[0]}"


def _run(
    plan: _Plan,
    chunk: int | None,
    kept: Checkpoint | None,
    progress: Callable[[str, int, int], None] | None,
) -> dict[str, Int64[np.ndarray, "R Q"]]:
    """The sums over shuffles, by field."""
    # A resumed sweep keeps its chunks, even on a machine where others would fit better.
    size = chunk or (plan.chunk_size if kept is None else kept.size)
    sums = {field: np.zeros((len(plan.rows), plan.questions), np.int64) for field in FIELDS}
    done, total = 0, plan.questions * plan.shuffles * len(plan.rows)

    def report(name: str) -> None:
        if progress:
            progress(name, done, total)

    # The next piece is always dispatched before waiting for the last one.
    running: tuple[_Piece, Any] | None = None
    for piece, outcome in itertools.chain(_launch(plan, size, kept), [(None, None)]):
        if running is not None:
            last, result = running
            report(last.controller.name)
            if isinstance(result, Outcome):
                result = _summed(jax.device_get(result), last.stop - last.start)
                if kept:
                    kept.save(last.name, result)
            for field, values in result.items():
                sums[field][last.rows, last.start : last.stop] = values
            done += len(last.rows) * (last.stop - last.start) * plan.shuffles
        running = None if piece is None else (piece, outcome)
    if jax.process_count() > 1:
        sums = _from_all_processes(sums)
    done = total
    report("done")
    return sums


def _check_strictly(plan: _Plan, size: int) -> None:
    """Refuses controllers that know answers which they were not shown, on this process's chunks."""
    stores = [dataset.store for dataset in plan.datasets]
    shape = joint_shape(stores, bucketed=True)
    for number, start in enumerate(range(0, plan.questions, size)):
        if number % jax.process_count() == jax.process_index():
            stop = min(start + size, plan.questions)
            orders = draw_orders(plan.datasets, plan.shuffles, plan.orders, plan.seed, start, stop, plan.width)
            store = part(stores, start, stop, shape)
            for controller, width, rows in plan.groups:
                check_replay(controller, store, plan.params(rows), orders[..., :width], plan.rules)


def _launch(plan: _Plan, size: int, kept: Checkpoint | None) -> Iterator[tuple[_Piece, Any]]:
    """The pieces of this process, each with its outcome in flight, or with its sums if they were kept."""
    stores = [dataset.store for dataset in plan.datasets]
    shape = joint_shape(stores, bucketed=True)
    devices = tuple(jax.local_devices()) if jax.local_device_count() > 1 else None
    for number, start in enumerate(range(0, plan.questions, size)):
        if number % jax.process_count() != jax.process_index():
            continue
        arrays = None
        for controller, width, rows in plan.groups:
            piece = _Piece(controller, rows, start, min(start + size, plan.questions))
            sums = kept.load(piece.name) if kept else None
            if sums is not None:
                yield piece, sums
                continue
            if arrays is None:
                stop = start + bucket(min(size, plan.questions))
                orders = draw_orders(plan.datasets, plan.shuffles, plan.orders, plan.seed, start, stop, plan.width)
                arrays = jax.device_put((part(stores, start, stop, shape), orders))
            orders = arrays[1][..., :width]
            yield piece, _evaluate(controller, arrays[0], plan.params(rows), orders, plan.rules, devices=devices)


def _summed(outcome: Outcome, questions: int) -> dict[str, Int64[np.ndarray, "P q"]]:
    """Sums over the shuffles, without the padding."""
    return {field: getattr(outcome, field)[:, :questions].sum(axis=-1, dtype=np.int64) for field in FIELDS}


def _from_all_processes(sums: dict[str, Int64[np.ndarray, "R Q"]]) -> dict[str, Int64[np.ndarray, "R Q"]]:
    """Every process's sums added up: each question was replayed by one of them, and is 0 in the others."""
    from jax.experimental import multihost_utils

    # As bytes, since JAX would convert them to int32.
    gathered = multihost_utils.process_allgather({field: values.view(np.uint8) for field, values in sums.items()})
    return {field: np.ascontiguousarray(values).view(np.int64).sum(axis=0) for field, values in gathered.items()}


def _unshown(rows: Sequence[Row], sums: Int64[np.ndarray, "R Q"]) -> Iterator[str]:
    """Notes on settings that gave answers from nowhere."""
    counts: collections.Counter[str] = collections.Counter()
    for row, count in zip(rows, sums.sum(axis=1).tolist(), strict=True):
        counts[row.label] += count
    for label, count in counts.items():
        if count:
            yield f"{label}: {count} answers were never shown to it, and count as none."


# --- arguments -------------------------------------------------------------------------------------------------------


def _as_setting(setting: Setting | Controller | str) -> Setting:
    if isinstance(setting, str):
        return Setting.parse(setting)
    return Setting(setting) if isinstance(setting, Controller) else setting


def _check_sums(plan: _Plan) -> None:
    """Refuses costs whose sums over an episode would leave int32."""
    for dataset in plan.datasets:
        name, store = dataset.parts[0][0], dataset.store
        dearest = int(cast(int, plan.rules.probe_cost)) * plan.width * store.answers.shape[-1]
        if dearest > MAX_BUDGET:
            raise InputError(
                f"probe cost {plan.rules.probe_cost}: {name} has up to {dearest} of it in an episode, more than "
                f"{MAX_BUDGET}. Count costs in a larger unit."
            )
        if plan.rules.cost is not CostModel.PRICED or store.price is None:
            continue
        price = np.asarray(store.price, np.float64)
        spent = np.maximum(store.tokens, store.delta * np.maximum(store.intervals - 1, 0)) * price
        if not (np.all(np.isfinite(price)) and price.min() >= 0 and spent.max() <= MAX_TOKENS):
            raise InputError(
                f"price: {name} has prices from {price.min():g} to {price.max():g} per token, and branches that cost "
                f"up to {spent.max():g}. They must be finite, at least 0, and no branch may cost more than "
                f"{MAX_TOKENS}: choose another unit."
            )
