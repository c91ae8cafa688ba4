"""Controllers as artefacts: exported functions that run without the Python they were written in.

An artefact holds a controller's `schedule`, `init` and `step` as StableHLO (`jax.export`), batched over a symbolic
number of lanes, for CPU, CUDA and TPU at once, with a description as JSON. Loading it runs no Python from the file
and gives a `Controller` that `evaluate`, `sweep` and `check_controller` accept like any other.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import hashlib
import inspect
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import jax
import jax.numpy as jnp
import pydantic
from jax import Array
from jaxtyping import PyTree

from autotts_jax.controllers.base import Controller, apply, check_shapes
from autotts_jax.controllers.schedules import Line, Schedule, named_leaves
from autotts_jax.environment import MAX_WIDTH, Action, Observation, act, example_observation
from autotts_jax.errors import InputError
from autotts_jax.files import write_whole

__all__ = [
    "Artefact",
    "export_controller",
    "load_controller",
    "read_artefact",
    "save_controller",
    "write_artefact",
]

#: Platforms that an artefact runs on.
PLATFORMS = ("cpu", "cuda", "tpu")

_FORMAT = 1
_DESCRIPTION = "controller.json"


class _Leaf(pydantic.BaseModel, frozen=True):
    """Name, shape and dtype of an array."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class _Description(pydantic.BaseModel, frozen=True, extra="forbid"):
    """An artefact's description of itself."""

    format: Annotated[int, pydantic.Field(ge=_FORMAT, le=_FORMAT)] = _FORMAT
    name: str
    probe_everything: bool
    bounds: dict[str, tuple[float, float]]
    samples: str | None
    opens: tuple[str, ...]
    source: str
    source_text: str
    widths: tuple[int, ...]
    feature_names: tuple[str, ...]
    params: tuple[_Leaf, ...]
    lines: dict[str, Line] | None = None  # of a `Schedule`, in the order of its parameters
    memory: dict[int, tuple[_Leaf, ...]]  # by width
    jax: str


@dataclasses.dataclass(frozen=True)
class Artefact:
    """An exported controller.

    Attributes:
      description: Names, shapes, bounds and the source's text, as JSON.
      programs: The serialized functions: ``schedule``, and for each width B ``init-B`` and ``step-B``.
    """

    description: str
    programs: Mapping[str, bytes] = dataclasses.field(hash=False)

    @functools.cached_property
    def digest(self) -> str:
        """A digest of all its contents: artefacts with equal digests are the same."""
        digest = hashlib.blake2b(digest_size=16)
        for name, content in sorted([("", self.description.encode()), *self.programs.items()]):
            digest.update(f"{name} {len(content)} ".encode())
            digest.update(content)
        return digest.hexdigest()

    @functools.cached_property
    def described(self) -> _Description:
        """The parsed description."""
        return _Description.model_validate_json(self.description)

    @functools.cached_property
    def schedule(self) -> Schedule | None:
        """The schedule as data, with the parameters by name, for a search to move; None if it is a function."""
        lines = self.described.lines
        return None if lines is None else Schedule(collections.OrderedDict(lines))

    def controller(self) -> Controller:
        """The controller; equal artefacts give equal ones, so that nothing is retraced."""
        about = self.described
        return Controller(
            name=about.name,
            schedule=_Function(self, "schedule"),
            init=_Function(self, "init"),
            step=_Function(self, "step"),
            probe_everything=about.probe_everything,
            bounds=about.bounds,
            samples=about.samples,
            opens=about.opens,
            widths=about.widths,
            source=about.source,
        )


def export_controller(
    controller: Controller, widths: Sequence[int] = (64,), feature_names: Sequence[str] = ()
) -> Artefact:
    """Exports a controller.

    Args:
      controller: What to export.
      widths: Numbers of slots B to export it for, each 1 to 256. Replaying it at another width is an error.
      feature_names: Features of the stores that it will be replayed on.

    Returns:
      The artefact; that of a loaded controller is the one that it was loaded from.

    Raises:
      InputError: if the controller breaks the contract or calls what cannot be exported, such as a Python callback.
    """
    features, programs, memories = tuple(feature_names), {}, {}
    if not widths or not all(1 <= width <= MAX_WIDTH for width in widths):
        raise InputError(f"widths {list(widths)}: each must be from 1 to {MAX_WIDTH}, and there must be at least one.")
    if (loaded := _loaded(controller)) is not None:
        if not set(widths) <= set(controller.widths) or features != loaded.described.feature_names:
            raise InputError(
                f"controller {controller.name}: exported for {controller.widths} slots and the features "
                f"{list(loaded.described.feature_names)}, so not for {tuple(widths)} and {list(features)}."
            )
        return loaded
    beta = jax.ShapeDtypeStruct((), jnp.float32)
    params = jax.eval_shape(controller.schedule, beta)
    programs["schedule"] = _exported(controller, "schedule", beta)
    for width in widths:
        check_shapes(controller, width, features)
        obs = example_observation(width, features)
        memory = jax.eval_shape(controller.init, params, obs)
        memories[width] = _leaves(memory)
        programs[f"init-{width}"] = _exported(controller, "init", params, obs)
        programs[f"step-{width}"] = _exported(controller, "step", params, memory, obs)
    about = _Description(
        name=controller.name,
        probe_everything=controller.probe_everything,
        bounds=dict(controller.bounds),
        samples=controller.samples,
        opens=controller.opens,
        source=controller.source,
        source_text=_source_text(controller),
        widths=tuple(widths),
        feature_names=features,
        params=_leaves(params),
        lines=controller.schedule.named_lines if isinstance(controller.schedule, Schedule) else None,
        memory=memories,
        jax=jax.__version__,
    )
    return Artefact(about.model_dump_json(indent=1), programs)


def save_controller(
    controller: Controller,
    path: str | os.PathLike[str],
    *,
    widths: Sequence[int] = (64,),
    feature_names: Sequence[str] = (),
) -> str:
    """Writes a controller as an artefact, one zip file, whole or not at all; returns its digest.

    Arguments and errors are those of `export_controller`.
    """
    artefact = export_controller(controller, widths, feature_names)
    write_whole(Path(path), functools.partial(write_artefact, artefact))
    return artefact.digest


def write_artefact(artefact: Artefact, path: Path | BinaryIO) -> None:
    """Writes an artefact as a zip file, or to an open one; the same artefact gives the same bytes."""
    members = {_DESCRIPTION: artefact.description.encode(), **artefact.programs}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**members, "digest": artefact.digest.encode()}.items():
            # A date of its own would make other bytes.
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)


def load_controller(path: str | os.PathLike[str]) -> Controller:
    """Reads what `save_controller` wrote. No Python from the file is run.

    Raises:
      InputError: if it is not an artefact, or is damaged.
    """
    return read_artefact(path).controller()


def read_artefact(path: str | os.PathLike[str] | BinaryIO) -> Artefact:
    """Likewise, but returns the artefact, and reads open files, too."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        found, description = members.pop("digest").decode(), members.pop(_DESCRIPTION).decode()
        artefact = Artefact(description, members)
        about = artefact.described
    except FileNotFoundError:
        raise InputError(f"{path}: no such file. Check the path.") from None
    # What zipfile raises at damaged bytes: it takes some for encryption or for methods that it does not implement.
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a controller artefact ({why}). Name what save_controller wrote.") from None
    if found != artefact.digest:
        raise InputError(f"{path}: its digest is {artefact.digest}, it says {found}: damaged. Save it again.")
    needed = {"schedule", *(f"{part}-{width}" for part in ("init", "step") for width in about.widths)}
    if needed != set(artefact.programs):
        raise InputError(f"{path}: holds {', '.join(artefact.programs)}, not what it describes. Save it again.")
    return artefact


# --- exporting -------------------------------------------------------------------------------------------------------


def _exported(controller: Controller, function: str, *args: PyTree) -> bytes:
    """A function of the controller over lanes, from leaves to leaves."""
    leaves, tree = jax.tree.flatten(args)
    (lanes,) = jax.export.symbolic_shape("lanes")

    def batched(*leaves: Array) -> list[Array]:
        alone = functools.partial(apply, controller, function)
        return jax.tree.leaves(jax.vmap(alone)(*jax.tree.unflatten(tree, leaves)))

    # Without arguments there would be nothing to infer the number of lanes from.
    shapes = [jax.ShapeDtypeStruct((lanes, *leaf.shape), leaf.dtype) for leaf in leaves]
    try:
        with _without_source_locations():
            return bytes(jax.export.export(jax.jit(batched), platforms=PLATFORMS)(*shapes).serialize())
    except Exception as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{controller.name}.{function} cannot be exported: {why} Use jax.numpy and jax.lax only, no callbacks."
        ) from error


@contextlib.contextmanager
def _without_source_locations() -> Iterator[None]:
    """Keeps out of an artefact where, and on which machine, it was exported."""
    options = {"jax_include_full_tracebacks_in_locations": False, "jax_hlo_source_file_canonicalization_regex": ".*"}
    before = {name: jax.config.values[name] for name in options}
    try:
        for name, value in options.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def _leaves(tree: PyTree) -> tuple[_Leaf, ...]:
    return tuple(
        _Leaf(name=name, shape=leaf.shape, dtype=str(leaf.dtype)) for name, leaf in named_leaves(tree).items()
    )


def _loaded(controller: Controller) -> Artefact | None:
    """The artefact that a controller was loaded from; None if it is written in Python."""
    functions = (controller.schedule, controller.init, controller.step)
    found = {function.artefact.digest: function.artefact for function in functions if isinstance(function, _Function)}
    (artefact,) = found.values() if len(found) == 1 else (None,)
    return artefact if artefact is not None and artefact.controller() == controller else None


def _source_text(controller: Controller) -> str:
    """The text of the file that defines `step`; empty where there is none, as in a notebook."""
    if isinstance(controller.step, _Function):
        return controller.step.artefact.described.source_text
    try:
        file = inspect.getsourcefile(controller.step)
        return Path(file).read_text(encoding="utf-8") if file else ""
    except (OSError, TypeError, ValueError):
        return ""


# --- running ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Function:
    """A function of an exported controller, for one episode; `jax.vmap` runs the batched program."""

    artefact: Artefact
    part: str

    def __call__(self, *args: PyTree) -> PyTree:
        about = self.artefact.described
        obs = next((arg for arg in args if isinstance(arg, Observation)), None)
        program = self.part if obs is None else f"{self.part}-{obs.width}"
        if obs is not None and (obs.width not in about.widths or obs.feature_names != about.feature_names):
            raise InputError(
                f"controller {about.name}: exported for {' or '.join(map(str, about.widths))} slots and the features "
                f"{list(about.feature_names)}; this replay has {obs.width} and {list(obs.feature_names)}. Export it "
                f"again with widths=({obs.width},)."
            )
        found = _batched(self.artefact, program)(*(jnp.asarray(leaf)[None] for leaf in jax.tree.leaves(args)))
        leaves = [leaf[0] for leaf in found]
        if self.part == "schedule":
            return _by_name(about.params, leaves)
        assert obs is not None
        memory = about.memory[obs.width]
        if self.part == "init":
            return _by_name(memory, leaves)
        action = jax.tree.structure(jax.eval_shape(lambda obs: act(obs, answer=0), obs))
        done: Action = jax.tree.unflatten(action, leaves[len(memory) :])
        return _by_name(memory, leaves[: len(memory)]), done


def _by_name(names: Sequence[_Leaf], leaves: Sequence[Array]) -> PyTree:
    return collections.OrderedDict((leaf.name, value) for leaf, value in zip(names, leaves, strict=True))


@functools.cache
def _batched(artefact: Artefact, program: str) -> Callable[..., list[Array]]:
    """A program over lanes. A vmap of it is the same program over more lanes, as JAX cannot vmap an exported call."""
    exported = jax.export.deserialize(bytearray(artefact.programs[program]))
    call = jax.jit(lambda *leaves: exported.call(*leaves))  # whose results are not tied to a device

    @jax.custom_batching.custom_vmap
    def run(*leaves: Array) -> list[Array]:
        return call(*leaves)

    @run.def_vmap
    def _(size: int, batched: Any, *leaves: Array) -> tuple[list[Array], list[bool]]:
        lanes = leaves[0].shape[1 if batched[0] else 0]
        wide = [
            leaf if is_batched else jnp.broadcast_to(leaf, (size, *leaf.shape))
            for leaf, is_batched in zip(leaves, batched, strict=True)
        ]
        found = run(*(leaf.reshape(size * lanes, *leaf.shape[2:]) for leaf in wide))
        return [leaf.reshape(size, lanes, *leaf.shape[1:]) for leaf in found], [True] * len(found)

    return run
