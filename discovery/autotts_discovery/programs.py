"""What comes out of a worker is looked through: a controller's programs as StableHLO, and what is said about them.

A program may do arithmetic on its arguments and nothing else: operations are on a list, few enough to compile, small
enough to run, without calls to anything outside, without tables of numbers, and their arguments and results are those
of the contract. (`read_description` needs no MLIR: it is for the process that keeps the score.)
"""

from __future__ import annotations

import collections
import functools
import io
import math
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import stablehlo as stablehlo_dialect
from jax.interpreters.mlir import make_ir_context

from autotts_discovery.candidates import Refused
from autotts_jax.artefacts import PLATFORMS, Artefact, read_artefact
from autotts_jax.controllers.tracing import MAX_CONSTANTS
from autotts_jax.environment import act, example_observation
from autotts_jax.errors import InputError
from autotts_jax.voting import confidence_table

__all__ = ["MAX_ELEMENTS", "MAX_MEMORY", "MAX_OPERATIONS", "OPERATIONS", "check_artefact", "read_description"]

#: Operations of one program, a function counted each time that it is called. The built-in controllers have at most
#: 2,000; what `jax.numpy` unrolls, as sorting does not, has a few hundred a call.
MAX_OPERATIONS = 20_000
#: Numbers in one array, for one episode: B × B for the widest one, four times.
MAX_ELEMENTS = 1 << 18
#: Bytes that a controller may keep for one episode.
MAX_MEMORY = 1 << 17
#: Bytes of all programs together, unpacked.
MAX_BYTES = 32 << 20
#: Characters of a name, and of the source's reference.
MAX_NAME, MAX_TEXT = 100, 300

_ARITHMETIC = """
    abs add and atan2 bitcast_convert cbrt ceil clamp compare convert cosine count_leading_zeros divide dot_general
    exponential exponential_minus_one floor is_finite log log_plus_one logistic maximum minimum multiply negate not or
    popcnt power reduce reduce_precision reduce_window remainder round_nearest_afz round_nearest_even rsqrt select
    shift_left shift_right_arithmetic shift_right_logical sign sine sqrt subtract tan tanh xor
"""
_REARRANGEMENT = """
    broadcast_in_dim concatenate constant dynamic_broadcast_in_dim dynamic_gather dynamic_iota dynamic_pad
    dynamic_reshape dynamic_slice dynamic_update_slice gather get_dimension_size iota optimization_barrier pad
    real_dynamic_slice reshape reverse scatter slice sort transpose
"""
_CONTROL = "case if return while"
#: What programs are made of, besides functions and their calls.
OPERATIONS = frozenset(
    ["func.func", "func.return"]
    + [f"stablehlo.{name}" for some in (_ARITHMETIC, _REARRANGEMENT, _CONTROL) for name in some.split()]
)
# JAX's check of what it exported for any number of lanes.
_CUSTOM_CALLS = frozenset(["shape_assertion"])

_TYPES = {
    "bool": "i1",
    **{f"int{bits}": f"i{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"ui{bits}" for bits in (8, 16, 32, 64)},
    "bfloat16": "bf16",
    **{f"float{bits}": f"f{bits}" for bits in (16, 32, 64)},
}


def read_description(packed: bytes, widths: Sequence[int] = (64,), feature_names: Sequence[str] = ()) -> Artefact:
    """Reads an artefact of unknown origin, without a look at its programs.

    Args:
      packed: The zip file.
      widths: Numbers of slots that it must be exported for.
      feature_names: Features that it must be exported for.

    Raises:
      Refused: at stage "program", if it is too large, damaged, or says of itself what cannot be.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            members = archive.infolist()
        whole = sum(member.file_size for member in members)
        if whole > MAX_BYTES or len(members) != 3 + 2 * len(widths):
            raise Refused(
                "program", f"{len(members)} files of {whole} bytes; {3 + 2 * len(widths)} of {MAX_BYTES} may be"
            )
        artefact = read_artefact(io.BytesIO(packed))
        _check_description(artefact, tuple(widths), tuple(feature_names))
    except Refused:
        raise
    except InputError as error:
        raise Refused("program", str(error).partition(">: ")[2]) from None  # it begins with the file
    # What zipfile and the description's parser raise at forged bytes: deep JSON, huge numbers, unknown methods.
    except (zipfile.BadZipFile, zlib.error, ValueError, OverflowError, RecursionError, NotImplementedError) as error:
        raise Refused("program", f"not an artefact: {error}") from None
    return artefact


def check_artefact(packed: bytes, widths: Sequence[int] = (64,), feature_names: Sequence[str] = ()) -> Artefact:
    """Likewise, and looks through its programs.

    Deserializing is for a process that may be lost: MLIR is not made for hostile bytes.

    Raises:
      Refused: at stage "program", naming the program and what is wrong with it.
    """
    artefact = read_description(packed, widths, feature_names)
    about = artefact.described
    params = [_Aval(leaf.shape, leaf.dtype) for leaf in about.params]
    _check_program(artefact, "schedule", [_Aval((), "float32")], params)
    for width in widths:
        obs = example_observation(width, tuple(feature_names))
        seen = _avals(obs)
        action = _avals(jax.eval_shape(lambda obs: act(obs, answer=0), obs))
        memory = [_Aval(leaf.shape, leaf.dtype) for leaf in about.memory[width]]
        _check_program(artefact, f"init-{width}", params + seen, memory)
        _check_program(artefact, f"step-{width}", params + memory + seen, memory + action)
    return artefact


class _Aval(NamedTuple):
    """Shape and dtype of an array, for one episode."""

    shape: tuple[int, ...]
    dtype: str


def _avals(tree: Any) -> list[_Aval]:
    return [_Aval(leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(tree)]


# --- the description -------------------------------------------------------------------------------------------------


def _check_description(artefact: Artefact, widths: tuple[int, ...], feature_names: tuple[str, ...]) -> None:
    about = artefact.described
    if about.widths != widths or about.feature_names != feature_names or set(about.memory) != set(widths):
        raise Refused("program", "exported for other widths or features than it was asked for")
    for what, text, most in (
        ("name", about.name, MAX_NAME),
        ("source", about.source, MAX_TEXT),
        ("version of JAX", about.jax, MAX_NAME),
    ):
        if len(text) > most or not text.isprintable():
            raise Refused("program", f"{what}: not a printable text of at most {most} characters")
    if not about.name:
        raise Refused("program", "no name")
    names = [leaf.name for leaf in about.params]
    for leaves in (about.params, *about.memory.values()):
        for leaf in leaves:
            if leaf.dtype not in _TYPES or len(leaf.shape) > 8 or not all(0 <= size <= 4096 for size in leaf.shape):
                raise Refused("program", f"an array is {leaf.dtype}{list(leaf.shape)}")
            if len(leaf.name) > MAX_NAME or not leaf.name.isprintable():
                raise Refused("program", "an array's name is not a short printable text")
        held = sum(math.prod(leaf.shape) * np.dtype(_numpy(leaf.dtype)).itemsize for leaf in leaves)
        if held > MAX_MEMORY:
            raise Refused("program", f"keeps {held} bytes for an episode; at most {MAX_MEMORY}")
    if not names or len(set(names)) < len(names) or any(not re.fullmatch(r"[\w.]*", name) for name in names):
        raise Refused("program", "parameters without names, or with the same")
    if any(leaf.dtype not in ("int32", "float32") for leaf in about.params):
        raise Refused("program", "a parameter is neither int32 nor float32")
    mentioned = {*about.bounds, *about.opens, *([] if about.samples is None else [about.samples])}
    if not mentioned <= set(names) or (about.lines is not None and list(about.lines) != names):
        raise Refused("program", "speaks of parameters that there are not")
    for low, high in about.bounds.values():
        if not low <= high:
            raise Refused("program", f"bounds from {low} to {high}")
    for name, leaf in zip(names, about.params, strict=True):
        line = None if about.lines is None else about.lines[name]
        if line is not None and (line.shape != leaf.shape or line.integer != (leaf.dtype == "int32")):
            raise Refused("program", f"the line of {name} is of another shape or type")


def _numpy(dtype: str) -> Any:
    return jnp.bfloat16 if dtype == "bfloat16" else dtype


# --- a program -------------------------------------------------------------------------------------------------------


def _check_program(artefact: Artefact, name: str, takes: list[_Aval], gives: list[_Aval]) -> None:
    """Checks one program against the contract and the list."""
    try:
        exported = jax.export.deserialize(bytearray(artefact.programs[name]))
        _check_signature(name, exported, takes, gives)
        with make_ir_context() as context:
            module = stablehlo_dialect.deserialize_portable_artifact(context, exported.mlir_module_serialized)
            functions = _functions(name, module)
            kept = [takes[at] for at in exported.module_kept_var_idx]
            _check_main(name, functions["main"], kept, gives)
            _check_size(name, functions)
    except Refused:
        raise
    except Exception as error:
        raise Refused("program", f"{name}: cannot be read ({type(error).__name__}: {error})") from None


def _check_signature(name: str, exported: jax.export.Exported, takes: list[_Aval], gives: list[_Aval]) -> None:
    for what, expected, avals, tree, structure in (
        ("takes", takes, exported.in_avals, exported.in_tree, ((0,) * len(takes), {})),
        ("gives", gives, exported.out_avals, exported.out_tree, [0] * len(gives)),
    ):
        found = [(tuple(map(str, aval.shape)), str(aval.dtype)) for aval in avals]
        wanted = [(("lanes", *map(str, aval.shape)), aval.dtype) for aval in expected]
        if found != wanted or str(tree) != str(jax.tree.structure(structure)):
            raise Refused("program", f"{name} {what} {len(found)} arrays that are not those of the contract")
    if exported.ordered_effects or exported.unordered_effects:
        raise Refused("program", f"{name} has effects")
    if exported.disabled_safety_checks or exported.has_vjp() or exported.nr_devices != 1:
        raise Refused("program", f"{name} is not exported as `export_controller` does")
    if tuple(exported.platforms) != PLATFORMS:
        raise Refused("program", f"{name} is for {', '.join(exported.platforms)}")


class _Function(NamedTuple):
    """What is in a function."""

    operation: ir.Operation
    own: int  # operations
    calls: collections.Counter[str]


def _functions(name: str, module: ir.Module) -> dict[str, _Function]:
    """The functions of a module, all operations looked at."""
    functions: dict[str, _Function] = {}
    in_arrays, numbers = 0, set[str]()
    for function in module.body.operations:
        if function.operation.name != "func.func":
            raise Refused("program", f"{name}: {function.operation.name} outside of a function")
        own, calls = 0, collections.Counter[str]()
        for operation in _walk(function.operation):
            own += 1
            if operation.name == "func.call":
                calls[ir.FlatSymbolRefAttr(operation.attributes["callee"]).value] += 1
            elif operation.name == "stablehlo.composite" and _text(operation, "name").startswith("chlo."):
                # An operation that not every compiler knows, such as erf, and a function that does the same.
                calls[ir.FlatSymbolRefAttr(operation.attributes["decomposition"]).value] += 1
            elif operation.name == "stablehlo.constant":
                count, number = _constant(name, operation)
                in_arrays += count
                numbers |= number
            elif operation.name == "stablehlo.custom_call":
                target = _text(operation, "call_target_name")
                if target not in _CUSTOM_CALLS or "called_computations" in operation.attributes or operation.results:
                    raise Refused("program", f"{name} calls {target}. Use jax.numpy and jax.lax only.")
            elif operation.name not in OPERATIONS:
                raise Refused("program", f"{name}: {operation.name} is not an operation that a controller needs")
            for result in operation.results:
                _check_type(name, operation.name, result.type)
        functions[_text(function.operation, "sym_name")] = _Function(function.operation, own, calls)
    for count, what in ((in_arrays, "numbers in arrays"), (len(numbers), "different numbers")):
        if count > MAX_CONSTANTS:
            raise Refused("program", f"{name} brings along {count} {what}; at most {MAX_CONSTANTS}")
    return functions


def _text(operation: ir.Operation, attribute: str) -> str:
    return ir.StringAttr(operation.attributes[attribute]).value


def _walk(operation: ir.Operation) -> Iterator[ir.Operation]:
    """An operation, and all within it."""
    found: list[ir.Operation] = []

    def visit(inner: ir.Operation) -> ir.WalkResult:
        found.append(inner)
        return ir.WalkResult.ADVANCE

    operation.walk(visit)
    return iter(found)


def _constant(name: str, operation: ir.Operation) -> tuple[int, set[str]]:
    """How many numbers a constant has, if in an array of different ones; else its number."""
    value = operation.attributes["value"]
    if not isinstance(value, ir.DenseElementsAttr):
        raise Refused("program", f"{name}: a constant that cannot be read")
    if value.is_splat:
        return 0, {str(value.get_splat_value())}
    if isinstance(value, ir.DenseFPElementsAttr):
        table = confidence_table()
        if len(value) == table.size and np.array_equal(np.array(value).reshape(table.shape), table):
            return 0, set()
    return math.prod(ir.RankedTensorType(operation.results[0].type).shape), set()


def _check_type(name: str, operation: str, kind: ir.Type) -> None:
    if not isinstance(kind, ir.RankedTensorType):
        raise Refused("program", f"{name}: {operation} makes {kind}")
    tensor = ir.RankedTensorType(kind)
    if str(tensor.element_type) not in _TYPES.values():
        raise Refused("program", f"{name}: {operation} makes {kind}")
    sizes = [tensor.get_dim_size(at) for at in range(tensor.rank) if not tensor.is_dynamic_dim(at)]
    if math.prod(sizes) > MAX_ELEMENTS:
        raise Refused(
            "program", f"{name}: {operation} makes {math.prod(sizes)} numbers an episode; at most {MAX_ELEMENTS}"
        )


def _check_main(name: str, main: _Function, takes: list[_Aval], gives: list[_Aval]) -> None:
    """Checks that the program does what its signature says."""
    kind = ir.FunctionType(ir.TypeAttr(main.operation.attributes["function_type"]).value)

    def written(aval: _Aval) -> str:
        return f"tensor<{'x'.join(['?', *map(str, aval.shape), _TYPES[aval.dtype]])}>"

    expected = (["tensor<i32>", *map(written, takes)], [*map(written, gives)])  # for which platform, first
    if (list(map(str, kind.inputs)), list(map(str, kind.results))) != expected:
        raise Refused("program", f"{name}: the program is not what its signature says")


def _check_size(name: str, functions: dict[str, _Function]) -> None:
    """Counts operations as a compiler that inlines every call meets them."""
    being_counted: set[str] = set()

    @functools.cache
    def size(function: str) -> int:
        if function in being_counted or function not in functions:
            raise Refused("program", f"{name}: functions call themselves, or what is not there")
        being_counted.add(function)
        total = functions[function].own
        for callee, times in functions[function].calls.items():
            total += times * size(callee)
        being_counted.remove(function)
        return total

    if (count := size("main")) > MAX_OPERATIONS:
        raise Refused("program", f"{name} has {count} operations; at most {MAX_OPERATIONS}")
