"""A controller's functions, traced alone: what a program computes depends on its arguments and on nothing around it.

A function is traced once for given shapes, by a thread of its own, whose Python frames lead to no store and no gold
answer; the drivers replay the jaxpr that came out. So nothing in the function runs where data is at hand, and what it
brought along lies open: `trace` refuses many constants, calls back into Python, values of another trace, and a
function that changes the library.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import math
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FunctionType
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from jax import Array
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import stablehlo as stablehlo_dialect
from jax.interpreters.mlir import make_ir_context
from jaxtyping import PyTree

from autotts_jax.errors import ContractError
from autotts_jax.replay import AnyArray
from autotts_jax.voting import confidence_table

__all__ = ["MAX_CONSTANTS", "Program", "trace"]

#: How many numbers a function may bring along in arrays, and again how many different ones in its expressions: one for
#: each slot of the widest episode, as for weights or thresholds by slot. To know recorded branches by heart takes
#: thousands. (A bound, not a proof: bits can be packed. Only held-out data shows what a controller has learned.)
MAX_CONSTANTS = 256

# Primitives that leave the program; their effects, if they have any, are found by themselves.
_OUTSIDE = ("pure_callback", "io_callback", "debug_callback", "debug_print", "ffi_call")

# Settings of JAX that decide what is traced. A thread begins with the process's, not with its creator's.
_SETTINGS = (
    "enable_x64",
    "numpy_dtype_promotion",
    "numpy_rank_promotion",
    "default_matmul_precision",
    "default_prng_impl",
    "threefry_partitionable",
)
_Settings: TypeAlias = tuple[Any, ...]

_ONE_AT_A_TIME = threading.RLock()

# Programs kept; a sweep needs a few for each controller.
_KEPT = 512


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A function that has been traced alone.

    Attributes:
      label: What it is, for messages.
      jaxpr: What it computes, from leaves to leaves.
      out: Structure, shapes and dtypes of what it returns.
      settings: The settings that it was traced with.
    """

    label: str
    jaxpr: ClosedJaxpr
    out: PyTree
    settings: _Settings

    def __call__(self, *args: PyTree) -> PyTree:
        """What the function returns for arguments of the shapes that it was traced with."""
        return jax.tree.unflatten(jax.tree.structure(self.out), self._run(*jax.tree.leaves(args)))

    @functools.cached_property
    def _run(self) -> Callable[..., Sequence[Array]]:
        """From leaves to leaves. Batching, which may run rules written in Python, is traced alone, too."""

        @jax.custom_batching.custom_vmap
        def run(*leaves: AnyArray) -> list[Any]:
            return jaxpr_as_fun(self.jaxpr)(*leaves)

        @run.def_vmap
        def _(size: int, batched: Sequence[bool], *leaves: AnyArray) -> tuple[list[Any], list[bool]]:
            shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
            found = list(_batched(self, size, tuple(batched), shapes)(*leaves))
            return found, [True] * len(found)

        return run


def trace(label: str, function: Callable[..., PyTree], *args: PyTree) -> Program:
    """Traces a function alone, or finds the program of an earlier trace with the same shapes.

    Args:
      label: What to call it in messages.
      function: A pure function of pytrees of arrays.
      args: Its arguments, or their shapes.

    Raises:
      ContractError: if it brings along what a controller must not have.
      Exception: whatever it raises.
    """
    leaves, tree = jax.tree.flatten(args)
    shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    return _traced(label, function, tree, shapes, tuple(getattr(jax.config, f"jax_{name}") for name in _SETTINGS))


@functools.lru_cache(_KEPT)
def _traced(
    label: str,
    function: Callable[..., PyTree],
    tree: jax.tree_util.PyTreeDef,
    shapes: tuple[jax.ShapeDtypeStruct, ...],
    settings: _Settings,
) -> Program:
    with _ONE_AT_A_TIME:  # lest the library's changes be another trace's
        before = _library()
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            jaxpr, out = thread.submit(_jaxpr_of, function, jax.tree.unflatten(tree, shapes), settings).result()
        _refuse_other_library(label, before)
    _refuse_luggage(label, jaxpr)
    return Program(label, jaxpr, out, settings)


@functools.lru_cache(_KEPT)
def _batched(
    program: Program, size: int, batched: tuple[bool, ...], shapes: tuple[jax.ShapeDtypeStruct, ...]
) -> Callable[..., Sequence[Array]]:
    function = jax.vmap(jaxpr_as_fun(program.jaxpr), [0 if b else None for b in batched], axis_size=size)
    tree = jax.tree.structure(shapes)
    return _traced(program.label, function, tree, shapes, program.settings)._run


def _jaxpr_of(function: Callable[..., PyTree], args: Sequence[PyTree], settings: _Settings) -> tuple[ClosedJaxpr, Any]:
    with contextlib.ExitStack() as stack:
        for name, value in zip(_SETTINGS, settings, strict=True):
            stack.enter_context(getattr(jax, name)(value))
        # A new function each time: JAX keeps traces by function, and an earlier one may not have been made here.
        return jax.make_jaxpr(lambda *args: function(*args), return_shape=True)(*args)


# --- what is refused -------------------------------------------------------------------------------------------------


def _refuse_luggage(label: str, jaxpr: ClosedJaxpr) -> None:
    """Refuses calls back into Python, values of other traces, and too many constants."""
    arrays: dict[int, Any] = {}
    in_arrays = 0
    numbers: set[str] = set()
    outside: set[str] = set()
    for inner, constants in _inside(jaxpr.jaxpr, jaxpr.consts):
        arrays.update((id(constant), constant) for constant in constants)
        for equation in inner.eqns:
            name = equation.primitive.name
            if name in _OUTSIDE or equation.effects:
                outside.add(name)
            if name == "call_exported":
                exported = _luggage_of(equation.params["exported"].mlir_module_serialized)
                in_arrays += exported.in_arrays
                numbers |= exported.numbers
                outside |= exported.outside
            numbers |= {f"{value.aval} {value.val!r}" for value in equation.invars if isinstance(value, Literal)}
    if outside:
        raise ContractError(
            f"{label} calls back into Python or has another side effect ({', '.join(sorted(outside))}). Use jax.numpy "
            "and jax.lax only; `autotts trace` shows what happens in each round."
        )
    if any(isinstance(array, jax.core.Tracer) for array in arrays.values()):
        raise ContractError(
            f"{label} closes over a value that another function is being traced with. Make it a parameter: `evaluate` "
            "takes any parameters, traced ones included."
        )
    in_arrays += sum(int(np.size(array)) for array in arrays.values() if not _is_confidence_table(array))
    for count, what in ((in_arrays, "numbers in arrays"), (len(numbers), "different numbers in its expressions")):
        if count > MAX_CONSTANTS:
            raise ContractError(
                f"{label} brings along {count} {what}; at most {MAX_CONSTANTS} may be constants. Make them parameters "
                "(a parameter may be a vector), or compute them with jax.numpy inside the function."
            )


def _inside(jaxpr: Jaxpr, constants: Sequence[Any]) -> Iterator[tuple[Jaxpr, Sequence[Any]]]:
    """The jaxpr and all that it contains, each with its constants."""
    yield jaxpr, constants
    for equation in jaxpr.eqns:
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
            if isinstance(value, ClosedJaxpr):
                yield from _inside(value.jaxpr, value.consts)
            elif isinstance(value, Jaxpr):
                yield from _inside(value, ())


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, Jaxpr | ClosedJaxpr)


def _is_confidence_table(array: Any) -> bool:
    """Whether a constant is the one that `voting.confidence` looks its values up in."""
    table = confidence_table()
    return np.size(array) == table.size and np.array_equal(array, table)


class _Luggage(NamedTuple):
    """What an exported program brings along."""

    in_arrays: int
    numbers: frozenset[str]
    outside: frozenset[str]


@functools.lru_cache(_KEPT)
def _luggage_of(stablehlo: bytes) -> _Luggage:
    sizes: list[int] = []
    numbers: set[str] = set()
    outside: set[str] = set()

    def visit(operation: ir.Operation) -> ir.WalkResult:
        if operation.name == "stablehlo.constant":
            value = operation.attributes["value"]
            if isinstance(value, ir.DenseElementsAttr) and value.is_splat:
                numbers.add(str(value.get_splat_value()))
            elif not (isinstance(value, ir.DenseFPElementsAttr) and _is_confidence_table(value)):
                sizes.append(math.prod(ir.RankedTensorType(operation.results[0].type).shape))
        elif operation.name == "stablehlo.custom_call":
            target = ir.StringAttr(operation.attributes["call_target_name"]).value
            if "callback" in target:
                outside.add(target)
        return ir.WalkResult.ADVANCE

    with make_ir_context() as context:
        module = stablehlo_dialect.deserialize_portable_artifact(context, stablehlo)
        module.operation.walk(visit)
    return _Luggage(sum(sizes), frozenset(numbers), frozenset(outside))


class _Snapshot(NamedTuple):
    """What a module or class named, and what its functions were made of."""

    name: str
    owner: Any
    names: dict[str, Any]
    functions: list[tuple[FunctionType, tuple[Any, ...]]]


# What makes a function compute what it does.
_INSIDES = ("__code__", "__defaults__", "__kwdefaults__")


def _library() -> list[_Snapshot]:
    """All that the modules and classes of this library name, and JAX's public modules."""
    owners: dict[str, Any] = {"jax": jax, "jax.lax": jax.lax, "jax.numpy": jax.numpy}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "autotts_jax":
            owners[name] = module
            owners |= {f"{name}.{key}": x for key, x in dict(vars(module)).items() if _is_class_of(x, name)}
    snapshots = []
    for name, owner in owners.items():
        # Python and pydantic keep notes of their own under such names.
        names = {key: x for key, x in dict(vars(owner)).items() if key[:2] != "__" or isinstance(x, FunctionType)}
        functions = [(x, _insides(x)) for x in names.values() if isinstance(x, FunctionType)]
        snapshots.append(_Snapshot(name, owner, names, functions))
    return snapshots


def _is_class_of(value: Any, module: str) -> bool:
    return isinstance(value, type) and value.__module__ == module


def _insides(function: FunctionType) -> tuple[Any, ...]:
    return tuple(getattr(function, inside) for inside in _INSIDES)


def _refuse_other_library(label: str, before: list[_Snapshot]) -> None:
    """Refuses a function that left the library changed, and puts back what was replaced."""
    changed = []
    for name, owner, names, functions in before:
        now = vars(owner)
        for key in [key for key, value in names.items() if key not in now or now[key] is not value]:
            setattr(owner, key, names[key])
            changed.append(f"{name}.{key}")
        for function, insides in functions:
            if any(a is not b for a, b in zip(_insides(function), insides, strict=True)):
                for inside, value in zip(_INSIDES, insides, strict=True):
                    setattr(function, inside, value)
                changed.append(f"{name}.{function.__name__}")
    if changed:
        raise ContractError(f"{label} replaces {changed[0]} when it is traced. Let the library be as it is.")
