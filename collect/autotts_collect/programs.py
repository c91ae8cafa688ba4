"""A live question's decisions, compiled once for a controller and a shape, by the environment's own rules.

A round of replay is `environment.step`. Live, it is cut in the middle: what the controller wants is admitted as far as
what is known allows; the engine generates; the very step of replay is applied to what has become known; the controller
decides again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Int32, PyTree

from autotts_jax import environment
from autotts_jax.controllers.base import Controller, apply
from autotts_jax.environment import Action, Episode, Rules, State, World
from autotts_jax.replay import ReplayStore
from autotts_jax.rollout import COMPILER_OPTIONS, Outcome, begin, outcome_of

__all__ = ["Decider", "Decision", "Wanted"]


class Decision(NamedTuple):
    """Where a question stands, and what the controller asks for; stays on the device.

    Attributes:
      state: Before the action.
      memory: The controller's, after it decided.
      action: What it asks for.
    """

    state: State
    memory: PyTree
    action: Action


class Wanted(NamedTuple):
    """What must be known before the round is over.

    Attributes:
      depth: ``[B]`` the depth to which each slot must be generated, unless it ends before.
      probe: ``[B]`` slots whose answer is to be read at that depth, unless they end.
      pruned: ``[B]`` slots that will not be continued.
      running: Whether the question goes on; if not, nothing is wanted.
    """

    depth: Int32[np.ndarray, " B"]
    probe: Bool[np.ndarray, " B"]
    pruned: Bool[np.ndarray, " B"]
    running: bool


class Decider:
    """A controller with one parameter vector, under rules; its decisions run on the CPU.

    Engines want the accelerators for themselves, and one decision is too small for them. The store's arrays, in NumPy,
    may change once a call has returned: what it returns has been computed, and shares nothing with them.

    Attributes:
      probe_everything: Whether every interval's answer is read as it is generated.
      has_budget: Whether what branches cost decides on what is admitted.
    """

    def __init__(self, controller: Controller, params: PyTree, rules: Rules) -> None:
        """A decider; programs are shared by all that have the same controller and shapes."""
        self.probe_everything = controller.probe_everything
        self.has_budget = rules.budget is not None
        self._controller = controller
        self._params, self._rules = jax.device_put(
            jax.tree.map(lambda leaf: np.asarray(leaf, np.result_type(leaf)), (params, _as_int32(rules))),
            jax.local_devices(backend="cpu")[0],
        )

    def compile(self, store: ReplayStore) -> None:
        """Compiles what stores of this shape need, before questions would wait for it."""
        decision, _ = self.begin(store)
        self.turn(store, decision)
        if self.has_budget:
            self.again(store, decision)
        self.outcome(store, decision)

    def begin(self, store: ReplayStore) -> tuple[Decision, Wanted]:
        """The first decision on a question."""
        return _told(*_begin(self._controller, self._params, self._rules, store))

    def turn(self, store: ReplayStore, decision: Decision) -> tuple[Decision, Wanted]:
        """The next decision, once all that was wanted is known."""
        return _told(*_turn(self._controller, self._params, self._rules, store, decision))

    def again(self, store: ReplayStore, decision: Decision) -> Wanted:
        """What the same decision wants, now that more is known: under a budget, branches that ended leave more."""
        return _told(decision, _again(self._controller, self._rules, store, decision))[1]

    def outcome(self, store: ReplayStore, decision: Decision) -> Outcome:
        """The outcome of a question that is no longer running; every field a scalar."""
        return jax.device_get(_outcome(self._controller, self._rules, store, decision.state))


def _as_int32(rules: Rules) -> Rules:
    budget = None if rules.budget is None else np.int32(np.asarray(rules.budget))
    return Rules(cost=rules.cost, probe_cost=np.int32(np.asarray(rules.probe_cost)), budget=budget)


def _told(decision: Decision, wanted: Int32[Array, "4 B"]) -> tuple[Decision, Wanted]:
    depth, probe, pruned, running = np.asarray(wanted)
    return decision, Wanted(depth, probe > 0, pruned > 0, bool(running[0]))


def _world(controller: Controller, rules: Rules, store: ReplayStore) -> tuple[World, Episode]:
    world = World.of(store, rules, probe_everything=controller.probe_everything)
    slots = jnp.arange(store.intervals.shape[-1], dtype=jnp.int32)
    order = jnp.where(jnp.asarray(store.intervals)[0] > 0, slots, -1)
    return world, environment.deal(store, jnp.zeros((), jnp.int32), order)


def _wanted(world: World, episode: Episode, state: State, action: Action) -> Int32[Array, "4 B"]:
    """`Wanted` as one array, since every transfer costs."""
    admitted = environment.admit(world, episode, state, action)
    rows: list[Any] = [
        state.depth + admitted.intervals,
        admitted.probe,
        state.pruned | admitted.prune,
        jnp.broadcast_to(admitted.running, state.depth.shape),
    ]
    return jnp.stack([row.astype(jnp.int32) for row in rows])


def _decide(
    controller: Controller, params: PyTree, world: World, episode: Episode, state: State, memory: PyTree
) -> tuple[Decision, Int32[Array, "4 B"]]:
    obs = environment.observe(world, episode, state)
    memory, action = apply(controller, "step", params, memory, obs)
    return Decision(state, memory, action), _wanted(world, episode, state, action)


def _compiled(function: Any) -> Any:
    return jax.jit(function, static_argnames="controller", compiler_options=COMPILER_OPTIONS)


@_compiled
def _begin(
    controller: Controller, params: PyTree, rules: Rules, store: ReplayStore
) -> tuple[Decision, Int32[Array, "4 B"]]:
    world, episode = _world(controller, rules, store)
    return _decide(controller, params, world, episode, *begin(controller, world, episode, params))


@_compiled
def _turn(
    controller: Controller, params: PyTree, rules: Rules, store: ReplayStore, decision: Decision
) -> tuple[Decision, Int32[Array, "4 B"]]:
    world, episode = _world(controller, rules, store)
    state = environment.step(world, episode, decision.state, decision.action)
    return _decide(controller, params, world, episode, state, decision.memory)


@_compiled
def _again(controller: Controller, rules: Rules, store: ReplayStore, decision: Decision) -> Int32[Array, "4 B"]:
    world, episode = _world(controller, rules, store)
    return _wanted(world, episode, decision.state, decision.action)


@_compiled
def _outcome(controller: Controller, rules: Rules, store: ReplayStore, state: State) -> Outcome:
    world, episode = _world(controller, rules, store)
    return outcome_of(world, episode, state)
