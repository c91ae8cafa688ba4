"""The contract of a controller: three pure functions over fixed shapes, like an optimizer in Optax."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float32, Int32, PyTree

from autotts_jax.environment import SLOTS, Action, Observation, act, example_observation
from autotts_jax.errors import InputError

__all__ = ["Controller", "check_shapes", "fresh_slots", "named_leaves", "sample_count"]


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


def fresh_slots(obs: Observation, branches: ArrayLike) -> Bool[Array, " B"]:
    """The slots that opening so many branches opens."""
    slots = jnp.arange(SLOTS, dtype=jnp.int32)
    return (slots >= obs.opened) & (slots < obs.opened + branches)


def check_shapes(controller: Controller) -> None:
    """Checks what can be told without running a controller: that its functions fit together.

    Raises:
      InputError: naming the function, what it does wrong, and what to change.
    """
    beta = jax.ShapeDtypeStruct((), jnp.float32)
    params = _traced(controller, "schedule", beta)
    if not jax.tree.leaves(params):
        raise InputError(f"{controller.name}.schedule returns no parameters. Return a NamedTuple of scalars.")
    for name, leaf in named_leaves(params).items():
        if leaf.shape or leaf.dtype not in (jnp.int32, jnp.float32):
            raise InputError(
                f"{controller.name}.schedule: {name} is {leaf.dtype}{list(leaf.shape)}. Make it an int32 or float32 "
                "scalar, as jnp.round(…).astype(jnp.int32) does."
            )
    memory = _traced(controller, "init", params)
    obs = example_observation()
    result = _traced(controller, "step", params, memory, obs)
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], Action):
        raise InputError(
            f"{controller.name}.step does not return (memory, Action). Build the Action with act(obs, …)."
        )
    _same(f"{controller.name}.step: memory", "as init makes it", memory, result[0])
    action = jax.eval_shape(lambda obs: act(obs, answer=0), obs)
    _same(f"{controller.name}.step: action", "as act(obs, …) makes it", action, result[1])


def _traced(controller: Controller, function: str, *args: PyTree) -> PyTree:
    """The shapes that a function of the controller returns; what it raises, in one line that names the place."""
    try:
        return jax.eval_shape(getattr(controller, function), *args)
    except Exception as error:
        code = getattr(getattr(controller, function), "__code__", None)
        frames = [f for f in traceback.extract_tb(error.__traceback__) if code and f.filename == code.co_filename]
        place = f" (line {frames[-1].lineno}: {frames[-1].line})" if frames else ""
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{controller.name}.{function}{place} raises {type(error).__name__}: {why} "
            "It must be traceable by JAX: jnp.where for if, fixed shapes."
        ) from error


def _same(what: str, how: str, expected: PyTree, found: PyTree) -> None:
    before, after = str(jax.tree.structure(expected)), str(jax.tree.structure(found))
    if before != after:
        raise InputError(f"{what} changes its structure: {after} instead of {before}. Return it {how}.")
    for (name, a), (_, b) in zip(named_leaves(expected).items(), named_leaves(found).items(), strict=True):
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            raise InputError(
                f"{what}: {name or 'the value'} is {b.dtype}{list(b.shape)} instead of {a.dtype}{list(a.shape)}. "
                f"Return it {how}; name the dtype."
            )


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """A pytree's leaves by name: ``a`` for fields and keys, ``a.b`` for nested ones, empty for a lone leaf."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
