import importlib.metadata
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import platformdirs
import pytest
from jaxtyping import install_import_hook
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).parent.parent

# Programs compiled once serve every test and every later run, also the tests that start the command in a process of
# its own. The place is like the command's; here even the smallest programs are kept.
_host = f"jaxlib-{importlib.metadata.version('jaxlib')}-{platform.node()}"
_place = os.environ.get("JAX_COMPILATION_CACHE_DIR") or platformdirs.user_cache_path("autotts_jax") / "tests" / _host
for _name, _value in {
    "jax_compilation_cache_dir": str(_place),
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}.items():
    os.environ[_name.upper()] = str(_value)
    jax.config.update(_name, _value)

jax.config.update("jax_num_cpu_devices", 2)
# Nothing in the library may lean on implicit promotion.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Workers that share a GPU must not each take most of its memory.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


# With AUTOTTS_CHECK_SHAPES=1 the shapes in annotations are checked wherever a function of the library is called or
# traced. Whatever imports the library comes after this.
if os.environ.get("AUTOTTS_CHECK_SHAPES", "0") != "0":
    install_import_hook("autotts_jax", "shapes.checked")


class _Scheduling(LoadScopeScheduling):
    """Sends each test to the next free worker, but files whose tests share something costly as a whole.

    (xdist's own groups have no effect under pytest 9.2.)
    """

    whole = ("test_evaluate.py", "test_published.py", "test_report.py", "test_synthetic.py")

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return file if file.endswith(self.whole) else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Scheduling:
    """How tests are shared out among workers."""
    return _Scheduling(config, log)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One worker for each core, up to eight; none where single tests are named, which would wait for them to start."""
    if all("::" in arg for arg in config.args):
        return 0
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what is marked slow, unless `-m` says what to run or the test is named."""
    if config.option.markexpr:
        return
    here = config.invocation_params.dir
    named = [os.path.abspath(here / arg) for arg in config.args if "::" in arg]

    def stays(item: pytest.Item) -> bool:
        test = f"{item.path}::{item.nodeid.partition('::')[2]}"
        return not item.get_closest_marker("slow") or any(
            test == name or test.startswith((f"{name}[", f"{name}::")) for name in named
        )

    left_out = [item for item in items if not stays(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if stays(item)]


@pytest.fixture(scope="session", autouse=True)
def _devices() -> None:
    """Opens the two devices, lest the command, run in this process, asks for one for each core."""
    assert jax.devices()


@pytest.fixture(autouse=True)
def _room() -> Iterator[None]:
    """Drops compiled programs before they use up the memory maps that Linux grants a process; the next would crash it.

    A compiled replay takes some 400 of 65,530.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 30_000:
        jax.clear_caches()


@pytest.fixture(scope="session")
def replay_directory() -> Path:
    """The public replay files, as <model>/<benchmark>.json."""
    directory = Path(os.environ.get("AUTOTTS_REPLAY", ROOT.parent / "shared" / "replay"))
    if not (directory / "Qwen3-8B" / "aime24.json").is_file():
        pytest.skip(
            "no public replay files: run `autotts fetch` and set AUTOTTS_REPLAY to the directory that it prints"
        )
    return directory


@pytest.fixture(params=[False, True], ids=["x32", "x64"])
def x64(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Runs a test with and without 64-bit types."""
    jax.config.update("jax_enable_x64", request.param)
    yield request.param
    jax.config.update("jax_enable_x64", False)


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compiles without most optimizations, here and in commands: for small programs that must run but not run fast."""
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
