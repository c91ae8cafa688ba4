"""Episodes to outcomes: `evaluate`, the fast driver, and `record`, which keeps every round."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Bool, Int, Int32, PyTree

from autotts_jax import environment
from autotts_jax.controllers.base import Controller
from autotts_jax.environment import SLOTS, Action, Episode, Rules, State, StopReason
from autotts_jax.replay import ReplayStore

__all__ = ["Outcome", "Record", "evaluate", "record"]

#: Episodes that run side by side, by platform: on a CPU enough to fill the vector units and few enough to stay in
#: the cache of a core, elsewhere (None) many thousands.
LANES = {"cpu": 256, None: 8192}

#: Rounds between refills of the lanes whose episode has ended.
ROUNDS = 4


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """How episodes ended and what they cost; `evaluate` gives each field the shape ``[P, Q, S]``.

    Attributes:
      correct: Whether the answer is the gold answer (for an oracle: whether a branch read to its end gave it).
      answer: Id of the answer, NO_ANSWER if there was none.
      tokens: Tokens spent, by the cost model's accounting.
      sequential_tokens: Tokens on the critical path, see `environment.sequential_tokens`.
      cost: In the cost model's unit, probes included.
      intervals: Σ ℓᵢ.
      probes: |Ω|, the probes paid for; the answers of finished branches are no probes.
      rounds: Calls of the controller.
      opened: Branches opened.
      pruned: Branches pruned.
      refused: Atomic actions that were not admissible and were masked.
      stop_reason: `StopReason`.
    """

    correct: Bool[Array, "P Q S"]
    answer: Int32[Array, "P Q S"]
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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """What happened in each round of an episode; every array has the rounds as its leading axis T.

    Rows after the episode's end repeat its last state; ``state.round`` tells them.

    Attributes:
      action: What the controller asked for.
      memory: What it remembered after that.
      state: The state after the round.
    """

    action: Action
    memory: PyTree
    state: State


def record(
    controller: Controller, store: ReplayStore, episode: Episode, params: PyTree, rules: Rules, rounds: int
) -> tuple[Outcome, Record]:
    """Replays one episode under one parameter vector for so many rounds (static), and keeps them all.

    Fields of the outcome are scalars; the episode has ended if its stop reason says so.
    """

    def one_round(carry: tuple[State, PyTree], _: None) -> tuple[tuple[State, PyTree], Record]:
        state, memory, action = _one_round(controller, store, episode, params, rules, *carry)
        return (state, memory), Record(action=action, memory=memory, state=state)

    start = environment.init(episode), controller.init(params)
    (state, _), rows = jax.lax.scan(one_round, start, length=rounds)
    return _outcome(controller, store, episode, state, rules), rows


def _one_round(
    controller: Controller,
    store: ReplayStore,
    episode: Episode,
    params: PyTree,
    rules: Rules,
    state: State,
    memory: PyTree,
) -> tuple[State, PyTree, Action]:
    obs = environment.observe(store, episode, state, rules)
    memory, action = controller.step(params, memory, obs)
    state = environment.step(store, episode, state, action, rules, controller.probe_everything)
    return state, memory, action


def _outcome(controller: Controller, store: ReplayStore, episode: Episode, state: State, rules: Rules) -> Outcome:
    """What an ended episode comes to."""
    gold = store.gold[episode.question]
    read = (state.depth > 0) & (state.depth == episode.intervals)
    hit = jnp.any(read & (state.answer == gold)) if controller.oracle else state.prediction == gold
    return Outcome(
        correct=hit & (gold >= 0),
        answer=state.prediction,
        tokens=environment.tokens(episode, state, rules),
        sequential_tokens=environment.sequential_tokens(episode, state, rules),
        cost=environment.cost(episode, state, rules),
        intervals=jnp.sum(state.depth, dtype=jnp.int32),
        probes=jnp.sum(state.probes, dtype=jnp.int32),
        rounds=state.round,
        opened=state.opened,
        pruned=jnp.sum(state.pruned, dtype=jnp.int32),
        refused=state.refused,
        stop_reason=state.stop_reason,
    )


def evaluate(
    controller: Controller,
    store: ReplayStore,
    params: PyTree,
    orders: Int[Array, "Q S B"],
    rules: Rules | None = None,
    *,
    devices: Sequence[jax.Device] | None = None,
    lanes: int | None = None,
) -> Outcome:
    """Replays every parameter vector on every question under every branch order.

    A pure function of arrays: it can be jitted (with `controller` static), vmapped over `params`, scanned over
    and embedded. Nothing about the arrays' values is compiled in, so another β grid of the same size, or another
    store of the same shape, runs the same program.

    Args:
      controller: What to replay.
      store: The recorded branches, of Q questions.
      params: As `controller.schedule` makes them, with a leading axis P on every leaf:
        ``jax.vmap(controller.schedule)(betas)``.
      orders: ``[Q, S, B]`` the branch that each slot holds, −1 for none: from `replay.published_orders` or its
        siblings.
      rules: What actions cost; the published tables' accounting without a budget if left out.
      devices: Share the episodes out to these, each of which replays its part without waiting for the others.
        The outcomes are the same on any number. Left out: one device, wherever the arrays are.
      lanes: Episodes that run side by side on a device; see `LANES` for what is taken if left out.

    Returns:
      The outcomes, every field ``[P, Q, S]``. Padded questions have no branch: they read nothing, answer
      NO_ANSWER and are never right; leave them out of means with ``store.question_mask``.

    Raises:
      AssertionError: if the shapes do not fit, or `params` has no leading axis.
    """
    rules = Rules() if rules is None else rules
    store, orders, params = jax.tree.map(jnp.asarray, (store, orders, params))
    Q, S, _ = orders.shape
    chex.assert_shape(orders, (len(store.gold), S, SLOTS), custom_message="orders must be [Q, S, SLOTS]")
    needs_axis = "every leaf of params needs the leading axis P"
    chex.assert_rank(jax.tree.leaves(params), {*range(1, 9)}, custom_message=needs_axis)
    chex.assert_equal_shape_prefix(jax.tree.leaves(params), 1, custom_message=needs_axis)

    # The episodes of one device are those of every n-th (question, shuffle). Padding has no branch to open.
    count = 1 if devices is None else len(devices)
    padding = -(Q * S) % count
    questions = jnp.pad(jnp.repeat(jnp.arange(Q, dtype=jnp.int32), S), (0, padding))
    orders = jnp.pad(orders.reshape(Q * S, SLOTS), [(0, padding), (0, 0)], constant_values=-1)
    dealt = jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1), (questions, orders))
    platform = jax.default_backend() if devices is None else devices[0].platform
    replay = functools.partial(_replay, controller, lanes or LANES.get(platform, LANES[None]))
    if devices is None:
        results = replay(store, params, rules, *(x[0] for x in dealt))[None]
    else:
        mesh = Mesh(np.asarray(devices), "devices")
        shared, split = PartitionSpec(), PartitionSpec("devices")
        results = jax.shard_map(
            lambda store, params, rules, *dealt: replay(store, params, rules, *(x[0] for x in dealt))[None],
            mesh=mesh,
            in_specs=(shared, shared, shared, split, split),
            out_specs=split,
            check_vma=False,
        )(store, params, rules, *dealt)
    # [devices, P, pairs, F] → [F, P, pairs · devices]
    results = results.transpose(3, 1, 2, 0).reshape(results.shape[-1], results.shape[1], -1)[..., : Q * S]
    fields = [field.name for field in dataclasses.fields(Outcome)]
    columns = dict(zip(fields, results.reshape(len(fields), -1, Q, S), strict=True))
    return Outcome(**(columns | {"correct": columns["correct"] > 0}))


# --- the driver: lanes -----------------------------------------------------------------------------------------------


class _Lane(NamedTuple):
    """A place in which one episode after the other is replayed."""

    number: Int32[Array, ""]  # of the episode, see `_replay`
    episode: Episode
    params: PyTree
    state: State
    memory: PyTree


def _replay(
    controller: Controller,
    width: int,
    store: ReplayStore,
    params: PyTree,
    rules: Rules,
    questions: Int32[Array, " M"],
    orders: Int[Array, "M B"],
) -> Int32[Array, "P M F"]:
    """The outcomes' fields of P parameter vectors on M (question, order) pairs, on one device.

    Episodes differ in length many times over, so no lane waits for another: every few rounds, lanes whose episode
    has ended write its outcome to its place and take the next one from the queue. There are `width` lanes. The
    queue begins with the last parameter vectors, which on a β grid are those of the longest episodes.
    """
    episodes_of = jax.vmap(environment.deal, in_axes=(None, 0, 0))(store, questions, orders)
    P, M = len(jax.tree.leaves(params)[0]), len(questions)
    episodes = P * M

    def begin(number: Int32[Array, ""]) -> _Lane:
        """A lane at the start of an episode; one past the last episode has ended already."""
        row = jax.tree.map(lambda leaf: leaf[P - 1 - jnp.minimum(number // M, P - 1)], params)
        episode = jax.tree.map(lambda leaf: leaf[number % M], episodes_of)
        state = environment.init(episode)
        reason = jnp.where(number < episodes, state.stop_reason, StopReason.ANSWERED)
        return _Lane(number, episode, row, dataclasses.replace(state, stop_reason=reason), controller.init(row))

    def one_round(lane: _Lane) -> _Lane:
        state, memory, _ = _one_round(controller, store, lane.episode, lane.params, rules, lane.state, lane.memory)
        return lane._replace(state=state, memory=memory)

    def refill(carry: tuple[_Lane, Int32[Array, ""], Int32[Array, "E F"]]) -> Any:
        lanes, queue, results = carry
        lanes = jax.lax.fori_loop(0, ROUNDS, lambda _, lanes: jax.vmap(one_round)(lanes), lanes)
        ended = lanes.state.stop_reason != StopReason.RUNNING
        outcomes = jax.vmap(lambda lane: _outcome(controller, store, lane.episode, lane.state, rules))(lanes)
        rows = jnp.stack([leaf.astype(jnp.int32) for leaf in jax.tree.leaves(outcomes)], axis=-1)
        results = results.at[jnp.where(ended, lanes.number, episodes)].set(rows, mode="drop")
        place = jnp.cumsum(ended, dtype=jnp.int32)
        fresh = jax.vmap(begin)(jnp.where(ended, jnp.minimum(queue + place - 1, episodes), lanes.number))
        lanes = jax.vmap(lambda ended, old, new: jax.tree.map(functools.partial(jnp.where, ended), new, old))(
            ended, lanes, fresh
        )
        return lanes, queue + place[-1], results

    def unfinished(carry: tuple[_Lane, Int32[Array, ""], Int32[Array, "E F"]]) -> Bool[Array, ""]:
        return jnp.any(carry[0].number < episodes)

    lanes = jax.vmap(begin)(jnp.arange(min(width, episodes), dtype=jnp.int32))
    results = jnp.zeros((episodes, len(dataclasses.fields(Outcome))), jnp.int32)
    start = lanes, jnp.asarray(len(lanes.number), jnp.int32), results
    _, _, results = jax.lax.while_loop(unfinished, refill, start)
    return results.reshape(P, M, -1)[::-1]
