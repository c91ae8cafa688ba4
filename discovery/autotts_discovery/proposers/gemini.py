"""Gemini, through google-genai. The key is GEMINI_API_KEY or GOOGLE_API_KEY of the environment."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from google import genai
from google.genai import errors, types

from autotts_discovery.proposers.options import ModelOptions
from autotts_discovery.proposers.paid import CallError, Message, Said, described, key_from, seconds_until
from autotts_discovery.proposers.tools import Tool, ToolCall
from autotts_discovery.spending import Usage
from autotts_jax.errors import InputError

__all__ = ["KEYS", "Gemini"]

#: Where the key is.
KEYS = ("GEMINI_API_KEY", "GOOGLE_API_KEY")

_LEVELS = ("minimal", "low", "medium", "high", "xhigh")
_CUT_OFF = ("MAX_TOKENS", "CONTINUATION")
_MALFORMED = ("MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "MALFORMED_RESPONSE")

_T = TypeVar("_T")


class Gemini:
    """The Gemini API.

    Attributes:
      name: "gemini".
      key: The key.
    """

    name = "gemini"

    def __init__(self, options: ModelOptions) -> None:
        """For a model.

        Raises:
          InputError: if there is no key, or the thinking is no level and no number.
        """
        self.key = key_from(*KEYS)
        if not self.key:
            raise InputError(f"--proposer gemini: no key. Put one into the environment as {KEYS[0]}.")
        self._model = options.model
        self._config: dict[str, Any] = {"automatic_function_calling": {"disable": True}}
        if "automatic_continuation" in types.GenerateContentConfig.model_fields:
            self._config["automatic_continuation"] = False  # calls that the limits would not see
        if options.temperature is not None:
            self._config["temperature"] = options.temperature
        if options.thinking:
            self._config["thinking_config"] = _thinking(options.thinking)
        self._client = genai.Client(
            vertexai=False,
            api_key=self.key,
            http_options=types.HttpOptions(
                base_url=options.base_url or None,
                retry_options=types.HttpRetryOptions(attempts=1),
                client_args={"follow_redirects": False},  # the key is in a header that another host would get
            ),
        )

    def check(self) -> None:
        """See `paid.Model`: asks about the model, which is free."""
        patience = types.GetModelConfig(http_options=_patience(60))
        try:
            _said(lambda: self._client.models.get(model=self._model, config=patience))
        except CallError as error:
            if error.status == 404:
                raise InputError(f"--model {self._model!r}: Gemini has none of this name. Name another.") from None
            raise

    def ask(self, messages: Sequence[Message], tools: Sequence[Tool], may_call: bool, seconds: float) -> Said:
        """See `paid.Model`."""
        told: dict[str, Any] = {}
        if tools:
            functions = [
                types.FunctionDeclaration(name=tool.name, description=tool.about, parameters_json_schema=tool.schema)
                for tool in tools
            ]
            told["tools"] = [types.Tool(function_declarations=functions)]
            told["tool_config"] = {"function_calling_config": {"mode": "AUTO" if may_call else "NONE"}}
        config = types.GenerateContentConfig(**self._config, **told, http_options=_patience(seconds))
        contents: Any = [types.Content.model_validate_json(json.dumps(message)) for message in messages]
        models = self._client.models
        return _said(lambda: _read(models.generate_content(model=self._model, contents=contents, config=config)))

    def user(self, text: str) -> Message:
        """See `paid.Model`."""
        return {"role": "user", "parts": [{"text": text}]}

    def assistant(self, text: str) -> Message:
        """See `paid.Model`."""
        return {"role": "model", "parts": [{"text": text}]}

    def results(self, answers: Sequence[tuple[ToolCall, str]]) -> list[Message]:
        """See `paid.Model`."""
        parts = [
            {"function_response": {"id": call.id, "name": call.name, "response": {"result": answer}}}
            for call, answer in answers
        ]
        return [{"role": "user", "parts": parts}]


def _thinking(given: str) -> dict[str, Any]:
    if given in _LEVELS:
        return {"thinking_level": given.upper()}
    try:
        budget = int(given)
    except ValueError:
        budget = -2
    if budget < -1:
        raise InputError(
            f"--thinking {given!r}: neither a level nor a number of tokens. Use one of {', '.join(_LEVELS)}; or a "
            "number, with models before Gemini 3: 0 for none, -1 for as many as it likes."
        )
    return {"thinking_budget": budget}


def _patience(seconds: float) -> types.HttpOptions:
    return types.HttpOptions(timeout=max(int(1000 * seconds), 1))  # milliseconds


def _said(call: Callable[[], _T]) -> _T:
    """What a call of the client comes to.

    Raises:
      CallError: whatever is raised in it.
    """
    try:
        return call()
    except errors.APIError as error:
        headers = getattr(error.response, "headers", None) or {}
        pause = seconds_until(headers.get("retry-after")) or _asked_to_wait(error.details)
        raise CallError(f"{error.code} {error.status}: {error.message}", status=error.code, pause=pause) from None
    except Exception as error:  # of its HTTP client, or since what came is not what it expects
        raise CallError(described(error), billed=True) from None


def _asked_to_wait(details: Any) -> float | None:
    """The pause in an error's body: ``{"error": {"details": [{"@type": …RetryInfo, "retryDelay": "34s"}]}}``."""
    try:
        found = [item["retryDelay"] for item in details["error"]["details"] if "retryDelay" in item]
        return seconds_until(found[0].removesuffix("s"))
    except (KeyError, TypeError, IndexError, AttributeError):
        return None


def _read(response: types.GenerateContentResponse) -> Said:
    usage, count = None, response.usage_metadata
    if count is not None and count.prompt_token_count is not None:
        thinking = count.thoughts_token_count or 0
        usage = Usage(
            input=count.prompt_token_count + (count.tool_use_prompt_token_count or 0),
            cached=count.cached_content_token_count or 0,
            output=(count.candidates_token_count or 0) + thinking,
            thinking=thinking,
        )
    if not response.candidates:
        feedback = response.prompt_feedback
        if feedback is not None and feedback.block_reason is not None:
            return Said(fault="blocked", detail=feedback.block_reason.value, usage=usage)
        return Said(fault="empty", detail="no candidates", usage=usage)
    candidate = response.candidates[0]
    parts = (candidate.content and candidate.content.parts) or []
    finish = candidate.finish_reason.value if candidate.finish_reason else "STOP"
    said = Said(
        message=candidate.content.model_dump(mode="json", exclude_none=True) if candidate.content else None,
        text="".join(part.text for part in parts if part.text and not part.thought),
        calls=tuple(
            ToolCall(id=call.id, name=call.name or "", arguments=call.args or {})
            for part in parts
            if (call := part.function_call) is not None
        ),
        usage=usage,
    )
    if finish == "STOP":
        return said
    fault = "cut off" if finish in _CUT_OFF else "malformed" if finish in _MALFORMED else "blocked"
    return said.model_copy(update={"fault": fault, "detail": finish})
