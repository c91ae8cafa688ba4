import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

# Programs compiled once serve every test, also those that start the command in a process of its own.
_compiled = tempfile.TemporaryDirectory(prefix="autotts_jax-compiled-")
os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
jax.config.update("jax_compilation_cache_dir", _compiled.name)
jax.config.update("jax_num_cpu_devices", 2)
# Nothing in the library may lean on implicit promotion.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

ROOT = Path(__file__).parent.parent


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
