"""A program as a proposer, such as a coding agent: the request on its standard input, its reply on standard output."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

from autotts_discovery.proposers import ReplyError, Request
from autotts_jax.errors import InputError, one_line

__all__ = ["Command"]

#: The longest reply that is kept, in bytes.
_LONGEST = 2_000_000


class Command:
    """Runs a program for each request. It finds the run's files in the directory that ``AUTOTTS_RUN`` names.

    Attributes:
      name: "command".
      reads: That it reads a request's text.
    """

    name = "command"
    reads = True

    def __init__(self, program: str, run: Path, seconds: float) -> None:
        """For a command line, which no shell reads, and the most seconds that it may take.

        Raises:
          InputError: if there is no such program.
        """
        try:
            self._arguments = shlex.split(program)
        except ValueError as error:
            raise InputError(f"--proposer command:{program}: {one_line(error)}. Write command:PROGRAM ARG …") from None
        if not self._arguments or shutil.which(self._arguments[0]) is None:
            raise InputError(f"--proposer command:{program}: no such program. Write command:PROGRAM ARG …")
        self._run, self._seconds = run, seconds

    def propose(self, request: Request) -> str:
        """What the program writes to its standard output.

        Raises:
          ReplyError: if it fails, writes too much, or takes too long; then it is killed with all that it started.
        """
        seconds = min(self._seconds, request.seconds)
        with subprocess.Popen(
            self._arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "AUTOTTS_RUN": str(self._run.absolute())},
            start_new_session=True,
        ) as process:
            try:
                out, said = process.communicate(request.text.encode(), seconds)
            except subprocess.TimeoutExpired:
                raise ReplyError(f"the command took more than {seconds:.0f} seconds") from None
            except OSError as error:
                raise ReplyError(f"the command failed: {one_line(error)}") from None
            finally:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
        if process.returncode:
            last = said.decode("utf-8", "replace").strip().rpartition("\n")[2]
            raise ReplyError(f"the command ended with code {process.returncode}: {one_line(ValueError(last))}")
        if len(out) > _LONGEST:
            raise ReplyError(f"the command wrote {len(out):,} bytes, more than {_LONGEST:,}")
        return out.decode("utf-8", "replace")
