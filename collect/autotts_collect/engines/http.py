"""A model behind an OpenAI-compatible server, asked by token ids: ``/v1/completions``.

The server must take token ids as a prompt and give them back (``return_token_ids``), and must have ``/tokenize``, as
vLLM's has from version 0.10.2 on. Nothing of a reply is kept unless all of it came: what a branch says does not depend
on what went wrong on the way.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import openai
import pydantic

from autotts_collect.engines.base import (
    Branch,
    EngineError,
    LogProbs,
    Piece,
    Pool,
    Reading,
    Sampling,
    Suffix,
    UnavailableError,
)
from autotts_jax.errors import InputError, check_whole, one_line

__all__ = ["Http"]

#: Statuses that can be another one the next time.
_PASSING = (408, 409, 425, 429)


class _Tops(pydantic.BaseModel):
    """Log-probabilities as the wire has them."""

    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None = None


class _Choice(pydantic.BaseModel):
    """A completion, or what a chunk adds to it."""

    text: str
    token_ids: list[int] | None = None
    finish_reason: str | None = None
    logprobs: _Tops | None = None


class _Reply(pydantic.BaseModel):
    """A reply, or a chunk of one; the last chunk may hold no choice."""

    choices: list[_Choice] = pydantic.Field(max_length=1)


class _Model(pydantic.BaseModel):
    id: str
    max_model_len: int | None = None


class _Models(pydantic.BaseModel):
    data: list[_Model]


class _Tokens(pydantic.BaseModel):
    tokens: list[int]


class Http:
    """A server as an engine."""

    feature_names = ()

    def __init__(
        self,
        base_url: str,
        model: str,
        sampling: Sampling,
        *,
        api_key: str | None = None,
        connections: int = 256,
        timeout: float = 120.0,
        stream: bool = True,
    ) -> None:
        """An engine; nothing is asked before `start`.

        Args:
          base_url: Of the server's API, such as ``http://localhost:8000/v1``.
          model: As the server names it.
          sampling: How branches are sampled.
          api_key: The server's key, if it wants one.
          connections: Requests at a time; others wait here.
          timeout: Seconds without a byte after which a request has failed.
          stream: Whether tokens are sent as they come, so that a server which hangs is known from one that is busy.
            Without it a request costs far less here, and `timeout` must leave time for a whole piece.

        Raises:
          InputError: if the URL is none.
        """
        if not base_url.startswith(("http://", "https://")):
            raise InputError(f"base URL {base_url!r}: not one of http:// or https://. Write it out.")
        check_whole("connections", connections, 1, 2**16)
        self._base_url, self._model, self._sampling, self._stream = base_url.rstrip("/"), model, sampling, stream
        self._client = openai.AsyncOpenAI(
            base_url=self._base_url,
            api_key=api_key or "none",
            max_retries=0,  # `Patience` decides on that
            timeout=openai.Timeout(timeout, connect=min(timeout, 10.0), pool=None),
        )
        self._free = asyncio.Semaphore(connections)
        self._suffixes: dict[str, list[int]] = {}
        self._context: int | None = None

    @property
    def context(self) -> int | None:
        """As the server says it."""
        return self._context

    def about(self) -> Mapping[str, Any]:
        """Model and sampling; where the server is does not matter."""
        return {"engine": "http", "model": self._model, "sampling": dataclasses.asdict(self._sampling)}

    def pool(self, question: int, shuffle: int) -> Pool:
        """As many branches as are sampled."""
        return self._sampling.pool()

    async def start(self) -> None:
        """Checks that the server is there and has the model."""
        try:
            models = _Models.model_validate(await self._client.get("/models", cast_to=object)).data
        except openai.APIConnectionError as error:
            raise InputError(
                f"base URL {self._base_url}: no server answers ({_why(error)}). Start it, or correct the URL."
            ) from None
        except openai.APIStatusError as error:
            what = "wants another API key" if error.status_code in (401, 403) else "has no list of models"
            raise InputError(
                f"base URL {self._base_url}: the server {what} ({error.status_code}: {_said(error)}). "
                f"Give {'the right one' if error.status_code in (401, 403) else 'the URL of an API, ending in /v1'}."
            ) from None
        except (openai.OpenAIError, ValueError) as error:
            raise InputError(
                f"base URL {self._base_url}: not an OpenAI-compatible server ({one_line(error)}). Give the URL of an "
                "API, ending in /v1."
            ) from None
        found = {model.id: model for model in models}
        if self._model not in found:
            raise InputError(
                f"model {self._model!r}: the server does not have it, but {', '.join(found) or 'none'}. Name one of "
                "those."
            )
        self._context = found[self._model].max_model_len

    async def prompt(self, text: str) -> Sequence[int]:
        """The chat template's tokens, as the server makes them."""
        chat = {"messages": [{"role": "user", "content": text}], "add_generation_prompt": True}
        try:
            return await self._tokenized(chat)
        except UnavailableError:
            raise
        except EngineError as error:
            raise InputError(
                f"model {self._model!r}: the server makes no prompt of a question ({error}). Serve it by vLLM, with a "
                "chat template."
            ) from None

    async def extend(self, branch: Branch, most: int, *, logprobs: int = 0) -> Piece:
        """One completion of the branch's tokens."""
        asked = {
            "prompt": [*branch.prompt, *branch.tokens],
            "max_tokens": most,
            "temperature": self._sampling.temperature,
            "top_p": self._sampling.top_p,
            "seed": branch.seed_here(),
        }
        if self._sampling.top_k:
            asked["top_k"] = self._sampling.top_k
        return await self._completed(asked, logprobs, stream=self._stream)

    async def read(self, branch: Branch, suffix: Suffix, *, logprobs: int = 0) -> Reading:
        """One short completion of the branch's tokens and the suffix's."""
        if suffix.text not in self._suffixes:
            self._suffixes[suffix.text] = await self._tokenized({"prompt": suffix.text, "add_special_tokens": False})
        prompt = [*branch.prompt, *branch.tokens, *self._suffixes[suffix.text]]
        asked = {"prompt": prompt, "max_tokens": suffix.most, "temperature": 0.0}
        piece = await self._completed(asked, logprobs, stream=False)
        return Reading(text=suffix.text + piece.text, tokens=len(piece.tokens), logprobs=piece.logprobs)

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    # --- the wire ----------------------------------------------------------------------------------------------------

    async def _completed(self, asked: dict[str, Any], logprobs: int, *, stream: bool) -> Piece:
        body = {"model": self._model, "return_token_ids": True, **asked, "stream": stream}
        if logprobs:
            body["logprobs"] = logprobs
        ids: list[int] = []
        texts: list[str] = []
        tops: list[_Tops] = []
        reason: str | None = None
        async with self._free:
            async for choice in self._choices(body, stream=stream):
                if choice.token_ids is None:
                    raise EngineError("no token ids came (return_token_ids). Serve by vLLM 0.10.2 or later")
                ids += choice.token_ids
                texts.append(choice.text)
                tops += [choice.logprobs] if choice.logprobs else []
                reason = choice.finish_reason or reason
        if reason not in ("stop", "length"):
            raise UnavailableError("the reply was cut off" if reason is None else f"the server ended it by {reason!r}")
        if len(ids) > body["max_tokens"]:
            raise UnavailableError(f"{len(ids)} tokens came, more than the {body['max_tokens']} that were asked for")
        return Piece(
            tokens=ids,
            text="".join(texts),
            ended=reason == "stop",
            logprobs=_gathered(tops, logprobs, len(ids)) if logprobs else None,
        )

    async def _choices(self, body: dict[str, Any], *, stream: bool) -> AsyncIterator[_Choice]:
        """The completion, whole or in chunks."""
        try:
            if not stream:
                reply: Any = await self._client.post("/completions", cast_to=object, body=body)
                for choice in _Reply.model_validate(reply).choices:
                    yield choice
                return
            chunks = await self._client.post(
                "/completions", cast_to=object, body=body, stream=True, stream_cls=openai.AsyncStream[object]
            )
            async with chunks:
                async for chunk in chunks:
                    for choice in _Reply.model_validate(chunk).choices:
                        yield choice
        except Exception as error:
            _explain(error)

    async def _tokenized(self, asked: dict[str, Any]) -> list[int]:
        url = f"{self._base_url.removesuffix('/v1')}/tokenize"
        try:
            async with self._free:
                found: Any = await self._client.post(url, cast_to=object, body={"model": self._model, **asked})
            return _Tokens.model_validate(found).tokens
        except Exception as error:
            _explain(error)


def _explain(error: Exception) -> NoReturn:
    """Raises what an error means: whether to ask again."""
    if isinstance(error, EngineError):
        raise error
    if isinstance(error, openai.APIStatusError):
        said = f"status {error.status_code}: {_said(error)}"
        if error.status_code in _PASSING or error.status_code >= 500:
            raise UnavailableError(said, _seconds(error.response.headers.get("retry-after"))) from None
        raise EngineError(said) from None
    if isinstance(error, pydantic.ValidationError):
        wrong = error.errors(include_url=False)[0]
        raise UnavailableError(f"a reply that is none: {'.'.join(map(str, wrong['loc']))}: {wrong['msg']}") from None
    # Timeouts, resets, bytes that are no JSON: once a stream has begun, the client hands on its transport's errors,
    # and which library that is depends on its version.
    raise UnavailableError(one_line(error)) from error


def _why(error: openai.APIConnectionError) -> str:
    return one_line(error.__cause__ if isinstance(error.__cause__, Exception) else error)


def _said(error: openai.APIStatusError) -> str:
    body = error.body
    return one_line(Exception(body["message"] if isinstance(body, dict) and "message" in body else error.message))


def _seconds(text: str | None) -> float | None:
    try:
        return max(0.0, float(text or ""))
    except ValueError:  # a date, or nothing
        return None


def _gathered(tops: Sequence[_Tops], k: int, length: int) -> LogProbs:
    chosen = [np.nan if value is None else value for some in tops for value in some.token_logprobs]
    rows = [sorted((top or {}).values(), reverse=True)[:k] for some in tops for top in some.top_logprobs or ()]
    if not len(chosen) == len(rows) == length:
        raise UnavailableError(f"log-probabilities of {len(rows)} tokens came with {length} tokens")
    top = np.full((length, k), -np.inf, np.float32)
    for row, values in zip(top, rows, strict=True):
        row[: len(values)] = values
    return LogProbs(np.array(chosen, np.float32), top)
