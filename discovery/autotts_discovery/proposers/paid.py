"""Proposers that call a language model: the conversation, its faults, retries and limits, whoever the provider is.

A provider is a `Model`: it sends messages in its own form and says what came back. `Paid` does the rest. It notes each
call in the ledger before anything else is done with the answer, and keeps the conversation on disk. So a run that was
killed has its spending right, and goes on in the midst of a conversation without paying for any of it again.
"""

from __future__ import annotations

import datetime
import email.utils
import importlib
import json
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

import pydantic
import tenacity

from autotts_discovery.ledger import Called, Ledger, digest_of
from autotts_discovery.proposers import Proposal, ReplyError, Request, read, written
from autotts_discovery.proposers.options import ModelOptions
from autotts_discovery.proposers.tools import Tool, ToolCall
from autotts_discovery.requests import on_one_line
from autotts_discovery.spending import Price, Usage, price_of
from autotts_jax.errors import InputError, one_line

__all__ = [
    "CallError",
    "Message",
    "Model",
    "Paid",
    "Said",
    "described",
    "key_from",
    "paid_proposer",
    "seconds_until",
    "within",
]

#: A message of a conversation in a provider's own form; JSON.
Message: TypeAlias = dict[str, Any]

Fault: TypeAlias = Literal["", "blocked", "empty", "cut off", "malformed", "unparsable"]

# Attempts at a call, and seconds between them: 1, 2, 4, … and up to so many more at random.
_ATTEMPTS, _FIRST, _LONGEST, _JITTER = 6, 1, 60, 2

# Statuses that may be gone the next time, and those that no other conversation will change.
_TRANSIENT = {408, 409, 425, 429, *range(500, 600)}
_HOPELESS = {401, 403, 404}

# Characters of a token, for a provider that does not count: few, lest too little is counted.
_CHARACTERS = 3

# Characters of a key that is looked for in answers. Local servers take any word for one, which may be in a program.
_SECRET = 16

_COMPLAINTS: dict[str, str] = {
    "blocked": "Your reply was blocked ({detail}). The task is about decision rules for numbers, nothing else. Reply "
    "to it again.",
    "empty": "Your reply was empty. Reply to the task.",
    "cut off": "Your reply was cut off at the limit of its length. Of its blocks, {whole} arrived whole, and count. "
    "Think and write less, and send the other {missing}.",
    "malformed": "Your call could not be read ({detail}). Go on without it, and reply to the task.",
    "unparsable": "There is no fenced block that begins with ```python in your reply. Send it again in the form that "
    "was asked for: one such block per controller, each a whole module that defines CONTROLLER.",
}

_T = TypeVar("_T")


class Said(pydantic.BaseModel, frozen=True, extra="forbid"):
    """A model's answer.

    Attributes:
      message: It, in the provider's form; None if there is none that could be sent back.
      text: Its text, without thinking.
      calls: Tools that it wants called.
      fault: What is wrong with it.
      detail: The provider's word for that.
      usage: Tokens, if the provider says.
    """

    message: Message | None = None
    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    fault: Fault = ""
    detail: str = ""
    usage: Usage | None = None

    @property
    def reason(self) -> str:
        """What is wrong with it, on a line; empty if nothing is."""
        return on_one_line(f"{self.fault}: {self.detail}" if self.detail else self.fault)


class CallError(Exception):
    """A call that came to nothing.

    Attributes:
      status: The HTTP status; None if there was none.
      pause: Seconds that the provider asks to wait.
      billed: Whether it may cost something nonetheless.
    """

    def __init__(
        self, reason: str, *, status: int | None = None, pause: float | None = None, billed: bool = False
    ) -> None:
        """With the reason in one line."""
        super().__init__(on_one_line(reason, 300))
        self.status, self.pause, self.billed = status, pause, billed

    @property
    def transient(self) -> bool:
        """Whether another attempt may succeed."""
        return self.status is None or self.status in _TRANSIENT


def described(error: Exception) -> str:
    """What an exception of a client says that is no error status: of the connection, or since no answer came of it."""
    cause = f" ({one_line(error.__cause__)})" if isinstance(error.__cause__, Exception) else ""
    said = f"{type(error).__name__}: {one_line(error)}{cause}"
    return said if type(error).__module__.startswith(("httpx", "openai")) else f"no answer that can be read: {said}"


class Model(Protocol):
    """A provider.

    Attributes:
      name: The proposer's name.
      key: The key; empty if there is none.
    """

    name: str
    key: str

    def check(self) -> None:
        """Finds out, for nothing, whether key and model are right.

        Raises:
          CallError: if they are not, or the provider cannot be reached.
          InputError: if the provider has no such model.
        """
        ...

    def ask(self, messages: Sequence[Message], tools: Sequence[Tool], may_call: bool, seconds: float) -> Said:
        """Its answer to a conversation.

        Args:
          messages: The conversation.
          tools: Tools that it is told of.
          may_call: Whether it may call them now.
          seconds: To wait for a sign of life.

        Raises:
          CallError: if there is none.
        """
        ...

    def user(self, text: str) -> Message:
        """Our message."""
        ...

    def assistant(self, text: str) -> Message:
        """A message of the model, where it gave none."""
        ...

    def results(self, answers: Sequence[tuple[ToolCall, str]]) -> list[Message]:
        """What its tool calls came to."""
        ...


class _Talk(pydantic.BaseModel, extra="forbid"):
    """A conversation, as it is on disk.

    Attributes:
      request: A digest of the request's text.
      messages: So far.
      said: The model's last answer, which nothing has been done with.
      complained: Whether a fault was told.
      used: Tool calls that were made.
      kept: Proposals of an answer that was cut off after them.
    """

    request: str
    messages: list[Message]
    said: Said | None = None
    complained: bool = False
    used: int = 0
    kept: tuple[Proposal, ...] = ()


class Paid:
    """A language model as a proposer.

    Attributes:
      name: The provider's.
      reads: That it reads a request's text.
    """

    reads = True

    def __init__(self, model: Model, options: ModelOptions, seconds: float, say: Callable[[str], None]) -> None:
        """Checks key, model and price; nothing that costs anything.

        Args:
          model: The provider.
          options: Its options, with the model's name.
          seconds: That a call may take.
          say: Tells whoever runs it.

        Raises:
          InputError: if the key is refused, or there is no such model, or no price of it though dollars are limited.
        """
        self.name, self._model, self._options, self._seconds = model.name, model, options, seconds
        self._key = model.key if len(model.key) >= _SECRET else ""  # kept out of all that is written
        self._price = _price(options, say)
        try:
            self._within(seconds, model.check)
        except CallError as error:
            if error.status is None or not error.transient:
                raise InputError(f"--proposer {self.name}: {error}. {_remedy(error)}") from None

    def begin(self, ledger: Ledger, note: Callable[..., None], tools: Sequence[Tool] = ()) -> None:
        """A session begins.

        Args:
          ledger: Of the run.
          note: Appends an event to it.
          tools: Tools that the model may call, if it may call any.
        """
        self._ledger, self._note = ledger, note
        self._tools = {tool.name: tool for tool in tools} if self._options.tools else {}

    def propose(self, request: Request) -> str:
        """The text of a reply.

        Raises:
          ReplyError: if there is none.
          LimitReached: if a call would be beyond the limits.
          InputError: if the provider refuses key or model.
        """
        talk, until = self._kept(request), time.monotonic() + request.seconds
        while True:
            if talk.said is None:
                talk.said = self._call(talk, request.number, until)
                self._keep(request, talk)
            reply = self._answered(talk, talk.said, request.wanted)
            if reply is not None:
                return reply
            self._keep(request, talk)

    # --- the conversation ---

    def _answered(self, talk: _Talk, said: Said, wanted: int) -> str | None:
        """The reply, if this is it; else the conversation goes on."""
        talk.said = None
        if said.calls and not said.fault:
            assert said.message is not None
            talk.messages += [said.message, *self._model.results([(c, self._use(talk, c)) for c in said.calls])]
            return None
        found = read(said.text)
        if not said.fault:
            return written(talk.kept) + "\n" * bool(talk.kept) + said.text
        talk.kept += tuple(found)
        if talk.kept and (talk.complained or len(talk.kept) >= wanted):
            return written(talk.kept)
        if talk.complained:
            raise ReplyError(f"twice no reply, at last {said.reason}")
        complaint = _COMPLAINTS[said.fault].format(
            detail=said.detail, whole=len(found), missing=wanted - len(talk.kept)
        )
        text = said.text.strip()
        whole = said.message if text and not said.calls else None
        talk.messages += [whole or self._model.assistant(text or "(nothing)"), self._model.user(complaint)]
        talk.complained = True
        return None

    def _use(self, talk: _Talk, call: ToolCall) -> str:
        """What a tool answers."""
        if talk.used >= self._options.tools:
            return "Not done: no call is left. Reply to the task."
        talk.used += 1
        left = self._options.tools - talk.used
        if call.name not in self._tools:
            answer = f"There is no such tool. There are {', '.join(self._tools)}."
        else:
            answer = self._tools[call.name].use(call.arguments)
        return f"{answer}\n\n({left or 'No'} call{'s' * (left != 1)} left.)"

    def _judged(self, said: Said, may_call: bool) -> Said:
        """An answer, with what is wrong with it, and without the key, should the provider repeat it."""
        try:
            text = said.model_dump_json()
        except ValueError:  # half a character
            raise CallError("no answer that can be kept: it is no text", billed=True) from None
        if self._key:
            said = Said.model_validate_json(text.replace(json.dumps(self._key)[1:-1], "[key]"))
        fault, detail = said.fault, said.detail
        if not fault and said.calls and not may_call:
            fault, detail = "malformed", "no call is left"
        elif not fault and not said.calls and not said.text.strip():
            fault = "empty"
        elif not fault and not said.calls and not read(said.text):
            fault, detail = "unparsable", "no ```python block in it"
        return said.model_copy(update={"fault": fault, "detail": detail})

    def _kept(self, request: Request) -> _Talk:
        """The conversation about a request, from disk if it has begun."""
        about = digest_of(request.text)
        text = self._ledger.kept("conversations", f"{request.number:04d}.json")
        if text is not None:
            try:
                talk = _Talk.model_validate_json(text)
            except pydantic.ValidationError:
                talk = None
            if talk is not None and talk.request == about:
                return talk
        return _Talk(request=about, messages=[self._model.user(request.text)])

    def _keep(self, request: Request, talk: _Talk) -> None:
        self._ledger.keep("conversations", f"{request.number:04d}.json", talk.model_dump_json(indent=1))

    # --- calls ---

    def _call(self, talk: _Talk, number: int, until: float) -> Said:
        """The model's answer, after as many attempts as it takes."""
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, CallError) and error.transient),
            stop=tenacity.stop_after_attempt(_ATTEMPTS) | tenacity.stop_before_delay(until - time.monotonic()),
            wait=_pause_after,
            reraise=True,
        )
        try:
            return attempts(self._attempt, talk, number, until)
        except CallError as error:
            if error.status in _HOPELESS:
                raise InputError(f"--proposer {self.name}: {error}. {_remedy(error)}") from None
            raise ReplyError(str(error)) from None

    def _attempt(self, talk: _Talk, number: int, until: float) -> Said:
        """One call, which is in the ledger whatever comes of it."""
        self._options.limits.check(self._ledger.spent)
        began = time.monotonic()
        seconds = min(self._seconds, until - began)
        if seconds <= 0:
            raise ReplyError("no time is left for a call")
        prompt = len(json.dumps(talk.messages, ensure_ascii=False))
        tools, may_call = tuple(self._tools.values()), talk.used < self._options.tools
        usage, fault = _estimate(prompt), "interrupted"
        try:
            said = self._within(seconds, lambda: self._model.ask(talk.messages, tools, may_call, seconds))
            said = self._judged(said, may_call)
            usage, fault = said.usage or _estimate(prompt, len(said.text)), said.reason
        except CallError as error:
            usage, fault = (usage if error.billed else Usage()), str(error)
            raise
        finally:
            self._note(
                Called,
                number=number,
                model=self._options.model,
                usage=usage,
                dollars=None if self._price is None else self._price.dollars(usage),
                seconds=time.monotonic() - began,
                fault=fault,
            )
        return said

    def _within(self, seconds: float, call: Callable[[], _T]) -> _T:
        """What a call returns, see `within`; what it raises has the key neither in its text nor in what led to it."""
        try:
            return within(seconds, call)
        except (CallError, InputError) as error:
            if self._key:
                error.args = (str(error).replace(self._key, "[key]"),)
            error.__context__ = None
            raise


# --- providers, keys and prices --------------------------------------------------------------------------------------


def paid_proposer(kind: str, options: ModelOptions, seconds: float, say: Callable[[str], None]) -> Paid:
    """A language model as a proposer: "gemini" or "http", with `completed` options. See `Paid`."""
    package = {"gemini": "google.genai", "http": "openai"}[kind]
    try:
        importlib.import_module(package)
    except ModuleNotFoundError:
        raise InputError(
            f"--proposer {kind}: {package} is not installed. pip install 'autotts-jax[discovery]'."
        ) from None
    if kind == "gemini":
        from autotts_discovery.proposers.gemini import Gemini

        return Paid(Gemini(options), options, seconds, say)
    from autotts_discovery.proposers.http import Http

    return Paid(Http(options), options, seconds, say)


def key_from(*names: str) -> str:
    """The key in the first of these environment variables that is set; empty if none is.

    Raises:
      InputError: if it is no key; the message does not show it.
    """
    for name in names:
        key = os.environ.get(name, "").strip()
        if not all("!" <= letter <= "~" for letter in key):
            raise InputError(f"{name}: holds a character that is in no key. Set it again.")
        if key:
            return key
    return ""


def _price(options: ModelOptions, say: Callable[[str], None]) -> Price | None:
    """The model's price; None if it is not known and need not be."""
    price = price_of(options.model, options.prices)
    if price is None and options.local:
        say(f"{options.model} has no price, and is on this machine: its calls are counted as free.")
    elif price is None and options.dollars < math.inf:
        raise InputError(
            f"model {options.model!r}: no price is known, so it cannot be held to {options.dollars:g} dollars. Give "
            "its price by --prices FILE, or --dollars inf for no limit."
        )
    return price


def _estimate(prompt: int, reply: int = 0) -> Usage:
    """Tokens of so many characters."""
    return Usage(input=math.ceil(prompt / _CHARACTERS), output=math.ceil(reply / _CHARACTERS), estimated=True)


# --- time ------------------------------------------------------------------------------------------------------------


def within(seconds: float, call: Callable[[], _T]) -> _T:
    """What a call returns, if it does so in time.

    The time-outs of HTTP clients begin anew with every byte, so a server that sends one now and then holds them for
    ever. A call that is given up ends with its thread, or with the process.

    Raises:
      CallError: if it takes longer, and what the call raises.
    """
    found: queue.SimpleQueue[tuple[_T | None, Exception | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            found.put((call(), None))
        except Exception as error:
            found.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        value, error = found.get(timeout=min(seconds, threading.TIMEOUT_MAX))
    except queue.Empty:
        raise CallError(f"no whole answer within {seconds:.3g} seconds", billed=True) from None
    if error is not None:
        raise error
    return value  # type: ignore[return-value]


def seconds_until(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks for: a number, or a date; None if it asks for none."""
    if not header:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            date = email.utils.parsedate_to_datetime(header)
        except ValueError:
            return None
        seconds = (date.astimezone(datetime.UTC) - datetime.datetime.now(datetime.UTC)).total_seconds()
    return max(seconds, 0.0) if math.isfinite(seconds) else None


_BACKOFF = tenacity.wait_exponential_jitter(initial=_FIRST, max=_LONGEST, jitter=_JITTER)


def _pause_after(state: tenacity.RetryCallState) -> float:
    """Seconds to the next attempt: what the provider asks for, and longer from one to the next, not in step."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.pause if isinstance(error, CallError) else None
    return (asked or 0.0) + _BACKOFF(state)


def _remedy(error: CallError) -> str:
    match error.status:
        case None:
            return "See whether the address is right and can be reached."
        case 401 | 403:
            return "Give a key that is good for this model."
        case 404:
            return "Name a model that is there, and its address."
        case _:
            return "Change what it does not like."
