"""Recorded replies, for exact reruns and for tests: every run leaves its own in ``replies/``."""

from __future__ import annotations

from pathlib import Path

from autotts_discovery.ledger import Ledger, Replied, digest_of
from autotts_discovery.proposers import ReplyError, Request
from autotts_jax.errors import InputError

__all__ = ["Tape"]


class Tape:
    """Replays the replies of a run, in order, failed ones included.

    Attributes:
      name: "tape".
      reads: That it does not read a request's text.
    """

    name = "tape"
    reads = False

    def __init__(self, run: Path, rounds: int) -> None:
        """For a recorded run.

        Raises:
          InputError: if it has no replies, too few, or others than its ledger says.
        """
        tape = Ledger(run)
        replied = [event for event in tape.events if isinstance(event, Replied)]
        if len(replied) < rounds:
            raise InputError(
                f"--proposer tape:{run}: it has {len(replied)} replies, {rounds} are needed. "
                f"Replay at most {len(replied)} rounds."
            )
        self._replies: dict[int, str] = {}
        self._failures = {event.number: event.failure for event in replied if event.failure and not event.digest}
        for event in replied[:rounds]:
            name = f"{event.number:04d}.md"
            text = tape.kept("replies", name)
            if event.digest and (text is None or digest_of(text) != event.digest):
                raise InputError(
                    f"--proposer tape:{run}: replies/{name} is not what the run's ledger says. "
                    "Name a run whose replies nobody has touched."
                )
            self._replies[event.number] = text or ""

    def propose(self, request: Request) -> str:
        """The reply that was recorded under the request's number.

        Raises:
          ReplyError: if none came then.
        """
        if request.number in self._failures:
            raise ReplyError(self._failures[request.number])
        return self._replies[request.number]
