"""The published figures, to the last digit, on the public replay files."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
import reference

import autotts_jax
from autotts_jax import CONTROLLERS, Dataset, Setting, evaluate, rows_of

PUBLISHED = Path(__file__).parent / "published"


@pytest.fixture(scope="module")
def dataset(replay_directory: Path) -> Dataset:
    return autotts_jax.concatenate(autotts_jax.open_datasets(replay_directory))


def settings(rows: list[dict]) -> dict[tuple[str, str], Setting]:
    """The distinct settings of published rows, by controller and parameters."""
    keys = dict.fromkeys((row["controller"], row["params"]) for row in rows)
    return {(name, params): Setting(CONTROLLERS[name], json.loads(params)) for name, params in keys}


@pytest.mark.parametrize("x64", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["x32", "x64"], indirect=True)
def test_every_published_figure(dataset: Dataset, x64: bool) -> None:
    published = pyarrow.csv.read_csv(PUBLISHED / "figures.csv").to_pylist()
    chosen = settings(published)
    results = autotts_jax.sweep(dataset, list(chosen.values())).table.to_pylist()
    parts = [name for name, _ in dataset.parts]
    assert len(results) == len(parts) * len(chosen)
    found = {
        (row["dataset"], *key): (row["correct"], row["tokens_total"])
        for part, rows in zip(parts, np.array_split(np.array(results), len(parts)), strict=True)
        for key, row in zip(chosen, rows, strict=True)
        if row["dataset"] == part
    }
    expected = {
        (f"{row['model']}/{row['dataset']}", row["controller"], row["params"]): (
            row["correct"],
            row["total_tokens"],
        )
        for row in published
    }
    assert len(expected) == 304
    assert found == expected


def test_every_published_episode(dataset: Dataset) -> None:
    published = pyarrow.parquet.read_table(PUBLISHED / "episodes.parquet").to_pylist()
    starts = dict(zip([n for n, _ in dataset.parts], np.cumsum([0, *(n for _, n in dataset.parts)]), strict=False))
    orders = jnp.asarray(autotts_jax.published_orders(dataset.store, 2))
    run = jax.jit(evaluate, static_argnums=0)
    outcomes = {}
    for (name, params), setting in settings(published).items():
        given = dict(setting.given)
        vector = setting.controller.schedule(jnp.float32(given.pop("beta", 0)))
        vector = vector._replace(**{k: jnp.asarray(v, getattr(vector, k).dtype) for k, v in given.items()})
        one = jax.tree.map(lambda leaf: leaf[None], vector)
        outcomes[name, params] = jax.device_get(run(setting.controller, dataset.store, one, orders))
    wrong = []
    for row in published:
        outcome = outcomes[row["controller"], row["params"]]
        q = starts[f"{row['model']}/{row['dataset']}"] + row["question"]
        answer = dataset.answer(q, outcome.answer[0, q, row["seed"]])
        if (answer, outcome.tokens[0, q, row["seed"]]) != (row["answer"], row["tokens"]):
            wrong.append(row)
    assert len(published) == 18_240
    assert not wrong, f"{len(wrong)} episodes differ, the first: {wrong[0]}"


def test_answer_consistency_and_sequential_tokens(dataset: Dataset) -> None:
    """Parallel-Probe's table for Qwen3-8B (arXiv 2602.03845): the SAC row, and SC@64's sequential tokens."""
    table = autotts_jax.sweep(dataset, ["answer_consistency:chains=64,k=14", "self_consistency:samples=64"]).table
    sac, sc = (row for row in table.to_pylist() if row["dataset"] == "Qwen3-8B/aime24")
    assert round(100 * sac["accuracy"], 2) == 76.67
    assert round(sac["tokens"]) == 773_352
    assert round(sac["sequential_tokens"]) == 25_617
    assert round(sc["sequential_tokens"]) == 30_091


def test_passed_bounds_correct(dataset: Dataset) -> None:
    """pass@n is the accuracy of one sample where n is 1, and above that of any vote; counted here from the files."""
    outcome = autotts_jax.sweep(dataset, ["self_consistency"], betas=(0, 1), shuffles=10)
    store, orders = dataset.store, autotts_jax.published_orders(dataset.store, 10)
    final = np.take_along_axis(store.answers, np.maximum(store.intervals[..., None] - 1, 0), axis=-1)[..., 0]
    right = (final == store.gold[:, None]) & (store.gold[:, None] >= 0)
    drawn = np.take_along_axis(right[:, None], orders, axis=-1)  # [Q, S, B]
    for row, n in enumerate((1, 64)):
        np.testing.assert_array_equal(outcome.sums["passed"][row], drawn[..., :n].any(axis=-1).sum(axis=-1))
    np.testing.assert_array_equal(outcome.sums["passed"][0], outcome.sums["correct"][0])
    assert (outcome.sums["passed"][1] >= outcome.sums["correct"][1]).all()
    assert outcome.sums["passed"][1].sum() > outcome.sums["correct"][1].sum()


# --- more than 64 branches -------------------------------------------------------------------------------------------

SAMPLED = 64


@pytest.mark.parametrize(
    ("name", "params", "most"),
    [
        ("self_consistency", {"samples": 128}, 128),
        (
            "parallel_probe",
            {"chains": 100, "stable": 40, "patience": 7, "warm_up": 15, "max_rounds": 100},
            100,
        ),
    ],
)
def test_wide_episodes_by_the_oracle(dataset: Dataset, name: str, params: dict[str, int], most: int) -> None:
    """Episodes of all eight files, replayed in plain Python on 128 branches; and the sweep adds all of them up."""
    store, shuffles = dataset.store, 2
    orders = autotts_jax.published_orders(store, shuffles, 128)
    setting = Setting(CONTROLLERS[name], params)
    vector = rows_of(setting, [1])[0].params
    one = jax.tree.map(lambda leaf: leaf[None], vector)
    outcome = jax.device_get(jax.jit(evaluate, static_argnums=0)(setting.controller, store, one, orders))
    assert (store.branches == 128).all()
    assert (outcome.opened == most).all()

    swept = autotts_jax.sweep(dataset, [setting], shuffles=shuffles)
    for field, sums in swept.sums.items():
        np.testing.assert_array_equal(sums, getattr(outcome, field).sum(axis=-1), field)

    rng, start, seen = np.random.default_rng(0), 0, 0
    for _, questions in dataset.parts:
        for place in rng.choice(questions * shuffles, SAMPLED // len(dataset.parts), replace=False):
            q, s = start + place // shuffles, place % shuffles
            branches = []
            for n in orders[q, s]:
                *probes, final = (dataset.choices[q][i] for i in store.answers[q, n, : store.intervals[q, n]])
                branches.append(reference.Branch(probes, int(store.tokens[q, n]), final, int(store.delta[q, n])))
            assert len(branches) == 128
            expected, _ = reference.replay(name, branches, dataset.golds[q], params)
            found = {field: getattr(outcome, field)[0, q, s].item() for field in expected._fields}
            assert found | {"answer": dataset.answer(q, found["answer"])} == expected._asdict()
            seen += 1
        start += questions
    assert seen == SAMPLED
