"""Means by question, kept in a run: of each candidate that was judged, and of what they were measured against.

Each is an archive of its own, ``evaluations/<digest>``, under a digest of what it holds, which the ledger's event
gives. It is written before the event: one that no event names is what a kill left, and is written again.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from autotts_discovery.bench import Bench
from autotts_discovery.fitness import Means
from autotts_jax.archives import load_archive, save_archive
from autotts_jax.digests import Digest
from autotts_jax.errors import InputError
from autotts_jax.files import writable

__all__ = ["References", "keep_means", "keep_references", "kept_means", "kept_references", "sweep_up"]

_FOLDER = "evaluations"

#: What an archive that was being written leaves behind when the run is killed.
_STRAY = re.compile(r"tmp[a-z0-9_]{8}")

_REMEDY = "Put the directory back as the run wrote it, or start another run."


@dataclasses.dataclass(frozen=True, eq=False)
class References:
    """What candidates are measured against, by question: see `bench.Bench`, which holds the data, too.

    Attributes:
      names: Of the R references; the first is CMC.
      betas: The P βs.
      means: ``[R, P, Q]`` on the shuffles of a verdict.
      start: ``[1, Q]`` one branch, read to its end.
      budgets: Token budgets.
      member: 1 where a question belongs to a dataset.
      clusters: 1 where a question belongs to a cluster.
    """

    names: tuple[str, ...]
    betas: tuple[float, ...]
    means: Means
    start: Means
    budgets: Float32[np.ndarray, "D G"]
    member: Float32[np.ndarray, "D Q"]
    clusters: Float32[np.ndarray, "C Q"]

    @classmethod
    def of(cls, bench: Bench) -> References:
        """Those of a bench."""
        means = bench.references[bench.shuffles]
        return cls(bench.names, bench.betas, means, bench.start, bench.budgets, bench.member, bench.clusters)


def keep_means(run: Path, means: Means) -> str:
    """Keeps a candidate's means by question, ``[P, Q]``, and returns the digest that they are kept under.

    Raises:
      InputError: if they cannot be written.
    """
    return _keep(run, means._asdict(), {})


def kept_means(run: Path, digest: str, references: References) -> Means:
    """A candidate's means by question, ``[P, Q]``.

    Raises:
      InputError: naming the directory, if it is missing, damaged, or not what the digest is of.
    """
    arrays, _ = _kept(run, digest)
    shape = references.means.accuracy.shape[1:]
    if {name: array.shape for name, array in arrays.items()} != dict.fromkeys(Means._fields, shape):
        raise InputError(f"{run / _FOLDER / digest}: not the means of a candidate of this run. {_REMEDY}")
    return Means(**arrays)


def keep_references(run: Path, references: References) -> str:
    """Likewise, for what candidates are measured against."""
    arrays = {
        **references.means._asdict(),
        **{f"start_{name}": values for name, values in references.start._asdict().items()},
        **{name: getattr(references, name) for name in ("budgets", "member", "clusters")},
    }
    return _keep(run, arrays, {"names": list(references.names), "betas": list(references.betas)})


def kept_references(run: Path, digest: str) -> References:
    """Likewise."""
    arrays, contents = _kept(run, digest)
    try:
        return References(
            names=tuple(contents["names"]),
            betas=tuple(contents["betas"]),
            means=Means(*(arrays[name] for name in Means._fields)),
            start=Means(*(arrays[f"start_{name}"] for name in Means._fields)),
            **{name: arrays[name] for name in ("budgets", "member", "clusters")},
        )
    except KeyError:
        raise InputError(f"{run / _FOLDER / digest}: not the references of a run. {_REMEDY}") from None


def sweep_up(run: Path) -> None:
    """Removes what kills left of archives; nobody else may be writing to the run."""
    for path in (run / _FOLDER).glob("tmp*"):
        if _STRAY.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def _keep(run: Path, arrays: Mapping[str, Any], contents: Mapping[str, Any]) -> str:
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    digest = _digest(arrays, contents)
    save_archive(writable(run / _FOLDER).absolute() / digest, arrays, contents)
    return digest


def _kept(run: Path, digest: str) -> tuple[dict[str, Any], dict[str, Any]]:
    path = run / _FOLDER / digest
    if not path.is_dir():
        raise InputError(f"{path}: missing. {_REMEDY}")
    arrays, contents = load_archive(path.absolute(), _REMEDY)
    if _digest(arrays, contents) != digest:
        raise InputError(f"{path}: another archive than the ledger says. {_REMEDY}")
    return arrays, contents


def _digest(arrays: Mapping[str, np.ndarray], contents: Mapping[str, Any]) -> str:
    digest = Digest()
    digest.json("contents", contents)
    for name, array in sorted(arrays.items()):
        digest.array(name, array)
    return digest.hex()
