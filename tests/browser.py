"""Opens a page in headless Chromium and uses it as a reader would."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

#: What a script may use, and what it says at the end.
_SCRIPT = """
const wait = (time) => new Promise((done) => setTimeout(done, time));
const $ = (selector) => document.querySelector(selector);
const $$ = (selector) => [...document.querySelectorAll(selector)];
const said = {};
%s
said.width = [innerWidth, document.documentElement.scrollWidth];
said.unnamed = $$("button, input, select, summary, [role=img]").filter(
  (one) => !one.ariaLabel && !one.textContent.trim() && !one.labels?.length).length;
const loaded = performance.getEntriesByType("resource").map(({ name }) => name);
said.loaded = loaded.filter((name) => !name.startsWith("data:"));
said.ran = String(window.ran);
parent.postMessage(JSON.stringify(said), "*");
"""

#: A frame, since windows cannot be as narrow as a telephone.
_FRAME = """<iframe src="page.html" style="width: %dpx; height: 900px; border: 0"></iframe>
<pre id="said"></pre><script>
addEventListener("message", ({ data }) => (document.getElementById("said").textContent = data));
</script>"""


def use(page: str, script: str, width: int, directory: Path) -> dict[str, Any]:
    """What a script says after it has used a page, which writes nothing to the console.

    Args:
      page: HTML.
      script: JavaScript that fills the object `said`, with the functions `wait`, `$` and `$$`.
      width: In pixels.
      directory: For files.
    """
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no browser: install Chromium")
    before, _, _ = page.rpartition("</body>")
    used = f'{before}<script type="module">{_SCRIPT % script}</script></body></html>'
    (directory / "page.html").write_text(used, encoding="utf-8")
    file = directory / "frame.html"
    file.write_text(_FRAME % width, encoding="utf-8")
    quiet = "--no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update"
    # Time passes as fast as the page can use it.
    here = [f"--user-data-dir={directory / 'profile'}", "--window-size=1500,1000", "--virtual-time-budget=60000"]
    done = subprocess.run(
        [chromium, "--headless", *quiet.split(), *here, "--enable-logging=stderr", "--dump-dom", file.as_uri()],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "CONSOLE" not in done.stderr
    (text,) = re.findall(r'<pre id="said">(.*?)</pre>', done.stdout, flags=re.DOTALL)
    said: dict[str, Any] = json.loads(html.unescape(text))
    assert said["ran"] == "undefined"
    assert said["width"][0] == width
    assert said["width"][1] <= width
    assert said["unnamed"] == 0
    assert said["loaded"] == []
    return said
