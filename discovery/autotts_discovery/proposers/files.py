"""A person, or any agent, in the loop: a request is a file, and so is the reply that is waited for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from autotts_discovery.proposers import ReplyError, Request

__all__ = ["Files"]

# Seconds between two looks at the file. It counts as written when it is the same twice.
_PAUSE = 0.5


class Files:
    """Waits for ``replies/0007.md``, the answer to ``requests/0007.md``.

    Attributes:
      name: "files".
      reads: That it reads a request's text.
    """

    name = "files"
    reads = True

    def __init__(self, run: Path, say: Callable[[str], None], stop: threading.Event) -> None:
        """For a run's directory; `say` tells whoever is to reply, `stop` ends the waiting."""
        self._run, self._say, self._stop = run, say, stop

    def propose(self, request: Request) -> str:
        """The text of the reply, as soon as the file is there and rests.

        Raises:
          ReplyError: if it does not come in time.
        """
        reply = self._run / "replies" / f"{request.number:04d}.md"
        reply.parent.mkdir(exist_ok=True)
        asked = self._run / "requests" / f"{request.number:04d}.md"
        self._say(f"Read {asked} and write {reply}: {request.wanted} proposals, each a ```python block.")
        end, before = time.monotonic() + request.seconds, b""
        while time.monotonic() < end:
            now = reply.read_bytes() if reply.is_file() else b""
            if now and now == before:
                return now.decode("utf-8", "replace")
            before = now
            if self._stop.wait(_PAUSE):
                break
        raise ReplyError(f"no {reply} in time")
