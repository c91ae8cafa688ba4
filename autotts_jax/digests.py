"""Digests of contents: equal for equal contents, whatever the width of their types or the file they came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["Digest"]


class Digest:
    """A BLAKE2b digest, 16 bytes, of named values that are added one after another."""

    def __init__(self) -> None:
        """A digest of nothing yet."""
        self._hash = hashlib.blake2b(digest_size=16)

    def array(self, name: str, values: Any) -> None:
        """Adds an array: its shape and its values, as float32 or as the narrowest signed integers that hold them."""
        values = np.asarray(values)
        kind = np.dtype("<f4") if values.dtype.kind == "f" else _narrowest(values)
        self._add(name, kind.str, values.shape, np.ascontiguousarray(values, kind).data)

    def texts(self, name: str, values: Sequence[str]) -> None:
        """Adds strings."""
        encoded = [value.encode("utf-8", "surrogatepass") for value in values]
        self.array(f"{name} lengths", np.array([len(value) for value in encoded], np.int64))
        self._add(name, "utf-8", [len(encoded)], b"".join(encoded))

    def json(self, name: str, value: Any) -> None:
        """Adds what JSON can say; the order of an object's keys does not matter."""
        self.texts(name, [json.dumps(value, sort_keys=True)])

    def hex(self) -> str:
        """The digest of all that was added."""
        return self._hash.hexdigest()

    def _add(self, name: str, kind: str, shape: Sequence[int], data: bytes | memoryview) -> None:
        self._hash.update(json.dumps([name, kind, *shape]).encode() + b"\n")
        self._hash.update(data)


def _narrowest(values: np.ndarray) -> np.dtype:
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    kinds = map(np.dtype, ("<i1", "<i2", "<i4", "<i8"))
    return next(kind for kind in kinds if np.iinfo(kind).min <= low <= high <= np.iinfo(kind).max)
