"""What is printed, and what is left when printing, or the command, is cut short."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import autotts_jax
from autotts_jax import Question, Trajectories
from autotts_jax.cli.console import Plain, printable
from autotts_jax.cli.tables import Form, print_records, print_table

AUTOTTS = str(Path(sys.executable).with_name("autotts"))


# --- plain text ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["[a,b]", "[/x]", "math[easy]", "file.py:X", ":x:", "[bold]b[/bold]", "$x_1$"])
def test_nothing_is_markup(text: str) -> None:
    written = io.StringIO()
    out = Plain(file=written, width=80)
    out.print(text)
    print_table(out, text, {text: [text], "n": ["1"]}, texts=[text])
    assert written.getvalue().count(text) == 4


def test_control_characters_are_shown_not_sent() -> None:
    written = io.StringIO()
    Plain(file=written, width=80).print("a\x1b[2Jb\rc\x07 \u202ed")
    assert written.getvalue() == "a\\x1b[2Jb\\rc\\x07 \\u202ed\n"
    assert printable("x" * 200_000, 60) == "x" * 30 + "…" + "x" * 30


# --- tables ----------------------------------------------------------------------------------------------------------

COLUMNS = {
    "controller": ["confidence_momentum:n_init=4", "quorum"],
    "β": ["0.5", "1"],
    "accuracy %": ["84.67 ± 6.5", "9.00 ± 6.5"],
    "tokens": ["470,444", "1,027,000"],
    "opened": ["64.0", "8.0"],
}


def lines_of(width: int, columns: dict[str, list[str]], spare: Sequence[str] = ("opened", "tokens")) -> list[str]:
    written = io.StringIO()
    print_table(Plain(file=written, width=width), "name", columns, texts=["controller"], spare=spare)
    return written.getvalue().splitlines()


@pytest.mark.parametrize("width", [24, 30, 40, 60, 80, 200])
def test_no_digit_is_cropped(width: int) -> None:
    lines = lines_of(width, COLUMNS)
    assert max(map(len, lines)) <= width
    text = " ".join(lines)
    shown = [name for name in COLUMNS if name != "controller" and name in " ".join(lines[1:]).partition("left out")[0]]
    assert {"β", "accuracy %"} <= set(shown)
    for name in shown:
        assert all(cell in text for cell in COLUMNS[name])
    for name in {"opened", "tokens"} - set(shown):
        assert name in text.partition("left out")[2]


def test_a_column_without_a_value_is_left_out() -> None:
    assert "×py." not in " ".join(lines_of(80, COLUMNS | {"×py.": ["", ""]}))


def test_forms_for_programs() -> None:
    records = [{"controller": "a|b", "tokens": 3, "beta": None}, {"controller": "=1+1", "tokens": 4, "beta": 0.5}]

    def printed(form: Form) -> str:
        written = io.StringIO()
        print_records(Plain(file=written, width=20), records, form)
        return written.getvalue()

    assert json.loads(printed(Form.JSON)) == records
    assert printed(Form.CSV).splitlines() == ['"controller","tokens","beta"', '"a|b",3,', '"\'=1+1",4,0.5']
    assert [line.replace(" ", "") for line in printed(Form.MARKDOWN).splitlines()] == [
        "|controller|tokens|beta|",
        "|------------|--------|------|",
        "|a\\|b|3||",
        "|=1+1|4|0.5|",
    ]


# --- cut short -------------------------------------------------------------------------------------------------------

Shell = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Runs a shell's command line in a directory with traces of ten branches per question."""
    branches = [([str(i % 3)] * (1 + i % 4), 500 * (1 + i % 4) + 20, str(i % 3)) for i in range(10)]
    questions = [Question.from_branches(f"question {q}", str(q % 3), 500, branches) for q in range(3)]
    autotts_jax.write_trajectories(Trajectories(questions), tmp_path / "Model" / "bench.json")

    def run(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", line.replace("autotts", AUTOTTS, 1)],
            cwd=tmp_path,
            env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"} | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


SWEEP = "autotts sweep Model/bench.json --controller self_consistency:samples=4 --shuffles 2 --out out"


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        (f"{SWEEP} --full | head -1; exit ${{PIPESTATUS[0]}}", 0, ""),
        pytest.param(f"{SWEEP} >&-", 0, "", marks=pytest.mark.slow),
        pytest.param(f"{SWEEP} > /dev/full", 1, "No space left on device", marks=pytest.mark.slow),
        pytest.param(f"LC_ALL=C PYTHONUTF8=0 PYTHONIOENCODING=ascii {SWEEP}", 0, "", marks=pytest.mark.slow),
    ],
)
def test_results_are_written_however_printing_ends(
    shell: Shell, tmp_path: Path, line: str, code: int, said: str
) -> None:
    done = shell(line)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    assert said in done.stderr
    assert autotts_jax.read_results(tmp_path / "out").shuffles == 2


@pytest.mark.slow
@pytest.mark.parametrize("wait", [0.5, 6])
def test_ctrl_c_ends_a_sweep_at_once(tmp_path: Path, wait: float) -> None:
    """While a controller is compiled, and in the midst of a long chunk, where Python itself would not react."""
    line = ["sweep", "--shuffles", "30000", "--controller", "confidence_momentum", "--checkpoint", "kept"]
    process = subprocess.Popen([AUTOTTS, *line], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "kept" / "sweep.json").exists():
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(wait)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - began < 5  # a second, were the machine quiet
    assert process.returncode == 130
    assert "Traceback" not in said
    assert said.rstrip().endswith("chunks are kept in kept. The same command goes on from there.")


@pytest.mark.slow
def test_ctrl_c_ends_a_search_in_order(tmp_path: Path) -> None:
    """What is in flight is finished, though the terminal interrupts every process of the command."""
    autotts_jax.write_trajectories(autotts_jax.synthetic_trajectories(questions=3, branches=8), tmp_path / "data.json")
    line = ["discover", "data.json", "--out", "found", "--no-tuning", "--proposals", "30", "--trust"]
    process = subprocess.Popen(
        [AUTOTTS, *line],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    ledger = tmp_path / "found" / "ledger.jsonl"
    while not (ledger.exists() and '"event":"evaluated"' in ledger.read_text()):
        assert process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    out, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert "ending after what is in flight" in said
    assert said.rstrip().endswith("The same command with --resume goes on from there.")
    assert "report.html" in out
    *events, last = map(json.loads, ledger.read_text().splitlines())
    assert (last["event"], last["reason"]) == ("ended", "interrupted")
    assert {event["stage"] for event in events if event["event"] == "refused"} <= {"duplicate", "judge"}
    assert "it was interrupted" in (tmp_path / "found" / "report.html").read_text()


def test_quiet(shell: Shell, tmp_path: Path) -> None:
    done = shell(f"{SWEEP} --quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "out" / "sweep.json").exists()
