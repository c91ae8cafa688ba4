"""Packs trajectories into padded device arrays.

`ReplayStore` is what the evaluator reads: arrays only. A `Dataset` is a store with the strings behind its ids,
which stay on the host. `pack` makes one from `Trajectories`, `concatenate` joins several, `save` and `load` keep it
on disk with Orbax.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, SupportsIndex, TypeAlias

import jax
import numpy as np
import pydantic
from jax import Array
from jaxtyping import Bool, Float32, Int, Int32

from autotts_jax.archives import is_archive, load_archive, save_archive
from autotts_jax.digests import Digest
from autotts_jax.errors import InputError, check_seed, one_line
from autotts_jax.files import existing, writable
from autotts_jax.trajectories import (
    FORMATS,
    UNPARSABLE,
    Question,
    Trajectories,
    check_branches,
    check_texts,
    read,
    suffixes,
    validated,
)

__all__ = [
    "Dataset",
    "ReplayStore",
    "bucket",
    "concatenate",
    "joint_shape",
    "load",
    "open_datasets",
    "open_trajectories",
    "pack",
    "part",
    "save",
    "unpack",
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

    def __repr__(self) -> str:
        """One line: the size, not the values."""
        return f"ReplayStore({self._size()})"

    def _size(self) -> str:
        # Transformed stores hold anything, with more axes or none.
        shape = " × ".join(map(str, np.shape(self.answers)))
        size = sum(getattr(getattr(self, field.name), "nbytes", 0) for field in _FIELDS)
        return f"questions × branches × intervals: {shape}; {size / 2**20:.1f} MiB"

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
      source: Where it was read from, for people and for reports; empty if made in Python.
    """

    store: ReplayStore
    parts: tuple[tuple[str, int], ...]
    texts: tuple[str, ...]
    golds: tuple[str, ...]
    choices: tuple[Mapping[int, str], ...]
    source: str = ""

    def __len__(self) -> int:
        """The number of questions."""
        return len(self.texts)

    def __repr__(self) -> str:
        """One line: names and size, not the values."""
        names = ", ".join(name for name, _ in self.parts[:3]) + ", …" * (len(self.parts) > 3)
        return f"Dataset({names}; {self.store._size()})"

    @functools.cached_property
    def digests(self) -> tuple[str, ...]:
        """A digest of each part's contents, in order: 16 bytes of BLAKE2b, in hexadecimal.

        Of a part's questions, it covers texts, golds, answer strings and all fields of the store. Which ids the
        answers have, padding, the width of integer types, and other parts do not matter, nor does the part's name; a
        `model` of 0 or a `price` of 1 everywhere counts as absent.
        """
        stops = np.cumsum([questions for _, questions in self.parts]).tolist()
        return tuple(self._digest(stop - n, stop) for (_, n), stop in zip(self.parts, stops, strict=True))

    @functools.cached_property
    def digest(self) -> str:
        """A digest of all parts: of their names and `digests`, in order."""
        digest = Digest()
        digest.json("parts", [[*part, found] for part, found in zip(self.parts, self.digests, strict=True)])
        return digest.hex()

    def _digest(self, start: int, stop: int) -> str:
        arrays = {name: np.asarray(array)[start:stop] for name, array in self.store.arrays().items()}
        branches = arrays["intervals"] > 0
        # A joined store has these fields if any of its parts has.
        for name in ("model", "price"):
            if name in arrays and (arrays[name][branches] == _PADS[name]).all():
                del arrays[name]
        digest = Digest()
        digest.texts("texts", self.texts[start:stop])
        digest.texts("golds", self.golds[start:stop])
        digest.texts("feature names", self.store.feature_names)
        for low in range(0, stop - start, _DIGESTED):  # a copy of a whole store could be too large
            piece = {name: array[low : low + _DIGESTED] for name, array in arrays.items()}
            there = piece["intervals"] > 0
            generated = np.arange(piece["answers"].shape[-1]) < piece["intervals"][..., None]
            digest.array("branches", there.sum(axis=-1))
            for name in ("intervals", "tokens", "delta", "model", "price"):
                if name in piece:
                    digest.array(name, piece[name][there])
            if "features" in piece:
                digest.array("features", piece["features"][generated])
            named = [
                sorted((text, number) for number, text in some.items())
                for some in self.choices[start:stop][low : low + _DIGESTED]
            ]
            digest.texts("choices", [text for some in named for text, _ in some])
            digest.array("choices per question", [len(some) for some in named])
            # Each answer by its place among the question's sorted strings; below −1 what no answer has, −1 for none.
            unknown = np.append(-2 - np.arange(piece["unparsable"].shape[1], dtype=np.int32), np.int32(-1))
            places = np.tile(unknown, (len(named), 1))
            for place, some in zip(places, named, strict=True):
                place[[number for _, number in some]] = np.arange(len(some))
            questions = np.arange(len(named))
            which = np.repeat(questions, generated.sum(axis=(1, 2)))
            digest.array("answers", places[which, piece["answers"][generated]])
            digest.array("gold", places[questions, piece["gold"]])
            ids = np.array([number for some in named for _, number in some], np.intp)
            digest.array("unparsable per question", piece["unparsable"].sum(axis=1))
            digest.array("unparsable", piece["unparsable"][np.repeat(questions, [len(some) for some in named]), ids])
        return digest.hex()

    def answer(self, question: int, answer_id: SupportsIndex) -> str | None:
        """The string behind an answer id; None for NO_ANSWER, and for ids that stand for none of its answers."""
        return self.choices[question].get(operator.index(answer_id))


# Answers get ids below this number, or below the next power of two that suffices for the question with the most. Were
# they numbered up to their own number, an id would tell how much a question's branches disagree; up to the most in
# their file, it would tell files apart once they are joined. The public files, with up to 902 answers per question,
# all share this range. It is also the width of `ReplayStore.unparsable`, a kilobyte per question.
_IDS = 1024

#: Questions that are checked at a time: few, for caches' sake.
_CHECKED = 256

#: The file that makes a directory a results folder. Tables of results are no trajectories.
RESULTS = "sweep.json"

#: Questions that are digested at a time. Part of the definition of `Dataset.digests`.
_DIGESTED = 4096


def pack(trajectories: Trajectories, *, seed: int = 0) -> Dataset:
    """Packs trajectories into arrays.

    A question's answers get distinct ids, drawn uniformly from a range that does not depend on the question.

    Args:
      trajectories: Questions may differ in Δ and in their number of branches, branches in their depth.
      seed: Seed of the ids.

    Raises:
      InputError: if the seed or a field is wrong; see `trajectories.validated`.
    """
    check_seed(seed)
    questions = validated(trajectories, trajectories.name).questions
    Q, N = len(questions), max(len(q.intervals) for q in questions)
    D, most = max(q.answers.shape[1] for q in questions), max(len(q.choices) for q in questions)
    A = max(_IDS, 1 << (most - 1).bit_length())
    answers = np.full((Q, N, D), -1, np.int16 if A < 2**15 else np.int32)
    intervals, tokens, delta = (np.zeros((Q, N), np.int32) for _ in range(3))
    gold, unparsable = np.full(Q, -1, np.int32), np.zeros((Q, A), bool)
    choices = []
    for index, question in enumerate(questions):
        n, d = question.answers.shape
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


# --- what a dataset must be ------------------------------------------------------------------------------------------

_TYPES = {"answers": np.signedinteger, "unparsable": np.bool_, "features": np.float32, "price": np.float32}


def _check(dataset: Dataset, where: str) -> None:
    """Checks every field of a dataset in host memory.

    Raises:
      InputError: naming field and value.
    """
    store, Q = dataset.store, len(dataset.texts)
    names = store.feature_names

    def demand(right: object, field: str, what: str) -> None:
        if not right:
            raise InputError(f"{where}: field {field}: {what}. Pack the trajectories again.")

    def fail(low: int, question: int, branch: int, field: str, what: str) -> NoReturn:
        place = f"question {low + question}, field {field}, branch {branch}"
        raise InputError(f"{where}: {place}: {what}. Pack the trajectories again.")

    check_texts([*names, *(name for name, _ in dataset.parts), *dataset.texts, *dataset.golds], where)
    demand(Q, "texts", "no question; there must be at least one")
    counts = {"golds": len(dataset.golds), "choices": len(dataset.choices), "parts": sum(n for _, n in dataset.parts)}
    for field, count in counts.items():
        demand(count == Q, field, f"{count} questions, while texts has {Q}")
    demand(all(n > 0 for _, n in dataset.parts), "parts", "one has no question; each must have at least one")
    demand(len(set(names)) == len(names), "feature_names", f"{', '.join(names)}; they must be distinct")

    (N, D), A = (*store.answers.shape, 0, 0, 0)[1:3], (*store.unparsable.shape, 0, 0)[1]
    shapes = {"answers": (Q, N, D), "gold": (Q,), "unparsable": (Q, A), "features": (Q, N, D, len(names))}
    for field, array in store.arrays().items():
        shape, kind = shapes.get(field, (Q, N)), _TYPES.get(field, np.int32)
        demand(array.shape == shape, field, f"shape {array.shape}; it must be {shape}")
        demand(np.issubdtype(array.dtype, kind), field, f"{array.dtype}; it must be {kind.__name__}")
    demand((store.features is None) == (not names), "feature_names", f"{len(names)}, without features")
    if store.model is not None:
        demand(np.min(store.model) >= 0, "model", f"{np.min(store.model)}; models count from 0")
    if store.price is not None:
        demand(np.all(np.isfinite(store.price)) and np.min(store.price) >= 0, "price", "not finite, or less than 0")

    known = np.zeros((Q, A), bool)
    for question, named in enumerate(dataset.choices):
        texts = list(named.values())
        check_texts(texts, f"{where}: question {question}, field choices")
        demand(len(set(texts)) == len(texts), "choices", f"a string twice in question {question}")
        demand(all(0 <= i < A for i in named), "choices", f"an id outside 0 to {A - 1} in question {question}")
        known[question, list(named)] = True
        right = next((i for i, text in named.items() if text == dataset.golds[question]), -1)
        gold = store.gold[question]
        demand(gold == right, "gold", f"{gold} in question {question}, whose gold answer has id {right}")
    demand(not (store.unparsable & ~known).any(), "unparsable", "set for an id without a string")
    for low in range(0, Q, _CHECKED):
        columns = (store.answers, store.intervals, store.tokens, store.delta, known)
        check_branches(functools.partial(fail, low), *(np.asarray(column)[low : low + _CHECKED] for column in columns))


# --- on disk ---------------------------------------------------------------------------------------------------------


def save(dataset: Dataset, path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Writes a dataset as an Orbax checkpoint directory, whole or not at all, with a digest of all that it holds.

    Args:
      dataset: What to write.
      path: The directory; it must not exist unless `force`.
      force: Whether to replace a store that is there; anything else is kept.

    Raises:
      InputError: if the directory exists and `force` is not set, it cannot be written, or a field is wrong.
    """
    path = Path(path).absolute()
    if os.path.lexists(path) and not force:
        raise InputError(f"{path}: exists. Name another directory, or replace it with force=True.")
    if os.path.lexists(path) and not is_archive(path):
        raise InputError(f"{path}: exists and is not a store, so it is not replaced. Name another directory.")
    arrays = {name: np.asarray(array) for name, array in dataset.store.arrays().items()}
    store = ReplayStore(**arrays, feature_names=dataset.store.feature_names)
    _check(dataclasses.replace(dataset, store=store), str(path))
    contents = {
        "feature_names": store.feature_names,
        "parts": dataset.parts,
        "texts": dataset.texts,
        "golds": dataset.golds,
        "choices": [list(named.items()) for named in dataset.choices],  # an object's keys would have to be strings
    }
    writable(path.parent)
    save_archive(path, arrays, contents)


class _Contents(pydantic.BaseModel):
    """What is kept of a dataset beside its arrays; `choices` as pairs."""

    feature_names: tuple[pydantic.StrictStr, ...]
    parts: tuple[tuple[pydantic.StrictStr, pydantic.StrictInt], ...]
    texts: tuple[pydantic.StrictStr, ...]
    golds: tuple[pydantic.StrictStr, ...]
    choices: tuple[tuple[tuple[pydantic.StrictInt, pydantic.StrictStr], ...], ...]


def load(path: str | os.PathLike[str]) -> Dataset:
    """Reads what `save` wrote, and checks its digest and every field.

    Raises:
      InputError: if the directory is no store, was written by another version, is damaged, or a field is wrong.
    """
    path = existing(path).absolute()
    if not is_archive(path):
        raise InputError(f"{path}: not a store. Name a directory that `autotts_jax.save` wrote.")
    arrays, found = load_archive(path, "Pack the trajectories again.")
    try:
        contents = _Contents.model_validate(found)
        store = ReplayStore(**arrays, feature_names=contents.feature_names)
    except (pydantic.ValidationError, TypeError) as error:
        raise InputError(f"{path}: not a store ({one_line(error)}). Pack the trajectories again.") from None
    dataset = Dataset(
        store=store,
        parts=contents.parts,
        texts=contents.texts,
        golds=contents.golds,
        choices=tuple(map(dict, contents.choices)),
    )
    _check(dataset, str(path))
    return dataset


def open_datasets(path: str | os.PathLike[str]) -> list[Dataset]:
    """Opens a trajectory file, a store that `save` wrote, or a directory of files, read in order of name.

    Each dataset says in `Dataset.source` which file or store it is.

    Raises:
      InputError: naming file, field, value and remedy.
    """
    if is_archive(Path(path)):
        return [_from(Path(path), load(path))]
    return [_from(file, pack(read(file))) for file in _files(Path(path))]


def open_trajectories(path: str | os.PathLike[str]) -> list[Trajectories]:
    """Likewise, but as trajectories; a store, which keeps no recording settings, is unpacked part by part."""
    if is_archive(Path(path)):
        return unpack(load(path))
    return [read(file) for file in _files(Path(path))]


def unpack(dataset: Dataset) -> list[Trajectories]:
    """The trajectories of each part: what `pack` was given, without the recording settings.

    Features, models and prices are left out: trajectories have none.

    Raises:
      InputError: if branches of a question differ in Δ.
    """
    store = dataset.store
    questions = []
    for q in range(len(dataset)):
        names, n = dataset.choices[q], int(store.branches[q])
        if (store.delta[q, :n] != store.delta[q, 0]).any():
            raise InputError(f"question {q}, field delta: branches differ in it; as trajectories they cannot.")
        branches = []
        for row, intervals, tokens in zip(
            store.answers[q, :n], store.intervals[q, :n], store.tokens[q, :n], strict=True
        ):
            *probes, final = (names[number] for number in row[:intervals].tolist())
            branches.append((probes, int(tokens), final))
        questions.append(Question.from_branches(dataset.texts[q], dataset.golds[q], int(store.delta[q, 0]), branches))
    flags = np.argwhere(store.unparsable).tolist()
    unparsable = tuple(dict.fromkeys(dataset.choices[q][number] for q, number in flags)) or UNPARSABLE
    stops = np.cumsum([questions for _, questions in dataset.parts]).tolist()
    return [
        Trajectories(questions[stop - n : stop], benchmark=name, unparsable=unparsable)
        for (name, n), stop in zip(dataset.parts, stops, strict=True)
    ]


def _files(path: Path) -> list[Path]:
    """The file, or those in the directory."""
    if not existing(path).is_dir():
        return [path]
    if (path / RESULTS).exists():
        raise InputError(f"{path}: a sweep's results, no trajectories. Name what was swept.")
    files = sorted(file for suffix in FORMATS for file in path.rglob(f"*{suffix}"))
    files = [file for file in files if not any((parent / RESULTS).exists() for parent in file.parents)]
    if not files:
        raise InputError(f"{path}: no {suffixes()} file in this directory. Check the path.")
    return files


def _from(path: Path, dataset: Dataset) -> Dataset:
    return dataclasses.replace(dataset, source=str(path.absolute()))
