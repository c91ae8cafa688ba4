"""The examples in notebooks/examples keep the contract and do what their trial reported on AIME 2024."""

from pathlib import Path

import pytest

import autotts_jax
from autotts_jax import Setting

EXAMPLES = Path(__file__).parent.parent / "notebooks" / "examples"

#: Mean accuracy in % and thousands of tokens over the four models at β = 0.2, 0.5, 0.8 and 1, and thousands of
#: sequential tokens at β = 1.
FIGURES = {
    "family.py:TASC": ("54.9/22 62.1/78 64.8/190 66.0/328", 328),
    "family.py:TASC_ROBUST": ("53.9/19 61.9/75 64.2/182 65.3/306", 306),
    "family.py:FAM48": ("62.0/82 64.2/150 65.7/267 66.0/370", 135),
    "family.py:LAT1": ("58.5/46 63.3/118 64.9/223 65.5/348", 20),
    "family.py:LAT2": ("57.6/35 63.6/110 65.3/217 66.0/336", 42),
    "leash.py:LEASH": ("60.6/73 62.9/123 64.4/208 65.2/291", 95),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["family.py:LAT2", "leash.py:LEASH"])
def test_examples_keep_the_contract(name: str) -> None:
    report = autotts_jax.check_controller(Setting.parse(str(EXAMPLES / name)).controller)
    assert not report.notes


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_figures_of_the_trial(name: str, replay_directory: Path) -> None:
    data = [d for path in sorted(replay_directory.glob("*/aime24.json")) for d in autotts_jax.open_datasets(path)]
    results = autotts_jax.sweep(data, [str(EXAMPLES / name)], betas=[0.2, 0.5, 0.8, 1])
    rows = results.table.to_pylist()
    assert len(rows) == 16

    def mean(column: str, beta: float) -> float:
        return sum(row[column] for row in rows if row["beta"] == beta) / 4

    found = " ".join(f"{100 * mean('accuracy', b):.1f}/{mean('tokens', b) / 1000:.0f}" for b in (0.2, 0.5, 0.8, 1))
    assert (found, round(mean("sequential_tokens", 1) / 1000)) == FIGURES[name]
