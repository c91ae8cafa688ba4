"""Candidates: controllers as Python source that nobody has read, and a first refusal on their syntax tree.

`check_source` allows what a controller needs and nothing else. It is there for clear messages, before anything runs;
what holds a candidate that gets past it is `autotts_discovery.wall`.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import functools
import hashlib
import io
import itertools
import math
import tokenize
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from autotts_jax.errors import InputError

__all__ = ["MAX_SOURCE", "Candidate", "Refused", "check_source", "with_ends"]

#: The longest source, in characters.
MAX_SOURCE = 60_000


class Refused(InputError):  # noqa: N818 (no error: it is what happens to most candidates)
    """A candidate that was refused.

    Attributes:
      stage: Where: "syntax", "wall", "contract", "export", "program", "deadline", "memory", "output" or "judge".
      reason: Why, in one printable line.
    """

    def __init__(self, stage: str, reason: str) -> None:
        """With the message ``stage: reason``, the reason in one printable line of at most 300 characters."""
        line = " ".join("".join(mark if mark.isprintable() else " " for mark in reason[:2000]).split())
        reason = line if len(line) <= 300 else f"{line[:299]}…"
        super().__init__(f"{stage}: {reason}")
        self.stage, self.reason = stage, reason

    def __reduce__(self) -> tuple[type[Refused], tuple[str, str]]:
        """As it was made, for other processes."""
        return type(self), (self.stage, self.reason)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A proposed controller: a Python module that defines ``CONTROLLER``.

    Attributes:
      source: The module's text.
      name: The controller's name in tables.
      parents: Digests of the candidates that it was made from.
      proposer: Who proposed it.
      idea: What it tries, in a line.
    """

    source: str
    name: str
    parents: tuple[str, ...] = ()
    proposer: str = ""
    idea: str = ""

    @functools.cached_property
    def digest(self) -> str:
        """A digest of the source: candidates with equal digests are the same."""
        return hashlib.blake2b(self.source.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def check_source(source: str) -> None:
    """Refuses a source that uses more of Python than a controller needs, before it runs anywhere.

    Raises:
      Refused: at stage "syntax", naming the lines, what is there, and what to write instead.
    """
    if len(source) > MAX_SOURCE:
        raise Refused("syntax", f"{len(source)} characters; at most {MAX_SOURCE}. Say it shorter.")
    tree = _parsed(source)
    aliases = _modules(tree)
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        found += [(getattr(node, "lineno", 1), problem) for problem in _problems(node, aliases)]
    if not any("CONTROLLER" in _names(statement) for statement in tree.body):
        found.append((source.count("\n") + 1, "no CONTROLLER. Define CONTROLLER = Controller(…) at the end."))
    if found:
        lines = [f"line {line}: {problem}" for line, problem in dict.fromkeys(sorted(found))]
        more = f" And {len(lines) - 3} more." if len(lines) > 3 else ""
        raise Refused("syntax", " ".join(lines[:3]) + more)


def with_ends(source: str, ends: Mapping[str, tuple[Any, Any]]) -> str:
    """A source with other values at β = 0 and β = 1, everything else as it stands.

    Args:
      source: A module with one `Schedule` of `whole` and `real` calls, as in
        ``Schedule(Params(quorum=tts.whole(1, 6)))``.
      ends: By parameter (``a.b`` for nested ones), the value at β = 0 and that at β = 1: numbers, or nested sequences
        of them.

    Returns:
      The source with the first two arguments of those calls replaced, and bounds that were left to default to the two
      ends written out as they were: the space that is searched stays.

    Raises:
      InputError: if the source has no such call for a parameter, or a value lies outside its bounds.
    """
    lines = _lines_of_schedule(_parsed(source))
    if unknown := sorted(set(ends) - set(lines)):
        raise InputError(
            f"ends: {unknown[0]} is not written as whole(…) or real(…) in the schedule. It has "
            f"{', '.join(lines) or 'no such parameters'}."
        )
    text = source.encode()
    starts = [0, *itertools.accumulate(len(line) for line in text.splitlines(keepends=True))]
    edits: list[tuple[int, int, str]] = []
    for name, (start, stop) in ends.items():
        for first, last, new in _moved(name, lines[name], start, stop, source):
            edits.append((starts[first[0] - 1] + first[1], starts[last[0] - 1] + last[1], new))
    for first_byte, last_byte, new in sorted(edits, reverse=True):
        text = text[:first_byte] + new.encode() + text[last_byte:]
    return text.decode()


def _parsed(source: str) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except SyntaxError as error:
        line = (error.text or "").strip()
        raise Refused("syntax", f"line {error.lineno or 1}: {error.msg}: {line}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise Refused("syntax", f"line 1: not Python ({error or type(error).__name__}).") from None


# --- what a source may use -------------------------------------------------------------------------------------------


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_LIBRARY = _words(
    "NO_ANSWER READ_TO_END UNLIMITED Action Controller Line Observation Schedule StopReason Tally WeightedTally act "
    "confidence count entropy fresh_slots once plurality pool_tally real spare_last votes weighted_plurality whole "
    "MAX_WAITS MAX_WIDTH"
)
_FILES = _words(
    "load save savez fromfile fromstring frombuffer from_dlpack frompyfunc fft get_printoptions printoptions "
    "set_printoptions"
)
#: What may be imported, and of each module which names; None for any but those of `_FILES`.
_MODULES: dict[str, frozenset[str] | None] = {
    "__future__": frozenset(["annotations"]),
    "autotts_jax": _LIBRARY,
    "autotts_jax.controllers": _LIBRARY,
    "autotts_jax.environment": _LIBRARY,
    "autotts_jax.voting": _LIBRARY,
    "functools": frozenset(["partial", "reduce"]),
    "jax": _words("Array ShapeDtypeStruct eval_shape jit lax nn numpy random tree typing vmap"),
    "jax.lax": None,
    "jax.nn": None,
    "jax.numpy": None,
    "jax.numpy.linalg": None,
    "jax.random": None,
    "jax.tree": None,
    "jax.typing": None,
    "jaxtyping": _words("Array ArrayLike Bool Float Float32 Int Int32 Integer PyTree Shaped"),
    "math": None,
    "numpy": _words("arange array asarray float32 iinfo finfo inf int32 linspace log ndarray pi"),
    "typing": _words("Any Callable Final Iterable Literal NamedTuple Optional Sequence TypeAlias Union"),
}

_BUILTINS = _words(
    "abs all any bool dict enumerate filter float frozenset int isinstance len list map max min pow range reversed "
    "round set slice sorted str sum tuple zip"
)
_ALL_BUILTINS = frozenset(dir(builtins))

# Attributes that lead to frames, code or text templates, which lead to everything; and those of a NamedTuple.
_LEADING_OUT = _words(
    "format format_map tofile gi_frame gi_code cr_frame cr_code ag_frame ag_code f_back f_builtins f_code f_globals "
    "f_locals tb_frame tb_next with_traceback mro"
)
_OF_TUPLES = frozenset(["_replace", "_asdict", "_fields", "_make"])

# Every kind of node that a controller needs. Not among them: `while`, which need not end, where `for` over a range or
# jax.lax.while_loop does; `try`, which would hide from the author what went wrong; `with`, for which there is no use.
_NODES: tuple[type[ast.AST], ...] = (
    *(ast.Module, ast.Import, ast.ImportFrom, ast.alias, ast.FunctionDef, ast.arguments, ast.arg, ast.ClassDef),
    *(ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Return, ast.Expr, ast.If, ast.For, ast.Pass, ast.Break),
    *(ast.Continue, ast.BoolOp, ast.NamedExpr, ast.BinOp, ast.UnaryOp, ast.Lambda, ast.IfExp, ast.Dict, ast.Set),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.comprehension, ast.Compare, ast.Call),
    *(ast.keyword, ast.JoinedStr, ast.FormattedValue, ast.Constant, ast.Attribute, ast.Subscript, ast.Starred),
    *(ast.Name, ast.List, ast.Tuple, ast.Slice, ast.Load, ast.Store),
    *(ast.operator, ast.boolop, ast.unaryop, ast.cmpop),
)
_INSTEAD = {
    ast.While: "Use for over a range, or jax.lax.while_loop.",
    ast.Try: "Let errors show.",
    ast.Raise: "Leave it out.",
    ast.Assert: "Leave it out.",
    ast.Global: "Pass values as arguments.",
    ast.Nonlocal: "Pass values as arguments.",
    ast.Match: "Use if, or jnp.where.",
}


def _problems(node: ast.AST, aliases: Mapping[str, str]) -> Iterator[str]:
    """What is not allowed about a node, apart from those within it."""
    if not isinstance(node, _NODES):
        yield f"{type(node).__name__.lower()} is not allowed. {_INSTEAD.get(type(node), 'Leave it out.')}"
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from _import_problems(node)
    elif isinstance(node, ast.Attribute):
        yield from _attribute_problems(node, aliases)
    elif isinstance(node, ast.Name):
        if node.id.startswith("__") or (node.id in _ALL_BUILTINS and node.id not in _BUILTINS):
            yield f"{node.id} is not allowed. A controller needs arithmetic only."
    elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.arg | ast.keyword):
        name = node.arg if isinstance(node, ast.arg | ast.keyword) else node.name
        if (name or "").startswith("__"):
            yield f"{name} is not allowed. Choose a name without leading underscores."
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield from _definition_problems(node, aliases)


def _import_problems(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name not in _MODULES:
                yield f"import {alias.name}: not allowed. Import jax, jax.numpy, jax.lax, math, typing or autotts_jax."
        return
    module = node.module or ""
    if node.level or module not in _MODULES:
        yield (
            f"from {'.' * node.level}{module} import …: not allowed. Import from jax, jax.numpy, jax.lax, math, "
            "typing or autotts_jax."
        )
        return
    for alias in node.names:
        if not _has(module, alias.name):
            yield f"from {module} import {alias.name}: not allowed. A controller needs {_offer(module)}."


def _attribute_problems(node: ast.Attribute, aliases: Mapping[str, str]) -> Iterator[str]:
    if (node.attr.startswith("_") and node.attr not in _OF_TUPLES) or node.attr in _LEADING_OUT:
        yield f".{node.attr} is not allowed. Use public attributes of arrays and tuples."
    if isinstance(node.ctx, ast.Store):
        yield f"sets .{node.attr}. Functions are pure: return what changes."
    module = _module(node.value, aliases)
    if module is not None and not _has(module, node.attr):
        yield f"{module}.{node.attr} is not allowed. A controller needs {_offer(module)}."


def _definition_problems(node: ast.FunctionDef | ast.ClassDef, aliases: Mapping[str, str]) -> Iterator[str]:
    for decorator in node.decorator_list:
        if isinstance(node, ast.ClassDef) or ast.unparse(decorator) != "jax.jit":
            yield f"@{ast.unparse(decorator)[:40]} is not allowed. Leave it out: the library compiles what it replays."
    if isinstance(node, ast.ClassDef):
        if [ast.unparse(base) for base in node.bases] not in (["NamedTuple"], ["typing.NamedTuple"]) or node.keywords:
            yield f"class {node.name}: only NamedTuples are allowed. Write class {node.name}(NamedTuple)."
        for at, statement in enumerate(node.body):
            docstring = at == 0 and isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            if not (docstring or isinstance(statement, ast.AnnAssign | ast.Pass)):
                yield f"class {node.name}: only fields are allowed. Move the rest out of the class."


def _has(module: str, name: str) -> bool:
    """Whether a module's name may be used."""
    names = _MODULES[module]
    return not name.startswith("_") and (name not in _FILES if names is None else name in names) and name != "*"


def _offer(module: str) -> str:
    names = _MODULES[module]
    return "what computes" if names is None else f"{', '.join(sorted(names)[:12])}{', …' * (len(names) > 12)}"


def _modules(tree: ast.Module) -> dict[str, str]:
    """Names that stand for allowed modules."""
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases |= {
                a.asname or a.name.split(".")[0]: a.name if a.asname else a.name.split(".")[0] for a in node.names
            }
        elif isinstance(node, ast.ImportFrom):
            aliases |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return {name: module for name, module in aliases.items() if module in _MODULES}


def _module(node: ast.expr, aliases: Mapping[str, str]) -> str | None:
    """The module that an expression names, if it does."""
    attributes: list[str] = []
    while isinstance(node, ast.Attribute):
        attributes.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in aliases:
        return None
    name = ".".join([aliases[node.id], *reversed(attributes)])
    return name if name in _MODULES else None


def _names(statement: ast.stmt) -> list[str]:
    """The names that a statement assigns."""
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    targets = [statement.target] if isinstance(statement, ast.AnnAssign) else targets
    return [target.id for target in targets if isinstance(target, ast.Name)]


# --- values in a schedule --------------------------------------------------------------------------------------------

_Place = tuple[int, int]  # line, from 1, and byte in it
_Edit = tuple[_Place, _Place, str]


def _lines_of_schedule(tree: ast.Module) -> dict[str, ast.Call]:
    """The calls of `whole` and `real` in the module's `Schedule`, by the parameter's name."""
    assigned = {name: s.value for s in tree.body if isinstance(s, ast.Assign) for name in _names(s)}
    fields = {
        node.name: [s.target.id for s in node.body if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)]
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }
    found: dict[str, ast.Call] = {}

    def collect(node: ast.expr, name: str) -> None:
        if isinstance(node, ast.Name) and node.id in assigned:
            node = assigned.pop(node.id)  # once: a parameter's numbers are its own
        if not isinstance(node, ast.Call):
            return
        if _called(node) in ("whole", "real"):
            found[name] = node
            return
        parts = dict(zip(fields.get(_called(node), []), node.args, strict=False))
        parts |= {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
        for part, value in parts.items():
            collect(value, f"{name}.{part}" if name else part)

    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _called(node) == "Schedule":
            for value in (*node.args[:1], *(keyword.value for keyword in node.keywords)):
                collect(value, "")
    return found


def _called(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def _moved(name: str, call: ast.Call, start: Any, stop: Any, source: str) -> Iterator[_Edit]:
    """The edits that give a call other ends."""
    arguments = dict(zip(("start", "stop"), call.args, strict=False))
    arguments |= {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    if not {"start", "stop"} <= set(arguments):
        raise InputError(f"ends: {name} is written without its two ends. Write {_called(call)}(start, stop).")
    integer = _called(call) == "whole"
    old = [_flat(_literal(name, arguments[end])) for end in ("start", "stop")]
    low, high = min(map(min, old)), max(map(max, old))
    bounds = {"least": math.floor(low) if integer else low, "greatest": math.ceil(high) if integer else high}
    for bound in bounds:
        if bound in arguments:
            bounds[bound] = _literal(name, arguments[bound])
    for end, value in (("start", _plain(start, integer)), ("stop", _plain(stop, integer))):
        node = arguments[end]
        written = _literal(name, node)
        if _shape(value) != _shape(written):
            raise InputError(f"ends: {name} is {value}, and {written} in the source: other shapes.")
        outside = [number for number in _flat(value) if not bounds["least"] <= number <= bounds["greatest"]]
        if outside:
            raise InputError(f"ends: {name} {outside[0]} is outside {bounds['least']} to {bounds['greatest']}.")
        yield (node.lineno, node.col_offset), _end(node), repr(value)
    if missing := [f"{bound}={value!r}" for bound, value in bounds.items() if bound not in arguments]:
        place, comma = _end_of_arguments(call, source)
        yield place, place, f"{' ' if comma else ', '}{', '.join(missing)}"


def _end_of_arguments(call: ast.Call, source: str) -> tuple[_Place, bool]:
    """Where a call's last argument ends, parentheses and a comma behind it included; and whether there is a comma."""
    last = max(_end(node) for node in (*call.args, *(keyword.value for keyword in call.keywords)))
    end = _end(call)[0], _end(call)[1] - 1  # without the call's own parenthesis
    place, comma = last, False
    lines = source.splitlines(keepends=True)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        row, column = token.end
        behind = (row, len(lines[row - 1][:column].encode())) if row <= len(lines) else (row, column)
        if last < behind <= end and token.type == tokenize.OP:
            place, comma = behind, token.string == ","
    return place, comma


def _end(node: ast.expr) -> _Place:
    return node.end_lineno or 0, node.end_col_offset or 0


def _literal(name: str, node: ast.expr) -> Any:
    try:
        value = ast.literal_eval(node)
        return value if all(math.isfinite(number) for number in _flat(value)) and _flat(value) else int("")
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise InputError(f"ends: {name} is written as {ast.unparse(node)[:60]}. Write its numbers out.") from None


def _flat(value: Any) -> list[float]:
    return [number for part in value for number in _flat(part)] if isinstance(value, tuple | list) else [value]


def _shape(value: Any) -> Any:
    return tuple(map(_shape, value)) if isinstance(value, tuple | list) else ()


def _plain(value: Any, integer: bool) -> Any:
    """Numbers in nested tuples, as short as a person would write them."""
    if isinstance(value, np.ndarray | list | tuple) and np.ndim(value):
        return tuple(_plain(part, integer) for part in value)
    return round(float(value)) if integer else float(str(value))
