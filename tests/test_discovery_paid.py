"""Language models as proposers, against a server on loopback that speaks both providers' formats, well and badly."""

import contextlib
import dataclasses
import datetime
import email.utils
import http.server
import json
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from autotts_discovery import loop, requests, spending
from autotts_discovery.candidates import Refused
from autotts_discovery.judge import Verdict
from autotts_discovery.ledger import Called, Ledger, Replied
from autotts_discovery.loop import Found, ModelOptions, discover
from autotts_discovery.proposers import Proposal, paid, tools, written
from autotts_discovery.spending import Limits, Price, Usage, price_of

from autotts_jax import Dataset, InputError, draw_orders, pack, synthetic_trajectories
from autotts_jax.cli import main

KEY = "sk-secret-0123456789-abcdefghij"
MODELS = {"gemini": "gemini-4-hydrogen", "http": "gpt-6.2-sol"}
VARIABLES = ("GEMINI_API_KEY", "GOOGLE_API_KEY", "OPENAI_API_KEY", "GOOGLE_GEMINI_BASE_URL", "OPENAI_BASE_URL")


# --- a server --------------------------------------------------------------------------------------------------------

Step = Callable[["Handler"], None]


class Server(http.server.ThreadingHTTPServer):
    """Does one step of its script for each call, the last one again and again."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[Step] = []
        self.calls: list[dict[str, Any]] = []
        self.headers: list[Any] = []
        self.models = set(MODELS.values())
        self.lists = True
        self.refuses = 0
        self.over = threading.Event()

    def handle_error(self, *_: object) -> None:
        """Clients that hang up are nothing to tell."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    @property
    def gemini(self) -> bool:
        return "x-goog-api-key" in self.headers

    def do_GET(self) -> None:
        if self.server.refuses:
            refuse(self.server.refuses)(self)
        elif self.path.rpartition("/")[2].partition("?")[0] in self.server.models:
            name = self.path.rpartition("/")[2]
            self.reply({"name": f"models/{name}"} if self.gemini else {"id": name, "object": "model"})
        elif self.path.endswith("/models") and self.server.lists:
            self.reply({"object": "list", "data": [{"id": name, "object": "model"} for name in self.server.models]})
        else:
            refuse(404)(self)

    def do_POST(self) -> None:
        self.server.calls.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.server.headers.append(dict(self.headers) | {"path": self.path})
        script = self.server.script
        (script.pop(0) if len(script) > 1 else script[0])(self)

    def reply(self, body: Any, status: int = 200, length: int | None = None, **headers: str) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        pass


def say(text: str | None, finish: str = "stop", use: Any = (), counted: bool = True, **more: Any) -> Step:
    """An answer: 1,000 tokens in, 600 of them cached, and 200 out, 50 of them thoughts."""

    def gemini(handler: Handler) -> None:
        parts: list[dict[str, Any]] = [{"text": "I think.", "thought": True}] + [{"text": text}] * (text is not None)
        parts += [
            {"functionCall": {"id": f"call{i}", "name": name, "args": arguments}, "thoughtSignature": "c2lnbmVk"}
            for i, (name, arguments) in enumerate(use)
        ]
        reasons = {"stop": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"}
        candidate = {"content": {"role": "model", "parts": parts}, "finishReason": reasons[finish]}
        if text is None and not use:
            candidate.pop("content")
        usage = {"promptTokenCount": 1000, "cachedContentTokenCount": 600, "candidatesTokenCount": 150}
        usage |= {"thoughtsTokenCount": 50, "totalTokenCount": 1200}
        handler.reply({"candidates": [candidate], **({"usageMetadata": usage} if counted else {}), **more})

    def openai(handler: Handler) -> None:
        called = [
            {"id": f"call{i}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
            for i, (name, arguments) in enumerate(use)
        ]
        message = {"role": "assistant", "content": text} | ({"tool_calls": called} if called else {})
        usage = {"prompt_tokens": 1000, "completion_tokens": 200, "total_tokens": 1200}
        usage |= {
            "prompt_tokens_details": {"cached_tokens": 600},
            "completion_tokens_details": {"reasoning_tokens": 50},
        }
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if called else finish}
        handler.reply({"id": "x", "choices": [choice], **({"usage": usage} if counted else {}), **more})

    return lambda handler: (gemini if handler.gemini else openai)(handler)


def refuse(status: int, message: str = "no", **headers: str) -> Step:
    error = {"error": {"code": status, "message": message, "status": "NO"}}
    return lambda handler: handler.reply(error, status, **headers)


def asks_to_wait(handler: Handler) -> None:
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34s"}]
    error = {"error": {"code": 429, "message": "slow down", "status": "RESOURCE_EXHAUSTED", "details": details}}
    handler.reply(error, 429, **({} if handler.gemini else {"Retry_After": "34"}))


def raw(content: bytes) -> Step:
    return lambda handler: handler.reply(content)


def cut(handler: Handler) -> None:
    handler.reply(b'{"candidates": [{"content": {"par', length=1000)
    handler.close_connection = True


def reset(handler: Handler) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def hang(handler: Handler) -> None:
    handler.server.over.wait(20)


def drip(handler: Handler) -> None:
    """A byte now and then, so that no time-out of a client ever comes."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    while not handler.server.over.wait(0.05):
        handler.wfile.write(b" ")
        handler.wfile.flush()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Server() as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield found
        found.over.set()
        found.shutdown()


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that would be made between attempts; none is."""
    made: list[float] = []
    pause = paid._pause_after

    def none(state: Any) -> float:
        made.append(pause(state))
        return 0.0

    monkeypatch.setattr(paid, "_pause_after", none)
    return made


# --- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def data() -> Dataset:
    return pack(synthetic_trajectories(questions=2, branches=4))


@pytest.fixture(autouse=True)
def wall(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wall and judge pretend: a source is its name, and what it gains."""

    def check(text: str) -> None:
        if "import os" in text:
            raise Refused("syntax", "line 1: import os")

    def export(text: str, **_: Any) -> Any:
        _, gain, name = text.splitlines()[0].split()
        described = SimpleNamespace(name=name, probe_everything=True, params=(), memory={}, gain=float(gain))
        return SimpleNamespace(described=described, programs={"step": name.encode()})

    class Judge:
        def __init__(self, bench: Any) -> None:
            pass

        def __enter__(self) -> "Judge":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def look(self, artefact: Any) -> Verdict:
            gain = artefact.described.gain
            figures = {"lower": gain - 0.01, "gain": gain, "gain_se": 0.01, "penalty": 0, "latency": 1}
            curve = {"betas": (0, 1), "accuracy": (0.5, 0.6), "tokens": (1e4, 2e4), "sequential_tokens": (1e3, 2e3)}
            about = {"shuffles": 2, "episodes": 1, "seconds": 0, "signature": artefact.described.name}
            return Verdict(**figures, **curve, **about, gains={"synthetic": gain})

        def evaluate(self, artefact: Any) -> tuple[Verdict, None]:
            return self.look(artefact), None

    evaluations = {
        "sweep_up": lambda run: None,
        "keep_means": lambda run, means: "0" * 32,
        "keep_references": lambda run, references: "0" * 32,
        "References": SimpleNamespace(of=lambda bench: SimpleNamespace(names=("known",))),
    }
    monkeypatch.setattr(loop, "evaluations", SimpleNamespace(**evaluations))
    monkeypatch.setattr(loop._Loop, "correct", lambda self: None)
    monkeypatch.setattr(loop.wall, "layers", lambda: ("pretended",))
    monkeypatch.setattr(loop.wall, "export", export)
    monkeypatch.setattr(loop.wall, "check", lambda artefact: None)
    monkeypatch.setattr(loop, "check_source", check)
    monkeypatch.setattr(tools, "check_source", check)
    monkeypatch.setattr(loop, "make_bench", lambda *_, **__: SimpleNamespace(marks=(), names=("none",), known=dict))
    monkeypatch.setattr(loop, "Judge", Judge)


def source(name: str, gain: float = 0.1) -> str:
    return f"# {gain} {name}\nCONTROLLER = None\n"


def block(*names: str) -> str:
    return written([Proposal(source=source(name), idea=f"idea {name}") for name in names])


def options(server: Server, kind: str, **more: Any) -> ModelOptions:
    path = "" if kind == "gemini" else "/v1"
    address = f"http://127.0.0.1:{server.server_port}{path}"
    return ModelOptions(**{"model": MODELS[kind], "base_url": address, **more})


def run(
    server: Server, kind: str, data: Dataset, out: Path, model: dict[str, Any] | None = None, **more: Any
) -> Found:
    given = {"rounds": 1, "proposals": 1, "tuning": False, "traces": False, "say": lambda text: None, **more}
    return discover(data, out=out, proposer=kind, language_model=options(server, kind, **(model or {})), **given)


def called(run: Path) -> list[Called]:
    return Ledger(run).of(Called)


def texts(call: dict[str, Any]) -> list[tuple[str, str]]:
    """Who said what, in a request of either kind."""
    if "contents" in call:
        return [(c["role"], "".join(part.get("text", "") for part in c["parts"])) for c in call["contents"]]
    return [(m["role"], m["content"] or "") for m in call["messages"]]


both = pytest.mark.parametrize("kind", ["gemini", "http"])


@both
def test_a_run(server: Server, data: Dataset, tmp_path: Path, kind: str) -> None:
    server.script = [say(block("alpha")), say(block("beta", "gamma"))]
    model = {"temperature": 0.5, "thinking": "high"}
    found = run(server, kind, data, tmp_path, model, rounds=2, proposals=2)
    assert found.reason == "rounds"
    assert [one.name for one in found.tried] == ["alpha", "beta", "gamma"]
    assert [one.idea for one in found.tried] == ["idea alpha", "idea beta", "idea gamma"]
    ledger = Ledger(tmp_path)
    expected = Usage(input=1000, cached=600, output=200, thinking=50)
    assert [call.usage for call in ledger.of(Called)] == [expected, expected]
    assert {call.fault for call in ledger.of(Called)} == {""}
    rates = {"gemini": (1.5, 0.075, 7.5), "http": (2, 0.1, 10)}[kind]
    dollars = 2 * (400 * rates[0] + 600 * rates[1] + 200 * rates[2]) / 1e6
    assert ledger.spent == pytest.approx((dollars, 2, 2400))
    assert ledger.begun.settings.model.startswith(f"{MODELS[kind]}, temperature 0.5, thinking high, at http")
    # Each request is a conversation of its own, and has the text that is kept.
    assert [texts(call) for call in server.calls] == [
        [("user", (tmp_path / "requests" / f"000{n}.md").read_text())] for n in (1, 2)
    ]
    first, headers = server.calls[0], {name.lower(): value for name, value in server.headers[0].items()}
    if kind == "gemini":
        assert headers["path"].endswith("/models/gemini-4-hydrogen:generateContent")
        assert headers["x-goog-api-key"] == KEY
        assert first["generationConfig"] == {"temperature": 0.5, "thinkingConfig": {"thinking_level": "HIGH"}} or (
            first["generationConfig"] == {"temperature": 0.5, "thinkingConfig": {"thinkingLevel": "HIGH"}}
        )
        assert "tools" not in first
    else:
        assert headers["path"] == "/v1/chat/completions"
        assert headers["authorization"] == f"Bearer {KEY}"
        assert {name: first[name] for name in first if name != "messages"} == {
            "model": "gpt-6.2-sol",
            "temperature": 0.5,
            "reasoning_effort": "high",
        }
    # A tape of it needs no model.
    again = discover(
        data, out=tmp_path / "again", proposer=f"tape:{tmp_path}", rounds=2, proposals=2, tuning=False, traces=False
    )
    assert [one.digest for one in again.tried] == [one.digest for one in found.tried]
    assert len(server.calls) == 2


@both
@pytest.mark.parametrize(
    ("fault", "reason", "costs"),
    [
        (refuse(429), "429|no", False),
        (refuse(500), "500|no", False),
        (refuse(503), "503|no", False),
        (refuse(408), "408|no", False),
        (reset, "reset|disconnected|closed|Connection", True),
        (hang, "no whole answer within 0.6 seconds|timed out|Timeout", True),
        (drip, "no whole answer within 0.6 seconds", True),
        (cut, "peer closed|incomplete|Connection", True),
        (raw(b'{"candidates": ['), "JSON|EOF|parse", True),
        (raw(b"<html>busy</html>"), "JSON|no completion|parse", True),
        (raw(b'{"candidates": 3, "choices": 3}'), "no answer|no completion", True),
        (raw(b"[1, 2]"), "empty|no completion", True),
    ],
    ids=["429", "500", "503", "408", "reset", "hang", "drip", "cut", "torn", "html", "shape", "list"],
)
def test_faults_of_the_network(
    server: Server, data: Dataset, tmp_path: Path, kind: str, fault: Step, reason: str, costs: bool
) -> None:
    """They are survived, and the ledger says what they were, and what they may have cost."""
    server.script = [fault, say(block("alpha"))]
    found = run(server, kind, data, tmp_path, reply_minutes=0.01)
    assert [one.name for one in found.tried] == ["alpha"]
    failed, good = called(tmp_path)
    assert re.search(reason, failed.fault)
    assert (failed.usage.input > 1000) == failed.usage.estimated == costs == ((failed.dollars or 0) > 0)
    assert not good.fault
    assert len(server.calls) == 2


@both
def test_a_storm(server: Server, data: Dataset, tmp_path: Path, kind: str, pauses: list[float]) -> None:
    server.script = [refuse(429, "slow down")]
    with pytest.raises(InputError, match=r"failed 3 times in a row: .*slow down"):
        run(server, kind, data, tmp_path, rounds=4)
    assert len(server.calls) == len(called(tmp_path)) == 3 * 6
    assert Ledger(tmp_path).spent == (0, 18, 0)
    # Longer from one to the next, and never the same.
    for first in (0, 6, 12):
        some = pauses[first : first + 5]  # the sixth is not made
        assert all(least <= pause <= least + 2 for least, pause in zip((1, 2, 4, 8, 16), some, strict=True))
    assert len(set(pauses)) == len(pauses)
    assert "slow down" in (tmp_path / "requests" / "0002.md").read_text()


@both
def test_a_provider_is_left_alone_as_long_as_it_asks(
    server: Server, data: Dataset, tmp_path: Path, kind: str, pauses: list[float]
) -> None:
    date = email.utils.format_datetime(datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=100))
    server.script = [asks_to_wait, refuse(503, Retry_After="50"), refuse(503, Retry_After=date), say(block("alpha"))]
    assert run(server, kind, data, tmp_path).best is not None
    assert [34 < pauses[0] < 38, 50 < pauses[1] < 55, 95 < pauses[2] < 108] == [True] * 3


@both
def test_it_does_not_wait_beyond_the_minutes(
    server: Server, data: Dataset, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paid, "_pause_after", lambda state: 3600.0)
    server.script = [refuse(429)]
    began = time.monotonic()
    run(server, kind, data, tmp_path)
    assert time.monotonic() - began < 30
    assert len(server.calls) == 1


BLOCKED = {"candidates": None, "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}


@both
@pytest.mark.parametrize(
    ("fault", "reason", "complaint"),
    [
        (say(None, "content_filter"), "blocked: (SAFETY|content_filter)", "was blocked"),
        (say("I will n", "content_filter"), "blocked: (SAFETY|content_filter)", "was blocked"),
        (say(None), "empty", "was empty"),
        (say("  \n"), "empty", "was empty"),
        (raw(b'{"candidates": [], "choices": []}'), "empty: no c", "was empty"),
        (raw(b'{"choices": [{"message": {}}]}'), "empty", "was empty"),
        (say("Here you are:\n```\nx = 1\n```\n"), "unparsable: no ```python".replace("`", "'"), "no fenced block"),
        (say("Here:\n```python\nx = 1", "length"), "cut off: (MAX_TOKENS|length)", "was cut off"),
        (say(None, use=[("read_candidate", {})]), "malformed: no call is left", "could not be read"),
    ],
    ids=["filtered", "refused", "nothing", "blank", "none", "bare", "unparsable", "cut", "call"],
)
def test_faults_of_replies(
    server: Server, data: Dataset, tmp_path: Path, kind: str, fault: Step, reason: str, complaint: str
) -> None:
    """The model is told of each, once."""
    server.script = [fault, say(block("alpha"))]
    found = run(server, kind, data, tmp_path / "once")
    assert [one.name for one in found.tried] == ["alpha"]
    assert re.fullmatch(f"({reason}).*", called(tmp_path / "once")[0].fault)
    first, second = map(texts, server.calls)
    assert [who for who, _ in second] == ["user", "model" if kind == "gemini" else "assistant", "user"]
    assert second[0] == first[0]
    assert complaint in second[2][1]
    assert second[1][1].strip()
    # Twice is a reply that failed; the next request says so.
    server.script, server.calls = [fault, fault, say(block("alpha"))], []
    found = run(server, kind, data, tmp_path / "twice", rounds=2)
    assert len(server.calls) == 3
    assert [one.name for one in found.tried] == ["alpha"]
    replied = Ledger(tmp_path / "twice").of(Replied)
    assert re.search(f"twice no reply, at last ({reason})", replied[0].failure)
    assert "twice no reply" in texts(server.calls[2])[0][1]


def test_a_blocked_prompt(server: Server, data: Dataset, tmp_path: Path) -> None:
    server.script = [raw(b'{"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}'), say(block("alpha"))]
    assert run(server, "gemini", data, tmp_path).best is not None
    assert called(tmp_path)[0].fault == "blocked: PROHIBITED_CONTENT"
    server.script = [raw(b'{"choices": [{"message": {"refusal": "I\\u0027d rather not"}}]}'), say(block("alpha"))]
    assert run(server, "http", data, tmp_path / "http").best is not None
    assert called(tmp_path / "http")[0].fault == "blocked: I'd rather not"


@both
def test_whole_blocks_of_a_reply_that_was_cut_off_count(
    server: Server, data: Dataset, tmp_path: Path, kind: str
) -> None:
    torn = block("alpha") + "\nidea beta\n\n```python\n# 0.1 be"
    server.script = [say(torn, "length"), say(block("gamma"))]
    found = run(server, kind, data, tmp_path / "told", proposals=2)
    assert [(one.name, one.idea) for one in found.tried] == [("alpha", "idea alpha"), ("gamma", "idea gamma")]
    assert "1 arrived whole" in texts(server.calls[1])[2][1]
    assert "send the other 1" in texts(server.calls[1])[2][1]
    # Twice cut off, and when all are there, it is not told.
    server.script = [say(torn, "length"), say(torn.replace("alpha", "gamma"), "length")]
    found = run(server, kind, data, tmp_path / "twice", proposals=3)
    assert [one.name for one in found.tried] == ["alpha", "gamma"]
    server.script, server.calls = [say(torn, "length")], []
    run(server, kind, data, tmp_path / "enough", proposals=1)
    assert len(server.calls) == 1


@both
def test_tokens_that_nobody_counted(server: Server, data: Dataset, tmp_path: Path, kind: str) -> None:
    server.script = [say(block("alpha"), counted=False)]
    run(server, kind, data, tmp_path)
    (call,) = called(tmp_path)
    assert call.usage.estimated
    text = (tmp_path / "requests" / "0001.md").read_text()
    assert len(text) / 3 < call.usage.input < len(text) / 2
    assert call.usage.output > 10
    assert (call.dollars or 0) > 0


# --- limits ----------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    "limit", [{"calls": 2}, {"tokens": 1201}, {"dollars": 0.0022}], ids=lambda limit: next(iter(limit))
)
def test_limits(server: Server, data: Dataset, tmp_path: Path, kind: str, limit: dict[str, Any]) -> None:
    """A run ends in order, with what it has, at most one call later; and goes on if it may."""
    server.script = [say(block("alpha")), say(block("beta")), say(block("gamma"))]
    (name,) = limit
    cost = {"gemini": 0.002145, "http": 0.00286}[kind]
    within = 1 if (kind, name) == ("http", "dollars") else 2
    found = run(server, kind, data, tmp_path, limit, rounds=3)
    assert found.reason == name
    assert [one.name for one in found.tried] == ["alpha", "beta"][:within]
    assert (tmp_path / "best.py").exists()
    assert json.loads((tmp_path / "ledger.jsonl").read_text().splitlines()[-1])["reason"] == name
    assert Ledger(tmp_path).spent.dollars == pytest.approx(within * cost)
    # Going on under the same limit, it calls nobody; under a greater one, it pays for nothing twice.
    assert run(server, kind, data, tmp_path, limit, rounds=3, resume=True).reason == name
    assert len(server.calls) == within
    more = {name: 10 * limit[name]}
    found = run(server, kind, data, tmp_path, more, rounds=3, resume=True)
    assert found.reason == "rounds"
    assert [one.name for one in found.tried] == ["alpha", "beta", "gamma"]
    assert len(server.calls) == 3
    assert Ledger(tmp_path).spent.calls == 3


@both
def test_other_attempts_are_within_the_limits(server: Server, data: Dataset, tmp_path: Path, kind: str) -> None:
    server.script = [cut]
    found = run(server, kind, data, tmp_path, {"calls": 3})
    assert (found.reason, len(server.calls)) == ("calls", 3)


class Killed(BaseException):
    pass


@both
@pytest.mark.parametrize("point", ["after the call", "after the conversation", "before the reply is in the ledger"])
def test_nothing_is_paid_twice(
    server: Server, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, point: str
) -> None:
    """A run that is killed loses at most the call in flight."""
    use = [("replay_draft", {"source": source("draft")})]
    server.script = [say(None, use=use), say("Nothing comes to mind."), say(block("alpha")), say(block("beta"))]
    keep, note = Ledger.keep, loop._Loop.note

    def killed_keep(self: Ledger, folder: str, name: str, text: str) -> Path:
        if (folder, point) == ("conversations", "after the call"):
            raise Killed
        path = keep(self, folder, name, text)
        if (folder, point) == ("conversations", "after the conversation"):
            raise Killed
        return path

    def killed_note(self: Any, event: type[Any], /, **fields: Any) -> None:
        if (event, point) == (Replied, "before the reply is in the ledger"):
            raise Killed
        note(self, event, **fields)

    lost, rounds = 0, 0
    for attempt in range(12):
        with monkeypatch.context() as patched:
            if attempt < 6:
                patched.setattr(Ledger, "keep", killed_keep)
                patched.setattr(loop._Loop, "note", killed_note)
            try:
                found = run(server, kind, data, tmp_path, {"tools": 2}, rounds=2, resume=attempt > 0)
            except Killed:
                rounds += 1
                lost += point == "after the call"
                server.script[:0] = [say(None, use=use)] * (point == "after the call")
                continue
        break
    assert rounds > 0
    assert [one.name for one in found.tried] == ["alpha", "beta"]
    assert len(server.calls) == len(called(tmp_path)) == 4 + lost


def test_an_interrupt_is_in_the_ledger(
    server: Server, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    server.script = [say(block("alpha"))]
    proposer = paid.paid_proposer("gemini", options(server, "gemini"), 10, print)
    monkeypatch.setattr(loop, "completed", lambda kind, model: model)
    monkeypatch.setattr(paid, "paid_proposer", lambda *_: proposer)
    with monkeypatch.context() as patched:
        patched.setattr(paid, "within", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(server, "gemini", data, tmp_path)
    (call,) = called(tmp_path)
    assert call.fault == "interrupted"
    assert (call.dollars or 0) > 0
    assert run(server, "gemini", data, tmp_path, resume=True).best is not None


# --- an agent --------------------------------------------------------------------------------------------------------


def results(call: dict[str, Any]) -> list[str]:
    """What tools answered, in a request of either kind."""
    if "contents" in call:
        parts = [part for content in call["contents"] for part in content["parts"]]
        found = [part.get("functionResponse") or part.get("function_response") for part in parts]
        return [one["response"]["result"] for one in found if one]
    return [message["content"] for message in call["messages"] if message["role"] == "tool"]


@both
def test_an_agent(server: Server, data: Dataset, tmp_path: Path, kind: str) -> None:
    server.script = [say(block("alpha")), say(None, use=[("list_candidates", {})])]
    out = {"rounds": 2, "proposals": 1}

    def reads(handler: Handler) -> None:
        digest = Ledger(tmp_path).tried()[0].digest
        use = [("read_candidate", {"candidate": digest[:8]}), ("read_candidate", {"candidate": ""}), ("dig", {})]
        say("Let me see.", use=use)(handler)

    drafts = [source("draft", 0.25), "import os\n"]
    server.script += [
        reads,
        say(None, use=[("replay_draft", {"source": text}) for text in drafts] + [("replay_draft", {"text": 1})]),
        say(None, use=[("list_candidates", {})]),
        say(block("beta")),
    ]
    found = run(server, kind, data, tmp_path, {"tools": 8}, **out)
    assert [one.name for one in found.tried] == ["alpha", "beta"]
    last = server.calls[-1]
    listed, read, none, dug, replayed, refused, wrong, over = results(last)
    assert "+10.00 ± 1.00 | 20,000 | 2,000 |  | idea alpha" in listed
    assert listed.endswith("(7 calls left.)")
    assert read.startswith(source("alpha"))
    assert "not tried" in none
    assert "no such tool" in dug
    assert "There are replay_draft, list_candidates, read_candidate" in dug
    assert "gain +25.00 ± 1.00 points over the envelope" in replayed
    assert "1.00 | 60.0 | 20,000 | 2,000" in replayed
    assert "import os" in refused
    assert wrong.startswith("Wrong arguments. source: ")
    assert wrong.endswith("(1 call left.)")
    assert over.endswith("(No calls left.)")
    # Tools stay declared, but none may be called any more. What the model said goes back as it came.
    if kind == "gemini":
        modes = [call["toolConfig"]["functionCallingConfig"]["mode"] for call in server.calls]
        parts = [part for content in last["contents"] for part in content["parts"]]
        assert [part["thoughtSignature"] for part in parts if "functionCall" in part] == ["c2lnbmVk"] * 8
    else:
        modes = [call["tool_choice"] for call in server.calls]
        ids = [call["id"] for message in last["messages"] for call in message.get("tool_calls", ())]
        assert ids == [message["tool_call_id"] for message in last["messages"] if message["role"] == "tool"]
    assert [mode.lower() for mode in modes] == ["auto"] * 5 + ["none"]
    assert all(call["tools"] == last["tools"] for call in server.calls)


@both
def test_calls_beyond_the_budget(server: Server, data: Dataset, tmp_path: Path, kind: str) -> None:
    use = [("list_candidates", {})] * 3
    server.script = [say(None, use=use)]
    with pytest.raises(InputError, match="3 times in a row: twice no reply, at last malformed: no call is left"):
        run(server, kind, data, tmp_path, {"tools": 2}, rounds=4)
    assert len(server.calls) == 9
    assert results(server.calls[1])[2].startswith("Not done")


def test_arguments_that_are_no_json(server: Server, data: Dataset, tmp_path: Path) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "list_candidates", "arguments": "{"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    server.script = [raw(json.dumps({"choices": [{"message": message}]}).encode()), say(block("alpha"))]
    assert run(server, "http", data, tmp_path, {"tools": 2}).best is not None
    assert results(server.calls[1])[0].startswith("Wrong arguments: they are no JSON object.")


@both
def test_answers_that_are_no_text(server: Server, data: Dataset, tmp_path: Path, kind: str) -> None:
    half = "\ud800"
    server.script = [say(half), say(None, use=[("list_candidates", {"a": half})]), say(block("alpha"))]
    assert run(server, kind, data, tmp_path, {"tools": 2}).best is not None
    assert "no " in called(tmp_path)[0].fault


def test_arms_keep_their_secrets(data: Dataset) -> None:
    def names(**arm: bool) -> set[str]:
        nothing: Any = None
        bench: Any = SimpleNamespace(data=data, shuffles=3)
        return {tool.name for tool in tools.workshop(nothing, bench, export=nothing, look=nothing, **arm)}

    assert names() == {"replay_draft", "list_candidates", "read_candidate", "trace_episode"}
    assert names(history=False, traces=False) == {"replay_draft"}


@pytest.mark.usefixtures("quickly")
def test_a_trace(data: Dataset) -> None:
    orders = np.asarray(draw_orders([data], 3, "random", 0))
    bench: Any = SimpleNamespace(data=data, betas=(0.0, 0.5, 1.0), orders=orders, shuffles=3)
    ledger: Any = SimpleNamespace(fates={})
    made = tools.workshop(ledger, bench, export=lambda text: pytest.fail(text), look=lambda _: pytest.fail("look"))
    (trace,) = (tool for tool in made if tool.name == "trace_episode")
    ((name, _),) = data.parts
    assert f"{name} (2 questions); 3 shuffles." in trace.about
    told = trace.use({"candidate": "early_stopping", "question": 1, "beta": 0.45, "shuffle": 2})
    assert told.startswith(f"{name}, question 1, shuffle 2: early_stopping {{'max_samples': 8, 'window': 8}}")
    assert f"Right answer: {data.golds[1]}" in told
    assert re.search(r"^0 \| 0( \d+)* \| ", told, re.MULTILINE)
    assert re.search(r"^Ended \(\w+\) with .*, (right|wrong); [\d,]+ tokens", told, re.MULTILINE)
    for wrong, reason in (
        ({"question": 2}, f"question 2: {name} has 2"),
        ({"question": 0, "shuffle": 3}, "shuffle 3: there are 3"),
        ({"question": 0, "dataset": "other"}, "dataset 'other': there is none"),
        ({"question": 0, "candidate": "0123"}, "none that was judged"),
        ({"question": 0, "beta": 2}, "Wrong arguments. beta"),
        ({"question": -1}, "Wrong arguments. question"),
    ):
        assert reason in trace.use({"candidate": "early_stopping", **wrong})


def test_answers_of_tools_are_bounded() -> None:
    tool = tools.Tool("long", "", tools._Nothing, lambda _: "a" * 10_000 + "b" * 10_000)
    answer = tool.use({})
    assert len(answer) < 12_100
    assert answer.startswith("a" * 8000)
    assert answer.endswith("b" * 4000)
    assert "8,000 characters are left out" in answer


# --- before any money ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "model", "reason"),
    [
        ("gemini", {"dollars": 0}, "dollars 0: not above 0"),
        ("gemini", {"dollars": float("nan")}, "dollars nan: not above 0"),
        ("gemini", {"calls": 0}, "calls 0: outside"),
        ("gemini", {"tokens": -1}, "tokens -1: outside"),
        ("gemini", {"tools": -1}, "tools -1: outside"),
        ("gemini", {"temperature": 2.5}, "temperature 2.5: outside 0 to 2"),
        ("gemini", {"temperature": float("nan")}, "temperature nan: outside 0 to 2"),
        ("gemini", {"thinking": "a lot"}, "thinking 'a lot': neither a level nor a number"),
        ("http", {"thinking": "100"}, "thinking '100': no level"),
        ("http", {"model": ""}, "no model"),
        ("gemini", {"base_url": "localhost:80"}, "base-url 'localhost:80': no address"),
        ("gemini", {"base_url": f"http://me:{KEY}@localhost"}, "base-url: only host and path"),
        ("gemini", {"base_url": f"http://localhost/?key={KEY}"}, "base-url: only host and path"),
        ("gemini", {"base_url": "http://127.0.0.1:9/"}, "refused.*See whether the address is right"),
        ("http", {"base_url": "http://127.0.0.1:9/v1"}, "refused.*See whether the address is right"),
        ("gemini", {"model": "gemini-0"}, "model 'gemini-0': Gemini has none of this name"),
        ("http", {"model": "gpt-0"}, "model 'gpt-0': the endpoint has none of this name. It has "),
    ],
)
def test_bad_input(
    server: Server, data: Dataset, tmp_path: Path, kind: str, model: dict[str, Any], reason: str
) -> None:
    server.script = [say(block("alpha"))]
    with pytest.raises(InputError, match=reason) as told:
        run(server, kind, data, tmp_path / "run", model)
    assert server.calls == []
    assert not (tmp_path / "run").exists()
    assert "\n" not in str(told.value)
    assert KEY not in str(told.value)


@both
def test_keys(server: Server, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    name = {"gemini": "GEMINI_API_KEY", "http": "OPENAI_API_KEY"}[kind]
    server.refuses = 401
    with pytest.raises(InputError, match="Give a key that is good for this model"):
        run(server, kind, data, tmp_path)
    monkeypatch.setenv(name, KEY + "\nx")
    with pytest.raises(InputError, match=f"{name}: holds a character that is in no key") as told:
        run(server, kind, data, tmp_path)
    assert KEY not in str(told.value)
    monkeypatch.delenv(name)
    with pytest.raises(InputError, match=f"no key. Put one into the environment as {name}"):
        discover(data, out=tmp_path / "run", proposer=kind, language_model=ModelOptions(model=MODELS[kind]))


def test_the_other_name_of_geminis_key(
    server: Server, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GEMINI_API_KEY")
    monkeypatch.setenv("GOOGLE_API_KEY", f" {KEY}\n")
    server.script = [say(block("alpha"))]
    run(server, "gemini", data, tmp_path)
    assert {name.lower(): value for name, value in server.headers[0].items()}["x-goog-api-key"] == KEY


@both
def test_the_key_stays_with_its_host(server: Server, data: Dataset, tmp_path: Path, kind: str) -> None:
    """A provider that sends calls elsewhere does not send the key along."""
    with Server() as elsewhere:
        elsewhere.script = [say(block("alpha"))]
        threading.Thread(target=elsewhere.serve_forever, args=(0.01,), daemon=True).start()
        server.script = [refuse(307, Location=f"http://localhost:{elsewhere.server_port}/v1/elsewhere")]
        with contextlib.suppress(InputError):
            run(server, kind, data, tmp_path)
        elsewhere.shutdown()
    assert server.calls
    assert not any(KEY in str(headers) for headers in elsewhere.headers)


def test_a_local_endpoint_needs_no_key_and_no_price(
    server: Server, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor need it know about single models, as vLLM does not."""
    monkeypatch.delenv("OPENAI_API_KEY")
    server.script, said = [say(block("alpha"))], []
    for lists, name in ((True, "Qwen/Qwen3-8B"), (False, "other")):
        server.models, server.lists = {"Qwen/Qwen3-8B"}, lists
        found = run(server, "http", data, tmp_path / name.lower(), {"model": name}, say=said.append)
        assert found.best is not None
        assert called(tmp_path / name.lower())[0].dollars is None
    assert "Qwen/Qwen3-8B has no price, and is on this machine" in said[0]


def test_a_price_that_is_not_known(server: Server, data: Dataset, tmp_path: Path) -> None:
    """Elsewhere, a limit in dollars needs one."""
    away = {"base_url": "http://192.0.2.1/v1", "model": "new"}
    with pytest.raises(InputError, match="model 'new': no price is known, so it cannot be held to 5 dollars"):
        run(server, "http", data, tmp_path, away)
    assert paid._price(ModelOptions(**away, dollars=float("inf")), print) is None
    prices = tmp_path / "prices.toml"
    prices.write_text('[[price]]\nmodel = "new"\nsince = 2026-01-01\ninput = 1\noutput = 2\n')
    price = paid._price(ModelOptions(**away, prices=prices), print)
    assert price is not None
    assert price.dollars(Usage(input=10**6, cached=10, output=10**6)) == 3


@both
def test_a_refusal_in_the_midst(server: Server, data: Dataset, tmp_path: Path, kind: str) -> None:
    """What no other request can change ends a run; anything else is a reply that failed."""
    server.script = [say(block("alpha")), refuse(400, "too long"), refuse(404, "gone")]
    with pytest.raises(InputError, match=r"gone.*Name a model that is there"):
        run(server, kind, data, tmp_path, rounds=5)
    assert len(server.calls) == 3
    assert "too long" in Ledger(tmp_path).of(Replied)[1].failure
    server.script = [say(block("beta"))]
    assert run(server, kind, data, tmp_path, rounds=5, resume=True).reason == "rounds"


def test_a_run_goes_on_only_with_the_same_model(server: Server, data: Dataset, tmp_path: Path) -> None:
    server.script = [say(block("alpha"))]
    run(server, "gemini", data, tmp_path)
    with pytest.raises(InputError, match=r"a run with model gemini-4-hydrogen, at .*, not gemini-4-hydrogen, temp"):
        run(server, "gemini", data, tmp_path, {"temperature": 1}, resume=True)
    run(server, "gemini", data, tmp_path, {"dollars": 1, "tokens": 10**6}, resume=True)
    with pytest.raises(InputError, match="proposer builtin calls none"):
        discover(data, out=tmp_path / "b", proposer="builtin", language_model=ModelOptions(), tuning=False)


# --- the key, and the command ----------------------------------------------------------------------------------------


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["autotts", "discover", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@both
def test_the_key_is_nowhere(
    server: Server,
    data: Dataset,
    tmp_path: Path,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not even where the provider gives it back: in errors, headers, texts and calls of tools."""
    caplog.set_level("INFO")
    with_key = block("alpha").replace("idea", f"idea {KEY}")
    use = [("replay_draft", {"source": f"# 0.1 draft\n# {KEY}\n"}), (KEY, {KEY: KEY})]
    server.script = [
        refuse(429, f"key {KEY} is busy", Retry_After=KEY),
        raw(json.dumps({"candidates": 3, "choices": KEY, KEY: KEY}).encode()),
        raw(KEY.encode()),
        say(f"Your key is {KEY}."),
        say(f"Let me use {KEY}", use=use),
        say(with_key),
        refuse(401, f"key {KEY} has expired"),
    ]
    argv = ["--proposer", kind, "--tools", "4", "--rounds", "2", "--proposals", "1", "--no-tuning"]
    argv += ["--no-traces", "--model", MODELS[kind], "--base-url", options(server, kind).base_url]
    assert command(monkeypatch, *argv, "--out", str(tmp_path / "run")) == 2
    assert command(monkeypatch, "show", str(tmp_path / "run")) == 0
    assert len(server.calls) == 7
    server.script = [refuse(401, f"key {KEY} has expired")]
    with pytest.raises(InputError, match=r"\[key\] has expired") as told:
        run(server, kind, data, tmp_path / "other")
    everything = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert sum(b"[key]" in content for content in everything) >= 3
    output = capfd.readouterr()
    assert "[key] has expired" in output.err
    caught: BaseException | None = told.value
    while caught is not None:
        everything += [str(caught).encode(), repr(caught).encode()]
        caught = caught.__cause__ or caught.__context__
    everything += [output.out.encode(), output.err.encode(), caplog.text.encode()]
    assert [content for content in everything if KEY.encode() in content] == []


@both
def test_the_command(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    server.script = [refuse(503), say(block("alpha")), say(block("beta"))]
    out = tmp_path / "run"
    argv = ["--proposer", kind, "--rounds", "3", "--proposals", "1", "--no-tuning", "--no-traces"]
    argv += ["--model", MODELS[kind], "--base-url", options(server, kind).base_url, "--out", str(out)]
    assert command(monkeypatch, *argv, "--calls", "2") == 0
    told = capsys.readouterr()
    assert "the calls are spent. --resume with more --calls goes on." in told.err
    assert f"{MODELS[kind]}: 2 calls, 1,200 tokens, $0.00" in told.out
    assert "a call: " in told.out
    assert command(monkeypatch, "--out", str(tmp_path / "other"), "--model", "x") == 2
    assert "proposer builtin calls none" in capsys.readouterr().err


# --- money and prompts -----------------------------------------------------------------------------------------------


def test_prices() -> None:
    december = datetime.date(2026, 12, 1)
    before, after = (price_of("gemini-4-argon", today=december - datetime.timedelta(days=d)) for d in (1, 0))
    assert before is not None
    assert after is not None
    assert (before.input, after.input) == (2, 4)
    sol = price_of("gpt-6.2-sol")
    assert sol is not None
    usage = Usage(input=200_000, cached=100_000, written=50_000, output=1000)
    assert sol.dollars(usage) == pytest.approx((50_000 * 2 + 100_000 * 0.1 + 50_000 * 2.5 + 1000 * 10) / 1e6)
    long = Usage(input=300_000, output=1000)
    assert sol.dollars(long) == pytest.approx((300_000 * 4 + 1000 * 15) / 1e6)
    assert price_of("gemini") is None


def test_the_table_of_prices() -> None:
    text = (Path(spending.__file__).parent / "prices.toml").read_text()
    table = spending._table(text, "prices.toml")
    assert {MODELS["gemini"], MODELS["http"]} <= {price.model for price in table}
    assert len({(price.model, price.since) for price in table}) == len(table)
    for price in table:
        assert price.source.startswith("https://")
        assert price.cached is not None
        assert 0 < price.cached < price.input < price.output


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("price = 3", "prices.toml: price: Input should be a valid tuple"),
        ("[[price", "prices.toml: .*Write TOML"),
        ('[[price]]\nmodel = "a"\nsince = 2026-01-01\ninput = -1\noutput = 1', "price.0.input: .*greater than"),
        ('[[price]]\nmodel = "a"\nsince = 2026-01-01\ninput = nan\noutput = 1', "price.0.input: .*finite"),
        ('[[price]]\nmodel = "a"\ninput = 1\noutput = 1', "price.0.since: Field required"),
    ],
)
def test_bad_prices(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=reason):
        price_of("a", file)
    with pytest.raises(InputError, match=r"none\.toml"):
        price_of("a", tmp_path / "none.toml")


def test_limits_are_looked_at_before_a_call() -> None:
    limits = Limits(dollars=1, calls=3, tokens=10)
    limits.check(spending.Spent(0.99, 2, 9))
    for spent, name in ((spending.Spent(1, 0, 0), "dollars"), (spending.Spent(0, 3, 0), "calls")):
        with pytest.raises(spending.LimitReached, match=name):
            limits.check(spent)
    Limits(dollars=float("inf")).check(spending.Spent(1e9, 10**9, 10**9))


def test_requests_begin_alike() -> None:
    """Providers charge less for a prompt whose beginning they have seen."""
    told = {"wanted": 4, "questions": 30, "observed": "short", "feature_names": ("entropy",)}
    tried = loop.Tried(digest="a" * 32, round=1, source="x = 1\n", gain=0.01, gain_se=0.01, lower=0, tokens=1)
    first = requests.compose(number=1, tried=[], parents=[], marks=[(1e4, 0.5)], summaries={}, **told)
    second = requests.compose(number=2, tried=[tried], parents=[tried], complaints=["no"], **told)
    same = next(i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    assert same > 0.9 * len(first)
    assert second[same:].count("Candidate aaaaaaaa") == 1


@contextlib.contextmanager
def _quick(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def test_a_call_that_never_ends_is_given_up() -> None:
    release = threading.Event()
    with _quick(5), pytest.raises(paid.CallError, match=r"no whole answer within 0.05 seconds"):
        paid.within(0.05, lambda: release.wait(60))
    release.set()
    assert paid.within(5, lambda: 3) == 3
    assert paid.within(float("inf"), lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        paid.within(5, lambda: 1 / 0)


def test_pauses_that_are_asked_for() -> None:
    assert paid.seconds_until(None) is None
    assert paid.seconds_until("1.5") == 1.5
    assert paid.seconds_until("-3") == 0
    assert paid.seconds_until("nan") is paid.seconds_until("soon") is None
    assert paid.seconds_until("Wed, 21 Oct 2015 07:28:00 GMT") == 0


def test_options_are_described() -> None:
    assert dataclasses.is_dataclass(ModelOptions)
    assert ModelOptions().described == ""
    assert ModelOptions(model="m", temperature=0, tools=3).described == "m, temperature 0, 3 tool calls"
    assert Price(model="m", since=datetime.date.min, input=1, output=1).dollars(Usage(input=2, cached=3)) > 0
