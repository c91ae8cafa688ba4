"""What results come from: data, controllers and settings, each known by a digest and named by a label of its own."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import hashlib
import importlib.metadata
import platform
from collections.abc import Callable, Sequence

import jax
import pydantic

from autotts_jax.controllers import Controller
from autotts_jax.environment import CostModel, Rules
from autotts_jax.errors import InputError
from autotts_jax.orders import Orders
from autotts_jax.replay import Dataset
from autotts_jax.settings import Setting

__all__ = [
    "Provenance",
    "UsedDataset",
    "UsedSetting",
    "device",
    "distinct_datasets",
    "distinct_settings",
    "used_datasets",
    "versions",
]

#: Digits of a digest in a label.
_SHORT = 6


class UsedDataset(pydantic.BaseModel, frozen=True, extra="forbid"):
    """A dataset that was replayed.

    Attributes:
      label: Its unique name.
      questions: Their number.
      digest: Of its contents, see `Dataset.digests`.
      source: The file or store that it was read from; empty if it was made in Python.
    """

    label: str
    questions: int
    digest: str
    source: str = ""


class UsedSetting(pydantic.BaseModel, frozen=True, extra="forbid"):
    """A controller that was replayed, with its fixed parameters.

    Attributes:
      label: Its unique name.
      controller: The controller's name.
      given: The parameters that were fixed instead of scheduled.
      artefact: The digest of the exported controller.
      source: The paper that the controller is from.
    """

    label: str
    controller: str
    given: dict[str, float]
    artefact: str
    source: str = ""


class Provenance(pydantic.BaseModel, frozen=True, extra="forbid"):
    """What the results of a sweep come from.

    Attributes:
      datasets: What was replayed.
      settings: By which controllers.
      betas: The β grid.
      shuffles: Branch orders per question.
      orders: How they were drawn.
      seed: Seed of random and bootstrap orders.
      width: The slots of the orders.
      cost: The cost model.
      probe_cost: κ_probe, in the cost model's unit.
      budget: The most that an episode may cost; None for no limit.
      versions: Of Python and of the libraries that the numbers depend on.
      device: What it ran on.
      finished: When it ended.
      command: The command that was run; empty for a call in Python. For readers only.
    """

    datasets: tuple[UsedDataset, ...]
    settings: tuple[UsedSetting, ...]
    betas: tuple[float, ...]
    shuffles: int
    orders: Orders
    seed: int
    width: int
    cost: CostModel
    probe_cost: int
    budget: int | None
    versions: dict[str, str]
    device: str
    finished: datetime.datetime
    command: tuple[str, ...] = ()

    @property
    def rules(self) -> Rules:
        """What actions cost."""
        return Rules(cost=self.cost, probe_cost=self.probe_cost, budget=self.budget)


def used_datasets(datasets: Sequence[Dataset]) -> tuple[UsedDataset, ...]:
    """Label, size and digest of each part of the datasets."""
    return tuple(
        UsedDataset(label=name, questions=questions, digest=digest, source=dataset.source)
        for dataset in datasets
        for (name, questions), digest in zip(dataset.parts, dataset.digests, strict=True)
    )


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that results depend on."""
    names = ("autotts-jax", "jax", "jaxlib", "numpy")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}


def device() -> str:
    """The devices that JAX runs on, in words."""
    first = jax.devices()[0]
    return f"{first.platform}, {first.device_kind} × {jax.device_count()}"


def distinct_datasets(datasets: Sequence[Dataset]) -> tuple[list[Dataset], list[str]]:
    """Datasets whose parts all have contents and labels of their own, and notes on what was changed for that.

    A dataset whose contents came before is left out. Parts of one name but with other contents become
    ``name@digest``, shortened.

    Raises:
      InputError: if some parts of a dataset came before, and others did not.
    """
    kept: list[Dataset] = []
    notes: list[str] = []
    first: dict[str, str] = {}
    for dataset in datasets:
        names = [name for name, _ in dataset.parts]
        again = [first.get(digest) for digest in dataset.digests]
        if all(again):
            notes += [f"{a}: the same data as {b}; counted once." for a, b in zip(names, again, strict=True)]
            continue
        if any(again) or len(set(dataset.digests)) < len(names):
            raise InputError(f"dataset {', '.join(names)}: some of its data are there twice. Leave them out.")
        first.update(zip(dataset.digests, names, strict=True))
        kept.append(dataset)
    counts = collections.Counter(name for dataset in kept for name, _ in dataset.parts)

    def label(name: str, digest: str) -> str:
        if counts[name] == 1:
            return name
        notes.append(f"{name}: the name of {counts[name]} datasets; one of them is {name}@{digest[:_SHORT]} here.")
        return f"{name}@{digest[:_SHORT]}"

    for index, dataset in enumerate(kept):
        parts = zip(dataset.parts, dataset.digests, strict=True)
        labelled = tuple((label(name, digest), questions) for (name, questions), digest in parts)
        kept[index] = dataclasses.replace(dataset, parts=labelled)
    return kept, notes


def distinct_settings(
    settings: Sequence[Setting], digest: Callable[[Controller], str]
) -> tuple[list[Setting], list[str]]:
    """Settings that differ and have labels of their own, and notes on what was changed for that.

    A setting that came before is left out. Different ones of one label become ``label@digest``, shortened.

    Args:
      settings: The settings.
      digest: Of a controller's artefact; called only for settings that share a label.

    Raises:
      InputError: if a label that was given is not unique.
    """
    by_label: dict[str, dict[str, Setting]] = {}
    notes = []
    shared = collections.Counter(setting.label for setting in settings)
    for setting in settings:
        identity = ""
        if shared[setting.label] > 1:
            content = (digest(setting.controller), sorted(setting.given.items()))
            identity = hashlib.blake2b(repr(content).encode(), digest_size=16).hexdigest()
        if identity in by_label.setdefault(setting.label, {}):
            notes.append(f"{setting.label}: given twice; counted once.")
        by_label[setting.label].setdefault(identity, setting)
    kept: list[Setting] = []
    for label, group in by_label.items():
        if len(group) == 1:
            kept += group.values()
            continue
        for identity, setting in group.items():
            if label != dataclasses.replace(setting, label="").label:
                raise InputError(f"label {label}: of {len(group)} different settings. Give each a name of its own.")
            kept.append(dataclasses.replace(setting, label=f"{label}@{identity[:_SHORT]}"))
            notes.append(
                f"{label}: the name of {len(group)} settings; the one whose artefact is "
                f"{digest(setting.controller)[:_SHORT]}… is {kept[-1].label} here."
            )
    return kept, notes
