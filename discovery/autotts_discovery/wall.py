"""The wall: a candidate's Python runs behind it, and only an artefact, checked, comes out.

`export` hands a source to a worker process without network, keys or files but those of the interpreter and the
libraries; `layers` says what holds it on this machine. The worker's answer is taken for nothing but bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from autotts_jax.artefacts import Artefact

__all__ = ["Limits", "export", "layers"]


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one candidate may use.

    Attributes:
      seconds: Until its processes are killed.
      memory_bytes: Memory, beyond what the libraries take.
      processes: Threads and processes.
      file_bytes: The largest file that it could write, if it could write any.
      output_bytes: The largest answer.
    """

    seconds: float = 30
    memory_bytes: int = 2 << 30
    processes: int = 64
    file_bytes: int = 0
    output_bytes: int = 8 << 20


def layers() -> tuple[str, ...]:
    """What the wall is made of on this machine; empty where there is none."""
    raise NotImplementedError


def export(
    source: str,
    *,
    widths: Sequence[int] = (64,),
    feature_names: Sequence[str] = (),
    limits: Limits | None = None,
    trust: bool = False,
) -> Artefact:
    """Turns a candidate into an artefact; none of its Python runs in this process.

    Args:
      source: A module that defines ``CONTROLLER``.
      widths: Numbers of slots to export it for.
      feature_names: Features of the stores that it will be replayed on.
      limits: What it may use; defaults to ``Limits()``.
      trust: Run it also where there is no wall.

    Returns:
      The artefact, its text being `source`.

    Raises:
      Refused: naming the stage and the reason.
      InputError: where there is no wall, unless it is trusted.
    """
    raise NotImplementedError
