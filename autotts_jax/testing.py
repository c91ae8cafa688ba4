"""The controller contract as an executable check, for users, tests and searches."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Int, PyTree

from autotts_jax import environment
from autotts_jax.artefacts import export_controller
from autotts_jax.controllers.base import Controller, check_shapes
from autotts_jax.controllers.schedules import named_leaves
from autotts_jax.controllers.tracing import trace
from autotts_jax.environment import MAX_WAITS, NO_ANSWER, Rules, StopReason, World, example_observation
from autotts_jax.errors import ContractError, InputError
from autotts_jax.orders import published_orders
from autotts_jax.replay import Dataset, ReplayStore, joint_shape, part
from autotts_jax.rollout import COMPILER_OPTIONS, Outcome, Record, evaluate, record

__all__ = ["Report", "check_controller", "check_replay"]

_BETAS = np.linspace(0, 1, 101, dtype=np.float32)
_FEW_BETAS = np.linspace(0, 1, 3, dtype=np.float32)

#: Slots of the checked episodes, and another number that the functions must accept.
_WIDTH, _OTHER_WIDTH = 64, 24

# The world is small: programs run as fast unoptimized, and compile in half the time.
_QUICKLY = {"xla_backend_optimization_level": 0}

_evaluate = jax.jit(evaluate, static_argnums=0, compiler_options=_QUICKLY)
_evaluate_data = jax.jit(evaluate, static_argnums=0, compiler_options=COMPILER_OPTIONS)

_Run = Callable[[ReplayStore, PyTree], tuple[Outcome, Record]]


@dataclasses.dataclass(frozen=True)
class Report:
    """What `check_controller` found.

    Attributes:
      passed: The checks that passed, in words.
      notes: What is allowed but wasteful or strange.
    """

    passed: tuple[str, ...]
    notes: tuple[str, ...]


def check_controller(controller: Controller, feature_names: tuple[str, ...] = ()) -> Report:
    """Checks a controller against the contract, on small random worlds; `check_replay` goes on, on real data.

    Args:
      controller: What to check.
      feature_names: Recorded features that it reads.

    Raises:
      ContractError: at the first broken rule.
    """
    try:
        check_shapes(controller, _width(controller), feature_names)
    except InputError as error:
        raise ContractError(str(error)) from error
    if not controller.widths:
        _check_width(controller, feature_names)
    _check_trace(controller, feature_names)
    params = _check_schedule(controller)
    store = _world(feature_names=feature_names)
    traces: list[ReplayStore] = []
    larger = _larger_world(feature_names)
    padded = part([store], 0, len(larger.gold), joint_shape([store, larger]))

    def drive(store: ReplayStore) -> Outcome:
        found: Outcome = jax.device_get(_evaluate(controller, store, params, _orders(controller, store)))
        return found

    driven = drive(padded)
    rounds = _enough_rounds(driven, store)
    run = _replayer(controller, traces, rounds)
    outcome, rows = run(store, params)
    checks: dict[str, Callable[[], None]] = {
        "no NaN": lambda: _check_finite(controller, rows),
        "every episode ends": lambda: _check_end(controller, outcome, rounds),
        "only revealed answers are given": lambda: _check_answers(controller, outcome, rows),
        "unpaid information changes nothing": lambda: _check_hidden(controller, store, params, outcome, rows, run),
        "answer ids and gold answers change nothing": lambda: _check_disguised(controller, padded, driven, drive, 2),
        "nor do they in a larger world": lambda: _check_disguised(controller, larger, drive(larger), drive, 3),
        "no retracing over β": lambda: _check_retrace(controller, traces),
        "the end is final, padding changes nothing": lambda: _check_driver(controller, store, driven, outcome),
        "no more branches are opened than declared": lambda: _check_opens(controller, store, params, outcome),
        "the exported controller decides the same": lambda: _check_export(controller, store, params, outcome),
    }
    for check in checks.values():
        check()
    traced = ("shapes and dtypes are fixed", "constants are few, and nothing calls back into Python")
    before = (*traced, "tracing again gives the same program", "schedule is finite and monotone in β")
    return Report((*before, *checks), _notes(outcome))


def check_replay(
    controller: Controller,
    data: Dataset | ReplayStore,
    params: PyTree,
    orders: Array | np.ndarray,
    rules: Rules | None = None,
    *,
    seed: int | None = None,
) -> tuple[str, ...]:
    """Checks on real data that a controller decides by what it is shown, not by what it knows about the data.

    Every episode is replayed three times, twice with other answer ids and other gold answers, drawn at random. A
    controller that remembers ids, or has found out gold answers, then decides otherwise. (One that knows branches by
    heart in other ways, as by their token counts, does not: compare it on data that it cannot have met.)

    Args:
      controller: What to check.
      data: What to replay: a dataset, or a store as `evaluate` takes it.
      params: Parameter vectors, with a leading axis P on every leaf.
      orders: ``[Q, S, B]`` the branch orders.
      rules: What actions cost; defaults to the published tables' accounting.
      seed: Seed of the new ids and gold answers; by default one that nobody knows.

    Returns:
      Notes on what is allowed but wasteful or strange, as in `Report`.

    Raises:
      ContractError: naming the first episode that is decided otherwise.
    """
    store = data.store if isinstance(data, Dataset) else data

    def run(store: ReplayStore) -> Outcome:
        outcome: Outcome = jax.device_get(_evaluate_data(controller, store, params, orders, rules))
        return outcome

    outcome = run(store)
    _check_disguised(controller, store, outcome, run, seed)
    return _notes(outcome)


def _notes(outcome: Outcome) -> tuple[str, ...]:
    """What is allowed but wasteful or strange."""
    notes = []
    if refused := int(outcome.refused.sum()):
        notes.append(f"{refused} inadmissible actions were masked; check obs.active and obs.unopened first.")
    if unshown := int(outcome.unshown.sum()):
        notes.append(
            f"{unshown} of {outcome.unshown.size} episodes were given answers that they had never been shown, which "
            "count as none; answer an id from obs.answer."
        )
    if idle := int(outcome.idle.sum()):
        notes.append(
            f"{idle} of {outcome.idle.size} episodes ended with a round that changed nothing, not with stop; `wait` "
            f"allows up to {MAX_WAITS} such rounds in a row."
        )
    if not int(outcome.opened.sum()):
        notes.append("no branch was ever opened.")
    return tuple(notes)


def _check_width(controller: Controller, feature_names: tuple[str, ...]) -> None:
    try:
        check_shapes(controller, _OTHER_WIDTH, feature_names)
    except InputError as error:
        raise ContractError(
            f"{error} It passes with {_WIDTH} slots and fails with {_OTHER_WIDTH}: a number of slots is hard-coded. "
            "Use obs.width."
        ) from error


def _world(
    questions: int = 4,
    branches: int = 80,
    depth: int = 24,
    delta: int = 100,
    seed: int = 0,
    feature_names: tuple[str, ...] = (),
) -> ReplayStore:
    """A small random store: few answers that settle, ragged depths, one question short of branches."""
    rng = np.random.default_rng(seed)
    Q, N, D = questions, branches, depth
    intervals = rng.integers(1, D + 1, (Q, N)).astype(np.int32)
    intervals[-1, 5:] = 0
    final = rng.choice(6, (Q, N, 1), p=(0.4, 0.2, 0.2, 0.1, 0.05, 0.05))
    settled = rng.random((Q, N, D)) < np.linspace(0.2, 1, D)
    answers = np.where(settled, final, rng.integers(0, 6, (Q, N, D)))
    step = np.arange(D)
    answers = np.where(step == intervals[..., None] - 1, final, answers)
    return ReplayStore(
        answers=np.where(step < intervals[..., None], answers, -1).astype(np.int16),
        intervals=intervals,
        tokens=np.where(intervals > 0, (intervals - 1) * delta + rng.integers(1, 250, (Q, N)), 0).astype(np.int32),
        delta=np.where(intervals > 0, delta, 0).astype(np.int32),
        gold=np.zeros(Q, np.int32),
        unparsable=np.tile(np.arange(6) == 5, (Q, 1)),
        features=rng.normal(size=(Q, N, D, len(feature_names))).astype(np.float32) if feature_names else None,
        feature_names=feature_names,
    )


def _larger_world(feature_names: tuple[str, ...]) -> ReplayStore:
    """A store that is larger in every way, with ids from a range larger than their number, as in packed data."""
    store = _world(questions=6, branches=200, depth=40, delta=500, seed=1, feature_names=feature_names)
    unparsable = np.pad(store.unparsable, [(0, 0), (0, 250)])
    store = dataclasses.replace(store, unparsable=unparsable)
    rng = np.random.default_rng(1)
    return _disguised(store, _other_ids(store, rng), rng)


def _width(controller: Controller) -> int:
    """Slots of the checked episodes: the usual number, or one that the controller was exported for."""
    return _WIDTH if not controller.widths or _WIDTH in controller.widths else controller.widths[0]


def _orders(controller: Controller, store: ReplayStore) -> np.ndarray:
    return published_orders(store, 1, _width(controller))


def _enough_rounds(outcome: Outcome, store: ReplayStore) -> int:
    """A power of two, enough for the longest episode; no more than an episode can have if each round does work."""
    rounds, most = 128, _WIDTH * (2 * store.answers.shape[-1] + 1)  # an interval, a probe or a prune in each
    longest = int(np.max(outcome.rounds))
    while rounds < min(longest, most):
        rounds *= 2
    return rounds


def _replayer(controller: Controller, traces: list[ReplayStore], rounds: int) -> _Run:
    """Replays one shuffle round by round: outcomes ``[P, Q]`` and records ``[P, Q, T, …]``."""

    def one(store: ReplayStore, params: PyTree, order: Array, q: Array) -> tuple[Outcome, Record]:
        world = World.of(store, Rules(), probe_everything=controller.probe_everything)
        return record(controller, world, environment.deal(store, q, order), params, rounds)

    @functools.partial(jax.jit, compiler_options=_QUICKLY)
    def replay(store: ReplayStore, params: PyTree, orders: Array) -> tuple[Outcome, Record]:
        traces.append(store)
        questions = jnp.arange(len(orders), dtype=jnp.int32)
        over_questions = jax.vmap(one, in_axes=(None, None, 0, 0))
        return jax.vmap(over_questions, in_axes=(None, 0, None, None))(store, params, orders, questions)

    return lambda store, params: jax.device_get(replay(store, params, _orders(controller, store)[:, 0]))


def _check_schedule(controller: Controller) -> PyTree:
    """Checks that it is finite and monotone over a fine grid; returns the parameters at a few β."""
    params = jax.device_get(jax.jit(jax.vmap(controller.schedule))(jnp.asarray(_BETAS)))
    for name, leaf in named_leaves(params).items():
        if not np.all(np.isfinite(leaf)):
            beta = _BETAS[np.argmin(np.isfinite(leaf).reshape(len(_BETAS), -1).all(axis=1))]
            raise ContractError(f"{controller.name}.schedule: {name} is not finite at β = {beta:.2f}. Bound it.")
        steps = np.diff(leaf.astype(np.float64).reshape(len(_BETAS), -1), axis=0)
        turning = np.any(steps > 0, axis=0) & np.any(steps < 0, axis=0)
        if np.any(turning):
            way = steps[:, np.argmax(turning)]
            turn = _BETAS[1 + np.argmax(way < 0 if way[np.nonzero(way)[0][0]] > 0 else way > 0)]
            raise ContractError(
                f"{controller.name}.schedule: {name} is not monotone in β: it turns at β = {turn:.2f}. "
                "Let every parameter only grow or only shrink with β."
            )
        low, high = controller.bounds.get(name, (-np.inf, np.inf))
        if leaf.min() < low or leaf.max() > high:
            raise ContractError(
                f"{controller.name}.schedule: {name} goes from {leaf.min()} to {leaf.max()}, outside its bounds "
                f"{low:g} to {high:g}. Fix the schedule or the bounds."
            )
    return jax.vmap(controller.schedule)(jnp.asarray(_FEW_BETAS))


def _check_trace(controller: Controller, feature_names: tuple[str, ...]) -> None:
    """Traces the functions once more: those that depend on their arguments only become the same programs."""
    obs = example_observation(_width(controller), feature_names)
    params = jax.eval_shape(controller.schedule, jax.ShapeDtypeStruct((), jnp.float32))
    memory = trace(f"{controller.name}.init", controller.init, params, obs).out
    for name, args in {"init": (params, obs), "step": (params, memory, obs)}.items():
        label, function = f"{controller.name}.{name}", getattr(controller, name)
        # Under another label, or the program would be found.
        first, again = (trace(name, function, *args) for name in (label, f"{label}, traced again,"))
        texts = {re.sub("0x[0-9a-f]+", "", str(program.jaxpr)) for program in (first, again)}  # without addresses
        if len(texts) > 1:
            raise ContractError(
                f"{label} becomes another program when it is traced again. Let the functions depend on their "
                "arguments only."
            )


def _check_retrace(controller: Controller, traces: list[ReplayStore]) -> None:
    if len(traces) > 1:
        raise ContractError(f"{controller.name} is retraced for other values of β. Let no Python value depend on β.")


def _check_finite(controller: Controller, rows: Record) -> None:
    for name, leaf in named_leaves(rows.memory).items():
        if np.issubdtype(leaf.dtype, np.floating) and np.any(np.isnan(leaf)):
            raise ContractError(
                f"{controller.name}.step: memory {name} becomes NaN. Guard divisions and logarithms with jnp.maximum."
            )


def _check_end(controller: Controller, outcome: Outcome, rounds: int) -> None:
    if np.any(outcome.stop_reason == StopReason.RUNNING):
        raise ContractError(
            f"{controller.name}: an episode is still running after {rounds} rounds, more than there are intervals and "
            "probes. Wait less, and stop once nothing is left to do."
        )


def _check_answers(controller: Controller, outcome: Outcome, rows: Record) -> None:
    """Ids carry no information, so an answer that no branch showed can only be a guess."""
    if np.any(outcome.unshown):
        wrong = rows.state.prediction[..., -1][outcome.unshown][0]
        raise ContractError(
            f"{controller.name}.step answers id {wrong}, which no branch has shown. Answer an id from obs.answer, or "
            "NO_ANSWER."
        )


def _check_driver(controller: Controller, store: ReplayStore, driven: Outcome, outcome: Outcome) -> None:
    """Compares `evaluate` on a padded store with `record`, which continues long after an episode's end."""
    found = jax.tree.map(lambda leaf: leaf[:, : len(store.gold), 0], driven)
    _same(controller, outcome, found, "padding the store, or continuing after the end,")


def _check_hidden(
    controller: Controller, store: ReplayStore, params: PyTree, outcome: Outcome, rows: Record, run: _Run
) -> None:
    """Perturbs each episode's unopened branches, unread remainders and unprobed answers, and compares."""
    orders, rng = _orders(controller, store)[:, 0], np.random.default_rng(1)
    P, Q = outcome.answer.shape
    for p in range(P):
        answers, intervals, tokens = (np.array(a) for a in (store.answers, store.intervals, store.tokens))
        features = None if store.features is None else np.array(store.features)
        for q in range(Q):
            dealt = orders[q] >= 0
            branch = orders[q][dealt]
            state = jax.tree.map(lambda leaf, p=p, q=q: jnp.asarray(leaf[p, q]), rows.state)
            reached = np.asarray(state.depth[-1])
            depth = reached[dealt]
            unread = depth < intervals[q, branch]
            # revealed[t, i]: the depth at which slot i's newest answer of round t was revealed.
            seen = np.zeros((len(reached), answers.shape[-1] + 1), bool)
            if state.revealed_at is not None:
                seen[np.arange(len(seen)), np.asarray(state.revealed_at)] = True
            else:
                seen[:] = np.arange(answers.shape[-1] + 1) <= reached[:, None]
            hidden = ~seen[dealt][:, 1:] & (np.arange(answers.shape[-1]) < intervals[q, branch][:, None])
            answers[q, branch] = np.where(hidden, rng.integers(0, 6, hidden.shape), answers[q, branch])
            if features is not None:
                noise = rng.normal(size=(*hidden.shape, features.shape[-1])).astype(np.float32)
                features[q, branch] = np.where(hidden[..., None], noise, features[q, branch])
            intervals[q, branch[unread]] = np.maximum(depth + 1, intervals[q, branch] - 1)[unread]
            tokens[q, branch[unread]] += 77
        perturbed = dataclasses.replace(store, answers=answers, intervals=intervals, tokens=tokens, features=features)
        found, _ = run(perturbed, params)
        _same(controller, _row(outcome, p), _row(found, p), "changing what no action has revealed")


def _check_disguised(
    controller: Controller,
    store: ReplayStore,
    outcome: Outcome,
    run: Callable[[ReplayStore], Outcome],
    seed: int | None,
) -> None:
    """Compares a store's outcome ``[P, Q, S]`` with those of the same store in two disguises.

    In one of the two, any id that was below another is above it.
    """
    rng = np.random.default_rng(seed)
    some = _other_ids(store, rng)
    for ids in (some, some.max() - some):
        found = run(_disguised(store, ids, rng))
        question = np.arange(len(ids))[:, None]
        renamed = np.where(outcome.answer >= 0, ids[question, np.maximum(outcome.answer, 0)], outcome.answer)
        for field in sorted({field.name for field in dataclasses.fields(Outcome)} - {"correct", "passed"}):
            expected = renamed if field == "answer" else getattr(outcome, field)
            places = np.argwhere(expected != getattr(found, field))
            if len(places):
                p, q, s = places[0]
                raise ContractError(
                    f"{controller.name}: other answer ids and gold answers change {field} of {len(places)} episodes, "
                    f"as with parameters {p}, question {q}, shuffle {s}. Decide by which answers are equal, not by "
                    "their ids, and by nothing but what obs shows."
                )


def _other_ids(store: ReplayStore, rng: np.random.Generator) -> Int[np.ndarray, "Q A"]:
    """A new id for each old one, per question."""
    Q, A = store.unparsable.shape
    return rng.permuted(np.tile(np.arange(A), (Q, 1)), axis=1)


def _disguised(store: ReplayStore, ids: Int[np.ndarray, "Q A"], rng: np.random.Generator) -> ReplayStore:
    """The store with these answer ids, and other gold answers."""
    answers, intervals, unparsable = (np.asarray(a) for a in (store.answers, store.intervals, store.unparsable))
    question = np.arange(len(ids))
    renamed = np.where(answers >= 0, ids[question[:, None, None], np.maximum(answers, 0)], NO_ANSWER)
    branch = np.argmax(np.where(intervals > 0, rng.random(intervals.shape), -1), axis=1)
    hidden = np.empty_like(unparsable)
    np.put_along_axis(hidden, ids, unparsable, axis=1)
    return dataclasses.replace(
        store,
        answers=renamed.astype(answers.dtype),
        # The final answer of one of the question's branches.
        gold=renamed[question, branch, np.maximum(intervals[question, branch] - 1, 0)].astype(np.int32),
        unparsable=hidden,
    )


def _check_opens(controller: Controller, store: ReplayStore, params: PyTree, outcome: Outcome) -> None:
    """Checks that the declared bound on branches holds, and that slots beyond it change nothing."""
    most = [controller.most_branches(_row(params, p)) for p in range(len(outcome.answer))]
    for p, bound in enumerate(most):
        if bound is not None and outcome.opened[p].max() > bound:
            raise ContractError(
                f"{controller.name} opens {outcome.opened[p].max()} branches, more than its opens parameters allow: "
                f"{bound}. Name the parameters that bound them, or none."
            )
    narrow = max((max(bound, 1) for bound in most if bound is not None and bound < _WIDTH), default=None)
    if narrow is None or controller.widths:
        return
    found = _evaluate(controller, store, params, _orders(controller, store)[..., :narrow])
    for p, bound in enumerate(most):
        if bound is not None and bound <= narrow:
            one = jax.tree.map(lambda leaf, p=p: np.asarray(leaf)[p, :, 0], found)
            _same(controller, _row(outcome, p), one, "leaving out slots that opens says it never opens")


def _check_export(controller: Controller, store: ReplayStore, params: PyTree, outcome: Outcome) -> None:
    try:
        exported = export_controller(controller, (_width(controller),), store.feature_names).controller()
    except InputError as error:
        raise ContractError(str(error)) from error
    again = jax.vmap(exported.schedule)(jnp.asarray(_FEW_BETAS))
    if not all(map(np.array_equal, jax.tree.leaves(again), jax.tree.leaves(params))):
        raise ContractError(f"{controller.name}.schedule gives different parameters when exported.")
    found = _evaluate(exported, store, again, _orders(controller, store))
    found = jax.tree.map(lambda leaf: np.asarray(leaf)[:, :, 0], found)
    _same(controller, outcome, found, "exporting it")


def _row(tree: PyTree, p: int) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[p], tree)


def _same(controller: Controller, expected: Outcome, found: Outcome, what: str) -> None:
    for field in dataclasses.fields(Outcome):
        a, b = getattr(expected, field.name), getattr(found, field.name)
        if not np.array_equal(a, b):
            raise ContractError(
                f"{controller.name}: {what} changes {field.name} from {a[a != b][0]} to {b[a != b][0]}. Let the "
                "functions depend on their arguments only."
            )
