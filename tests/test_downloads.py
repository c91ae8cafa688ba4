"""Downloads from servers that fail in all the ways they do."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from autotts_jax import FetchError, InputError, downloads, fetch

CONTENT = b"[]" * 50_000


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT in a way that the file's name says."""

    def do_GET(self) -> None:
        name = self.path.split("/")[-1].removesuffix(".json")
        self.send_response(503 if name == "busy" else 200)
        if name != "unsaid":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write({"cut": CONTENT[:-9], "unsaid": CONTENT[:-9], "wrong": b"{}" * 50_000}.get(name, CONTENT))

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    digest = hashlib.sha256(CONTENT).hexdigest()
    files = {f"M/{name}": digest for name in ("good", "cut", "unsaid", "wrong", "busy")}
    monkeypatch.setattr(downloads, "FILES", files)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cut", "M/cut.json: .*IncompleteRead.* Try again"),
        ("unsaid", "M/unsaid.json: SHA256 .* not the published one, or was cut off"),
        ("wrong", "M/wrong.json: SHA256 .* not the published one"),
        ("busy", "503 .* Name a mirror"),
    ],
)
def test_a_failed_download_leaves_nothing(server: str, tmp_path: Path, name: str, said: str) -> None:
    fetch(["M/good"], url=server, cache=tmp_path)
    with pytest.raises(FetchError, match=said) as error:
        fetch([f"M/{name}"], url=server, cache=tmp_path)
    assert len(str(error.value).splitlines()) == 1
    assert files(tmp_path) == ["good.json"]
    assert (tmp_path / "M" / "good.json").read_bytes() == CONTENT


def test_an_interrupted_download_leaves_nothing(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("requests.Response.iter_content", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch(["M/good"], url=server, cache=tmp_path)
    assert files(tmp_path) == []


def test_a_damaged_file_is_fetched_again(server: str, tmp_path: Path) -> None:
    file = fetch(["M/good"], url=server, cache=tmp_path) / "M" / "good.json"
    file.write_bytes(CONTENT[:7])
    fetch(["M/good"], url=server, cache=tmp_path)
    assert file.read_bytes() == CONTENT


def test_directories_that_cannot_be_written_to(server: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "cache", Path("/proc/autotts"), tmp_path / ("x" * 300)):
        with pytest.raises(InputError, match=r"cannot be written to .* Choose another directory with --to") as error:
            fetch(["M/good"], url=server, cache=place)
        assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("url", ["", "ftp://127.0.0.1", "/etc", "http"])
def test_addresses_that_are_none(url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must begin with https://"):
        fetch(["Qwen3-8B/aime24"], url=url, cache=tmp_path)
    with pytest.raises(FetchError, match=r"^http://:0\S* ?.*(Invalid|cannot be reached)"):
        fetch(["Qwen3-8B/aime24"], url="http://:0", cache=tmp_path)
