"""Any endpoint that speaks OpenAI's chat completions, such as a local vLLM, through the openai package.

The key is OPENAI_API_KEY of the environment; a local endpoint may need none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import openai
import pydantic

from autotts_discovery.proposers.options import ModelOptions
from autotts_discovery.proposers.paid import CallError, Message, Said, described, key_from, seconds_until
from autotts_discovery.proposers.tools import Tool, ToolCall
from autotts_discovery.spending import Usage
from autotts_jax.errors import InputError, one_line

__all__ = ["KEY", "Http"]

#: Where the key is.
KEY = "OPENAI_API_KEY"

_LEVELS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

_T = TypeVar("_T")


# What is needed of an answer. The package takes whatever comes, so it is checked here.


class _Loose(pydantic.BaseModel, frozen=True, extra="ignore"):
    pass


class _Function(_Loose, frozen=True):
    name: str
    arguments: str = ""


class _Call(_Loose, frozen=True):
    id: str
    function: _Function


class _Message(_Loose, frozen=True):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class _Choice(_Loose, frozen=True):
    message: _Message
    finish_reason: str | None = None


class _InputDetails(_Loose, frozen=True):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _OutputDetails(_Loose, frozen=True):
    reasoning_tokens: int | None = None


class _Usage(_Loose, frozen=True):
    prompt_tokens: int
    completion_tokens: int = 0
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None


class _Completion(_Loose, frozen=True):
    choices: list[_Choice]
    usage: _Usage | None = None


class Http:
    """An OpenAI-compatible endpoint.

    Attributes:
      name: "http".
      key: The key; empty if there is none.
    """

    name = "http"

    def __init__(self, options: ModelOptions) -> None:
        """For a model.

        Raises:
          InputError: if there is no model, no key where one is needed, or the thinking is no level.
        """
        if not options.model:
            raise InputError("--proposer http: no model. Name one by --model.")
        if options.thinking and options.thinking not in _LEVELS:
            raise InputError(f"--thinking {options.thinking!r}: no level. Use one of {', '.join(_LEVELS)}.")
        self.key = key_from(KEY)
        if not self.key and not options.base_url:
            raise InputError(
                f"--proposer http: no key. Put one into the environment as {KEY}, or give the --base-url of an "
                "endpoint that needs none."
            )
        self._model = options.model
        self._options: dict[str, Any] = {}
        if options.temperature is not None:
            self._options["temperature"] = options.temperature
        if options.thinking:
            self._options["reasoning_effort"] = options.thinking
        self._client = openai.OpenAI(api_key=self.key or "none", base_url=options.base_url or None, max_retries=0)

    def check(self) -> None:
        """See `paid.Model`: asks about the model, which is free, in the two ways that endpoints may know."""
        models = self._client.with_options(timeout=60).models
        try:
            _said(lambda: models.retrieve(self._model))
        except CallError as error:
            if error.status != 404:
                raise
        else:
            return
        try:
            known = [str(model.id) for model in _said(lambda: list(models.list()))]
        except CallError:
            return  # it does not tell; the first call will
        if self._model not in known:
            some = ", ".join(known[:8]) or "none"
            raise InputError(f"--model {self._model!r}: the endpoint has none of this name. It has {some}.")

    def ask(self, messages: Sequence[Message], tools: Sequence[Tool], may_call: bool, seconds: float) -> Said:
        """See `paid.Model`."""
        told: dict[str, Any] = {}
        if tools:
            functions = ({"name": tool.name, "description": tool.about, "parameters": tool.schema} for tool in tools)
            told["tools"] = [{"type": "function", "function": function} for function in functions]
            told["tool_choice"] = "auto" if may_call else "none"
        completions: Any = self._client.with_options(timeout=seconds).chat.completions.with_raw_response
        response = _said(
            lambda: completions.create(model=self._model, messages=list(messages), **self._options, **told)
        )
        try:
            return _read(_Completion.model_validate_json(response.content))
        except pydantic.ValidationError as error:
            found = error.errors()[0]
            where = ".".join(map(str, found["loc"]))
            raise CallError(f"no completion came: {where} {found['msg']}", billed=True) from None

    def user(self, text: str) -> Message:
        """See `paid.Model`."""
        return {"role": "user", "content": text}

    def assistant(self, text: str) -> Message:
        """See `paid.Model`."""
        return {"role": "assistant", "content": text}

    def results(self, answers: Sequence[tuple[ToolCall, str]]) -> list[Message]:
        """See `paid.Model`."""
        return [{"role": "tool", "tool_call_id": call.id, "content": answer} for call, answer in answers]


def _said(call: Callable[[], _T]) -> _T:
    """What a call of the client returns.

    Raises:
      CallError: whatever the client raises.
    """
    try:
        return call()
    except openai.APIStatusError as error:
        pause = seconds_until(error.response.headers.get("retry-after"))
        raise CallError(one_line(error), status=error.status_code, pause=pause) from None
    except Exception as error:  # of its HTTP client, or since what came is not what it expects
        raise CallError(described(error), billed=True) from None


def _read(completion: _Completion) -> Said:
    usage = None
    if (count := completion.usage) is not None:
        sent = count.prompt_tokens_details or _InputDetails()
        usage = Usage(
            input=count.prompt_tokens,
            cached=sent.cached_tokens or 0,
            written=sent.cache_write_tokens or 0,
            output=count.completion_tokens,
            thinking=(count.completion_tokens_details or _OutputDetails()).reasoning_tokens or 0,
        )
    if not completion.choices:
        return Said(fault="empty", detail="no choices", usage=usage)
    choice = completion.choices[0]
    message, text = choice.message, choice.message.content or ""
    calls = tuple(_call(raw) for raw in message.tool_calls or ())
    # Calls go back as they came, with whatever else the endpoint put there.
    back = {"role": "assistant", "content": message.content}
    said = Said(
        message=back | ({"tool_calls": message.tool_calls} if calls else {}), text=text, calls=calls, usage=usage
    )
    if message.refusal or choice.finish_reason == "content_filter":
        detail = message.refusal or "content_filter"
        return said.model_copy(update={"fault": "blocked", "detail": one_line(ValueError(detail))})
    if choice.finish_reason == "length":
        return said.model_copy(update={"fault": "cut off", "detail": "length"})
    return said


def _call(raw: dict[str, Any]) -> ToolCall:
    call = _Call.model_validate(raw)
    try:
        arguments = json.loads(call.function.arguments or "{}")
    except ValueError:
        arguments = None
    return ToolCall(id=call.id, name=call.function.name, arguments=arguments if isinstance(arguments, dict) else None)
