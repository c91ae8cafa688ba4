"""Controllers and their parameters: from text to parameter vectors."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from autotts_jax.controllers import CONTROLLERS, Controller
from autotts_jax.controllers.base import apply, check_schedule
from autotts_jax.controllers.schedules import named_leaves, plain
from autotts_jax.errors import InputError

__all__ = ["Row", "Setting", "check_pool", "rows_of"]


@dataclasses.dataclass(frozen=True)
class Setting:
    """A controller, with some of its parameters fixed instead of scheduled.

    Attributes:
      controller: The controller.
      given: The fixed parameters by name; ``beta`` fixes β itself.
      label: The setting's name in tables, figures and files. Defaults to the controller's name and the fixed
        parameters, as in ``parallel_probe:chains=8``.

    Raises:
      InputError: if a parameter is unknown, not a scalar, or out of range.
    """

    controller: Controller
    given: Mapping[str, float] = dataclasses.field(default_factory=dict)
    label: str = ""

    def __post_init__(self) -> None:
        """Rejects unknown parameters and values out of range, and fills in the default of `label`."""
        known = named_leaves(check_schedule(self.controller))
        for name, value in self.given.items():
            place = f"controller {self.controller.name}: parameter {name}={value:g}"
            if name not in {*known, "beta"}:
                raise InputError(
                    f"{place}: no such parameter{_nearest(name, known)}. "
                    f"It has {', '.join(known) or 'none'}, and beta."
                )
            low, high = (0, 1) if name == "beta" else self.controller.bounds.get(name, (-np.inf, np.inf))
            if not low <= value <= high:
                raise InputError(f"{place}: outside {low:g} to {high:g}. Choose a value in that range.")
            if not np.isfinite(value):
                raise InputError(f"{place}: not a finite number. Give one.")
            if name in known and np.issubdtype(known[name].dtype, np.integer):
                if value != int(value):
                    raise InputError(f"{place}: not a whole number. Give an integer.")
                if abs(value) > np.iinfo(np.int32).max:
                    raise InputError(f"{place}: does not fit into an int32. Give a smaller one.")
            if name in known and known[name].shape:
                raise InputError(f"{place}: it has {known[name].size} values. Only scalars can be given.")
        if not self.label:
            texts = {name: repr(float(value)).removesuffix(".0") for name, value in self.given.items()}
            fixed = ",".join(f"{name}={texts[name]}" for name in [*known, "beta"] if name in texts)
            object.__setattr__(self, "label", ":".join(filter(None, (self.controller.name, fixed))))
        if not self.label.isprintable():
            raise InputError(f"controller {self.label!r}: not printable. Use letters, digits and signs.")

    @classmethod
    def parse(cls, text: str) -> Setting:
        """A setting from ``[LABEL=]NAME[:key=value,…]`` or ``[LABEL=]FILE.py:ATTRIBUTE[:key=value,…]``.

        ATTRIBUTE is a `Controller`, or a function without arguments that returns one.

        Raises:
          InputError: naming what is unknown, and the closest known name.
        """
        name, *rest = text.split(":")
        label, equals, unlabelled = name.partition("=")
        label, name = (label.strip(), unlabelled) if equals and not Path(name).is_file() else ("", name)
        if name.endswith(".py"):
            if not rest:
                raise InputError(f"controller {text}: name the controller in the file, as in {name}:make.")
            controller = _from_file(Path(name), rest.pop(0))
        elif name in CONTROLLERS:
            controller = CONTROLLERS[name]
        else:
            raise InputError(
                f"controller {name!r}: no such controller{_nearest(name, CONTROLLERS)}. "
                f"Use one of {', '.join(CONTROLLERS)}, or FILE.py:ATTRIBUTE."
            )
        given = {}
        for pair in ",".join(rest).split(",") if rest else ():
            key, equals, value = pair.partition("=")
            if key.strip() in given:
                raise InputError(f"controller {text}: {key.strip()} is given twice. Give it once.")
            try:
                given[key.strip()] = float(value)
            except ValueError:
                wrong = f"{value!r} is not a number" if equals else "a value is missing"
                raise InputError(f"controller {text}: {pair!r}: {wrong}. Write key=value,key=value.") from None
        return cls(controller, given, label)

    def params_from(self, values: Mapping[str, Any]) -> PyTree:
        """The parameter vector with these values by name, as `Row.described` lists them.

        Raises:
          InputError: if names or shapes are not the controller's.
        """
        shapes = check_schedule(self.controller)
        known = named_leaves(shapes)
        try:
            leaves = [np.asarray(values[name], leaf.dtype) for name, leaf in known.items()]
        except (KeyError, ValueError, TypeError, OverflowError):
            leaves = []
        if [leaf.shape for leaf in leaves] != [leaf.shape for leaf in known.values()] or len(values) > len(known):
            names = ", ".join(known)
            raise InputError(f"controller {self.label}: {json.dumps(values)}: not values of its parameters {names}.")
        return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


@dataclasses.dataclass(frozen=True)
class Row:
    """A controller with one parameter vector: a row of the result tables.

    Attributes:
      controller: The controller.
      beta: The β of the vector; None if nothing depends on β.
      params: The parameters, as `Controller.schedule` returns them.
      label: The label of the setting that it belongs to; defaults to the controller's name.
    """

    controller: Controller
    beta: float | None
    params: PyTree
    label: str = ""

    def __post_init__(self) -> None:
        """Fills in the default of `label`."""
        if not self.label:
            object.__setattr__(self, "label", self.controller.name)

    def described(self) -> str:
        """The parameters as JSON."""
        return json.dumps({name: plain(value) for name, value in named_leaves(self.params).items()})


def rows_of(setting: Setting, betas: Sequence[float]) -> list[Row]:
    """The parameter vectors of a setting: one per β, or a single one if nothing depends on β."""
    given = dict(setting.given)
    if "beta" in given:
        betas = [given.pop("beta")]
    schedule = functools.partial(apply, setting.controller, "schedule")
    scheduled = jax.device_get(jax.vmap(schedule)(jnp.asarray(betas, jnp.float32)))
    leaves, treedef = jax.tree.flatten(scheduled)
    names = list(named_leaves(scheduled))
    for name, value in given.items():
        leaf = leaves[names.index(name)]
        leaves[names.index(name)] = np.full_like(leaf, value)
    vectors = [jax.tree.unflatten(treedef, [leaf[i] for leaf in leaves]) for i in range(len(betas))]
    if given and all(np.all(leaf == leaf[0]) for leaf in leaves) and "beta" not in setting.given:
        return [Row(setting.controller, None, vectors[0], setting.label)]
    return [
        Row(setting.controller, float(beta), vector, setting.label)
        for beta, vector in zip(betas, vectors, strict=True)
    ]


def check_pool(setting: Setting, rows: Sequence[Row], branches: Sequence[int], *, replacement: bool) -> list[str]:
    """Rejects more samples than branches if given as a number; returns a note if β calls for them."""
    name = setting.controller.samples
    smallest = int(np.argmin(branches))
    if name is None or replacement:
        return []
    wanted = max(int(named_leaves(row.params)[name]) for row in rows)
    if wanted <= branches[smallest]:
        return []
    where = f"question {smallest} has only {branches[smallest]} branches"
    if name in setting.given:
        raise InputError(
            f"controller {setting.controller.name}: {name}={wanted}, but {where}. Use at most that many, or "
            "resample branches with replacement (orders bootstrap)."
        )
    return [f"{setting.label}: β calls for up to {wanted} samples; {where}, all used."]


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _from_file(path: Path, attribute: str) -> Controller:
    """A controller from a user's Python file."""
    if not path.is_file():
        raise InputError(f"controller {path}: no such file. Check the path.")
    name = f"autotts_controller_{path.stem}"  # whatever its name, the file must not hide another module
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look a module up by its name
    sys.path.append(str(path.resolve().parent))  # for imports from the file's own directory
    try:
        spec.loader.exec_module(module)
        found = getattr(module, attribute, None)
        if callable(found) and not isinstance(found, Controller):
            found = found()
    except Exception as error:
        raise InputError(f"controller {path}:{attribute}: {type(error).__name__}: {error}. Fix the file.") from error
    if not isinstance(found, Controller):
        raise InputError(
            f"controller {path}:{attribute}: {type(found).__name__}, not a Controller or a function that returns "
            f"one. The file has {', '.join(sorted(name for name in vars(module) if not name.startswith('_')))}."
        )
    return found
