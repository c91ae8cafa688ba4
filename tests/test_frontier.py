"""Evidence: the bootstrap and what is made of it, against NumPy and SciPy, by simulation, and on the public files."""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

import autotts_jax
from autotts_jax import CONTROLLERS, InputError, frontier, sweep
from autotts_jax.results import FIELDS, Results
from autotts_jax.settings import Setting, rows_of

BETAS = (0.0, 0.5, 1.0)
CMC, ES = "confidence_momentum", "early_stopping"


def made(correct: Any, tokens: Any, parts: Any = None, settings: Any = (CMC, ES), shuffles: int = 10) -> Results:
    """Results with given sums ``[R, Q]``."""
    rows = [row for text in settings for row in rows_of(Setting.parse(text), BETAS)]
    sums = {field: np.zeros(np.shape(correct), np.int64) for field in FIELDS}
    sums |= {"correct": np.asarray(correct, np.int64), "tokens": np.asarray(tokens, np.int64)}
    questions = np.shape(correct)[1]
    return Results(rows, parts or [("made", questions)], [""] * questions, sums, shuffles)


def drawn(questions: int = 12, rows: int = 6, seed: int = 0, **more: Any) -> Results:
    rng = np.random.default_rng(seed)
    return made(rng.integers(0, 11, (rows, questions)), rng.integers(1_000, 90_000, (rows, questions)), **more)


# --- the bootstrap ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
def test_resamples_are_whole_questions_and_the_same_for_all_columns() -> None:
    # The columns' weights can be read off: question i brings 10^i, and its square.
    values = jnp.asarray([[1, 1], [10, 100], [100, 10_000]], jnp.float32)
    means = np.asarray(frontier.bootstrap(jax.random.key(1), values, 500))
    np.testing.assert_allclose(means[0], [37, 10_101 / 3], rtol=1e-6)
    for one, squared in np.rint(means[1:] * 3).astype(int):
        counts = [one // 10**i % 10 for i in range(3)]
        assert sum(counts) == 3
        assert squared == sum(count * 100**i for i, count in enumerate(counts))


def test_resamples_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = jnp.asarray(np.random.default_rng(0).random((9, 4)), jnp.float32)
    whole = frontier.bootstrap(jax.random.key(0), values, 101)
    monkeypatch.setattr(frontier, "_CHUNK", 9 * 25)
    chunked = frontier.bootstrap.__wrapped__(jax.random.key(0), values, 101)
    np.testing.assert_allclose(whole, chunked, rtol=1e-6)


def test_bootstrap_variance_is_the_clustered_one() -> None:
    results = drawn(30)
    means = frontier.bootstrap(jax.random.key(0), jnp.asarray(results.sums["correct"].T / 10, jnp.float32), 20_000)
    wanted = np.array(results.table["accuracy_se"]) * np.sqrt(29 / 30)
    np.testing.assert_allclose(np.asarray(means[1:]).std(axis=0), wanted, rtol=0.03)


@pytest.mark.parametrize("questions", [12, 30, 500])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_interval_and_p_value(questions: int, level: float) -> None:
    draws = np.random.default_rng(0).normal(0.3, 0.25, (2_000, 3)).astype(np.float32)
    low, high = frontier.interval(jnp.asarray(draws), questions, level)
    t = scipy.stats.t.ppf((1 + level) / 2, questions - 1) * np.sqrt(questions / (questions - 1))
    tail = scipy.stats.norm.cdf(-t)
    np.testing.assert_allclose(low, np.quantile(draws, tail, axis=0, method="lower"), atol=0.01)
    np.testing.assert_allclose(high, np.quantile(draws, 1 - tail, axis=0, method="higher"), atol=0.01)
    # Dual: the p-value of "the end of the interval" is one minus the level.
    for end in (low, high):
        np.testing.assert_allclose(
            frontier.p_value(jnp.asarray(draws - np.asarray(end)), questions), 1 - level, atol=0.004
        )


def test_draws_that_are_never_reached_or_say_nothing() -> None:
    draws = np.arange(1_000, dtype=np.float32)
    draws[950:] = np.inf
    low, high = frontier.interval(jnp.asarray(draws), 30)
    assert low == 18  # 1.875 % of 999
    assert high == np.inf
    draws[:15] = np.nan
    assert frontier.interval(jnp.asarray(draws), 30)[0] == 18
    draws[15:30] = np.nan
    low, high = frontier.interval(jnp.asarray(draws), 30)
    assert (low, high) == (-np.inf, np.inf)
    assert frontier.p_value(jnp.full((500, 1), jnp.nan, jnp.float32), 30) == 1
    assert frontier.p_value(jnp.zeros((500, 1), jnp.float32), 30) == 1
    assert 0 < frontier.p_value(jnp.full((10_000,), jnp.inf, jnp.float32), 30) < 0.002


@given(
    st.sampled_from([1, 6]).flatmap(
        lambda m: st.lists(st.floats(0, 1, width=32, allow_subnormal=False), min_size=m, max_size=m)
    )
)
@settings(deadline=None, max_examples=30)
def test_holm(p: list[float]) -> None:
    wanted = [0.0] * len(p)
    worst = 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        worst = max(worst, min(1.0, p[index] * (len(p) - rank)))
        wanted[index] = worst
    np.testing.assert_allclose(frontier.holm(jnp.asarray(p, jnp.float32)), wanted, rtol=1e-5)


def test_coverage_and_false_findings_by_simulation() -> None:
    """30 questions, most of them nearly always right or wrong; a curve, and two controllers that are equally good."""
    questions, shuffles, worlds, resamples, target = 30, 20, 1_000, 999, 0.68
    rng = np.random.default_rng(0)
    a, b, powers, factors = 0.4, 0.25, np.array([1, 0.7, 0.5]), np.array([1, 2, 4])
    chance = rng.beta(a, b, (worlds, questions, 1))
    correct = rng.binomial(shuffles, chance**powers) / shuffles
    tokens = rng.lognormal(10, 0.5, (worlds, questions, 1)) * factors
    # Equally good, but they differ in luck and in which questions they suit.
    first, second = rng.binomial(shuffles, np.clip(chance + rng.normal(0, 0.1, (2, worlds, questions, 1)), 0, 1))
    values = np.concatenate([correct, tokens, (first - second) / shuffles], axis=-1).astype(np.float32)

    def world(args: Any) -> Any:
        key, sample = args
        draws = frontier.bootstrap(key, sample, resamples)[1:]
        needed = frontier._tokens_at(draws[:, 3:6], draws[:, :3], jnp.float32(target))
        found = jnp.stack([draws[:, 0], draws[:, 3], draws[:, 6], needed], axis=1)
        return *frontier.interval(found, questions), frontier.p_value(draws[:, 6], questions)

    keys = jax.random.split(jax.random.key(0), worlds)
    low, high, p = jax.jit(lambda *args: jax.lax.map(world, args, batch_size=100))(keys, jnp.asarray(values))
    accuracies = scipy.special.beta(a + powers, b) / scipy.special.beta(a, b)
    costs = factors * np.exp(10 + 0.5**2 / 2)
    truth = np.array([accuracies[0], costs[0], 0, np.exp(np.interp(target, accuracies, np.log(costs)))])
    covered = ((np.asarray(low) <= truth) & (truth <= np.asarray(high))).mean(axis=0)
    assert ((covered > 0.92) & (covered < 0.98)).all(), covered
    assert 0.03 < (np.asarray(p) < 0.05).mean() < 0.07


# --- one curve -------------------------------------------------------------------------------------------------------

points = st.lists(
    st.tuples(st.integers(1, 40).map(lambda n: 1_000.0 * n), st.integers(0, 30).map(lambda n: n / 30)),
    min_size=1,
    max_size=7,
)


def best_for(curve: list[tuple[float, float]], budget: float) -> float:
    """The accuracy of the cheapest-first running best, interpolated over log tokens; by hand."""
    if budget < min(tokens for tokens, _ in curve):
        return np.nan
    left = max(a for t, a in curve if t <= budget)
    start = max(t for t, _ in curve if t <= budget)
    later = sorted(t for t, _ in curve if t > budget)
    if not later:
        return left
    right = max(a for t, a in curve if t <= later[0])
    return left + (right - left) * np.log(budget / start) / np.log(later[0] / start)


@given(points, st.integers(500, 50_000), st.integers(0, 30))
@settings(deadline=None, max_examples=60)
def test_curves(curve: list[tuple[float, float]], budget: int, target: int) -> None:
    size = 7  # repeated rows change nothing, and keep it to one program
    tokens, accuracy = jnp.asarray([*curve, *[curve[-1]] * (size - len(curve))], jnp.float32).T
    got = frontier._accuracy_at(tokens, accuracy, jnp.float32(budget))
    np.testing.assert_allclose(got, best_for(curve, budget), atol=1e-5)

    goal = target / 30
    needed = float(frontier._tokens_at(tokens, accuracy, jnp.float32(goal)))
    if max(a for _, a in curve) < goal - 1e-9:
        assert needed == np.inf
    else:
        assert best_for(curve, needed * 1.0001) >= goal - 1e-4
        cheapest = min(t for t, _ in curve)
        assert needed <= cheapest * 1.0001 or best_for(curve, needed * 0.9999) <= goal

    mask = np.asarray(jax.jit(frontier.pareto)(tokens, accuracy))[: len(curve)]
    for on, (t, a) in zip(mask, curve, strict=True):
        assert on == (not any(u <= t and b >= a and (u, b) != (t, a) for u, b in curve))

    low, high = 800.0, 60_000.0
    grid = np.exp(np.linspace(np.log(low), np.log(high), 4_001))
    smooth = np.nan_to_num([best_for(curve, g) for g in grid[::10]])
    np.testing.assert_allclose(
        frontier._area(tokens, accuracy, jnp.float32(low), jnp.float32(high)), smooth.mean(), atol=0.01
    )
    steps = np.array([max([0.1, *(a for t, a in curve if t <= g)]) for g in grid]) - 0.1
    np.testing.assert_allclose(
        frontier._hypervolume(tokens, accuracy, jnp.float32(high), jnp.float32(0.1)),
        steps.mean() * np.log(high / low),
        atol=0.01,
    )


# --- tables ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
def test_tables_against_numpy() -> None:
    """All of it again, in 64 bits and with loops, on the same resamples."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(20_000, 90_000, (6, 12)) * np.array([1, 4, 16, 2, 5, 11])[:, None]
    results = made(rng.integers(0, 11, (6, 12)), tokens, parts=[("a", 5), ("b", 7)])
    resamples = 400
    compared = frontier.compare(results, CMC, datasets=["b"], resamples=resamples).to_pylist()
    assert [(row["dataset"], row["baseline"], row["at"]) for row in compared] == [
        ("b", ES, "equal accuracy"),
        ("b", ES, "equal tokens"),
    ]
    # The counts of the same resamples.
    counts = np.rint(7 * np.asarray(frontier.bootstrap(jax.random.key(0), jnp.eye(7, dtype=jnp.float32), resamples)))
    assert (counts.sum(axis=1) == 7).all()
    tokens, accuracy = (counts @ results.sums[field][:, 5:].T / 70 for field in ("tokens", "correct"))
    dearest = 3 + int(np.argmax(results.sums["tokens"][3:].sum(axis=1)))
    gains = []
    for t, a in zip(tokens, accuracy, strict=True):
        mine, theirs = list(zip(t[:3], a[:3], strict=True)), list(zip(t[3:], a[3:], strict=True))
        gains.append(best_for(mine, t[dearest] + 1e-6) - best_for(theirs, t[dearest] + 1e-6))
    assert not np.isnan(gains).any()
    row = compared[1]
    np.testing.assert_allclose(row["effect"], gains[0], atol=1e-5)
    inside = (np.array(gains[1:]) >= row["low"] - 1e-5) & (np.array(gains[1:]) <= row["high"] + 1e-5)
    # With 7 questions: percentiles 0.4 and 99.6.
    assert 0.98 < inside.mean() < 1
    tail = (1 + min((np.array(gains[1:]) <= 1e-6).sum(), (np.array(gains[1:]) >= -1e-6).sum())) / (resamples + 1)
    t = scipy.stats.norm.ppf(min(tail, 0.5)) * np.sqrt(6 / 7)
    np.testing.assert_allclose(row["p"], 2 * scipy.stats.t.cdf(t, 6), rtol=1e-3)
    assert row["p_corrected"] <= min(1, 2 * row["p"]) * (1 + 1e-6)


def test_interval_table() -> None:
    results = drawn(parts=[("a", 5), ("b", 7)])
    table = frontier.intervals(results, resamples=300)
    for name in ("dataset", "controller", "beta", "params", "accuracy", "tokens"):
        assert table[name].equals(results.table[name])
    for row in table.to_pylist():
        for name in ("accuracy", "tokens"):
            assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
    assert {row["dataset"] for row in table.to_pylist() if row["pareto"]} == {"a", "b"}


def test_tokens_to_reach() -> None:
    # Every question alike, so that the intervals are points: CMC rises from 0.2 to 0.8, early stopping ends at 0.4.
    share, cost = np.array([2, 4, 8, 1, 2, 4]), np.array([10, 20, 40, 10, 100, 1_000]) * 1_000
    results = made(np.tile(share, (20, 1)).T, np.tile(cost, (20, 1)).T)
    rows = frontier.tokens_to_reach(results, 0.6, resamples=200).to_pylist()
    assert [row["controller"] for row in rows] == [CMC, ES]
    for name in ("tokens", "tokens_low", "tokens_high"):
        np.testing.assert_allclose(rows[0][name], 2_000 * 2**0.5, rtol=1e-5)
        assert rows[1][name] == np.inf
    assert [row["never"] for row in rows] == [0, 1]
    [row] = frontier.tokens_to_reach(results, f"{ES}:beta=1", [CMC], resamples=200).to_pylist()
    np.testing.assert_allclose([row["accuracy"], row["tokens"]], [0.4, 2_000], rtol=1e-5)

    equal, gain = frontier.compare(results, CMC, resamples=200).to_pylist()
    np.testing.assert_allclose([equal["effect"], equal["low"], equal["high"]], 0.02, rtol=1e-5)
    np.testing.assert_allclose([gain["effect"], gain["low"], gain["high"]], 0.4, rtol=1e-5)
    assert equal["p_corrected"] == pytest.approx(2 * equal["p"])
    # The other way round early stopping never gets there; and against itself nothing differs.
    assert frontier.compare(results, ES, [CMC], resamples=200).to_pylist()[0]["effect"] == np.inf
    assert frontier.compare(results, CMC, [CMC], resamples=200)["p"].to_pylist() == [1, 1]
    never = frontier.compare(results, f"{ES}:beta=0", [f"{ES}:beta=0.5"], at=CMC + ":beta=1", resamples=200)
    assert never["effect"].to_pylist()[0] is None
    assert never["p"].to_pylist()[0] == 1


def test_areas() -> None:
    share, cost = np.array([2, 4, 8, 1, 2, 4]), np.array([10, 20, 40, 10, 100, 1_000]) * 1_000
    results = made(np.tile(share, (20, 1)).T, np.tile(cost, (20, 1)).T)
    cmc, es = frontier.areas(results, resamples=200).to_pylist()
    bend = np.log(4) / np.log(1_000 / 10)
    np.testing.assert_allclose(cmc["area"], bend * (0.3 + 0.6) / 2 + (1 - bend) * 0.8, rtol=1e-4)
    np.testing.assert_allclose(es["area"], 0.5 * (0.15 + 0.3), rtol=1e-4)
    np.testing.assert_allclose(es["hypervolume"], np.log(10) * (0.1 + 0.2), rtol=1e-4)
    cmc, _ = frontier.areas(results, tokens=(2_000, 4_000), resamples=200).to_pylist()
    np.testing.assert_allclose(cmc["area"], 0.6, rtol=1e-4)


def test_what_is_chosen_on_one_set_is_reported_on_another() -> None:
    results = drawn(parts=[("a", 5), ("b", 3), ("c", 4)])
    rows = frontier.held_out(results, ["a", "b"], ["c"], resamples=200).to_pylist()
    accuracy = (results.sums["correct"][:, :5].mean(1) + results.sums["correct"][:, 5:8].mean(1)) / 20
    best = [int(np.argmax(accuracy[:3])), 3 + int(np.argmax(accuracy[3:]))]
    table = frontier.intervals(results, resamples=200).slice(12).to_pylist()
    for row, index in zip(rows, best, strict=True):
        assert {name: row[name] for name in table[index]} == table[index]
        assert row["search_accuracy"] == pytest.approx(accuracy[index])
    # With a limit the dearest are out; below all of them it says so.
    spent = results.sums["tokens"][:3, :8]
    spent = (spent[:, :5].mean(1) + spent[:, 5:].mean(1)) / 20
    limit = max(np.sort(spent)[0], results.sums["tokens"][3:, :8].max() / 10)
    [row, _] = frontier.held_out(results, ["a", "b"], ["c"], limit, resamples=200).to_pylist()
    assert row["search_tokens"] <= limit
    with pytest.raises(InputError, match="takes at least"):
        frontier.held_out(results, ["a"], ["c"], 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: frontier.intervals(r, resamples=5), "resamples 5: too few"),
        (lambda r: frontier.intervals(r, level=95), "level 95: outside"),
        (lambda r: frontier.compare(r, "nobody"), "'nobody': not in these results. Use one of confidence_momentum"),
        (lambda r: frontier.compare(r, f"{CMC}:beta=0.3"), "no row has these parameters"),
        (lambda r: frontier.compare(r, f"{CMC}:beta"), "not understood. Write"),
        (lambda r: frontier.compare(r, CMC, []), "baselines: none"),
        (lambda r: frontier.compare(r, CMC, datasets=["x"]), "dataset 'x': not in these results. Use one of a, b"),
        (lambda r: frontier.tokens_to_reach(r, CMC), "3 different rows. Say which"),
        (lambda r: frontier.tokens_to_reach(r, 80), "target 80: outside 0 to 1"),
        (lambda r: frontier.areas(r, tokens=(9, 9)), "not a range"),
        (lambda r: frontier.held_out(r, ["a"], ["a", "b"]), "dataset a: both searched and reported"),
        (lambda r: frontier.held_out(r, [], ["b"]), "search: no dataset"),
    ],
)
def test_refusals(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(drawn(parts=[("a", 5), ("b", 7)]))


def test_a_controller_that_spends_nothing() -> None:
    """It never makes a NaN, and that it wins is no accident."""
    rng = np.random.default_rng(0)
    tokens = np.concatenate([np.zeros((3, 12)), rng.integers(50_000, 90_000, (3, 12))])
    correct = np.concatenate([np.full((3, 12), 9), rng.integers(2, 6, (3, 12))])
    results = made(correct, tokens)
    for row in frontier.compare(results, CMC, resamples=500).to_pylist():
        assert row["p"] < 0.02
        assert row["effect"] is not None
    for table in (frontier.areas(results, resamples=100), frontier.intervals(results, resamples=100)):
        for name in table.column_names:
            values = table[name].to_pylist()
            assert not any(isinstance(value, float) and np.isnan(value) for value in values), name
    same = made(correct[:3], tokens[:3], settings=(CMC,))
    assert frontier.areas(same, resamples=100)["area"].to_pylist() == pytest.approx([0.9])


def test_one_question_is_no_evidence() -> None:
    with pytest.raises(InputError, match="dataset made: a single question"):
        frontier.intervals(drawn(1))


# --- the public files ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_public_files(replay_directory: Path) -> None:
    data = autotts_jax.open_datasets(replay_directory / "Qwen3-8B" / "aime25.json")
    results = sweep(data, ["self_consistency:samples=64", CMC], betas=BETAS, shuffles=100)
    assert CONTROLLERS[CMC] in {row.controller for row in results.rows}
    table = frontier.compare(results, CMC).to_pylist()
    assert table[1]["effect"] == pytest.approx(0.7583 - 0.7667, abs=1e-4)  # README's table
    assert table[1]["low"] < 0 < table[1]["high"]
    # Pairing pays: the difference is known far better than either accuracy.
    alone = frontier.intervals(results).to_pylist()[-1]
    assert table[1]["high"] - table[1]["low"] < 0.5 * (alone["accuracy_high"] - alone["accuracy_low"])


@pytest.mark.slow
def test_the_guides_table(replay_directory: Path) -> None:
    """Tokens to reach SC@64's accuracy, and CMC held out, as the guide's page on evidence prints them."""
    page = (Path(__file__).parent.parent / "notebooks" / "guide" / "evidence.md").read_text(encoding="utf-8")
    methods = ["self_consistency", "adaptive_consistency", "early_stopping", "parallel_probe", CMC]
    results = sweep(autotts_jax.open_datasets(replay_directory), methods, shuffles=100)

    cells: dict[str, list[list[float]]] = {}
    for row in frontier.tokens_to_reach(results, "self_consistency:beta=1", methods).to_pylist():
        numbers = [row[column] / 1000 for column in ("tokens", "tokens_low", "tokens_high")]
        cells.setdefault(row["dataset"], []).append(numbers)
    for name, found in cells.items():
        model, year = name.removeprefix("Qwen3-").split("/aime")
        line = next(line for line in page.splitlines() if line.startswith(f"| {model}, 20{year} ("))
        printed = [
            [float(n.replace("∞", "inf")) for n in re.findall(r"∞|\d+", cell)] for cell in line.split(" | ")[1:]
        ]
        # Rounded to whole thousands, and interpolated in float32 where curves are flat.
        np.testing.assert_allclose(printed, found, rtol=0, atol=1)
    held_out = frontier.compare(results, CMC, datasets=[name for name in cells if name.endswith("aime25")])
    assert len(held_out) == 32
    assert round(min(held_out["p"].to_pylist()), 2) == 0.16
    assert min(held_out["p_corrected"].to_pylist()) == 1
