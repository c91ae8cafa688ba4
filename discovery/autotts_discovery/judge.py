"""The judge: a process of its own that compiles and replays candidates, and is killed when one goes astray.

Calls and answers go through pipes, as JSON and the bytes of artefacts; what comes back is parsed, never unpickled.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from autotts_discovery.bench import Bench, Verdict, make_bench
from autotts_discovery.fitness import Terms
from autotts_discovery.tuning import Tuned
from autotts_jax.artefacts import Artefact

__all__ = ["Bench", "Judge", "Terms", "Tuned", "Verdict", "make_bench"]


class Judge:
    """A process that holds a bench and judges candidates on it.

    It starts with the first call, and anew after one that crashed, took too long or too much memory. Use it as a
    context manager, or call `close`.

    Args:
      bench: The bench.
      seconds: Deadline of a call; that of `tune` is its own.
      memory_bytes: The most memory that the process may take (Linux only).
    """

    def __init__(self, bench: Bench, *, seconds: float = 120, memory_bytes: int = 6 << 30) -> None:
        raise NotImplementedError

    def look(self, artefact: Artefact, *, floor: float | None = None) -> Verdict:
        """A quick look: a verdict on few shuffles.

        Args:
          artefact: The candidate.
          floor: Refuse what is not above this gain, penalty deducted, by three standard errors; defaults to that of
            the worst reference.

        Raises:
          Refused: at stage "judge" if it is far below everything known, or as `judge` does.
        """
        raise NotImplementedError

    def judge(self, artefact: Artefact) -> Verdict:
        """A verdict on all shuffles.

        Raises:
          Refused: at stage "deadline" or "memory" if the process was killed for that, "program" if the artefact
            cannot be replayed, "judge" if the process ended by itself.
        """
        raise NotImplementedError

    def tune(
        self, artefact: Artefact, *, free: Sequence[str] | None = None, seconds: float = 60, seed: int = 0
    ) -> Tuned:
        """Tunes the ends of a candidate's schedule: see `autotts_discovery.tuning.tune`.

        Raises:
          Refused: as `judge` does, and if it has no schedule as data, or nothing in it to move.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Ends the process."""

    def __enter__(self) -> Judge:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the process."""
        self.close()
