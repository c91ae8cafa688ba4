"""Packs trajectories into padded device arrays.

`ReplayStore` is what the evaluator reads: arrays only. A `Dataset` is a store with the strings behind its ids,
which stay on the host. `pack` makes one from `Trajectories`, `concatenate` joins several, `save` and `load` keep it
on disk with Orbax.
"""

from __future__ import annotations

import dataclasses
import operator
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsIndex, TypeAlias

import jax
import numpy as np
from jax import Array
from jaxtyping import Bool, Float32, Int, Int32

from autotts_jax.errors import InputError
from autotts_jax.trajectories import FORMATS, MAX_TOKENS, Trajectories, read, suffixes

__all__ = [
    "Dataset",
    "ReplayStore",
    "bucket",
    "concatenate",
    "joint_shape",
    "load",
    "open_datasets",
    "pack",
    "part",
    "save",
]

#: On the host or on a device.
AnyArray: TypeAlias = Array | np.ndarray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplayStore:
    """Recorded branches of Q questions, padded to N branches and D intervals; a pytree of arrays.

    Answer ids are per question and drawn at random (see `pack`), so that an id says nothing about correctness,
    frequency, or how many answers the question has.
    A field's ``pad`` fills the space beyond a question's branches, a branch's intervals, or the last question. When
    stores are joined, those without an optional field are filled up with its ``pad``; features must be the same in
    all of them.

    Attributes:
      answers: ``[Q, N, D]`` id of the answer that interval d + 1 reveals, the final one last; −1 beyond the end.
      intervals: ``[Q, N]`` intervals per branch (probes + 1); 0 where there is no branch.
      tokens: ``[Q, N]`` total tokens per branch.
      delta: ``[Q, N]`` Δ, tokens per interval.
      gold: ``[Q]`` id of the gold answer; −1 if no branch ever gives it.
      unparsable: ``[Q, A]`` whether an id stands for an answer that could not be parsed.
      features: ``[Q, N, D, F]`` recorded with each interval and revealed with its probe, such as confidences; None if
        there are none.
      model: ``[Q, N]`` which of several models the branch comes from; None if there is only one.
      price: ``[Q, N]`` price per token, in a unit that makes each branch's price a whole number up to 2²²
        (`CostModel.PRICED` rounds per branch); None if all are 1.
      feature_names: The names of the F features.
    """

    answers: Int[AnyArray, "Q N D"] = dataclasses.field(metadata={"pad": -1})
    intervals: Int32[AnyArray, "Q N"] = dataclasses.field(metadata={"pad": 0})
    tokens: Int32[AnyArray, "Q N"] = dataclasses.field(metadata={"pad": 0})
    delta: Int32[AnyArray, "Q N"] = dataclasses.field(metadata={"pad": 0})
    gold: Int32[AnyArray, " Q"] = dataclasses.field(metadata={"pad": -1})
    unparsable: Bool[AnyArray, "Q A"] = dataclasses.field(metadata={"pad": False})
    features: Float32[AnyArray, "Q N D F"] | None = dataclasses.field(default=None, metadata={"pad": 0})
    model: Int32[AnyArray, "Q N"] | None = dataclasses.field(default=None, metadata={"pad": 0})
    price: Float32[AnyArray, "Q N"] | None = dataclasses.field(default=None, metadata={"pad": 1})
    feature_names: tuple[str, ...] = dataclasses.field(default=(), metadata={"static": True})

    def arrays(self) -> dict[str, AnyArray]:
        """The arrays that are not None, by field."""
        fields = {field.name: getattr(self, field.name) for field in _FIELDS}
        return {name: array for name, array in fields.items() if array is not None}

    @property
    def branch_mask(self) -> Bool[AnyArray, "Q N"]:
        """Whether an entry is a branch, not padding."""
        mask: AnyArray = self.intervals > 0
        return mask

    @property
    def question_mask(self) -> Bool[AnyArray, " Q"]:
        """Whether an entry is a question, not padding."""
        mask: Any = self.branch_mask.any(axis=-1)
        return mask

    @property
    def branches(self) -> Int32[AnyArray, " Q"]:
        """Branches per question."""
        return self.branch_mask.sum(axis=-1, dtype=np.int32)


#: The fields that hold arrays.
_FIELDS = tuple(field for field in dataclasses.fields(ReplayStore) if "pad" in field.metadata)
_PADS = {field.name: field.metadata["pad"] for field in _FIELDS}


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A store with its strings, which stay on the host.

    Attributes:
      store: The arrays, in NumPy; `jax.device_put` moves them.
      parts: Name and number of questions of each part (one model on one benchmark), in order.
      texts: The texts of the questions.
      golds: Their gold answers.
      choices: Per question, the answer string behind each of its ids.
    """

    store: ReplayStore
    parts: tuple[tuple[str, int], ...]
    texts: tuple[str, ...]
    golds: tuple[str, ...]
    choices: tuple[Mapping[int, str], ...]

    def __len__(self) -> int:
        """The number of questions."""
        return len(self.texts)

    def answer(self, question: int, answer_id: SupportsIndex) -> str | None:
        """The string behind an answer id; None for NO_ANSWER, and for ids that stand for none of its answers."""
        return self.choices[question].get(operator.index(answer_id))


# Answers get ids below this number, or below the next power of two that suffices for the question with the most. Were
# they numbered up to their own number, an id would tell how much a question's branches disagree; up to the most in
# their file, it would tell files apart once they are joined. The public files, with up to 902 answers per question,
# all share this range. It is also the width of `ReplayStore.unparsable`, a kilobyte per question.
_IDS = 1024


def pack(trajectories: Trajectories, *, seed: int = 0) -> Dataset:
    """Packs trajectories into arrays.

    A question's answers get distinct ids, drawn uniformly from a range that does not depend on the question.

    Args:
      trajectories: Questions may differ in Δ and in their number of branches, branches in their depth.
      seed: Seed of the ids.

    Raises:
      InputError: if a branch is so long that sums over an episode would overflow int32.
    """
    questions = trajectories.questions
    Q, N = len(questions), max(len(q.intervals) for q in questions)
    D, most = max(q.answers.shape[1] for q in questions), max(len(q.choices) for q in questions)
    A = max(_IDS, 1 << (most - 1).bit_length())
    answers = np.full((Q, N, D), -1, np.int16 if A < 2**15 else np.int32)
    intervals, tokens, delta = (np.zeros((Q, N), np.int32) for _ in range(3))
    gold, unparsable = np.full(Q, -1, np.int32), np.zeros((Q, A), bool)
    choices = []
    for index, question in enumerate(questions):
        n, d = question.answers.shape
        longest = int(question.delta) * (int(question.intervals.max()) - 1)
        if longest > MAX_TOKENS:
            raise InputError(
                f"{trajectories.name}: question {index}: a branch of {question.intervals.max() - 1} probes at "
                f"Δ = {question.delta} is {longest} tokens long; at most {MAX_TOKENS} can be summed exactly."
            )
        # The name and the text make ids of equal questions in other files, or of other models, unrelated to these.
        entropy = f"{trajectories.name} {question.text}".encode()
        ids = np.random.default_rng([seed, index, *entropy]).choice(A, len(question.choices), replace=False)
        answers[index, :n, :d] = np.where(question.answers >= 0, ids[question.answers], -1)
        intervals[index, :n] = question.intervals
        tokens[index, :n] = question.tokens
        delta[index, :n] = question.delta
        choices.append(dict(zip(ids.tolist(), question.choices, strict=True)))
        if question.gold in question.choices:
            gold[index] = ids[question.choices.index(question.gold)]
        unparsable[index, ids] = [choice in trajectories.unparsable for choice in question.choices]
    return Dataset(
        store=ReplayStore(
            answers=answers, intervals=intervals, tokens=tokens, delta=delta, gold=gold, unparsable=unparsable
        ),
        parts=((trajectories.name, Q),),
        texts=tuple(q.text for q in questions),
        golds=tuple(q.gold for q in questions),
        choices=tuple(choices),
    )


def concatenate(datasets: Sequence[Dataset]) -> Dataset:
    """Joins datasets along the questions, padded to the largest; the parts keep their names.

    Raises:
      InputError: if their features differ.
    """
    stores = [dataset.store for dataset in datasets]
    questions = sum(len(store.gold) for store in stores)
    return Dataset(
        store=part(stores, 0, questions, joint_shape(stores)),
        parts=tuple(part for dataset in datasets for part in dataset.parts),
        texts=tuple(text for dataset in datasets for text in dataset.texts),
        golds=tuple(gold for dataset in datasets for gold in dataset.golds),
        choices=tuple(choice for dataset in datasets for choice in dataset.choices),
    )


Shape: TypeAlias = dict[str, tuple[int, ...]]


def joint_shape(stores: Sequence[ReplayStore], *, bucketed: bool = False) -> Shape:
    """Per array, the smallest shape, without Q, that holds a question of any of the stores.

    Args:
      stores: The stores.
      bucketed: Whether to round sizes up, by at most an eighth, so that similar stores share shapes and a compiled
        program.

    Raises:
      InputError: if some stores have features that others lack.
    """
    names = sorted({store.feature_names for store in stores})
    if len(names) > 1:
        listed = " and ".join(", ".join(some) or "none" for some in names[:2])
        raise InputError(f"features: {listed}. Stores that are replayed together must have the same ones.")
    shapes = [{name: array.shape[1:] for name, array in store.arrays().items()} for store in stores]
    found = {name: [shape[name] for shape in shapes if name in shape] for field in _FIELDS for name in [field.name]}

    def joint(name: str, tails: list[tuple[int, ...]]) -> tuple[int, ...]:
        most = tuple(map(max, zip(*tails, strict=True)))
        kept = most[-1:] if name == "features" else ()  # F is not padded
        return (*(bucket(n) if bucketed else n for n in most[: len(most) - len(kept)]), *kept)

    return {name: joint(name, tails) for name, tails in found.items() if tails}


def bucket(size: int) -> int:
    """The size rounded up to a multiple of an eighth of the power of two below it."""
    step = 2 ** max(size.bit_length() - 4, 0)
    return -(-size // step) * step


def part(stores: Sequence[ReplayStore], start: int, stop: int, shape: Shape) -> ReplayStore:
    """Questions start … stop − 1 of consecutive stores, copied and padded; beyond the last one, only padding.

    Args:
      stores: The stores, in host memory.
      start: The first question, numbered across the stores.
      stop: One past the last question.
      shape: From `joint_shape`.
    """
    arrays: dict[str, np.ndarray] = {}
    for name, tail in shape.items():
        dtype = np.result_type(*(store.arrays()[name] for store in stores if name in store.arrays()))
        arrays[name] = np.full((stop - start, *tail), _PADS[name], dtype)
    offset = 0
    for store in stores:
        low, high = max(start - offset, 0), min(stop - offset, len(store.gold))
        if low < high:
            for name, array in store.arrays().items():
                piece = array[low:high]
                inside = tuple(slice(size) for size in piece.shape[1:])
                arrays[name][(slice(low + offset - start, high + offset - start), *inside)] = piece
        offset += len(store.gold)
    return ReplayStore(**arrays, feature_names=stores[0].feature_names)


# --- on disk ---------------------------------------------------------------------------------------------------------

_FORMAT = 3


def save(dataset: Dataset, path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Writes a dataset as an Orbax checkpoint directory, whole or not at all.

    Args:
      dataset: What to write.
      path: The directory; it must not exist unless `force`.
      force: Whether to replace an existing one.

    Raises:
      ValueError: if the directory exists and `force` is not set.
    """
    import orbax.checkpoint as ocp  # takes a second to import

    strings = {key: getattr(dataset, key) for key in ("parts", "texts", "golds", "choices")}
    strings["feature_names"] = dataset.store.feature_names
    arrays = {name: np.asarray(array) for name, array in dataset.store.arrays().items()}
    layout = {name: [str(array.dtype), *array.shape] for name, array in arrays.items()}
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(
            Path(path).absolute(),
            ocp.args.Composite(
                arrays=ocp.args.StandardSave(arrays),
                metadata=ocp.args.JsonSave({"autotts_jax": _FORMAT, "layout": layout, **strings}),
            ),
            force=force,
        )


def load(path: str | os.PathLike[str]) -> Dataset:
    """Reads what `save` wrote and checks that arrays and metadata match.

    Raises:
      InputError: if the directory is no such checkpoint, or arrays and metadata disagree.
    """
    import orbax.checkpoint as ocp

    path = Path(path).absolute()
    if not (path / "arrays").is_dir() or not (path / "metadata").is_dir():
        raise InputError(f"{path}: not a store. Name a directory that `autotts_jax.save` wrote.")
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        # Metadata first: it says what the arrays must be before they are read.
        metadata = checkpointer.restore(path, ocp.args.Composite(metadata=ocp.args.JsonRestore()))["metadata"]
        if metadata.get("autotts_jax") != _FORMAT:
            raise InputError(
                f"{path}: field autotts_jax is {metadata.get('autotts_jax')!r}, not {_FORMAT}: "
                "written by another version. Pack the trajectories again."
            )
        arrays = checkpointer.restore(path, ocp.args.Composite(arrays=ocp.args.StandardRestore()))["arrays"]
    layout = {name: [str(array.dtype), *array.shape] for name, array in arrays.items()}
    questions = {len(metadata[key]) for key in ("texts", "golds", "choices")} | {sum(n for _, n in metadata["parts"])}
    for name, found in metadata["layout"].items():
        if layout.get(name) != found:
            raise InputError(
                f"{path}: array {name} is {layout.get(name)}, the metadata says {found}. Pack the trajectories again."
            )
    if questions != {len(arrays["gold"])}:
        raise InputError(
            f"{path}: the metadata names {sorted(questions)} questions, the arrays hold {len(arrays['gold'])}. "
            "Pack the trajectories again."
        )
    return Dataset(
        store=ReplayStore(**arrays, feature_names=tuple(metadata["feature_names"])),
        parts=tuple((name, n) for name, n in metadata["parts"]),
        texts=tuple(metadata["texts"]),
        golds=tuple(metadata["golds"]),
        # JSON's keys are strings.
        choices=tuple({int(answer_id): answer for answer_id, answer in some.items()} for some in metadata["choices"]),
    )


def open_datasets(path: str | os.PathLike[str]) -> list[Dataset]:
    """Opens a trajectory file, a store that `save` wrote, or a directory of files, read in order of name.

    Raises:
      InputError: naming file, field, value and remedy.
    """
    path = Path(path)
    if not path.is_dir():
        return [pack(read(path))]
    if (path / "metadata").is_dir():
        return [load(path)]
    files = sorted(file for suffix in FORMATS for file in path.rglob(f"*{suffix}"))
    if not files:
        raise InputError(f"{path}: no {suffixes()} file in this directory. Check the path.")
    return [pack(read(file)) for file in files]
