"""The comfortable call: controllers × β × questions × shuffles, to a table."""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from jaxtyping import Int, PyTree

from autotts_jax.controllers import CONTROLLERS, Controller, check_shapes
from autotts_jax.controllers.base import named_leaves
from autotts_jax.environment import CostModel, Rules
from autotts_jax.replay import Dataset, bootstrap_orders, concatenate, published_orders, random_orders
from autotts_jax.rollout import Outcome, evaluate
from autotts_jax.trajectories import InputError

__all__ = ["BETAS", "Orders", "Results", "Setting", "sweep"]

#: The published β grid.
BETAS = tuple(i / 10 for i in range(11))

#: How shuffles are drawn: see `replay.published_orders`, `replay.random_orders`, `replay.bootstrap_orders`.
Orders = Literal["published", "random", "bootstrap"]

# Sums of costs stay in int32.
_MAX_BUDGET, _MAX_PROBE_COST = 2**30, 4096

_evaluate = jax.jit(evaluate, static_argnames=("controller", "devices"))


@dataclasses.dataclass(frozen=True)
class Setting:
    """A controller, with some of its parameters given instead of scheduled.

    Attributes:
      controller: The controller.
      given: Parameters by name; ``beta`` fixes β itself.
    """

    controller: Controller
    given: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuses parameters that do not exist or make no sense."""
        check_shapes(self.controller)
        known = _parameters(self.controller)
        for name, value in self.given.items():
            place = f"controller {self.controller.name}: parameter {name}={value:g}"
            if name not in {*known, "beta"}:
                raise InputError(
                    f"{place}: there is no such parameter{_nearest(name, known)}. "
                    f"It has {', '.join(known) or 'none'}, and beta."
                )
            low, high = (0, 1) if name == "beta" else self.controller.bounds.get(name, (-np.inf, np.inf))
            if not low <= value <= high:
                raise InputError(f"{place}: outside {low:g} to {high:g}. Choose a value in that range.")
            if name in known and np.issubdtype(known[name], np.integer) and value != int(value):
                raise InputError(f"{place}: not a whole number. Give one.")

    @classmethod
    def parse(cls, text: str) -> Setting:
        """A setting from ``NAME[:key=value,…]`` or ``FILE.py:ATTRIBUTE[:key=value,…]``.

        ATTRIBUTE is a `Controller`, or a function without arguments that returns one.

        Raises:
          InputError: naming what is unknown, and the nearest name there is.
        """
        name, *rest = text.split(":")
        if name.endswith(".py"):
            if not rest:
                raise InputError(f"controller {text}: name the controller in the file, as in {name}:make.")
            controller = _from_file(Path(name), rest.pop(0))
        elif name in CONTROLLERS:
            controller = CONTROLLERS[name]
        else:
            raise InputError(
                f"controller {name!r}: there is no such controller{_nearest(name, CONTROLLERS)}. "
                f"Use one of {', '.join(CONTROLLERS)}, or FILE.py:ATTRIBUTE."
            )
        given = {}
        for pair in ",".join(rest).split(",") if rest else ():
            key, equals, value = pair.partition("=")
            try:
                given[key.strip()] = float(value)
            except ValueError:
                wrong = f"{value!r} is not a number" if equals else "a value is missing"
                raise InputError(f"controller {text}: {pair!r}: {wrong}. Write key=value,key=value.") from None
        return cls(controller, given)


@dataclasses.dataclass(frozen=True)
class _Row:
    """One parameter vector of a controller."""

    controller: Controller
    beta: float | None
    params: PyTree  # scalars

    def described(self) -> str:
        """The parameters as JSON."""
        # As text first: 0.95 in float32 is 0.95 to the reader, not 0.949999988079071.
        return json.dumps(
            {
                name: int(value) if np.issubdtype(value.dtype, np.integer) else float(str(value))
                for name, value in named_leaves(self.params).items()
            }
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Results:
    """What a sweep found.

    Attributes:
      table: One row per dataset × controller × parameters. `correct` and `tokens_total` are sums over all
        episodes, integers; `accuracy`, `tokens` and the rest are means over episodes; `accuracy_se` and
        `tokens_se` are standard errors clustered by question, null for a single question.
      per_question: The same, one row per question; without standard errors.
      notes: What a reader should know about the rows.
    """

    table: pa.Table
    per_question: pa.Table
    notes: tuple[str, ...] = ()

    def write(self, directory: str | os.PathLike[str], *, per_question: bool = False) -> list[Path]:
        """Writes ``results.csv`` and ``.parquet`` (and ``questions.*``), each whole or not at all."""
        directory = writable(directory)
        tables = {"results": self.table} | ({"questions": self.per_question} if per_question else {})
        csv = pa.csv.WriteOptions(quoting_style="needed")
        writers: dict[str, Callable[[pa.Table, Path], None]] = {
            ".csv": lambda table, path: pa.csv.write_csv(table, path, csv),
            ".parquet": pa.parquet.write_table,
        }
        written = []
        for name, table in tables.items():
            for suffix, write in writers.items():
                with tempfile.TemporaryDirectory(dir=directory) as scratch:
                    write(table, Path(scratch, name))
                    written.append(Path(scratch, name).replace(directory / f"{name}{suffix}"))
        return written


def sweep(
    data: Dataset | Sequence[Dataset],
    settings: Sequence[Setting | Controller | str] | None = None,
    *,
    betas: Sequence[float] = BETAS,
    shuffles: int = 100,
    orders: Orders = "published",
    seed: int = 0,
    rules: Rules | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Results:
    """Replays controllers over a β grid on datasets, on all of JAX's local devices.

    Args:
      data: One or several datasets; they are replayed together, as one store.
      settings: Controllers, or settings, or their texts (see `Setting.parse`); all built-in ones if left out.
        A setting whose given parameters leave nothing to β gives a single row.
      betas: The grid; numbers in [0, 1].
      shuffles: Branch orders per question.
      orders: How they are drawn.
      seed: Of random and bootstrap orders.
      rules: What actions cost; the published accounting if left out.
      progress: Called as ``progress(controller, episodes done, episodes in all)`` before each controller and
        at the end.

    Returns:
      The tables.

    Raises:
      InputError: before any work, naming field, value and remedy.
    """
    for name, values in (("data", data), ("settings", settings), ("betas", betas)):
        if values is not None and len(values) == 0:
            raise InputError(f"{name}: empty; there must be at least one.")
    dataset = data if isinstance(data, Dataset) else concatenate(data)
    chosen = [_as_setting(setting) for setting in (CONTROLLERS.values() if settings is None else settings)]
    rules = _checked(Rules() if rules is None else rules)
    for beta in betas:
        if not 0 <= beta <= 1:
            raise InputError(f"beta {beta}: outside 0 to 1. Choose values in that range.")
    if shuffles < 1:
        raise InputError(f"shuffles {shuffles}: there must be at least one.")
    rows_of = [_rows(setting, betas) for setting in chosen]
    notes = [
        note
        for setting, rows in zip(chosen, rows_of, strict=True)
        for note in _check_pool(setting, rows, dataset, orders)
    ]
    notes += [
        f"{name} is no method but an upper bound: it counts as right if any branch it read is right."
        for name in dict.fromkeys(setting.controller.name for setting in chosen if setting.controller.oracle)
    ]

    rows = list(itertools.chain.from_iterable(rows_of))
    groups: dict[Controller, list[int]] = {}  # each controller's rows are replayed together
    for index, row in enumerate(rows):
        groups.setdefault(row.controller, []).append(index)
    devices = tuple(jax.local_devices()) if jax.local_device_count() > 1 else None
    store = jax.device_put(dataset.store)
    dealt = jnp.asarray(_draw(dataset, shuffles, orders, seed))
    episodes, done = len(dataset) * shuffles, 0
    outcomes: dict[int, Outcome] = {}  # by row
    for controller, group in groups.items():
        if progress:
            progress(controller.name, done, episodes * len(rows))
        params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(rows[index].params for index in group))
        outcome = jax.device_get(_evaluate(controller, store, params, dealt, rules, devices=devices))
        for p, index in enumerate(group):
            outcomes[index] = jax.tree.map(lambda leaf, p=p: leaf[p], outcome)
        done += episodes * len(group)
    if progress:
        progress("done", done, done)
    return _tabulate(dataset, [(row, outcomes[index]) for index, row in enumerate(rows)], shuffles, tuple(notes))


def writable(directory: str | os.PathLike[str]) -> Path:
    """The directory, made if needed.

    Raises:
      InputError: if it cannot be made or written to.
    """
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            return directory
    except OSError as error:
        raise InputError(f"{directory}: cannot be written to ({error.strerror}). Choose another directory.") from None


# --- settings ------------------------------------------------------------------------------------------------------


def _as_setting(setting: Setting | Controller | str) -> Setting:
    if isinstance(setting, str):
        return Setting.parse(setting)
    return Setting(setting) if isinstance(setting, Controller) else setting


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _from_file(path: Path, attribute: str) -> Controller:
    """A controller from a user's Python file."""
    if not path.is_file():
        raise InputError(f"controller {path}: no such file. Check the path.")
    name = f"autotts_controller_{path.stem}"  # whatever the file is called, it must not hide another module
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look a module up by its name
    sys.path.append(str(path.resolve().parent))  # for what the file imports from beside it
    try:
        spec.loader.exec_module(module)
        found = getattr(module, attribute, None)
        if callable(found) and not isinstance(found, Controller):
            found = found()
    except Exception as error:
        raise InputError(f"controller {path}:{attribute}: {type(error).__name__}: {error}. Mend the file.") from error
    if not isinstance(found, Controller):
        raise InputError(
            f"controller {path}:{attribute}: {type(found).__name__}, not a Controller nor a function that returns "
            f"one. The file has {', '.join(sorted(name for name in vars(module) if not name.startswith('_')))}."
        )
    return found


def _parameters(controller: Controller) -> dict[str, np.dtype[Any]]:
    """A controller's parameters and their dtypes."""
    shapes = jax.eval_shape(controller.schedule, jax.ShapeDtypeStruct((), jnp.float32))
    return {name: leaf.dtype for name, leaf in named_leaves(shapes).items()}


def _rows(setting: Setting, betas: Sequence[float]) -> list[_Row]:
    """The parameter vectors of a setting: one per β, or one in all if nothing depends on β."""
    given = dict(setting.given)
    if "beta" in given:
        betas = [given.pop("beta")]
    scheduled = jax.device_get(jax.vmap(setting.controller.schedule)(jnp.asarray(betas, jnp.float32)))
    leaves, treedef = jax.tree.flatten(scheduled)
    names = list(named_leaves(scheduled))
    for name, value in given.items():
        leaf = leaves[names.index(name)]
        leaves[names.index(name)] = np.full_like(leaf, value)
    vectors = [jax.tree.unflatten(treedef, [leaf[i] for leaf in leaves]) for i in range(len(betas))]
    if given and all(np.all(leaf == leaf[0]) for leaf in leaves) and "beta" not in setting.given:
        return [_Row(setting.controller, None, vectors[0])]
    return [_Row(setting.controller, float(beta), vector) for beta, vector in zip(betas, vectors, strict=True)]


def _check_pool(setting: Setting, rows: Sequence[_Row], dataset: Dataset, orders: Orders) -> list[str]:
    """Refuses more samples than branches if asked for by number; notes it if β asks."""
    name = setting.controller.samples
    counts = np.asarray(dataset.store.branches)
    smallest = int(np.argmin(counts))
    if name is None or orders == "bootstrap":
        return []
    wanted = max(int(named_leaves(row.params)[name]) for row in rows)
    if wanted <= counts[smallest]:
        return []
    where = f"question {smallest} has only {counts[smallest]} branches"
    if name in setting.given:
        raise InputError(
            f"controller {setting.controller.name}: {name}={wanted}, but {where}. Ask for at most that many, or "
            "resample branches with replacement (orders bootstrap)."
        )
    return [f"{setting.controller.name}: β asks for up to {wanted} samples; {where} and gives those."]


def _checked(rules: Rules) -> Rules:
    if not isinstance(rules.cost, CostModel):
        raise InputError(f"cost {rules.cost!r}: not a CostModel. Use one of {', '.join(CostModel)}.")
    if not 0 <= int(cast(int, rules.probe_cost)) <= _MAX_PROBE_COST:
        raise InputError(f"probe cost {rules.probe_cost}: outside 0 to {_MAX_PROBE_COST}.")
    if rules.budget is not None and not 0 <= int(cast(int, rules.budget)) <= _MAX_BUDGET:
        raise InputError(f"budget {rules.budget}: outside 0 to {_MAX_BUDGET}. Leave it out for no limit.")
    return rules


def _draw(dataset: Dataset, shuffles: int, orders: Orders, seed: int) -> Int[np.ndarray, "Q S B"] | jax.Array:
    match orders:
        case "published":
            return published_orders(dataset.store, shuffles)
        case "random":
            return random_orders(jax.random.key(seed), dataset.store, shuffles)
        case "bootstrap":
            return bootstrap_orders(jax.random.key(seed), dataset.store, shuffles)
    raise InputError(f"orders {orders!r}: not understood. Use published, random or bootstrap.")


# --- tables --------------------------------------------------------------------------------------------------------

_MEANS = ("sequential_tokens", "cost", "intervals", "probes", "rounds", "opened", "pruned", "refused")


def _tabulate(
    dataset: Dataset, rows: Sequence[tuple[_Row, Outcome]], shuffles: int, notes: tuple[str, ...]
) -> Results:
    table, per_question = [], []
    start = 0
    for part, questions in dataset.parts:
        inside = slice(start, start + questions)
        for row, outcome in rows:
            values = {
                field.name: np.asarray(getattr(outcome, field.name))[inside].astype(np.int64)  # [q, S]
                for field in dataclasses.fields(Outcome)
            }
            head = {
                "dataset": part,
                "controller": row.controller.name,
                "beta": row.beta,
                "params": row.described(),
            }
            accuracy, tokens = values["correct"].mean(axis=1), values["tokens"].mean(axis=1)
            table.append(
                head
                | {
                    "questions": questions,
                    "shuffles": shuffles,
                    "correct": int(values["correct"].sum()),
                    "accuracy": float(accuracy.mean()),
                    "accuracy_se": _standard_error(accuracy),
                    "tokens": float(values["tokens"].mean()),
                    "tokens_total": int(values["tokens"].sum()),
                    "tokens_se": _standard_error(tokens),
                }
                | {name: float(values[name].mean()) for name in _MEANS}
            )
            for q in range(questions):
                per_question.append(
                    head
                    | {
                        "question": q,
                        "gold": dataset.golds[start + q],
                        "shuffles": shuffles,
                        "correct": int(values["correct"][q].sum()),
                        "accuracy": float(accuracy[q]),
                        "tokens": float(tokens[q]),
                        "tokens_total": int(values["tokens"][q].sum()),
                    }
                    | {name: float(values[name][q].mean()) for name in _MEANS}
                )
        start += questions
    return Results(_arrow(table), _arrow(per_question), notes)


def _arrow(rows: list[dict[str, Any]]) -> pa.Table:
    """A table whose columns have the same type whatever the values: a missing β or error is a null float."""
    of = {str: pa.string(), int: pa.int64(), float: pa.float64(), type(None): pa.float64()}
    return pa.Table.from_pylist(rows, pa.schema([(name, of[type(value)]) for name, value in rows[0].items()]))


def _standard_error(means: np.ndarray) -> float | None:
    """Of a mean over questions, from the questions' own means: clustered by question."""
    return float(means.std(ddof=1) / np.sqrt(len(means))) if len(means) > 1 else None
