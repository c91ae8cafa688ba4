"""The report's page, as a browser shows it."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import autotts_jax
from autotts_jax.trajectories import Question, Trajectories


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made by the installed command from a small sweep, one of whose answers looks like markup."""
    place = tmp_path_factory.mktemp("report")
    branches = [(["</script>", "7"][: i % 3], 500 * (i % 3) + 20, ["7", "</script>"][i % 2]) for i in range(9)]
    questions = [Question.from_branches(f"<b>question</b> {q}", "7", 500, branches) for q in range(3)]
    autotts_jax.write_trajectories(Trajectories(questions), place / "Model" / "bench.json")
    autotts = Path(sys.executable).with_name("autotts")
    sweep = ["sweep", "Model/bench.json", "--controller", "early_stopping", "--controller", "self_consistency"]
    for command in ([*sweep, "--beta", "0,1", "--shuffles", "3", "--out", "out"], ["report", "out"]):
        done = subprocess.run([autotts, *command], cwd=place, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return place / "report.html"


@pytest.mark.slow
def test_the_page_is_self_contained(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#)""", text.replace('xlink:href="#', '"#'))
    assert "<b>question</b>" not in text
    for wanted in ("Accuracy against tokens", "early_stopping against the others", "Why episodes fail", "Episodes"):
        assert wanted in text
    embedded = re.findall(r'<script type="application/json">(.*?)</script>', text, flags=re.DOTALL)
    assert embedded
    for rounds in map(json.loads, embedded):
        assert rounds[0]["events"][0].startswith("BRANCH(0)")
        assert rounds[-1]["events"][-1].startswith("ANSWER")


@pytest.mark.slow
def test_a_browser_shows_it(page: Path) -> None:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no browser: install Chromium")
    quiet = "--no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update"
    profile = f"--user-data-dir={page.parent / 'profile'}"
    done = subprocess.run(
        [chromium, "--headless", *quiet.split(), profile, "--enable-logging=stderr", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "CONSOLE" not in done.stderr
    # What the page's script has written.
    shown = re.findall(r'<pre class="round">(.*?)</pre>', done.stdout, flags=re.DOTALL)
    assert shown
    assert all("BRANCH(0)" in text and "tokens: " in text for text in shown)
