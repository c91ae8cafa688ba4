"""The controller contract: three pure functions over fixed shapes, like an optimizer in Optax."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float32, Int32, PyTree

from autotts_jax.controllers.schedules import Schedule, named_leaves
from autotts_jax.controllers.tracing import Program, trace
from autotts_jax.environment import Action, Observation, act, example_observation
from autotts_jax.errors import ContractError, InputError

__all__ = ["Controller", "apply", "check_schedule", "check_shapes", "spare_last"]


@dataclasses.dataclass(frozen=True)
class Controller:
    """A policy with one knob β, written for one episode over B branch slots; the library batches it.

    The functions must be pure and traceable by JAX, take and return fixed shapes and dtypes (int32, float32,
    bool), and take every shape from their arguments: B is ``obs.width``, from 1 to 256. They are traced alone, once
    for given shapes, and may bring along few constants (see `tracing`). `autotts_jax.check_controller` checks the
    contract.

    Attributes:
      name: As it appears in tables.
      schedule: ``schedule(beta) -> params``: a `Schedule`, or a function. `beta` is a float32 scalar in [0, 1].
        `params` is a pytree of int32 and float32 arrays, mostly scalars, each monotone in β, preferably a NamedTuple:
        its fields name the parameters that ``--controller name:field=value`` overrides.
      init: ``init(params, obs) -> memory``, the controller's own state: a pytree of arrays. `obs` is the first
        observation.
      step: ``step(params, memory, obs) -> (memory, action)``, one round.
      probe_everything: Whether every interval's answer is probed, and paid for, as it is generated. If not, only
        answers that `Action.probe` requests, and those of finished branches, are revealed.
      bounds: Per parameter, the least and the greatest sensible value, both included; also the box that a search over
        parameters can draw from. Defaults to the schedule's; parameters without bounds are not checked.
      samples: The parameter that is a number of branches to sample, if any; checked against each question's branches.
      opens: Parameters that bound the branches of an episode: it never opens more than the greatest of them, and no
        decision depends on slots beyond. `sweep` can then replay it with fewer slots. Defaults to `samples`.
      widths: Numbers of slots that it was exported for (see `load_controller`); empty for any.
      source: The paper it is from.
    """

    name: str
    schedule: Callable[[Float32[Array, ""]], PyTree]
    init: Callable[[PyTree, Observation], PyTree]
    step: Callable[[PyTree, PyTree, Observation], tuple[PyTree, Action]]
    probe_everything: bool = True
    bounds: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict, hash=False, compare=False)
    samples: str | None = None
    opens: tuple[str, ...] = ()
    widths: tuple[int, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        """Fills in the defaults of `bounds` and `opens`."""
        if isinstance(self.schedule, Schedule):
            object.__setattr__(self, "bounds", {**self.schedule.bounds, **self.bounds})
        if self.samples is not None and not self.opens:
            object.__setattr__(self, "opens", (self.samples,))

    def __repr__(self) -> str:
        """Short, since it appears in error messages and JAX's own."""
        return f"Controller({self.name!r})"

    def most_branches(self, params: PyTree) -> int | None:
        """The most branches that an episode with these parameters can open; None if `opens` does not say."""
        if not self.opens:
            return None
        values = named_leaves(params)
        return max(int(np.max(values[name])) for name in self.opens)


def spare_last(
    candidates: Bool[Array, " B"], priority: Int32[Array, " B"], live: Bool[Array, " B"], *, spare: int
) -> Bool[Array, " B"]:
    """The candidates to prune, limited so that at least `spare` live branches remain.

    Args:
      candidates: Live branches that should be pruned.
      priority: The greatest is pruned first; no two candidates have the same.
      live: All live branches.
      spare: The fewest live branches that must remain.
    """
    short = spare - jnp.sum(live & ~candidates, dtype=jnp.int32)
    for place in range(spare):
        last = jnp.min(jnp.where(candidates, priority, np.iinfo(np.int32).max))
        candidates = candidates & ((short <= place) | (priority > last))
    return candidates


def check_shapes(controller: Controller, width: int = 64, feature_names: tuple[str, ...] = ()) -> None:
    """Checks, by tracing only, that a controller's functions fit together.

    Args:
      controller: The controller.
      width: B, the number of slots.
      feature_names: The store's features.

    Raises:
      InputError: naming the function, what it does wrong, and what to change.
    """
    params = check_schedule(controller)
    obs = example_observation(width, feature_names)
    memory = _traced(controller, "init", params, obs).out
    result = _traced(controller, "step", params, memory, obs).out
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], Action):
        raise InputError(
            f"{controller.name}.step does not return (memory, Action). Build the Action with act(obs, …)."
        )
    _same(f"{controller.name}.step: memory", "as init returns it", memory, result[0])
    action = jax.eval_shape(lambda obs: act(obs, answer=0), obs)
    _same(f"{controller.name}.step: action", "as act(obs, …) returns it", action, result[1])


def check_schedule(controller: Controller) -> PyTree:
    """Checks, by tracing only, a controller's parameters, and returns their shapes and dtypes.

    Raises:
      InputError: naming the parameter, what is wrong with it, and what to change.
    """
    params = _traced(controller, "schedule", jax.ShapeDtypeStruct((), jnp.float32)).out
    if not jax.tree.leaves(params):
        raise InputError(f"{controller.name}.schedule returns no parameters. Return a NamedTuple of arrays.")
    for name, leaf in named_leaves(params).items():
        if leaf.dtype not in (jnp.int32, jnp.float32):
            raise InputError(
                f"{controller.name}.schedule: {name} is {leaf.dtype}{list(leaf.shape)}. Make it int32 or float32, "
                "as whole(…) and real(…) in a Schedule do, or jnp.round(…).astype(jnp.int32)."
            )
    for name in controller.opens:
        if name not in named_leaves(params):
            raise InputError(
                f"{controller.name}.opens: there is no parameter {name}. Name parameters of the schedule."
            )
    return params


def apply(controller: Controller, function: str, *args: PyTree) -> PyTree:
    """What ``controller.function(*args)`` returns, computed by its program: see `tracing`.

    Raises:
      InputError: naming the function, the line, what it does wrong, and what to change.
    """
    return _traced(controller, function, *args)(*args)


def _traced(controller: Controller, function: str, *args: PyTree) -> Program:
    """A controller's function, traced alone; an error in it becomes one line that names the place."""
    try:
        return trace(f"{controller.name}.{function}", getattr(controller, function), *args)
    except ContractError:
        raise
    except Exception as error:
        code = getattr(getattr(controller, function), "__code__", None)
        if function == "init" and isinstance(error, TypeError) and code is not None and code.co_argcount == 1:
            raise InputError(
                f"{controller.name}.init takes one argument. Write init(params, obs): obs is the first observation, "
                "and obs.width the number of slots."
            ) from error
        frames = [f for f in traceback.extract_tb(error.__traceback__) if code and f.filename == code.co_filename]
        place = f" (line {frames[-1].lineno}: {frames[-1].line})" if frames else ""
        why = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".") + "."
        raise InputError(
            f"{controller.name}.{function}{place} raises {type(error).__name__}: {why} "
            "It must be traceable by JAX: jnp.where instead of if, fixed shapes, every shape from its arguments."
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
