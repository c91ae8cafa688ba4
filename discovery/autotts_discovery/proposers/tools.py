"""What a language model may call before it replies: look at what was tried, at episodes, and at what a draft does.

A tool takes JSON that its schema describes, and answers with text. None of it depends on a provider.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import pydantic

import autotts_jax as tts
from autotts_discovery.candidates import check_source
from autotts_discovery.judge import Bench, Verdict
from autotts_discovery.ledger import Ledger
from autotts_discovery.requests import on_one_line
from autotts_jax.artefacts import Artefact
from autotts_jax.errors import InputError
from autotts_jax.traces import Trace

__all__ = ["Tool", "ToolCall", "workshop"]

#: Characters of an answer; what is longer loses its middle.
_LONGEST = 12_000

# Characters of an answer or a question in a trace.
_ANSWER, _QUESTION = 40, 600


class ToolCall(pydantic.BaseModel, frozen=True, extra="forbid"):
    """A call that a model wants to be made.

    Attributes:
      id: The provider's mark, to be given back with the answer.
      name: Of the tool.
      arguments: Its arguments; None if they could not be read.
    """

    id: str | None = None
    name: str
    arguments: dict[str, Any] | None


@dataclasses.dataclass(frozen=True)
class Tool:
    """A tool.

    Attributes:
      name: Its name.
      about: What it does, for the model.
      takes: Its arguments.
      run: Its work.
    """

    name: str
    about: str
    takes: type[pydantic.BaseModel]
    run: Callable[[Any], str]

    @functools.cached_property
    def schema(self) -> dict[str, Any]:
        """JSON schema of its arguments."""
        return self.takes.model_json_schema()

    def use(self, arguments: Mapping[str, Any] | None) -> str:
        """Its answer, or what is wrong with the arguments; of bounded length."""
        if arguments is None:
            return "Wrong arguments: they are no JSON object."
        try:
            answer = self.run(self.takes.model_validate(arguments))
        except pydantic.ValidationError as error:
            wrong = (f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in error.errors())
            answer = "Wrong arguments. " + "; ".join(wrong)
        except InputError as error:  # a refusal among them
            answer = on_one_line(str(error), 1000)
        return _shortened(answer)


class _Nothing(pydantic.BaseModel, extra="forbid"):
    pass


class _Which(pydantic.BaseModel, extra="forbid"):
    candidate: Annotated[str, pydantic.Field(description="Its digest, or what that begins with.")]


class _Draft(pydantic.BaseModel, extra="forbid"):
    source: Annotated[str, pydantic.Field(description="A whole Python module that defines CONTROLLER.")]


class _Episode(pydantic.BaseModel, extra="forbid"):
    candidate: Annotated[
        str, pydantic.Field(description="Digest of a judged candidate, or the name of a published controller.")
    ]
    question: Annotated[int, pydantic.Field(ge=0, description="Its number in the data set, from 0.")]
    dataset: Annotated[str, pydantic.Field(description="The data set's name; empty for the first.")] = ""
    beta: Annotated[float, pydantic.Field(ge=0, le=1, description="β; the nearest that was judged is taken.")] = 0.5
    shuffle: Annotated[int, pydantic.Field(ge=0, description="Which order of the branches.")] = 0


def workshop(
    ledger: Ledger,
    bench: Bench,
    *,
    export: Callable[[str], Artefact],
    look: Callable[[Artefact], Verdict],
    history: bool = True,
    traces: bool = True,
) -> tuple[Tool, ...]:
    """The tools for a run.

    Args:
      ledger: The run.
      bench: What its candidates are judged on.
      export: Lets a source run behind the wall, and returns what comes of it.
      look: The judge's quick look.
      history: Whether what was tried may be seen.
      traces: Whether episodes may be seen.
    """

    def listed(_: _Nothing) -> str:
        return _listed(ledger)

    def shown(which: _Which) -> str:
        found = [one for one in ledger.tried() if which.candidate and one.digest.startswith(which.candidate)]
        if len({one.digest for one in found}) != 1:
            raise InputError(f"candidate {which.candidate!r}: {'several begin so' if found else 'not tried'}.")
        return found[-1].source

    def traced(episode: _Episode) -> str:
        row = _row(ledger, bench, export, episode, history)
        number = _question(bench.data, episode)
        if episode.shuffle >= bench.shuffles:
            raise InputError(f"shuffle {episode.shuffle}: there are {bench.shuffles}. Count from 0.")
        return _told(tts.traces.trace(bench.data, row, bench.orders, number, episode.shuffle))

    def replayed(draft: _Draft) -> str:
        check_source(draft.source)
        return _looked(look(export(draft.source)))

    tools = [
        Tool(
            "replay_draft",
            "Checks a draft of a controller, replays it on a few shuffles and says how it does against the envelope.",
            _Draft,
            replayed,
        )
    ]
    if history:
        tools += [
            Tool("list_candidates", "All candidates that were tried, and what came of each.", _Nothing, listed),
            Tool("read_candidate", "A candidate's source.", _Which, shown),
        ]
    if traces:
        parts = ", ".join(f"{name} ({questions} questions)" for name, questions in bench.data.parts)
        about = (
            "One episode of a controller, round by round: what it did, what branches answered, votes and tokens. Data "
            f"sets: {parts}; {bench.shuffles} shuffles."
        )
        tools.append(Tool("trace_episode", about, _Episode, traced))
    return tuple(tools)


# --- what they answer ------------------------------------------------------------------------------------------------


def _listed(ledger: Ledger) -> str:
    lines = ["digest | round | gain ± error, points | tokens at β = 1 | sequential | parents | what became of it"]
    for one in ledger.tried():
        figures = ("", "", "")
        if one.lower is not None:
            gain = f"{100 * (one.gain or 0):+.2f} ± {100 * (one.gain_se or 0):.2f}"
            figures = (gain, f"{one.tokens or 0:,.0f}", f"{one.sequential or 0:,.0f}")
        fate = f"refused, {one.refused}: {one.reason}" if one.refused else "tuned" if one.tuned else ""
        about = on_one_line("; ".join(filter(None, (fate, one.idea))), 200)
        parents = ", ".join(parent[:8] for parent in one.parents)
        lines.append(" | ".join((one.digest[:8], str(one.round), *figures, parents, about)))
    return "\n".join(lines) if len(lines) > 1 else "Nothing was tried yet."


def _looked(verdict: Verdict) -> str:
    lines = [
        f"gain {100 * verdict.gain:+.2f} ± {100 * verdict.gain_se:.2f} points over the envelope, on "
        f"{verdict.shuffles} shuffles only; sequential tokens × {verdict.latency:.2f} those of the published best",
        *(f"{name}: {100 * gain:+.2f}" for name, gain in verdict.gains.items() if len(verdict.gains) > 1),
        "β | accuracy, % | tokens | sequential tokens",
    ]
    curve = zip(verdict.betas, verdict.accuracy, verdict.tokens, verdict.sequential_tokens, strict=True)
    lines += [f"{b:.2f} | {100 * a:.1f} | {t:,.0f} | {s:,.0f}" for b, a, t, s in curve]
    return "\n".join(lines)


def _row(ledger: Ledger, bench: Bench, export: Callable[[str], Artefact], episode: _Episode, history: bool) -> tts.Row:
    """The controller of an episode. Only what the judge has replayed is replayed here: it ends."""
    beta = min(bench.betas, key=lambda known: abs(known - episode.beta))
    if (seed := tts.CONTROLLERS.get(episode.candidate)) is not None:
        return tts.rows_of(tts.Setting(seed), [beta])[0]
    judged = {
        fate.proposed.candidate
        for fate in ledger.fates.values()
        if fate.full is not None and episode.candidate and fate.proposed.candidate.startswith(episode.candidate)
    }
    if not history or len(judged) != 1:
        wrong = "several begin so" if history and judged else "none that was judged"
        raise InputError(f"candidate {episode.candidate!r}: {wrong}. Published: {', '.join(tts.CONTROLLERS)}.")
    source = ledger.kept("candidates", f"{judged.pop()}.py") or ""
    return tts.rows_of(tts.Setting(export(source).controller()), [beta])[0]


def _question(data: tts.Dataset, episode: _Episode) -> int:
    """The question's number among all."""
    before = 0
    for name, questions in data.parts:
        if episode.dataset in ("", name):
            if episode.question >= questions:
                raise InputError(f"question {episode.question}: {name} has {questions}. Count from 0.")
            return before + episode.question
        before += questions
    raise InputError(f"dataset {episode.dataset!r}: there is none. There are {', '.join(n for n, _ in data.parts)}.")


def _told(trace: Trace) -> str:
    """A trace, one line per round."""
    outcome = trace.outcome
    lines = [
        f"{trace.dataset}, question {trace.question}, shuffle {trace.shuffle}: {trace.controller} {trace.params}",
        f"Question: {on_one_line(trace.text, _QUESTION)}",
        f"Right answer: {on_one_line(trace.gold, _ANSWER)}",
        "round | opened | continued | pruned | finished with | newest answers | tokens | would answer",
    ]
    for moment in trace.rounds:
        slots: dict[str, list[int]] = {kind: [] for kind in ("BRANCH", "CONTINUE", "PRUNE")}
        for event in moment.events:
            if event.kind in slots and event.slot is not None and event.slot not in slots[event.kind]:
                slots[event.kind].append(event.slot)
        ended = [e for e in moment.events if e.kind in ("BRANCH", "CONTINUE") and e.answer is not None]
        cells = (
            str(moment.number),
            *(" ".join(map(str, slots[kind])) for kind in ("BRANCH", "CONTINUE", "PRUNE")),
            ", ".join(f"{e.slot}: {on_one_line(str(e.answer), _ANSWER)}" for e in ended),
            ", ".join(f"{on_one_line(str(a), _ANSWER)} × {count}" for a, count in list(moment.votes.items())[:4]),
            f"{moment.tokens:,}",
            on_one_line(str(moment.answer), _ANSWER),
        )
        lines.append(" | ".join(cells))
    lines.append(
        f"Ended ({outcome['stop_reason'].lower()}) with {on_one_line(str(outcome['answer']), _ANSWER)}, "
        f"{'right' if outcome['correct'] else 'wrong'}; {outcome['tokens']:,} tokens, "
        f"{outcome['sequential_tokens']:,} of them sequential"
    )
    return "\n".join(lines)


def _shortened(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    end = _LONGEST // 3
    left_out = len(text) - _LONGEST
    return f"{text[: _LONGEST - end]}\n… {left_out:,} characters are left out …\n{text[-end:]}"
