"""The loop of discovery: a proposer writes controllers, which are exported behind a wall, judged, tuned, remembered.

Every step is an event of the run's `ledger`, which alone decides what comes next. So a run that was killed goes on
where it was, and ends as if it had not been.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
import itertools
import math
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import autotts_jax as tts
from autotts_discovery import evaluations, evidence, observed, report, requests, strategies, wall
from autotts_discovery.candidates import Refused, check_source, with_ends
from autotts_discovery.fitness import Means
from autotts_discovery.judge import Bench, Judge, Terms, Verdict, make_bench
from autotts_discovery.ledger import (
    Asked,
    Begun,
    Benched,
    Best,
    Called,
    Corrected,
    Ended,
    Evaluated,
    Fate,
    Known,
    Ledger,
    Proposed,
    Refusal,
    Replied,
    Settings,
    Tuned,
    Watched,
    digest_of,
    stamp,
    transferred,
)
from autotts_discovery.proposers import Conversing, Proposal, Proposer, ReplyError, Request, Tried, read, written
from autotts_discovery.proposers.command import Command
from autotts_discovery.proposers.files import Files
from autotts_discovery.proposers.options import ModelOptions, completed
from autotts_discovery.proposers.tape import Tape
from autotts_discovery.proposers.tools import Tool, workshop
from autotts_discovery.spending import LimitReached
from autotts_jax.artefacts import Artefact
from autotts_jax.errors import InputError, check_seed, check_whole, one_line
from autotts_jax.provenance import device, distinct_datasets, used_datasets, versions

__all__ = ["BETAS", "PROPOSERS", "SHUFFLES", "Found", "ModelOptions", "Standing", "discover", "refuse_shared"]

#: What `discover` takes for a proposer, besides objects.
PROPOSERS = ("builtin", "gemini", "http", "files", "command:PROGRAM", "tape:RUN")

#: The β grid on which candidates are judged.
BETAS = tuple(i / 20 for i in range(21))

#: Branch orders per question with which they are judged.
SHUFFLES = 100

# Candidates of a round that are tuned, the best ones.
_TUNED = 2

# Replies that may fail in a row.
_PATIENCE = 3

# Parents whose episodes a proposer is told of, at which β, and in how many characters: that was enough in a trial.
_TRACED, _TRACED_BETA, _SUMMARY = 2, 0.5, 2500

#: The name of the file with the best candidate so far.
BEST = "best.py"


@dataclasses.dataclass(frozen=True)
class Standing:
    """How a run stands, for whoever watches it.

    Attributes:
      round: The round, from 1.
      rounds: Of how many.
      candidates: So far.
      refused: How many of them were refused, by stage.
      best: The best so far.
      minutes: That the run has taken.
      limit: That it may take.
      dollars: That the replies have cost; None if they do not say.
      doing: What it does now.
    """

    round: int
    rounds: int
    candidates: int
    refused: Mapping[str, int]
    best: Tried | None
    minutes: float
    limit: float
    dollars: float | None
    doing: str


@dataclasses.dataclass(frozen=True)
class Found:
    """What a run has found.

    Attributes:
      directory: The run.
      best: Its best candidate; None if none was judged.
      file: The best candidate's file.
      report: The page on the run.
      tried: All candidates, in order.
      reason: Why the run ended.
    """

    directory: Path
    best: Tried | None
    file: Path | None
    report: Path
    tried: tuple[Tried, ...]
    reason: str


def discover(
    data: tts.Dataset | Sequence[tts.Dataset] | None = None,
    *,
    out: str | Path,
    proposer: str | Proposer = "builtin",
    rounds: int = 5,
    proposals: int = 4,
    minutes: float = 15,
    held_out: Sequence[tts.Dataset] = (),
    traces: bool = True,
    history: bool = True,
    tuning: bool = True,
    tuning_seconds: float = 20,
    latency: float | None = None,
    seed: int = 0,
    strategy: str = "lineage",
    trust: bool = False,
    resume: bool = False,
    reply_minutes: float = 10,
    language_model: ModelOptions | None = None,
    watch: Callable[[Standing], None] | None = None,
    say: Callable[[str], None] | None = None,
    stop: threading.Event | None = None,
) -> Found:
    """Searches for a controller that beats the hand-made ones.

    Args:
      data: The search set; defaults to built-in trajectories.
      out: The run's directory, empty or new: ledger, requests, replies, candidates, ``best.py``.
      proposer: One of `PROPOSERS`, or an object.
      rounds: Requests to make.
      proposals: Controllers to ask for in each.
      minutes: After which nothing new is begun.
      held_out: Data that the run keeps away from; `proof.prove` uses it.
      traces: Whether the proposer is told what happened in the parents' episodes.
      history: Whether it is told what was tried.
      tuning: Whether the candidates' schedules are tuned, the best two of each round.
      tuning_seconds: For each of them, compilation included. Four models on 30 questions are worth 60.
      latency: Cap on sequential tokens, as a multiple of CMC's; None for no cap.
      seed: Of all that is drawn.
      strategy: Which candidates the proposer builds on: see `strategies`.
      trust: Run candidates where there is no wall.
      resume: Go on with the run in `out`. All but limits must be as they were.
      reply_minutes: That a command may take for a reply, or a language model for an answer.
      language_model: Which one "gemini" or "http" calls, how, and for how much.
      watch: Called with how the run stands, whenever that changes.
      say: Called with what whoever runs it should know or do; defaults to printing it to stderr.
      stop: When it is set, the run ends in order after what is in flight.

    Returns:
      What was found.

    Raises:
      InputError: for bad arguments, before any work; or if the proposer fails again and again.
    """
    if tuning and importlib.util.find_spec("evosax") is None:
        raise InputError("tuning: evosax is not installed. pip install 'autotts-jax[discovery]', or use --no-tuning.")
    check_whole("rounds", rounds, 1, 9999, "There must be at least one.")
    check_whole("proposals", proposals, 1, 64, "Ask for at least one.")
    for name, value in (
        ("minutes", minutes),
        ("reply_minutes", reply_minutes),
        ("tuning_seconds", tuning_seconds),
        ("latency", latency),
    ):
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"{name} {value}: not above 0. Give a number above 0.")
    seed = check_seed(seed)
    directory = Path(out)
    say, stop = say or functools.partial(print, file=sys.stderr), stop or threading.Event()
    if proposer in ("gemini", "http"):
        language_model = completed(str(proposer), language_model or ModelOptions())
    elif language_model is not None:
        raise InputError(f"model: proposer {proposer} calls none. Leave its options out, or use gemini or http.")
    asking = _proposer(proposer, directory, rounds, 60 * reply_minutes, language_model, say, stop)
    settings = Settings(
        proposer=proposer if isinstance(proposer, str) else asking.name,
        proposals=proposals,
        traces=traces,
        history=history,
        tuning=tuning,
        tuning_seconds=tuning_seconds,
        latency=latency,
        seed=seed,
        strategy=strategies.check_strategy(strategy),
        model=language_model.described if language_model else "",
    )
    layers = wall.layers()
    if not layers and not trust:
        raise InputError(
            "trust: this machine has no wall to run candidates behind. Use Linux, or --trust (trust=True)."
        )
    if data is None:
        data = tts.pack(tts.synthetic_trajectories())
    datasets, notes = distinct_datasets([data] if isinstance(data, tts.Dataset) else list(data))
    if not datasets:
        raise InputError("data: empty; there must be at least one.")
    questions = sorted({question_digest(text) for dataset in datasets for text in dataset.texts})
    refuse_shared(held_out, questions)
    with Ledger.locked(directory, new=not resume) as ledger:
        session = Begun(
            **stamp(ledger.elapsed),
            settings=settings,
            datasets=used_datasets(datasets),
            held_out=used_datasets(held_out),
            questions=tuple(questions),
            versions=versions(),
            device=device(),
            wall=layers,
            trust=trust,
        )
        if ledger.events:
            _check_same(ledger.begun, session, directory)
        ledger.append(session)
        for note in notes:
            say(note)
        watch = watch or (lambda standing: None)
        loop = _Loop(ledger, session, asking, datasets, rounds, minutes, watch, stop)
        return loop.run()


class _Over(Exception):  # noqa: N818, it is no error
    """The run ends here; the message says why, in a word."""


class _Loop:
    """A session of a run."""

    def __init__(
        self,
        ledger: Ledger,
        session: Begun,
        proposer: Proposer,
        datasets: Sequence[tts.Dataset],
        rounds: int,
        minutes: float,
        watch: Callable[[Standing], None],
        stop: threading.Event,
    ) -> None:
        self.ledger, self.settings, self.trust = ledger, session.settings, session.trust
        self.proposer, self.datasets = proposer, datasets
        self.rounds, self.seconds, self.watch, self.stop = rounds, 60 * minutes, watch, stop
        self.before, self.started = session.elapsed, time.monotonic()
        self.round = 0
        self.artefacts: dict[str, Artefact] = {}
        self.checked: set[str] = set()  # what keeps the contract, whatever its schedule
        self.features = datasets[0].store.feature_names

    def run(self) -> Found:
        self.tell("preparing")
        settings = self.settings
        terms = Terms(latency=settings.latency)
        self.bench = make_bench(self.datasets, betas=BETAS, shuffles=SHUFFLES, seed=settings.seed, terms=terms)
        run, references = self.ledger.directory, evaluations.References.of(self.bench)
        evaluations.sweep_up(run)
        if not self.ledger.of(Benched):
            self.note(Benched, names=references.names, means=evaluations.keep_references(run, references))
        if not self.ledger.of(Known):
            self.note(Known, verdicts=self.bench.known())
        reason = "rounds"
        with Judge(self.bench) as self.judge:
            if isinstance(self.proposer, Conversing):
                self.proposer.begin(self.ledger, self.note, self.tools())
            try:
                for number in range(1, self.rounds + 1):
                    self.one_round(number)
            except _Over as over:
                reason = str(over)
            except LimitReached as limit:
                reason = str(limit)
        self.correct()
        self.note(Ended, reason=reason)
        page = report.write(self.ledger)
        self.tell("done")
        best = self.best()
        file = self.ledger.directory / BEST if best else None
        return Found(self.ledger.directory, best, file, page, tuple(self.ledger.tried()), reason)

    def one_round(self, number: int) -> None:
        self.round = number
        places = self.places(number)
        for place in places:
            self.evaluate(place)
        if self.settings.tuning:
            judged = [place for place in places if self.ledger.fates[place].full]
            for place in sorted(judged, key=self.ledger.lower, reverse=True)[:_TUNED]:
                self.tune(place)
        if number == max((fate.proposed.round for fate in self.ledger.fates.values()), default=0):
            self.correct()

    # --- asking ---

    def places(self, number: int) -> list[str]:
        """The places of the proposals in a reply, which is asked for unless it is there."""
        places = []
        for index, proposal in enumerate(self.reply(number), 1):
            places.append(place := f"{number:04d}.{index}")
            if place not in self.ledger.fates:
                known = list({fate.proposed.candidate for fate in self.ledger.fates.values()})
                parents = [_completed(parent, known) for parent in proposal.parents]
                self.propose(place, proposal.source, proposal.idea, tuple(filter(None, parents)))
        return places

    def reply(self, number: int) -> list[Proposal]:
        name, ledger = f"{number:04d}.md", self.ledger
        replied = {event.number: event for event in ledger.of(Replied)}
        if number in replied and not replied[number].digest:
            return []  # it failed
        text = ledger.kept("replies", name)
        if text is None or (number not in replied and isinstance(self.proposer, Files)):
            self.check_time()
            self.tell("asking")
            request = self.request(number)
            began = time.monotonic()
            try:
                answer = self.proposer.propose(request)
            except ReplyError as error:
                self.check_time()  # one that came to nothing since the run was to end is asked for again
                self.failed(number, one_line(error), time.monotonic() - began)
                return []
            text = answer if isinstance(answer, str) else written(answer)
            ledger.keep("replies", name, text)
            seconds = time.monotonic() - began
        else:
            seconds = 0.0
        proposals = read(text)
        if number not in replied:
            failure = "" if proposals else "no ```python block in it"
            self.note(
                Replied,
                number=number,
                digest=digest_of(text),
                proposals=len(proposals),
                seconds=seconds,
                failure=failure,
            )
        elif replied[number].digest != digest_of(text):
            raise InputError(
                f"{ledger.directory / 'replies' / name}: not what the ledger says. Put it back, or start another run."
            )
        return proposals[: self.settings.proposals]

    def failed(self, number: int, reason: str, seconds: float) -> None:
        self.note(Replied, number=number, digest="", proposals=0, seconds=seconds, failure=reason)
        last = self.ledger.of(Replied)[-_PATIENCE:]
        if len(last) == _PATIENCE and not any(event.digest for event in last):
            raise InputError(f"proposer {self.proposer.name}: failed {_PATIENCE} times in a row: {reason}. Mend it.")

    def request(self, number: int) -> Request:
        settings, ledger = self.settings, self.ledger
        tried = ledger.tried() if settings.history else []
        strategy = strategies.check_strategy(settings.strategy)
        parents = strategies.parents_among(tried, strategy=strategy, round=self.round)
        name = f"{number:04d}.md"
        asked = {event.number: event.digest for event in ledger.of(Asked)}
        text = ledger.kept("requests", name)
        if text is None or asked.get(number) != digest_of(text):
            text = requests.compose(
                number=number,
                wanted=settings.proposals,
                questions=sum(map(len, self.datasets)),
                tried=tried,
                parents=parents,
                complaints=[event.failure for event in ledger.of(Replied) if event.failure and settings.history],
                summaries=self.summaries(parents) if settings.traces and self.proposer.reads else {},
                observed=observed.describe(tts.concatenate(self.datasets))
                if settings.traces and self.proposer.reads
                else "",
                marks=self.bench.marks,
                feature_names=self.features,
                latency=settings.latency,
                tuning=settings.tuning,
            )
            ledger.keep("requests", name, text)
            self.note(Asked, number=number, digest=digest_of(text))
        return Request(
            number=number,
            round=self.round,
            wanted=settings.proposals,
            text=text,
            parents=tuple(parents),
            tried=tuple(tried),
            seed=_seed(settings.seed, "request", number),
            seconds=self.seconds - self.elapsed,
        )

    def tools(self) -> tuple[Tool, ...]:
        """What a language model may call before it replies."""

        def export(source: str) -> Artefact:
            self.tell("replaying for the language model")
            return wall.export(source, feature_names=self.features, check=False, trust=self.trust)

        allowed = {"history": self.settings.history, "traces": self.settings.traces}
        return workshop(self.ledger, self.bench, export=export, look=self.judge.look, **allowed)

    def summaries(self, parents: Sequence[Tried]) -> dict[str, str]:
        """What happened in episodes of the best parents, or of the published best. The judge has replayed the same
        ones: they end."""
        if not parents:
            seed = tts.CONTROLLERS[self.bench.names[0]]
            return {seed.name: self.summary(seed.name, seed.name, seed)}
        return {
            one.digest: self.summary(
                one.digest, one.name, self.artefact(one.digest).controller(), self.means(one.digest)
            )
            for one in parents[:_TRACED]
        }

    def summary(self, candidate: str, name: str, controller: tts.Controller, means: Means | None = None) -> str:
        self.tell(f"tracing {name}")
        text, episodes, failures = summarized(self.bench, controller, means)
        if candidate not in {event.candidate for event in self.ledger.of(Watched)}:
            self.note(Watched, candidate=candidate, beta=_TRACED_BETA, episodes=episodes, failures=failures)
        return text

    def means(self, candidate: str) -> Means | None:
        """A judged candidate's means by question; None if it was judged before they were kept."""
        full = next(f.full for f in self.ledger.fates.values() if f.full and f.proposed.candidate == candidate)
        references = evaluations.References.of(self.bench)
        return evaluations.kept_means(self.ledger.directory, full.means, references) if full.means else None

    # --- judging ---

    def propose(self, place: str, source: str, idea: str, parents: tuple[str, ...]) -> None:
        candidate = digest_of(source)
        self.ledger.keep("candidates", f"{candidate}.py", source)
        self.note(
            Proposed,
            place=place,
            candidate=candidate,
            round=self.round,
            idea=requests.on_one_line(idea, 500),
            parents=parents,
        )

    def evaluate(self, place: str) -> None:
        """Judges a candidate, as far as that has not been done."""
        fate = self.ledger.fates[place]
        if not fate.judged:
            self.check_time()
            try:
                self.judged(place, fate)
            except Refused as refused:
                self.note(Refusal, place=place, stage=refused.stage, reason=requests.on_one_line(refused.reason, 500))
        self.crown()
        report.write(self.ledger)

    def judged(self, place: str, fate: Fate) -> None:
        earlier = [other for name, other in self.ledger.fates.items() if name != place]
        for other in itertools.takewhile(lambda other: other is not fate, self.ledger.fates.values()):
            if other.proposed.candidate == fate.proposed.candidate:
                raise Refused("duplicate", f"the same source as candidate {fate.proposed.candidate[:8]}")
        self.tell("exporting")
        artefact = self.artefact(fate.proposed.candidate)
        name, program = artefact.described.name, _program(artefact)
        for other in earlier:
            if other.look is not None and other.look.program == program:
                raise Refused("duplicate", f"computes the same as candidate {other.proposed.candidate[:8]}")
        if fate.look is None:
            self.check_time()
            self.tell(f"looking at {name}")
            self.evaluated(place, "look", artefact)
        look = _verdict(fate.look)
        for other in earlier:
            if other.look is not None and _verdict(other.look).signature == look.signature:
                raise Refused("duplicate", f"decides the same as candidate {other.proposed.candidate[:8]}")
        # The check of the contract takes longer than all else. A tuned candidate computes what its parent does.
        decisions = _program(artefact, schedule=False)
        if decisions not in self.checked:
            self.check_time()
            self.tell(f"checking {name}")
            wall.check(artefact)
            self.checked.add(decisions)
        self.check_time()
        self.tell(f"judging {name}")
        self.evaluated(place, "full", artefact)

    def evaluated(self, place: str, kind: Literal["look", "full"], artefact: Artefact) -> None:
        began, kept = time.monotonic(), ""
        if kind == "look":
            verdict = self.judge.look(artefact)
        else:
            verdict, means = self.judge.evaluate(artefact)
            kept = evaluations.keep_means(self.ledger.directory, means)
        self.note(
            Evaluated,
            place=place,
            kind=kind,
            name=artefact.described.name,
            program=_program(artefact),
            verdict=verdict.model_dump(mode="json"),
            seconds=time.monotonic() - began,
            means=kept,
        )

    def artefact(self, candidate: str) -> Artefact:
        if candidate not in self.artefacts:
            source = self.ledger.kept("candidates", f"{candidate}.py") or ""
            check_source(source)
            self.artefacts[candidate] = wall.export(source, feature_names=self.features, check=False, trust=self.trust)
        return self.artefacts[candidate]

    def tune(self, place: str) -> None:
        """Tunes a candidate, and judges what comes of it as a candidate of its own, as far as not done."""
        fate = self.ledger.fates[place]
        tuned_place = f"{place}t"
        if fate.tuned is None:
            self.check_time()
            artefact = self.artefact(fate.proposed.candidate)
            self.tell(f"tuning {artefact.described.name}")
            began, candidate, figures = time.monotonic(), "", {}
            try:
                seed = _seed(self.settings.seed, "tune", fate.proposed.candidate)
                tuned = self.judge.tune(artefact, seconds=self.settings.tuning_seconds, seed=seed)
                figures = tuned.model_dump(mode="json")
                if transferred(figures) > 0:  # else it could not be ranked above the one that was tuned
                    source = self.ledger.kept("candidates", f"{fate.proposed.candidate}.py") or ""
                    source = with_ends(source, tuned.values)
                    candidate = digest_of(source)
                    self.ledger.keep("candidates", f"{candidate}.py", source)
            except InputError as error:  # a refusal among them
                figures |= {"failure": one_line(error)}
            self.note(Tuned, place=place, candidate=candidate, figures=figures, seconds=time.monotonic() - began)
            report.write(self.ledger)
        assert fate.tuned is not None
        if fate.tuned.candidate in ("", fate.proposed.candidate):
            return
        if tuned_place not in self.ledger.fates:
            source = self.ledger.kept("candidates", f"{fate.tuned.candidate}.py") or ""
            self.propose(tuned_place, source, fate.proposed.idea, (fate.proposed.candidate,))
        self.evaluate(tuned_place)

    # --- the best ---

    def crown(self) -> None:
        """Notes the best candidate if it is a new one, and writes its file."""
        best = self.ledger.best
        if best is None:
            return
        place, candidate = best.proposed.place, best.proposed.candidate
        crowned = self.ledger.of(Best)
        if not crowned or crowned[-1].place != place:
            self.note(Best, place=place, candidate=candidate, lower=self.ledger.lower(place))
        source = self.ledger.kept("candidates", f"{candidate}.py") or ""
        self.ledger.keep(".", BEST, _header(self.ledger, best) + source)

    def correct(self) -> None:
        """Notes what the best candidate gains once the choice is allowed for, unless that is known."""
        judged = [fate.full for fate in self.ledger.fates.values() if fate.full]
        known = self.ledger.of(Corrected)
        if (
            not judged
            or len(self.bench.clusters) < 2  # nothing to resample
            or not all(full.means for full in judged)  # from before they were kept
            or (known and known[-1].figures["candidates"] == len(judged))
        ):
            return
        self.tell("correcting for the choice")
        self.note(Corrected, figures=evidence.corrected(self.ledger).model_dump(mode="json"))
        self.crown()

    def best(self) -> Tried | None:
        best = self.ledger.best
        if best is None:
            return None
        return next(t for t in self.ledger.tried() if t.digest == best.proposed.candidate and t.lower is not None)

    # --- the clock ---

    @property
    def elapsed(self) -> float:
        return self.before + time.monotonic() - self.started

    def check_time(self) -> None:
        if self.stop.is_set():
            raise _Over("interrupted")
        if self.elapsed >= self.seconds:
            raise _Over("minutes")

    def note(self, event: type[Any], /, **fields: Any) -> None:
        self.ledger.append(event(**stamp(self.elapsed), **fields))

    def tell(self, doing: str) -> None:
        fates = self.ledger.fates.values()
        self.watch(
            Standing(
                round=self.round,
                rounds=self.rounds,
                candidates=len(fates),
                refused=Counter(fate.refusal.stage for fate in fates if fate.refusal),
                best=self.best(),
                minutes=self.elapsed / 60,
                limit=self.seconds / 60,
                dollars=self.ledger.spent.dollars if self.ledger.of(Called) else None,
                doing=doing,
            )
        )


# --- before a run ----------------------------------------------------------------------------------------------------


def _proposer(
    given: str | Proposer,
    run: Path,
    rounds: int,
    seconds: float,
    options: ModelOptions | None,
    say: Callable[[str], None],
    stop: threading.Event,
) -> Proposer:
    if not isinstance(given, str):
        return given
    kind, _, rest = given.partition(":")
    match kind:
        case "builtin" if not rest:
            from autotts_discovery.proposers.builtin import Builtin

            return Builtin()
        case "gemini" | "http" if not rest:
            from autotts_discovery.proposers.paid import paid_proposer

            assert options is not None
            return paid_proposer(kind, options, seconds, say)
        case "files" if not rest:
            return Files(run, say, stop)
        case "command" if rest:
            return Command(rest, run, seconds)
        case "tape" if rest:
            return Tape(Path(rest), rounds)
    raise InputError(f"--proposer {given}: no such proposer. Use one of {', '.join(PROPOSERS)}.")


def question_digest(text: str) -> str:
    """A digest of a question's text, whatever its spacing."""
    return digest_of(" ".join(text.split()))


def refuse_shared(held_out: Sequence[tts.Dataset], searched: Sequence[str]) -> None:
    """Refuses held-out data with questions of the search set, which `searched` has the digests of.

    Raises:
      InputError: naming the data and one of the questions.
    """
    known = set(searched)
    for dataset in held_out:
        shared = [number for number, text in enumerate(dataset.texts) if question_digest(text) in known]
        if shared:
            raise InputError(
                f"{dataset.source or dataset.parts[0][0]}: {len(shared)} of its questions are in the search set, such "
                f"as question {shared[0]}. Name data that the search has not seen."
            )


def _check_same(first: Begun, now: Begun, directory: Path) -> None:
    """Refuses to go on with a run under other circumstances."""
    pairs: list[tuple[str, Any, Any]] = [
        (name, getattr(first.settings, name), getattr(now.settings, name)) for name in Settings.model_fields
    ]
    pairs += [
        (f"{name} version", first.versions.get(name), now.versions.get(name)) for name in first.versions | now.versions
    ]
    for name in ("datasets", "held_out"):
        before, after = (", ".join(d.label for d in getattr(begun, name)) or "none" for begun in (first, now))
        digests = [sorted(d.digest for d in getattr(begun, name)) for begun in (first, now)]
        if digests[0] != digests[1]:
            after += " with other contents" * (before == after)
            pairs.append((name.replace("_", "-").removesuffix("sets"), before, after))
    for name, before, after in pairs:
        if before != after:
            raise InputError(
                f"{directory}: a run with {name} {before}, not {after}. Go on with it as it began, or start another."
            )


def _seed(*what: object) -> int:
    return int.from_bytes(hashlib.blake2b(repr(what).encode(), digest_size=4).digest())


# --- candidates ------------------------------------------------------------------------------------------------------


def summarized(
    bench: Bench, controller: tts.Controller, means: Means | None = None
) -> tuple[str, int, dict[str, int]]:
    """Where a candidate loses against the references, and what happened in the episodes of a quick look, at one β.

    Returns:
      All that in words, how many episodes there were, and how many of them failed for which reason.
    """
    (row,) = tts.rows_of(tts.Setting(controller), [_TRACED_BETA])
    watched = tts.failures.watch(bench.data, row, bench.orders[:, : bench.looks])
    against: str
    first: list[int]
    against, first = "", []
    if means is not None:
        found = evidence.losses(means, evaluations.References.of(bench))
        against, first = evidence.told(found, watched, _TRACED_BETA)
    text = against + tts.failures.summarize(bench.data, row, watched, characters=_SUMMARY, first=first)
    modes = Counter(tts.failures.Failure(mode) for mode in watched.failure.ravel().tolist())
    del modes[tts.failures.Failure.NONE]
    return text, watched.failure.size, {mode.words: modes[mode] for mode in sorted(modes)}


def _program(artefact: Artefact, *, schedule: bool = True) -> str:
    """A digest of what an artefact computes, or of what it decides by given parameters."""
    about = artefact.described
    digest = hashlib.blake2b(repr((about.probe_everything, about.params, about.memory)).encode(), digest_size=16)
    for name, content in sorted(artefact.programs.items()):
        if schedule or name != "schedule":
            digest.update(f"{name} {len(content)} ".encode() + content)
    return digest.hexdigest()


def _verdict(event: Evaluated | None) -> Verdict:
    assert event is not None
    return Verdict.model_validate(event.verdict)


def _completed(beginning: str, digests: Sequence[str]) -> str:
    """The digest that begins so; empty if there is none, or more than one."""
    found = [digest for digest in digests if digest.startswith(beginning)]
    return found[0] if len(found) == 1 else ""


def _header(ledger: Ledger, fate: Fate) -> str:
    """The evidence for a candidate, as comments."""
    verdict, begun = _verdict(fate.full), ledger.begun
    labels = ", ".join(dataset.label for dataset in begun.datasets)
    judged = sum(other.full is not None for other in ledger.fates.values())
    figures, corrections = ledger.tuning_of(fate.proposed.place), ledger.of(Corrected)
    lines = [
        f"Found by autotts discover: candidate {fate.proposed.candidate}, "
        f"proposer {begun.settings.proposer}, seed {begun.settings.seed}.",
        f"{100 * verdict.gain:+.2f} ± {100 * verdict.gain_se:.2f} points of accuracy above the envelope of the "
        f"hand-made controllers at equal tokens, on {labels}.",
    ]
    if figures:
        gained = 100 * transferred(figures)
        lines.append(f"Tuned; when it was tuned on half of the questions, that gained {gained:+.2f} on the others.")
    if corrections and (known := corrections[-1].figures)["candidate"] == fate.proposed.candidate:
        lines.append(evidence.sentence(evidence.Correction.model_validate(known)))
    lines += [
        f"The best of {judged} judged on these data, so luck is in it; autotts discover judge tests it on others.",
        f"Idea: {fate.proposed.idea}",
    ]
    return "".join(f"# {requests.on_one_line(line, 600)}\n" for line in lines) + "\n"
