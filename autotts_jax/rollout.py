"""From episodes to outcomes: `evaluate`, the fast driver, and `record`, which keeps every round."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Bool, Int, Int32, PyTree

from autotts_jax import environment
from autotts_jax.controllers.base import Controller, apply
from autotts_jax.controllers.schedules import named_leaves
from autotts_jax.environment import NO_ANSWER, Action, Episode, Rules, State, StopReason, World
from autotts_jax.errors import InputError, check_whole
from autotts_jax.orders import check_orders
from autotts_jax.replay import ReplayStore

__all__ = ["COMPILER_OPTIONS", "LANES", "Outcome", "Record", "evaluate", "evaluate_and_count", "play_round", "record"]

#: Lanes, the episodes run side by side, by platform: on a CPU, enough to fill the vector units and few enough to stay
#: in a core's cache; elsewhere (None), many thousands.
LANES = {"cpu": 256, None: 8192}

#: Rounds between checks for ended episodes, by platform: anywhere but on a CPU, a check costs a wait.
ROUNDS = {"cpu": 1, None: 4}

#: Free lanes take new episodes once one lane in this many is free.
_REFILL = 16

#: Options for `jax.jit` around `evaluate` that make it a third faster on a CPU and do nothing elsewhere: a round's
#: arrays are too small to split among threads, episodes fill the widest vectors available, and a reduction over more
#: than 32 slots is vectorized only if it is not split into a tree.
COMPILER_OPTIONS = {
    "xla_cpu_prefer_vector_width": 512,
    "xla_disable_hlo_passes": "cpu-parallel-task-assigner,tree_reduction_rewriter",
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """How episodes ended and what they cost; `evaluate` returns every field as ``[P, Q, S]``.

    Attributes:
      correct: Whether the answer is the gold answer.
      passed: Whether any branch read to its end gave the gold answer: pass@n, an upper bound.
      answer: Id of the answer; NO_ANSWER if there was none, or none that the episode was shown.
      unshown: Whether the controller gave an answer that the episode was never shown: one of no open branch, up to the
        depth at which its newest answer was revealed. Such an answer counts as none.
      tokens: Tokens spent, by the cost model's accounting.
      sequential_tokens: Tokens on the critical path, see `environment.sequential_tokens`.
      cost: Total cost in the cost model's unit, probes included.
      intervals: Σ ℓᵢ, intervals generated.
      probes: |Ω|, the probes paid for; finished branches' answers need none.
      rounds: Calls of the controller.
      opened: Branches opened.
      pruned: Branches pruned.
      refused: Inadmissible atomic actions, which were masked.
      stop_reason: Why the episode ended, a `StopReason`.
    """

    correct: Bool[Array, "P Q S"]
    passed: Bool[Array, "P Q S"]
    answer: Int32[Array, "P Q S"]
    unshown: Bool[Array, "P Q S"]
    tokens: Int32[Array, "P Q S"]
    sequential_tokens: Int32[Array, "P Q S"]
    cost: Int32[Array, "P Q S"]
    intervals: Int32[Array, "P Q S"]
    probes: Int32[Array, "P Q S"]
    rounds: Int32[Array, "P Q S"]
    opened: Int32[Array, "P Q S"]
    pruned: Int32[Array, "P Q S"]
    refused: Int32[Array, "P Q S"]
    stop_reason: Int32[Array, "P Q S"]

    @property
    def idle(self) -> Bool[Array | np.ndarray, "*E"]:
        """Whether the episode ended with a round that changed nothing."""
        return self.stop_reason == StopReason.IDLE


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """What happened in each round of an episode; every array has a leading axis T, the rounds.

    Entries after the episode's end repeat its last state, ``state.round`` included.

    Attributes:
      action: What the controller requested.
      memory: Its memory after the round.
      state: The state after the round.
    """

    action: Action
    memory: PyTree
    state: State


def record(
    controller: Controller, world: World, episode: Episode, params: PyTree, rounds: int
) -> tuple[Outcome, Record]:
    """Replays one episode with one parameter vector for a number of rounds (static), and keeps them all.

    Fields of the outcome are scalars; the episode has ended unless its stop reason is RUNNING.
    """
    world, episode, params = jax.tree.map(jnp.asarray, (world, episode, params))

    def one_round(carry: tuple[State, PyTree], _: None) -> tuple[tuple[State, PyTree], Record]:
        state, memory, action = play_round(controller, world, episode, params, *carry)
        return (state, memory), Record(action=action, memory=memory, state=state)

    start = begin(controller, world, episode, params)
    (state, _), rows = jax.lax.scan(one_round, start, length=rounds)
    return outcome_of(world, episode, state), rows


def begin(controller: Controller, world: World, episode: Episode, params: PyTree) -> tuple[State, PyTree]:
    """An episode's initial state, and the controller's initial memory."""
    state = environment.init(world, episode)
    return state, apply(controller, "init", params, environment.observe(world, episode, state))


def play_round(
    controller: Controller, world: World, episode: Episode, params: PyTree, state: State, memory: PyTree
) -> tuple[State, PyTree, Action]:
    """One round of one episode, as in both drivers."""
    obs = environment.observe(world, episode, state)
    memory, action = apply(controller, "step", params, memory, obs)
    return environment.step(world, episode, state, action), memory, action


def outcome_of(world: World, episode: Episode, state: State) -> Outcome:
    """The outcome of an episode that has ended."""
    gold = jnp.asarray(world.store.gold)[episode.question]
    read = (state.depth > 0) & (state.depth == episode.intervals)
    unshown = _unshown(world, episode, state)
    answer = jnp.where(unshown, NO_ANSWER, state.prediction)
    return Outcome(
        correct=(answer == gold) & (gold >= 0),
        passed=jnp.any(read & (state.answer == gold)) & (gold >= 0),
        answer=answer,
        unshown=unshown,
        tokens=environment.tokens(episode, state, world.rules),
        sequential_tokens=environment.sequential_tokens(episode, state, world.rules),
        cost=environment.cost(world, episode, state),
        intervals=jnp.sum(state.depth, dtype=jnp.int32),
        probes=environment.probes(world, episode, state),
        rounds=state.round,
        opened=state.opened,
        pruned=jnp.sum(state.pruned, dtype=jnp.int32),
        refused=state.refused,
        stop_reason=state.stop_reason,
    )


def _unshown(world: World, episode: Episode, state: State) -> Bool[Array, ""]:
    """Whether the prediction is an answer that the episode was never shown: see `Outcome`."""
    shown = state.depth if state.revealed_at is None else state.revealed_at
    given = state.prediction != NO_ANSWER
    doubtful = given & ~jnp.any(state.answer == state.prediction)
    answers = jnp.asarray(world.store.answers).reshape(-1)
    return _never_shown(answers, episode.row, shown, state.prediction, doubtful)


@jax.custom_batching.custom_vmap
def _never_shown(
    answers: Int[Array, " M"],
    row: Int32[Array, "*L B"],
    shown: Int32[Array, "*L B"],
    prediction: Int32[Array, "*L"],
    doubtful: Bool[Array, "*L"],
) -> Bool[Array, "*L"]:
    """Which of the doubtful predictions no slot has shown, up to its depth `shown`.

    Nearly all predictions are some slot's newest answer, and not doubtful: for a batch without any, the loop is empty.
    """

    def at_depth(depth: Int32[Array, ""], found: Bool[Array, "*L"]) -> Bool[Array, "*L"]:
        there = _pick(answers, row + depth).astype(jnp.int32)
        return found | jnp.any((depth < shown) & (there == prediction[..., None]), axis=-1)

    deepest = jnp.max(jnp.where(doubtful[..., None], shown, 0))
    return doubtful & ~jax.lax.fori_loop(0, deepest, at_depth, jnp.zeros_like(doubtful))


@_never_shown.def_vmap
def _(size: int, batched: Any, answers: Array, *lanes: Array) -> tuple[Array, bool]:
    """One decision for the whole batch: under a plain vmap every lane would search."""
    row, *rest = (x if b else jnp.broadcast_to(x, (size, *x.shape)) for x, b in zip(lanes, batched[1:], strict=True))
    if batched[0]:  # each lane with a store of its own
        offset = jnp.arange(size, dtype=jnp.int32) * answers.shape[-1]
        row += offset.reshape(size, *(1,) * (row.ndim - 1))
    return _never_shown(answers.reshape(-1), row, *rest), True


def evaluate(
    controller: Controller,
    store: ReplayStore,
    params: PyTree,
    orders: Int[Array, ...],
    rules: Rules | None = None,
    *,
    devices: Sequence[jax.Device] | None = None,
    lanes: int | None = None,
    rounds: int | None = None,
) -> Outcome:
    """Replays every parameter vector on every question under every branch order.

    A pure function of arrays: it can be jitted (with `controller` static), vmapped, scanned over and embedded.
    No array values are compiled in, so another β grid of the same size, or another store of the same shape, runs the
    same program. Parameter vectors batched by `jax.vmap` are replayed as if they lay along P; a vmap over anything
    else replays the grids one after the other.

    Args:
      controller: What to replay.
      store: The recorded branches, of Q questions.
      params: Parameter vectors, with a leading axis P on every leaf: ``jax.vmap(controller.schedule)(betas)``.
      orders: ``[Q, S, B]`` the branch that each slot holds, −1 for none: from `orders.published_orders` or its
        siblings.
      rules: What actions cost; defaults to the published tables' accounting, without a budget.
      devices: Devices to split the episodes among; none waits for another, and the outcomes do not depend on their
        number. Defaults to one device, wherever the arrays are.
      lanes: Episodes run side by side per device; defaults to `LANES`.
      rounds: Rounds between checks for ended episodes; defaults to `ROUNDS`.

    Returns:
      The outcomes, every field ``[P, Q, S]``. Padded questions have no branch: they read nothing, answer
      NO_ANSWER and are never right; exclude them from means with ``store.question_mask``.

    Raises:
      InputError: if the shapes do not fit, `params` has no leading axis, or the store holds more answers than an
        int32 can number.
    """
    return evaluate_and_count(controller, store, params, orders, rules, devices=devices, lanes=lanes, rounds=rounds)[0]


def evaluate_and_count(
    controller: Controller,
    store: ReplayStore,
    params: PyTree,
    orders: Int[Array, ...],
    rules: Rules | None = None,
    *,
    devices: Sequence[jax.Device] | None = None,
    lanes: int | None = None,
    rounds: int | None = None,
) -> tuple[Outcome, Int32[Array, ""]]:
    """What `evaluate` returns, and the number of rounds executed, summed over all lanes of all devices.

    The share of them in which an episode was running, ``outcome.rounds.sum() / ran``, is the lanes' occupancy.
    """
    rules = Rules() if rules is None else rules
    environment.check_rules(rules)
    check_orders(store, orders)
    for name, number in (("lanes", lanes), ("rounds", rounds)):
        if number is not None:
            check_whole(name, number, 1, 2**20)
    store, params, orders, rules = jax.tree.map(jnp.asarray, (store, params, orders, rules))
    _check_params(params)
    if store.answers.size >= 2**31:
        raise InputError(
            f"store: {store.answers.size} answers, more than an int32 can index. Replay it in chunks of fewer "
            "questions, as `sweep` does."
        )
    platform = jax.default_backend() if devices is None else devices[0].platform
    replay = functools.partial(
        _replay, controller, lanes or LANES.get(platform, LANES[None]), rounds or ROUNDS.get(platform, ROUNDS[None])
    )
    return _joining_vmapped_params(functools.partial(_share_out, replay, devices))(store, params, orders, rules)


def _check_params(params: PyTree) -> None:
    shapes = {name: leaf.shape for name, leaf in named_leaves(params).items()}
    P = next((shape[0] for shape in shapes.values() if shape), None)
    for name, shape in shapes.items():
        if shape[:1] != (P,) or P == 0:
            raise InputError(
                f"params, leaf {name}: shape {shape}; it must be [P, …], with the leading axis P "
                f"{f'= {P} as in the other leaves' if P else 'in every leaf, at least 1'}. Make them with "
                "jax.vmap(controller.schedule)(betas)."
            )


def _joining_vmapped_params(run: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """`run(store, params, orders, rules)`, vmapped without multiplying the lanes."""

    @jax.custom_batching.custom_vmap
    def joining(store: ReplayStore, params: PyTree, orders: Array, rules: Rules) -> PyTree:
        return run(store, params, orders, rules)

    @joining.def_vmap
    def _(size: int, batched: Any, *args: Any) -> tuple[PyTree, PyTree]:
        leaves, tree = jax.tree.flatten(args)
        mapped = jax.tree.leaves(batched)
        if any(jax.tree.leaves([batched[0], *batched[2:]])):
            # Several stores, orders or rules: one grid after the other, each with all the lanes.
            def one(index: Array) -> PyTree:
                picked = [leaf[index] if m else leaf for leaf, m in zip(leaves, mapped, strict=True)]
                return joining(*jax.tree.unflatten(tree, picked))

            outcome, ran = jax.lax.map(one, jnp.arange(size))
        else:
            store, params, orders, rules = args
            params = jax.tree.map(
                lambda leaf, m: leaf if m else jnp.broadcast_to(leaf, (size, *leaf.shape)), params, batched[1]
            )
            joined = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), params)
            outcome, ran = joining(store, joined, orders, rules)
            outcome = jax.tree.map(lambda leaf: leaf.reshape(size, -1, *leaf.shape[1:]), outcome)
            # They shared the lanes, so the rounds are counted once, for the first.
            ran = jnp.zeros(size, jnp.int32).at[0].set(ran)
        return (outcome, ran), jax.tree.map(lambda _: True, (outcome, ran))

    return joining


def _share_out(
    replay: Callable[..., tuple[Array, Array]],
    devices: Sequence[jax.Device] | None,
    store: ReplayStore,
    params: PyTree,
    orders: Int[Array, "Q S B"],
    rules: Rules,
) -> tuple[Outcome, Int32[Array, ""]]:
    """Distributes the (question, order) pairs over the devices and puts the outcomes in their places."""
    Q, S, B = orders.shape
    # Each of n devices gets every n-th pair. Padding has no branch to open.
    count = 1 if devices is None else len(devices)
    padding = -(Q * S) % count
    questions = jnp.pad(jnp.repeat(jnp.arange(Q, dtype=jnp.int32), S), (0, padding))
    orders = jnp.pad(orders.reshape(Q * S, B), [(0, padding), (0, 0)], constant_values=-1)
    dealt = jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1), (questions, orders))

    def part(store: ReplayStore, params: PyTree, rules: Rules, *dealt: Array) -> tuple[Array, Array]:
        results, ran = replay(store, params, rules, *(x[0] for x in dealt))
        return results[None], ran[None]

    if devices is not None:
        mesh = Mesh(np.asarray(devices), "devices")
        shared, split = PartitionSpec(), PartitionSpec("devices")
        in_specs = (shared, shared, shared, split, split)
        part = jax.shard_map(part, mesh=mesh, in_specs=in_specs, out_specs=split, check_vma=False)
    results, ran = part(store, params, rules, *dealt)
    # [devices, P, pairs, F] → [F, P, pairs · devices]
    results = results.transpose(3, 1, 2, 0).reshape(results.shape[-1], results.shape[1], -1)[..., : Q * S]
    fields = [field.name for field in dataclasses.fields(Outcome)]
    columns = dict(zip(fields, results.reshape(len(fields), -1, Q, S), strict=True))
    flags = {name: columns[name] > 0 for name in ("correct", "passed", "unshown")}
    return Outcome(**(columns | flags)), jnp.sum(ran, dtype=jnp.int32)


# --- the driver: lanes -----------------------------------------------------------------------------------------------


class _Lane(NamedTuple):
    """A lane, in which one episode after the other is replayed."""

    number: Int32[Array, ""]  # of the episode, see `_replay`
    episode: Episode
    params: PyTree
    state: State
    memory: PyTree


class _Run(NamedTuple):
    """The progress of a device's replay."""

    lanes: _Lane  # every leaf [L, …]
    queue: Int32[Array, ""]  # the next episode's number
    results: Int32[Array, "E F"]
    ran: Int32[Array, ""]  # rounds so far


def _replay(
    controller: Controller,
    width: int,
    rounds: int,
    store: ReplayStore,
    params: PyTree,
    rules: Rules,
    questions: Int32[Array, " M"],
    orders: Int[Array, "M B"],
) -> tuple[Int32[Array, "P M F"], Int32[Array, ""]]:
    """Outcome fields of P parameter vectors on M (question, order) pairs, on one device; rounds × lanes executed.

    Episode lengths differ many times over, so no lane waits for another: once enough of the `width` lanes have ended,
    their outcomes are written to their places, and these lanes take the next episodes from the queue. It begins with
    the last parameter vectors, which on a β grid have the longest episodes.
    """
    world = World.of(store, rules, probe_everything=controller.probe_everything)
    P, M = len(jax.tree.leaves(params)[0]), len(questions)
    pairs = jax.vmap(environment.deal, in_axes=(None, 0, 0))(store, questions, orders)
    episodes = P * M
    width = min(width, episodes)
    batch = max(1, width // _REFILL)

    @jax.jit
    def begin_lane(number: Int32[Array, ""]) -> _Lane:
        """A lane at the start of an episode; a number past the last episode gives a lane that has ended."""
        row = _pick(params, P - 1 - jnp.minimum(jax.lax.div(number, np.int32(M)), P - 1))
        episode = _pick(pairs, jax.lax.rem(number, np.int32(M)))
        state, memory = begin(controller, world, episode, row)
        reason = jnp.where(number < episodes, state.stop_reason, StopReason.ANSWERED)
        return _Lane(number, episode, row, dataclasses.replace(state, stop_reason=reason), memory)

    def one_round(lane: _Lane) -> _Lane:
        state, memory, _ = play_round(controller, world, lane.episode, lane.params, lane.state, lane.memory)
        return lane._replace(state=state, memory=memory)

    def finish(lane: _Lane) -> Int32[Array, " F"]:
        outcome = outcome_of(world, lane.episode, lane.state)
        return jnp.stack([leaf.astype(jnp.int32) for leaf in jax.tree.leaves(outcome)])

    def ended(lanes: _Lane) -> Bool[Array, " L"]:
        return lanes.state.stop_reason != StopReason.RUNNING

    def play(run: _Run) -> _Run:
        lanes = jax.lax.fori_loop(0, rounds, lambda _, lanes: jax.vmap(one_round)(lanes), run.lanes)
        return run._replace(lanes=lanes, ran=run.ran + rounds)

    def play_and_refill(run: _Run) -> _Run:
        enough = jnp.where(run.queue < episodes, batch, width)
        run = jax.lax.while_loop(lambda run: jnp.sum(ended(run.lanes), dtype=jnp.int32) < enough, play, run)
        lanes, queue, results, ran = run
        free = _first(ended(lanes) & ((lanes.number < episodes) | (queue < episodes)), batch)
        # Writes out of bounds are dropped: the padding of `free` where fewer are free, and that of the results.
        there = jnp.minimum(free, width - 1)
        rows = jax.vmap(finish)(_pick(lanes, there))
        number = jnp.where(free < width, _pick(lanes.number, there), episodes)
        results = _put(results, number, rows)
        # Never so, but XLA cannot know. What it knows now is that the lanes are overwritten after they have been read;
        # otherwise it copies them all each time.
        free = jnp.where(jnp.any(rows == np.iinfo(np.int32).min, axis=1), width, free)
        fresh = jax.vmap(begin_lane)(jnp.minimum(queue + jnp.arange(batch, dtype=jnp.int32), episodes))
        lanes = jax.tree.map(lambda leaf, new: _put(leaf, free, new), lanes, fresh)
        return _Run(lanes, queue + jnp.sum(free < width, dtype=jnp.int32), results, ran)

    # All lanes start as ended and are filled like those that end later: one program for both.
    past_the_end = jnp.asarray(episodes, jnp.int32)
    lane = jax.eval_shape(begin_lane, past_the_end)
    lanes = jax.tree.map(lambda leaf: jnp.zeros((width, *leaf.shape), leaf.dtype), lane)
    idle = dataclasses.replace(lanes.state, stop_reason=jnp.full(width, StopReason.ANSWERED, jnp.int32))
    run = jax.lax.while_loop(
        lambda run: (run.queue < episodes) | jnp.any(run.lanes.number < episodes),
        play_and_refill,
        _Run(
            lanes=lanes._replace(number=jnp.full(width, past_the_end), state=idle),
            queue=jnp.zeros((), jnp.int32),
            results=jnp.zeros((episodes, len(dataclasses.fields(Outcome))), jnp.int32),
            ran=jnp.zeros((), jnp.int32),
        ),
    )
    return run.results.reshape(P, M, -1)[::-1], run.ran * width


def _pick(tree: PyTree, index: Int32[Array, "*I"]) -> PyTree:
    """Every leaf at indices known to be in bounds: smaller programs than with general indexing."""
    return jax.tree.map(lambda leaf: leaf.at[index].get(mode="promise_in_bounds", wrap_negative_indices=False), tree)


def _put(array: Array, index: Int32[Array, " M"], rows: Array) -> Array:
    """Writes values at indices; those out of bounds are dropped."""
    return array.at[index].set(rows, mode="drop", wrap_negative_indices=False)


def _first(mask: Bool[Array, " L"], size: int) -> Int32[Array, " M"]:
    """Indices of the first `size` that are true, padded with L; top_k compiles to far less than jnp.nonzero."""
    places = jnp.arange(len(mask), dtype=jnp.float32)
    return (-jax.lax.top_k(-jnp.where(mask, places, jnp.float32(len(mask))), size)[0]).astype(jnp.int32)
