"""The contract of a controller: three pure functions over fixed shapes, like an optimizer in Optax."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float32, Int32, PyTree

from autotts_jax.environment import SLOTS, Action, Observation

__all__ = ["Controller", "fresh_slots", "sample_count"]


@dataclasses.dataclass(frozen=True)
class Controller:
    """A policy with one knob β, written for one episode; the library batches it.

    The functions must be pure and traceable by JAX, take and return fixed shapes and dtypes (int32, float32,
    bool), and close over no arrays. `autotts_jax.testing.check_controller` checks the contract.

    Attributes:
      name: As it appears in tables.
      schedule: ``schedule(beta) -> params``. `beta` is a float32 scalar in [0, 1]. `params` is a pytree of int32
        and float32 scalars, each monotone in β, best a NamedTuple: its fields name the parameters that
        ``--controller name:field=value`` overrides.
      init: ``init(params) -> memory``, the controller's own state: a pytree of arrays.
      step: ``step(params, memory, obs) -> (memory, action)``, one round.
      probe_everything: Every interval's answer is probed as it is generated, and paid for. Otherwise only what
        `Action.probe` names, and the answers of finished branches, can be seen.
      bounds: Per parameter the least and the greatest value that makes sense, both included; also the box that
        a search over parameters can draw from. Parameters left out are not checked.
      samples: The parameter that says how many branches are sampled, if there is one; checked against the pool.
      oracle: Not a method but an upper bound: graded as right if any branch it read to the end is right (pass@n).
      source: The paper.
    """

    name: str
    schedule: Callable[[Float32[Array, ""]], PyTree]
    init: Callable[[PyTree], PyTree]
    step: Callable[[PyTree, PyTree, Observation], tuple[PyTree, Action]]
    probe_everything: bool = True
    bounds: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict, hash=False, compare=False)
    samples: str | None = None
    oracle: bool = False
    source: str = ""

    def __repr__(self) -> str:
        """Short, since it appears in error messages and JAX's own."""
        return f"Controller({self.name!r})"


def sample_count(beta: Float32[Array, ""]) -> Int32[Array, ""]:
    """β as a number of samples on a log scale: 64^β, from 1 to 64."""
    return jnp.round(jnp.exp2(6 * beta)).astype(jnp.int32)


def fresh_slots(obs: Observation, branches: ArrayLike) -> Bool[Array, "B"]:
    """The slots that opening so many branches opens."""
    slots = jnp.arange(SLOTS, dtype=jnp.int32)
    return (slots >= obs.opened) & (slots < obs.opened + branches)
