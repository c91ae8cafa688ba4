"""The house: what may import what, and what importing the library costs."""

import ast
import importlib
import importlib.metadata
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import autotts_jax

PACKAGE = Path(autotts_jax.__file__).parent

#: From the ground up: a room may use those below it. "autotts_jax" is what the library offers, and what lies above it
#: uses it as anybody would.
ROOMS = [
    "errors",
    "files",
    "digests",
    "trajectories",
    "downloads",
    "synthetic",
    "archives",
    "replay",
    "orders",
    "environment",
    "voting",
    "controllers",
    "artefacts",
    "rollout",
    "testing",
    "settings",
    "provenance",
    "results",
    "checkpoints",
    "sweeps",
    "traces",
    "failures",
    "frontier",
    "plots",
    "autotts_jax",
    "bench",
    "report",
    "cli",
    "__main__",
]


def room_of(name: str) -> str:
    """The room of a module, or of a name that the library offers."""
    _, _, rest = name.partition(".")
    room = rest.split(".")[0]
    return room if room in ROOMS else "autotts_jax"


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_downward(room: str) -> None:
    alone = PACKAGE / ("__init__.py" if room == "autotts_jax" else f"{room}.py")
    for file in [alone] if alone.exists() else (PACKAGE / room).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file.name}: write imports out"
                whole = node.module == "autotts_jax"
                names = [f"autotts_jax.{a.name}" for a in node.names] if whole else [str(node.module)]
            for name in names:
                top, _, _ = name.partition(".")
                assert top not in ("collect", "discovery"), f"{file.name} imports {name}"
                if top == "autotts_jax":
                    assert ROOMS.index(room_of(name)) <= ROOMS.index(room), f"{file.name} imports {name}"
                if room in ("errors", "files", "digests", "trajectories", "downloads", "synthetic"):
                    assert top not in ("jax", "chex"), f"{file.name} imports {name}"


def test_every_room_is_listed() -> None:
    found = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert found - {"__init__"} | {"autotts_jax"} == set(ROOMS)


def test_importing_is_light_and_changes_nothing() -> None:
    code = """
import sys, jax
before = dict(jax.config.values)
import autotts_jax
assert dict(jax.config.values) == before, "JAX configuration changed"
assert not jax._src.xla_bridge.backends_are_initialized(), "a backend was opened"
assert autotts_jax.traces and autotts_jax.failures and autotts_jax.frontier
heavy = {"orbax", "pooch", "requests", "typer", "rich", "matplotlib", "pandas", "scipy"} & set(sys.modules)
print(sorted(heavy))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"


def test_public_names_are_sorted_and_there() -> None:
    assert sorted(autotts_jax.__all__, key=lambda n: (not n.isupper(), n[0].islower(), n)) == autotts_jax.__all__
    for name in autotts_jax.__all__:
        assert hasattr(autotts_jax, name)
    assert autotts_jax.__version__ == importlib.metadata.version("autotts-jax")
    with pytest.raises(AttributeError, match="nothing"):
        _ = autotts_jax.nothing


@pytest.mark.parametrize("room", sorted({*ROOMS} - {"autotts_jax", "__main__"}))
def test_no_name_hides_a_module(room: str) -> None:
    module = importlib.import_module(f"autotts_jax.{room}")
    assert getattr(autotts_jax, room) is module
    for info in pkgutil.iter_modules(getattr(module, "__path__", ())):
        inner = importlib.import_module(f"autotts_jax.{room}.{info.name}")
        assert getattr(module, info.name) is inner


@pytest.mark.slow
def test_the_reference_is_built(tmp_path: Path) -> None:
    """The guide's command; every public name has its docstring on the page."""
    pdoc = [sys.executable, "-m", "pdoc", "autotts_jax", "--output-directory", "reference"]
    done = subprocess.run(pdoc, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "reference" / "autotts_jax.html").read_text(encoding="utf-8")
    for name in filter(str.islower, autotts_jax.__all__):
        if isinstance(getattr(autotts_jax, name), ModuleType):
            assert (tmp_path / "reference" / "autotts_jax" / f"{name}.html").exists()
        else:
            assert f'id="{name}"' in page
