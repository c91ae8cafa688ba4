"""What the README shows works."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(python|bash)\n(.*?)```", TEXT, flags=re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
QUORUM = next(code for code in PYTHON if "QUORUM =" in code)


@pytest.mark.slow
@pytest.mark.parametrize("code", PYTHON, ids=lambda code: code.strip().splitlines()[0])
def test_python_blocks_run(code: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if "results.write" in code:
        assert "parallel_probe" in done.stdout
        assert (tmp_path / "three" / "results.csv").is_file()
    assert not re.search(r"^[EW]\d{4} ", done.stderr, flags=re.MULTILINE), "XLA complains"


@pytest.mark.slow
def test_the_table_that_it_shows_is_what_is_printed(tmp_path: Path) -> None:
    shown = next(text for text in re.findall(r"```text\n(.*?)```", TEXT, flags=re.DOTALL) if "accuracy %" in text)
    autotts = Path(sys.executable).with_name("autotts")
    done = subprocess.run([autotts, "sweep"], cwd=tmp_path, capture_output=True, text=True, check=True)
    printed = [line.split() for line in done.stdout.splitlines()]
    for line in shown.splitlines():
        assert line.strip() == "…" or set(line.strip()) == {"─"} or line.split() in printed, line


GUIDE = sorted((ROOT / "notebooks" / "guide").glob("*.md"))


@pytest.mark.slow
@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("page", GUIDE, ids=lambda page: page.stem)
def test_the_guides_blocks_run(page: Path, tmp_path: Path) -> None:
    """All blocks of a page, one after the other."""
    code = "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", [ROOT / "README.md", *GUIDE], ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.slow
def test_the_example_controller_is_short_and_appears_in_the_table(tmp_path: Path) -> None:
    body = [line for line in QUORUM.splitlines() if line.strip() and not line.startswith(("from", "import"))]
    assert len(body) <= 30
    (tmp_path / "quorum.py").write_text(QUORUM, encoding="utf-8")
    autotts = Path(sys.executable).with_name("autotts")
    for args, said in (
        (("check", "quorum.py:QUORUM"), "quorum keeps the contract."),
        (("sweep", "--controller", "quorum.py:QUORUM", "--beta", "0,1", "--shuffles", "2"), "quorum"),
        (("sweep", "--controller", "quorum.py:QUORUM:chains=16,quorum=3", "--shuffles", "2"), "quorum=3"),
    ):
        done = subprocess.run([autotts, *args], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout


def test_ci_runs_the_readmes_test_command() -> None:
    command = next(code.strip() for language, code in BLOCKS if language == "bash" and code.strip().endswith("pytest"))
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
