"""A server on the loopback that speaks the wire format of an OpenAI-compatible one, and can fail in every way."""

import contextlib
import hashlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "tiny"
END = 1  # the token that ends a branch


class Loopback:
    """A model whose next token is a hash of all before; its text is the tokens in decimal, its answers few.

    Attributes:
      url: Of its API.
      faults: Ways in which the next completions fail, one each; then all is well.
      asked: The bodies of all completions.
      context: That it says it has.
    """

    def __init__(self, port: int = 0) -> None:
        self.faults: list[Callable[[BaseHTTPRequestHandler], bool]] = []
        self.asked: list[dict[str, Any]] = []
        self.context, self.template = 10_000, True
        self.open, self.most_open = 0, 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                send(self, 200, {"data": [{"id": MODEL, "max_model_len": server.context}]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with contextlib.suppress(OSError):
                    server._answer(self, body)

        return Handler

    def _answer(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        if handler.path == "/tokenize":
            if "messages" in body and not self.template:
                send(handler, 400, {"error": {"message": "no chat template"}})
                return
            text = body["messages"][0]["content"] if "messages" in body else body["prompt"]
            send(handler, 200, {"tokens": [2 + byte for byte in text.encode()]})
            return
        with self._lock:
            self.asked.append(body)
            self.open += 1
            self.most_open = max(self.most_open, self.open)
            fault = self.faults.pop(0) if self.faults else None
        try:
            if fault is None or not fault(handler):
                complete(handler, body)
        finally:
            with self._lock:
                self.open -= 1


def generated(body: dict[str, Any]) -> tuple[list[int], str]:
    """Token ids and the reason of the end: a branch ends with probability 1/50 at each token."""
    tokens, new = list(body["prompt"]), []
    while len(new) < body["max_tokens"]:
        state = hashlib.blake2b(repr((tokens[-8:], body.get("seed"), len(tokens))).encode(), digest_size=4).digest()
        value = int.from_bytes(state, "big")
        new.append(END if value % 50 == 0 else 2 + value % 7)
        tokens.append(new[-1])
        if new[-1] == END:
            return new, "stop"
    return new, "length"


def said(ids: list[int]) -> str:
    """The text: what is boxed is the last token's."""
    return "".join(f" {number}" for number in ids) + f" \\boxed{{{ids[-1] % 3}}}"


def choice(body: dict[str, Any], ids: list[int], reason: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {"index": 0, "text": said(ids), "finish_reason": reason, "token_ids": ids}
    if body.get("logprobs"):
        tops = [{str(k): -float(k + 1) for k in range(body["logprobs"])} for _ in ids]
        found["logprobs"] = {"token_logprobs": [-1.0] * len(ids), "top_logprobs": tops}
    return found


def complete(handler: BaseHTTPRequestHandler, body: dict[str, Any], cut: int | None = None) -> None:
    """A completion; a stream may be cut after some chunks."""
    ids, reason = generated(body)
    if not body["stream"]:
        send(handler, 200, {"choices": [choice(body, ids, reason)]})
        return
    start(handler)
    for number in range(0, len(ids), 5):
        if number == cut:
            return
        last = number + 5 >= len(ids)
        event(handler, json.dumps({"choices": [choice(body, ids[number : number + 5], reason if last else None)]}))
    event(handler, json.dumps({"choices": [], "usage": {"completion_tokens": len(ids)}}))
    event(handler, "[DONE]")


def send(handler: BaseHTTPRequestHandler, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    for name, value in {"content-type": "application/json", **(headers or {})}.items():
        handler.send_header(name, value)
    handler.send_header("content-length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def start(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("content-type", "text/event-stream")
    handler.send_header("connection", "close")
    handler.end_headers()


def event(handler: BaseHTTPRequestHandler, data: str) -> None:
    handler.wfile.write(f"data: {data}\n\n".encode())
    handler.wfile.flush()


# --- faults: each answers whether it has dealt with the request ------------------------------------------------------


def too_many(handler: BaseHTTPRequestHandler) -> bool:
    send(handler, 429, {"error": {"message": "slow down"}}, {"retry-after": "0.05"})
    return True


def broken(handler: BaseHTTPRequestHandler) -> bool:
    send(handler, 500, {"error": {"message": "out of luck"}})
    return True


def hangs(handler: BaseHTTPRequestHandler) -> bool:
    time.sleep(1.0)
    return True


def resets(handler: BaseHTTPRequestHandler) -> bool:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    return True


def cut_short(handler: BaseHTTPRequestHandler) -> bool:
    start(handler)
    chunk = {"choices": [{"index": 0, "text": " 3", "finish_reason": None, "token_ids": [3]}]}
    event(handler, json.dumps(chunk))
    handler.close_connection = True
    return True


def not_json(handler: BaseHTTPRequestHandler) -> bool:
    send(handler, 200, b"<html>gateway</html>", {"content-type": "text/html"})
    return True


def half_a_chunk(handler: BaseHTTPRequestHandler) -> bool:
    start(handler)
    event(handler, '{"choices": [{"text": ')
    handler.close_connection = True
    return True


def wrong_types(handler: BaseHTTPRequestHandler) -> bool:
    start(handler)
    event(handler, json.dumps({"choices": [{"text": 5, "token_ids": ["a"], "finish_reason": "stop"}]}))
    event(handler, "[DONE]")
    handler.close_connection = True
    return True


def too_long(handler: BaseHTTPRequestHandler) -> bool:
    start(handler)
    event(handler, json.dumps({"choices": [{"text": "", "token_ids": [3] * 9999, "finish_reason": "stop"}]}))
    event(handler, "[DONE]")
    handler.close_connection = True
    return True


FAULTS = (too_many, broken, hangs, resets, cut_short, not_json, half_a_chunk, wrong_types, too_long)


def refuses(handler: BaseHTTPRequestHandler) -> bool:
    send(handler, 400, {"error": {"message": "prompt is too long"}})
    return True


@contextlib.contextmanager
def serving() -> Iterator[Loopback]:
    server = Loopback()
    try:
        yield server
    finally:
        server.close()
