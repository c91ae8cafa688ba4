"""The memory of a run: an append-only ledger, and files that it names by digest.

A run is a directory::

    ledger.jsonl          one event a line, in order, each on disk before the run goes on
    requests/0001.md      what the proposer was told
    replies/0001.md       what it answered: the tape of the run
    conversations/0001.json   what was said before that, where the proposer calls a language model
    candidates/<digest>.py
    evaluations/<digest>  means by question, of candidates and references
    best.py               the best candidate so far
    report.html           all of it, to look at

All that the loop knows is in the ledger. A run that was killed reads it, and goes on after the last whole line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import filelock
import pydantic

from autotts_discovery.proposers import Tried
from autotts_discovery.spending import Spent, Usage
from autotts_jax.errors import InputError
from autotts_jax.files import explained, writable, write_whole
from autotts_jax.provenance import UsedDataset

__all__ = [
    "Asked",
    "Begun",
    "Benched",
    "Best",
    "Called",
    "Corrected",
    "Ended",
    "Evaluated",
    "Event",
    "Fate",
    "Known",
    "Ledger",
    "Proposed",
    "Proved",
    "Refusal",
    "Replied",
    "Settings",
    "Tuned",
    "VaultOpened",
    "Watched",
    "digest_of",
    "stamp",
    "transferred",
]

_FILE = "ledger.jsonl"
_FORMAT = 1

#: A digest that an archive is kept under; empty in ledgers from before they were kept.
_Kept = Annotated[str, pydantic.Field(pattern="^([0-9a-f]{32})?$")]


class _Strict(pydantic.BaseModel, frozen=True, extra="forbid", ser_json_inf_nan="strings"):
    """What every line is made of."""


class Settings(_Strict, frozen=True):
    """What a run does; a run that goes on must have the same.

    Attributes:
      proposer: Its kind, and what it was given.
      proposals: Asked for in each round.
      traces: Whether requests tell what happened in episodes.
      history: Whether requests tell what was tried.
      tuning: Whether candidates are tuned.
      tuning_seconds: For each of them.
      latency: The cap on sequential tokens, as a multiple of CMC's; None for no cap.
      seed: Of everything that is drawn.
      strategy: Which candidates a proposer builds on.
      model: Which language model a proposer calls, and how; empty if it calls none.
    """

    proposer: str
    proposals: int
    traces: bool
    history: bool
    tuning: bool
    tuning_seconds: float = 20
    latency: float | None
    seed: int
    strategy: str = "lineage"
    model: str = ""


class _Event(_Strict, frozen=True):
    """A line.

    Attributes:
      at: When.
      elapsed: Seconds that the run had taken by then, over all its sessions.
    """

    at: datetime.datetime
    elapsed: float


class Begun(_Event, frozen=True):
    """A run, or a session of it, begins.

    Attributes:
      format: Of the ledger.
      settings: What the run does.
      datasets: The search set.
      held_out: Data that the run keeps away from, for the proof.
      questions: A digest of each question's text in the search set.
      versions: Of Python and of the libraries that the numbers depend on.
      device: What it runs on.
      wall: The layers between a candidate and this machine.
      trust: Whether candidates may run without a wall.
    """

    event: Literal["begun"] = "begun"
    format: Annotated[int, pydantic.Field(ge=_FORMAT, le=_FORMAT)] = _FORMAT
    settings: Settings
    datasets: tuple[UsedDataset, ...]
    held_out: tuple[UsedDataset, ...]
    questions: tuple[str, ...]
    versions: dict[str, str]
    device: str
    wall: tuple[str, ...]
    trust: bool


class Known(_Event, frozen=True):
    """What candidates are measured against: the figures of a verdict for each hand-made controller, by name."""

    event: Literal["known"] = "known"
    verdicts: dict[str, dict[str, Any]]


class Watched(_Event, frozen=True):
    """Why episodes fail, as the proposer was told.

    Attributes:
      candidate: Its digest, or the name of a hand-made controller.
      beta: At which β.
      episodes: How many were watched.
      failures: How many of them failed for each reason, by its name in words.
    """

    event: Literal["watched"] = "watched"
    candidate: str
    beta: float
    episodes: int
    failures: dict[str, int]


class Benched(_Event, frozen=True):
    """The references are replayed; `means` is the digest that theirs by question are kept under."""

    event: Literal["benched"] = "benched"
    names: tuple[str, ...]
    means: _Kept


class Asked(_Event, frozen=True):
    """A request, kept as ``requests/<number>.md``."""

    event: Literal["asked"] = "asked"
    number: int
    digest: str


class Replied(_Event, frozen=True):
    """A reply, kept as ``replies/<number>.md``, with so many proposals; `failure` says why there is none."""

    event: Literal["replied"] = "replied"
    number: int
    digest: str
    proposals: int
    seconds: float
    failure: str = ""


class Called(_Event, frozen=True):
    """A language model was called for a request; several calls may make a reply.

    Attributes:
      number: The request.
      model: The model's name.
      usage: Tokens.
      dollars: What they cost; None if no price is known.
      seconds: That it took.
      fault: What was wrong with the answer, or why there was none; empty if nothing was.
    """

    event: Literal["called"] = "called"
    number: int
    model: str
    usage: Usage
    dollars: float | None
    seconds: float
    fault: str = ""


class Proposed(_Event, frozen=True):
    """A candidate.

    Attributes:
      place: Where in the run it belongs: ``<request>.<number of the proposal>``, with a ``t`` if it was tuned. A place
        is unique, a digest need not be.
      candidate: The digest of its source, kept as ``candidates/<digest>.py``.
      round: The round.
      idea: See `Proposal`.
      parents: Digests.
    """

    event: Literal["proposed"] = "proposed"
    place: str
    candidate: str
    round: int
    idea: str
    parents: tuple[str, ...]


class Refusal(_Event, frozen=True):
    """A candidate is refused: at which stage, and why, in one line."""

    event: Literal["refused"] = "refused"
    place: str
    stage: str
    reason: str


class Evaluated(_Event, frozen=True):
    """A candidate is judged.

    Attributes:
      place: Which.
      kind: A quick look with few shuffles, or the full replay.
      name: The controller's name.
      program: A digest of what it computes, whatever its source looks like.
      verdict: The judge's.
      seconds: That it took.
      means: Of a full replay, the digest that its means by question are kept under.
    """

    event: Literal["evaluated"] = "evaluated"
    place: str
    kind: Literal["look", "full"]
    name: str
    program: str
    verdict: dict[str, Any]
    seconds: float
    means: _Kept = ""


class Tuned(_Event, frozen=True):
    """A candidate's schedule is tuned: what the tuner says, and the digest of the source with the ends it found.

    There is no digest if it gained nothing on questions that the tuning did not see.
    """

    event: Literal["tuned"] = "tuned"
    place: str
    candidate: str
    figures: dict[str, Any]
    seconds: float


class Best(_Event, frozen=True):
    """A candidate becomes the best so far."""

    event: Literal["best"] = "best"
    place: str
    candidate: str
    lower: float


class Corrected(_Event, frozen=True):
    """What the best candidate gains once the choice is allowed for: an `evidence.Correction`."""

    event: Literal["corrected"] = "corrected"
    figures: dict[str, Any]


class VaultOpened(_Event, frozen=True):
    """Held-out data is about to be used to judge a candidate. It is written before anything is seen."""

    event: Literal["vault"] = "vault"
    candidate: str
    datasets: tuple[UsedDataset, ...]


class Proved(_Event, frozen=True):
    """What came of it: the gain over the envelope there, and `frontier.compare`'s rows.

    `results` is the folder of the run that holds all curves.
    """

    event: Literal["proved"] = "proved"
    candidate: str
    verdict: dict[str, Any]
    comparison: tuple[dict[str, Any], ...]
    results: str = ""


class Ended(_Event, frozen=True):
    """A session ends in order."""

    event: Literal["ended"] = "ended"
    reason: str


Event: TypeAlias = Annotated[
    Begun
    | Known
    | Watched
    | Benched
    | Asked
    | Called
    | Replied
    | Proposed
    | Refusal
    | Evaluated
    | Tuned
    | Best
    | Corrected
    | VaultOpened
    | Proved
    | Ended,
    pydantic.Field(discriminator="event"),
]
_Of = TypeVar("_Of", bound=_Event)
_EVENT: pydantic.TypeAdapter[Event] = pydantic.TypeAdapter(Event)


def transferred(figures: Mapping[str, Any]) -> float:
    """What tuning gained on questions that it did not see: cross-fitted, from its start to its end."""
    curve = figures["curve"]
    return float(curve[-1][1] - curve[0][1])


def stamp(elapsed: float) -> dict[str, Any]:
    """The fields that every event has, for one that happens now."""
    return {"at": datetime.datetime.now(datetime.UTC), "elapsed": round(elapsed, 3)}


def digest_of(text: str) -> str:
    """16 bytes of BLAKE2b, in hexadecimal."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


@dataclasses.dataclass
class Fate:
    """What became of a candidate so far.

    Attributes:
      proposed: Where it came from.
      look: The quick look.
      full: The full replay.
      refusal: Why it is out.
      tuned: What tuning made of it.
    """

    proposed: Proposed
    look: Evaluated | None = None
    full: Evaluated | None = None
    refusal: Refusal | None = None
    tuned: Tuned | None = None

    @property
    def judged(self) -> bool:
        """Whether nothing is left to find out, short of tuning."""
        return self.refusal is not None or self.full is not None


class Ledger:
    """A run's events, and its files.

    Attributes:
      directory: The run.
      events: All so far, in order.
      fates: Of each candidate, by place, in order.
    """

    def __init__(self, directory: Path) -> None:
        """Reads a run; `locked` opens one to write to.

        Raises:
          InputError: if there is none, or a line of its ledger is damaged.
        """
        self.directory = directory
        self.events: list[Event] = []
        self.fates: dict[str, Fate] = {}
        found, self._whole = _events(_there(directory))
        for event in found:
            self._learn(event)

    @classmethod
    @contextlib.contextmanager
    def locked(cls, directory: str | os.PathLike[str], *, new: bool = False) -> Iterator[Ledger]:
        """A run that no other process writes to meanwhile.

        Args:
          directory: The run.
          new: Whether it must be an empty directory, which is created if needed.

        Raises:
          InputError: likewise, or if the run is in use, or the directory cannot be written to.
        """
        directory = Path(directory)
        if not new:
            _there(directory)
        writable(directory)
        with explained(directory):
            lock = filelock.FileLock(directory / "lock", thread_local=False)
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:  # an OSError as well
                raise InputError(
                    f"{directory}: another process is using this run. Wait until it ends, or name another directory."
                ) from None
        try:
            if new:
                _begin(directory)
            ledger = cls(directory)
            ledger._drop_torn_line()
            yield ledger
        finally:
            lock.release()

    def append(self, event: Event) -> None:
        """Adds an event, and returns when it is on disk.

        Raises:
          InputError: if it cannot be written.
        """
        with explained(self.directory / _FILE), (self.directory / _FILE).open("ab") as file:
            file.write(event.model_dump_json().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._learn(event)

    def keep(self, folder: str, name: str, text: str) -> Path:
        """Writes a file of the run, whole, unless it is there with this content."""
        path = self.directory / folder / name
        with explained(path):
            path.parent.mkdir(exist_ok=True)
            if not path.is_file() or _text(path) != text:
                write_whole(path, text)
        return path

    def kept(self, folder: str, name: str) -> str | None:
        """The text of a file of the run; None if there is none."""
        path = self.directory / folder / name
        return _text(path) if path.is_file() else None

    @property
    def begun(self) -> Begun:
        """The event that the run began with."""
        first = self.events[0] if self.events else None
        if not isinstance(first, Begun):
            raise InputError(f"{self.directory / _FILE}: does not say what the run does. Start another one.")
        return first

    def of(self, kind: type[_Of]) -> list[_Of]:
        """The events of a kind, in order."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def spent(self) -> Spent:
        """What calls of language models have taken so far, over all sessions; those without a price cost nothing."""
        called = self.of(Called)
        tokens = sum(event.usage.input + event.usage.output for event in called)
        return Spent(sum(event.dollars or 0.0 for event in called), len(called), tokens)

    @property
    def elapsed(self) -> float:
        """Seconds that the run has taken, as of the last event."""
        return self.events[-1].elapsed if self.events else 0.0

    @property
    def best(self) -> Fate | None:
        """The candidate with the highest lower bound, the earlier one of two equal ones; None if none was judged."""
        judged = [place for place, fate in self.fates.items() if fate.full is not None]
        return self.fates[max(judged, key=self.lower)] if judged else None

    def lower(self, place: str) -> float:
        """What a judged candidate is ranked by: a lower bound of its gain.

        Tuning fits the questions that it sees. So it is credited with no more than it gained on others.
        """
        full, figures = self.fates[place].full, self.tuning_of(place)
        assert full is not None
        bound = float(full.verdict["lower"])
        return bound if figures is None else min(bound, self.lower(place[:-1]) + transferred(figures))

    def tuning_of(self, place: str) -> dict[str, Any] | None:
        """The tuning that made a candidate; None if it was not tuned."""
        tuned = self.fates[place[:-1]].tuned if place.endswith("t") else None
        return None if tuned is None else tuned.figures

    def tried(self) -> list[Tried]:
        """All candidates as a proposer is told of them."""
        return [self._tried(fate) for fate in self.fates.values()]

    def _tried(self, fate: Fate) -> Tried:
        about, verdict = fate.proposed, fate.full.verdict if fate.full else {}
        evaluated = fate.full or fate.look
        return Tried(
            digest=about.candidate,
            round=about.round,
            source=self.kept("candidates", f"{about.candidate}.py") or "",
            name=evaluated.name if evaluated else "",
            idea=about.idea,
            parents=about.parents,
            gain=verdict.get("gain"),
            gain_se=verdict.get("gain_se"),
            lower=self.lower(about.place) if verdict else None,
            tokens=verdict["tokens"][-1] if verdict else None,
            sequential=verdict["sequential_tokens"][-1] if verdict else None,
            latency=verdict.get("latency"),
            margins=tuple(verdict.get("margins", ())),
            refused=fate.refusal.stage if fate.refusal else "",
            reason=fate.refusal.reason if fate.refusal else "",
            tuned=about.place.endswith("t"),
        )

    def _learn(self, event: Event) -> None:
        self.events.append(event)
        match event:
            case Proposed():
                self.fates[event.place] = Fate(event)
            case Refusal():
                self.fates[event.place].refusal = event
            case Evaluated(kind="look"):
                self.fates[event.place].look = event
            case Evaluated():
                self.fates[event.place].full = event
            case Tuned():
                self.fates[event.place].tuned = event

    def _drop_torn_line(self) -> None:
        """Cuts off what a kill left of a line."""
        with explained(self.directory / _FILE), (self.directory / _FILE).open("rb+") as file:
            file.truncate(self._whole)


def _there(directory: Path) -> Path:
    """The ledger's file.

    Raises:
      InputError: if there is none.
    """
    if not (directory / _FILE).is_file():
        raise InputError(f"{directory}: no run is there. Name the directory that `autotts discover --out` wrote.")
    return directory / _FILE


def _begin(directory: Path) -> None:
    found = sorted(path.name for path in directory.iterdir() if path.name != "lock")
    if _FILE in found and (directory / _FILE).stat().st_size:  # else it was killed before it began
        raise InputError(f"{directory}: holds a run. Go on with it by --resume, or name another directory.")
    if found and _FILE not in found:
        raise InputError(f"{directory}: not empty, it holds {found[0]!r}. Name another directory.")
    write_whole(directory / _FILE, "")


def _events(file: Path) -> tuple[list[Event], int]:
    """The events, and the length in bytes of the lines that they are on."""
    events: list[Event] = []
    whole = 0
    with explained(file, "Check its permissions."):
        lines = file.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):  # the last one, torn by a kill
            break
        try:
            events.append(_EVENT.validate_json(line))
        except pydantic.ValidationError as error:
            found = error.errors()[0]
            where = ".".join(map(str, found["loc"]))
            raise InputError(
                f"{file}: line {number}, {where or 'event'}: {found['msg']}. It is damaged, or of another version: "
                "start another run."
            ) from None
        whole += len(line)
    return events, whole


def _text(path: Path) -> str:
    # Bytes that are no text must not end the run: a reply may hold anything.
    return path.read_bytes().decode("utf-8", "replace")
