"""Episodes to outcomes: `evaluate`, one pure function of arrays."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Int, Int32, PyTree

from autotts_jax import environment
from autotts_jax.controllers.base import Controller
from autotts_jax.environment import SLOTS, Action, Episode, Rules, State, StopReason
from autotts_jax.replay import ReplayStore

__all__ = ["Outcome", "Record", "evaluate", "record", "rollout"]

#: Episodes that run side by side: enough to fill the vector units, few enough to stay in the cache of a core.
LANES = 512

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


def rollout(controller: Controller, store: ReplayStore, episode: Episode, params: PyTree, rules: Rules) -> Outcome:
    """Replays one episode under one parameter vector; every field of the outcome is a scalar."""

    def running(carry: tuple[State, PyTree]) -> Bool[Array, ""]:
        return carry[0].stop_reason == StopReason.RUNNING

    def one_round(carry: tuple[State, PyTree]) -> tuple[State, PyTree]:
        state, memory, _ = _one_round(controller, store, episode, params, rules, *carry)
        return state, memory

    start = environment.init(episode), controller.init(params)
    state, _ = jax.lax.while_loop(running, one_round, start)
    return _outcome(controller, store, episode, state, rules)


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
    """`rollout` that keeps every round, for at most so many rounds (static)."""

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
        probes=state.probes,
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
    for leaf in jax.tree.leaves(params):
        chex.assert_rank(leaf, 1, custom_message="every leaf of params needs the leading axis P")
    chex.assert_equal_shape(jax.tree.leaves(params), custom_message="every leaf of params needs the leading axis P")
    P = len(jax.tree.leaves(params)[0])

    deals = jax.vmap(lambda q, row: jax.vmap(lambda order: environment.deal(store, q, order))(row))(
        jnp.arange(Q, dtype=jnp.int32), orders
    )
    deals = jax.tree.map(lambda leaf: leaf.reshape(Q * S, *leaf.shape[2:]), deals)
    episodes = P * Q * S
    count = min(LANES, episodes)

    def begin(index: Int32[Array, ""]) -> _Lane:
        """A lane at the start of an episode; one past the last episode has ended already."""
        row = jax.tree.map(lambda leaf: leaf[jnp.minimum(index // (Q * S), P - 1)], params)
        episode = jax.tree.map(lambda leaf: leaf[index % (Q * S)], deals)
        state = environment.init(episode)
        over = jnp.where(index < episodes, state.stop_reason, StopReason.ANSWERED)
        state = dataclasses.replace(state, stop_reason=over)
        return _Lane(index, episode, row, state, controller.init(row))

    def one_round(lane: _Lane) -> _Lane:
        state, memory, _ = _one_round(controller, store, lane.episode, lane.params, rules, lane.state, lane.memory)
        return lane._replace(state=state, memory=memory)

    def shift(carry: tuple[_Lane, Int32[Array, ""], Int32[Array, "E F"]]) -> Any:
        lanes, queue, results = carry
        lanes = jax.lax.fori_loop(0, ROUNDS, lambda _, lanes: jax.vmap(one_round)(lanes), lanes)
        ended = lanes.state.stop_reason != StopReason.RUNNING
        outcomes = jax.vmap(lambda lane: _outcome(controller, store, lane.episode, lane.state, rules))(lanes)
        rows = jnp.stack([leaf.astype(jnp.int32) for leaf in jax.tree.leaves(outcomes)], axis=-1)
        results = results.at[jnp.where(ended, lanes.number, episodes)].set(rows, mode="drop")
        place = jnp.cumsum(ended, dtype=jnp.int32)
        index = jnp.where(ended, jnp.minimum(queue + place - 1, episodes), lanes.number)
        fresh = jax.vmap(begin)(index)
        lanes = jax.tree.map(
            lambda old, new: jnp.where(ended.reshape(-1, *[1] * (old.ndim - 1)), new, old), lanes, fresh
        )
        return lanes, queue + place[-1], results

    def unfinished(carry: tuple[_Lane, Int32[Array, ""], Int32[Array, "E F"]]) -> Bool[Array, ""]:
        return jnp.any(carry[0].number < episodes)

    lanes = jax.vmap(begin)(jnp.arange(count, dtype=jnp.int32))
    fields = dataclasses.fields(Outcome)
    start = lanes, jnp.asarray(count, jnp.int32), jnp.zeros((episodes, len(fields)), jnp.int32)
    _, _, results = jax.lax.while_loop(unfinished, shift, start)
    columns = {field.name: results[:, i].reshape(P, Q, S) for i, field in enumerate(fields)}
    return Outcome(**(columns | {"correct": columns["correct"] > 0}))


class _Lane(NamedTuple):
    """A place in which one episode after the other is replayed."""

    number: Int32[Array, ""]  # of the episode
    episode: Episode
    params: PyTree
    state: State
    memory: PyTree
