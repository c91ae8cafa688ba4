"""The notebooks run from top to bottom, on the built-in traces and on the public ones."""

import re
from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
by_name = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@by_name
def test_its_first_cell_installs_the_library(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    first, second = [cell.source for cell in notebook.cells if cell.cell_type == "code"][:2]
    assert "pip install --quiet {WHERE}" in first
    assert "jax.devices()" in second


@by_name
def test_the_outputs_that_it_shows_are_clean(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert path.stat().st_size < 400_000
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert not re.search(r"/(home|root|tmp|work|usr|opt)/|Warning", "".join(str(output) for output in outputs))


@pytest.mark.slow
@pytest.mark.parametrize("traces", ["built-in", "public"])
@by_name
def test_it_runs(
    path: Path, traces: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if traces == "public":
        monkeypatch.setenv("AUTOTTS_REPLAY", str(request.getfixturevalue("replay_directory").resolve()))
    else:
        monkeypatch.delenv("AUTOTTS_REPLAY", raising=False)
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", allow_errors=False, resources=resources
    )
    client.execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output.text for output in outputs if output.get("name") == "stderr"]
    # A figure that is not shown as an image is shown as its repr.
    before = nbformat.read(path, as_version=4)
    assert _images(notebook) == _images(before)


def _images(notebook: object) -> int:
    return str(notebook).count("'image/png'")
