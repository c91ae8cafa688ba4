"""The command as a user runs it."""

import csv
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import pytest

import autotts_jax
from autotts_jax import Question, Trajectories
from autotts_jax.cli import main


class Output(NamedTuple):
    out: str
    err: str


Run = Callable[..., Output]

BAD_CONTROLLERS = """
import autotts_jax, dataclasses
good = autotts_jax.CONTROLLERS["self_consistency"]
def raising(params, memory, obs):
    return memory, obs.no_such_field
raises = dataclasses.replace(good, name="raises", step=raising)
breaks = dataclasses.replace(good, name="breaks", step=lambda p, m, o: (o.depth, good.step(p, m, o)[1]))
def make():
    return dataclasses.replace(good, name="mine")
def fails():
    raise RuntimeError("no luck")
nothing = 3
"""


@pytest.fixture
def run(quickly: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in an empty directory, in this process, which is faster."""
    monkeypatch.chdir(tmp_path)

    def go(*args: str | Path, code: int = 0) -> Output:
        monkeypatch.setattr(sys, "argv", ["autotts", *map(str, args)])
        with pytest.raises(SystemExit) as exit_:
            main()
        done = Output(*capsys.readouterr())
        assert (exit_.value.code or 0) == code, done.out + done.err
        assert "Traceback" not in done.err
        return done

    return go


def rows(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))


def test_the_installed_command(traces: Path, tmp_path: Path) -> None:
    command = [Path(sys.executable).with_name("autotts"), "sweep", traces, "--beta", "1", "--out", "out"]
    quickly = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=quickly, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {row["controller"] for row in rows(tmp_path / "out" / "results.csv")} == set(autotts_jax.CONTROLLERS)
    for row in rows(tmp_path / "out" / "results.csv"):
        assert float(row["accuracy"]) <= float(row["passed"]) <= 1
        assert float(row["idle"]) == 0


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "autotts_jax", "controllers"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "self_consistency" in done.stdout


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    """A small file of ten branches a question."""
    branches = [([str(i % 3)] * (1 + i % 4), 500 * (1 + i % 4) + 20, str(i % 3)) for i in range(10)]
    questions = [Question.from_branches(f"question {q}", str(q % 3), 500, branches) for q in range(3)]
    file = tmp_path / "Model" / "bench.json"
    autotts_jax.write_trajectories(Trajectories(questions), file)
    return file


def test_sweep_writes_a_tidy_table(run: Run, traces: Path, tmp_path: Path) -> None:
    done = run(
        *("sweep", traces, "--controller", "self_consistency:samples=4", "--controller", "confidence_momentum"),
        *("--beta", "0:1:3", "--shuffles", "5", "--out", "out", "--per-question"),
    )
    assert "Model/bench" in done.out
    found = rows(tmp_path / "out" / "results.csv")
    assert [(row["controller"], row["beta"]) for row in found] == [
        ("self_consistency:samples=4", ""),
        ("confidence_momentum", "0"),
        ("confidence_momentum", "0.5"),
        ("confidence_momentum", "1"),
    ]
    wanted = (
        "dataset controller beta params questions shuffles correct accuracy accuracy_se passed tokens "
        "tokens_total tokens_se sequential_tokens intervals probes rounds opened pruned idle"
    )
    assert set(wanted.split()) <= set(found[0])
    assert {row["dataset"] for row in found} == {"Model/bench"}
    assert json.loads(found[0]["params"]) == {"samples": 4}
    for row in found:
        assert float(row["accuracy"]) == int(row["correct"]) / 15
        assert float(row["tokens"]) == pytest.approx(int(row["tokens_total"]) / 15)
    table = pq.read_table(tmp_path / "out" / "results.parquet")
    assert table["tokens_total"].to_pylist() == [int(row["tokens_total"]) for row in found]
    questions = pq.read_table(tmp_path / "out" / "questions.parquet").to_pylist()
    assert len(questions) == 12
    assert sum(row["correct"] for row in questions[:3]) == int(found[0]["correct"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "controllers",
        "questions.csv",
        "questions.parquet",
        "results.csv",
        "results.parquet",
        "sums.parquet",
        "sweep.json",
    ]


@pytest.mark.slow
def test_compiled_programs_are_kept(traces: Path, tmp_path: Path) -> None:
    ours = ("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE", "XDG_CACHE_HOME")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    environment |= {"HOME": str(tmp_path)}
    command = [Path(sys.executable).with_name("autotts"), "sweep", traces, "--controller", "confidence_momentum"]
    found = []
    for _ in range(2):
        subprocess.run(command, env=environment, capture_output=True, check=True)
        found.append({file.name for file in tmp_path.rglob("autotts_jax/compiled/*/*-cache")})
    assert found[0]
    assert found[1] == found[0]


def test_costs_and_budgets(run: Run, traces: Path, tmp_path: Path) -> None:
    run(
        *("sweep", traces, "--controller", "parallel_probe:chains=4", "--shuffles", "3", "--out", "out"),
        *("--cost", "intervals", "--probe-cost", "1", "--budget", "9", "--orders", "bootstrap", "--seed", "1"),
    )
    (row,) = rows(tmp_path / "out" / "results.csv")
    assert float(row["cost"]) == float(row["intervals"]) + float(row["probes"])
    assert 7 <= float(row["cost"]) <= 9


@pytest.mark.slow
def test_a_users_controller(run: Run, traces: Path, tmp_path: Path) -> None:
    (tmp_path / "beside_mine.py").write_text("import autotts_jax\n")
    # Named like a module that everybody uses, and with an import from its own folder.
    (tmp_path / "random.py").write_text(BAD_CONTROLLERS.replace("import autotts", "import beside_mine, autotts"))
    assert "mine keeps the contract." in run("check", "random.py:make").out
    spec = "random.py:make:samples=2"
    run("sweep", traces, "--controller", spec, "--shuffles", "2", "--out", "out")
    (row,) = rows(tmp_path / "out" / "results.csv")
    assert (row["controller"], row["params"]) == ("mine:samples=2", '{"samples": 2}')


def test_more_samples_than_branches_by_beta_is_noted(run: Run, traces: Path) -> None:
    done = run("sweep", traces, "--controller", "self_consistency", "--beta", "0,1", "--shuffles", "2")
    assert "calls for up to 64 samples; question 0 has only 10 branches, all used" in done.err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["sweep", "none.json"], "none.json: no such file"),
        (["sweep", "mine.py"], "suffix '.py' is not understood"),
        (["sweep", "broken.json"], "broken.json: the file: Invalid JSON"),
        (["sweep", "empty"], "empty: no .json or .parquet file"),
        (["sweep", "--beta", "1.5"], "every β must lie in 0 to 1"),
        (["sweep", "--beta", "0,nan"], "every β must lie in 0 to 1"),
        (["sweep", "--beta", "0:1"], "Write START:STOP:COUNT"),
        (["sweep", "--beta", "0:1:0"], "at least one"),
        (["sweep", "--beta", "zero"], "Write START:STOP:COUNT"),
        (["sweep", "--shuffles", "0"], "greater than or equal to 1"),
        (["sweep", "--orders", "sorted"], "Use one of published, random, bootstrap"),
        (["sweep", "--budget", "-1"], "greater than or equal to 0"),
        (["sweep", "--probe-cost", "-1"], "greater than or equal to 0"),
        (["sweep", "--seed", str(2**64)], "less than or equal to 4294967295"),
        (["sweep", "--cost", "euro"], "euro"),
        (["sweep", "--controller", "self_consitency"], "did you mean self_consistency?"),
        (["sweep", "--controller", "self_consistency:sample=3"], "did you mean samples?"),
        (["sweep", "--controller", "self_consistency:samples"], "a value is missing"),
        (["sweep", "--controller", "self_consistency:samples=many"], "'many' is not a number"),
        (["sweep", "--controller", "self_consistency:samples=2.5"], "not a whole number"),
        (["sweep", "--controller", "self_consistency:samples=257"], "outside 1 to 256"),
        (["sweep", "--controller", "self_consistency:samples=nan"], "outside 1 to 256"),
        (["sweep", "--controller", "confidence_momentum:beta=2"], "outside 0 to 1"),
        (["sweep", "TRACES", "--controller", "self_consistency:samples=11"], "question 0 has only 10 branches"),
        (["sweep", "--out", "mine.py/out"], "cannot be written to"),
        (["sweep", "--per-question"], "Add --out DIR"),
        (["sweep", "--controller", "mine.py"], "name the controller in the file"),
        (["sweep", "--controller", "gone.py:make"], "gone.py: no such file"),
        (["sweep", "--controller", "mine.py:nothing"], "not a Controller"),
        (["sweep", "--controller", "mine.py:absent"], "The file has autotts_jax"),
        (["sweep", "--controller", "mine.py:fails"], "RuntimeError: no luck"),
        (["sweep", "--controller", "mine.py:raises"], "raises.step (line 5: return memory, obs.no_such_field)"),
        (["sweep", "--controller", "mine.py:breaks"], "breaks.step: memory changes its structure"),
        (["check", "mine.py:breaks"], "breaks.step: memory changes its structure"),
        (["info", "none.json"], "no such file"),
        (["synth", "out.txt"], "suffix '.txt' is not understood"),
        (["synth", "out.json", "--preset", "GPT"], "Qwen3-8B/aime24"),
        (["fetch", "GPT"], "not in the release"),
        (["swep"], "No such command"),
    ],
)
def test_bad_input_is_named(run: Run, traces: Path, tmp_path: Path, args: list[str], said: str) -> None:
    (tmp_path / "mine.py").write_text(BAD_CONTROLLERS)
    (tmp_path / "broken.json").write_text('[{"question": "1 + ')
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    out = ["--out", "out"] if args[0] == "sweep" and "--out" not in args and "--per-question" not in args else []
    done = run(*(traces if arg == "TRACES" else arg for arg in args), *out, code=2)
    assert said in " ".join(done.err.replace("│", " ").split())
    left = {path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts} - set(before)
    assert left <= {tmp_path / "out"}, "something half-written is left"


def test_a_directory_that_nobody_may_write(run: Run, traces: Path) -> None:
    assert "cannot be written to" in run("sweep", traces, "--out", "/proc/autotts", code=2).err


def test_version(run: Run) -> None:
    names = ("autotts_jax", "jax", "jaxlib")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in names]
    assert run("--version").out == ", ".join([*versions, f"Python {platform.python_version()}"]) + "\n"


def test_info_and_synth_and_controllers(run: Run, tmp_path: Path) -> None:
    run("synth", "made/traces.parquet", "--questions", "4", "--branches", "9", "--seed", "3")
    text = run("info", "made/traces.parquet").out
    assert "synthetic" in text
    for line in text.splitlines():
        if line.strip().startswith("branches per question"):
            assert line.split()[-1] == "9"
    assert "max_branches" in run("controllers").out
    assert "sweep" in run("--help").out


# --- fetch, against a real server ------------------------------------------------------------------------------


@pytest.fixture
def server(replay_directory: Path, tmp_path: Path) -> Iterator[str]:
    root = tmp_path / "served"
    for name in ("Qwen3-8B/aime24", "Qwen3-0.6B/aime24"):
        target = root / f"{name}.json"
        target.parent.mkdir(parents=True)
        target.write_bytes((replay_directory / f"{name}.json").read_bytes())
    (root / "Qwen3-0.6B" / "aime24.json").write_text("[]")  # not what was published

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=root)) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


@pytest.fixture
def spawn(tmp_path: Path) -> Run:
    """Runs the command in a process of its own: downloads log to the stderr of the process."""

    def go(*args: str | Path, code: int = 0) -> Output:
        command = [Path(sys.executable).with_name("autotts"), *args]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return Output(done.stdout, done.stderr)

    return go


def test_fetch(spawn: Run, server: str, replay_directory: Path, tmp_path: Path) -> None:
    done = spawn("fetch", "Qwen3-8B/aime24", "--url", server, "--to", "cache")
    assert done.out.strip().endswith("cache")
    fetched = tmp_path / "cache" / "Qwen3-8B" / "aime24.json"
    assert fetched.read_bytes() == (replay_directory / "Qwen3-8B" / "aime24.json").read_bytes()
    # What is in the cache is not asked for again.
    spawn("fetch", "Qwen3-8B/aime24", "--url", "http://127.0.0.1:9", "--to", "cache")
    spawn("info", fetched)


def test_fetch_fails_clearly(spawn: Run, server: str, tmp_path: Path) -> None:
    assert "404" in spawn("fetch", "Qwen3-4B", "--url", server, "--to", "cache", code=1).err
    wrong = spawn("fetch", "Qwen3-0.6B/aime24", "--url", server, "--to", "cache", code=1).err
    assert "not the published one" in wrong
    offline = spawn("fetch", "Qwen3-1.7B", "--url", "http://127.0.0.1:9", "--to", "cache", code=1).err
    assert "offline" in offline
    assert not list((tmp_path / "cache").rglob("*.json"))


# --- trace, plot -----------------------------------------------------------------------------------------------------


def test_trace_tells_an_episode(run: Run, traces: Path, tmp_path: Path) -> None:
    done = run(
        *("trace", traces, "--controller", "early_stopping:max_samples=6,window=3", "--question", "1"),
        *("--shuffle", "2", "--figure", "out/e.svg", "--json", "out/e.jsonl"),
    )
    assert "Model/bench, question 1, shuffle 2" in done.out
    assert "answered" in done.out
    lines = [json.loads(line) for line in (tmp_path / "out" / "e.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines[0]["params"] == {"max_samples": 6, "window": 3}
    assert (tmp_path / "out" / "e.svg").read_text(encoding="utf-8").lstrip().startswith("<?xml")


def test_trace_sums_up_a_controller(run: Run, traces: Path) -> None:
    done = run("trace", traces, "--controller", "early_stopping", "--shuffles", "3", "--characters", "700")
    assert "3 questions × 3 shuffles" in done.out
    assert len(done.out) <= 701


def test_plot_draws_curves(run: Run, traces: Path, tmp_path: Path) -> None:
    run("sweep", traces, "--controller", "early_stopping", "--beta", "0:1:3", "--shuffles", "2", "--out", "out")
    run("plot", "out", "--out", "figures/curves.png")
    assert (tmp_path / "figures" / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["trace", "FILE", "--question", "3"], "has 3. Count from 0 to 2."),
        (["trace", "FILE", "--figure", "a.png"], "Add --question N."),
        (["trace", "FILE", "--question", "0", "--figure", "a.gif"], "Use .png, .pdf or .svg."),
        (["trace", "FILE", "--controller", "early_stoping"], "did you mean early_stopping?"),
        (["plot", "FILE"], "Name the directory that `autotts sweep --out`"),
        (["plot", "nowhere"], "Name the directory that `autotts sweep --out`"),
        (["bench", "FILE", "--against", "rust"], "Use python."),
        (["bench", "FILE", "--devices", "99"], "there are only"),
        (["sweep", "FILE", "--processes", "2"], "Add --coordinator HOST:PORT."),
        (["sweep", "FILE", "--coordinator", "a:1"], "Add --processes N and --process I."),
        (["sweep", "FILE", "--coordinator", "a:1", "--processes", "2", "--process", "2"], "Count from 0."),
        (["sweep", "FILE", "--checkpoint", "FILE"], "cannot be written to"),
    ],
)
def test_what_the_newer_commands_refuse(run: Run, traces: Path, args: list[str], says: str) -> None:
    done = run(*(traces if arg == "FILE" else arg for arg in args), code=2)
    assert says in done.err.replace("\n", " ")
    assert len(done.err.strip().splitlines()) == 1
