import random
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autotts_jax
from autotts_jax import Dataset, InputError, Question, Trajectories
from autotts_jax.orders import WIDTH


def dataset(seed: int = 0, questions: int = 3, branches: int = 7, **fields: str) -> Dataset:
    rng = np.random.default_rng(seed)
    rows = []
    for q in range(questions):
        made = [
            ([f"a{rng.integers(4)}" for _ in range(rng.integers(0, 5))], int(rng.integers(1, 3000)), "ERR")
            for _ in range(branches - q)
        ]
        rows.append(Question.from_branches(f"q{seed}.{q}", "a0" if q else "never", 500 + q, made))
    return autotts_jax.pack(Trajectories(rows, **fields), seed=seed)


def test_packed_arrays_hold_the_trajectories() -> None:
    data = dataset()
    store = data.store
    assert store.answers.dtype == np.int16
    np.testing.assert_array_equal(store.branches, [7, 6, 5])
    np.testing.assert_array_equal(store.delta[:, 0], [500, 501, 502])
    assert store.question_mask.all()
    assert store.gold[0] == -1
    for q, choices in enumerate(data.choices):
        assert sorted(set(choices)) == sorted(choices)
        final = store.answers[q, 0, store.intervals[q, 0] - 1]
        assert data.answer(q, final) == "ERR"
        assert store.unparsable[q, final]
        assert store.unparsable[q].sum() == 1
    assert data.answer(0, -1) is None


def test_ids_are_shuffled_per_question() -> None:
    """Neither the first answer seen nor a frequent one may have a telling id."""
    choices = [str(i) for i in range(20)]
    questions = [Question.from_branches("?", "0", 500, [(choices, 9_000, "0")] * 3) for _ in range(200)]
    gold = autotts_jax.pack(Trajectories(questions)).store.gold
    assert len(np.unique(gold)) == 20
    assert 6 < gold.mean() < 13
    again = autotts_jax.pack(Trajectories(questions)).store.gold
    np.testing.assert_array_equal(gold, again)
    assert (autotts_jax.pack(Trajectories(questions), seed=1).store.gold != gold).any()


def test_many_answers_need_wider_ids() -> None:
    question = Question.from_branches("?", "0", 500, [([str(i)], 900, str(i)) for i in range(2**15)])
    store = autotts_jax.pack(Trajectories([question])).store
    assert store.answers.dtype == np.int32
    assert store.answers.max() == 2**15 - 1


def test_sums_that_would_overflow_are_refused() -> None:
    question = Question.from_branches("?", "0", 4_000_000, [(["0"] * 3, 900, "0")])
    with pytest.raises(InputError, match="question 0: a branch of 3 probes"):
        autotts_jax.pack(Trajectories([question]))


def test_concatenation_keeps_the_parts() -> None:
    one, two = dataset(0, model="A", benchmark="x"), dataset(1, 2, 9, model="B")
    both = autotts_jax.concatenate([one, two])
    assert both.parts == (("A/x", 3), ("B", 2))
    assert len(both) == 5
    Q, N, D = one.store.answers.shape
    np.testing.assert_array_equal(both.store.answers[:Q, :N, :D], one.store.answers)
    np.testing.assert_array_equal(both.store.branches, [7, 6, 5, 9, 8])
    assert both.choices == one.choices + two.choices
    assert (both.store.answers[0, 7:] == -1).all()


def test_published_orders_are_pythons() -> None:
    store = dataset(branches=100).store
    orders = autotts_jax.published_orders(store, 3)
    assert orders.shape == (3, 3, WIDTH)
    for q, n in enumerate((100, 99, 98)):
        for s in range(3):
            expected = list(range(n))
            random.Random(s).shuffle(expected)
            assert orders[q, s].tolist() == expected[:WIDTH]
    few = autotts_jax.published_orders(dataset().store, 2)
    assert (few[:, :, 7:] == -1).all()
    assert sorted(few[2, 1, :5].tolist()) == [0, 1, 2, 3, 4]


def test_random_orders_are_permutations() -> None:
    store = dataset(branches=80).store
    orders = np.asarray(autotts_jax.random_orders(jax.random.key(0), store, 50))
    assert orders.shape == (3, 50, WIDTH)
    for q, n in enumerate((80, 79, 78)):
        assert all(len(set(row)) == WIDTH for row in orders[q].tolist())
        assert orders[q].min() >= 0
        assert orders[q].max() == n - 1
    few = np.asarray(autotts_jax.random_orders(jax.random.key(0), dataset().store, 50))
    assert (np.sort(few[2][:, :5]) == np.arange(5)).all()
    assert (few[2][:, 5:] == -1).all()


def test_bootstrap_orders_resample() -> None:
    orders = np.asarray(autotts_jax.bootstrap_orders(jax.random.key(0), dataset().store, 500))
    assert orders.min() == 0  # every slot holds a branch
    for q, n in enumerate((7, 6, 5)):
        counts = np.bincount(orders[q].ravel(), minlength=n)
        assert len(counts) == n
        assert abs(counts / counts.sum() - 1 / n).max() < 0.01


def test_padded_questions_have_no_order() -> None:
    store = jax.tree.map(lambda leaf: np.pad(leaf, [(0, 1)] + [(0, 0)] * (leaf.ndim - 1)), dataset().store)
    key = jax.random.key(0)
    for orders in (
        autotts_jax.published_orders(store, 2),
        autotts_jax.random_orders(key, store, 2),
        autotts_jax.bootstrap_orders(key, store, 2),
    ):
        assert (np.asarray(orders)[-1] == -1).all()
    assert not store.question_mask[-1]


def test_save_and_load(tmp_path: Path) -> None:
    data = dataset(model="Modell", benchmark="ä")
    path = tmp_path / "store"
    autotts_jax.save(data, path)
    found = autotts_jax.load(path)
    jax.tree.map(np.testing.assert_array_equal, data.store, found.store)
    assert {a.dtype for a in jax.tree.leaves(found.store)} == {a.dtype for a in jax.tree.leaves(data.store)}
    for field in ("parts", "texts", "golds", "choices"):
        assert getattr(found, field) == getattr(data, field)
    assert autotts_jax.open_datasets(path)[0].parts == data.parts
    with pytest.raises(ValueError, match="exist"):
        autotts_jax.save(data, path)
    autotts_jax.save(dataset(1), path, force=True)
    assert autotts_jax.load(path).texts == dataset(1).texts


def test_load_checks_the_metadata(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a store"):
        autotts_jax.load(tmp_path)
    path = tmp_path / "store"
    autotts_jax.save(dataset(), path)
    (file,) = (path / "metadata").glob("metadata")
    good = file.read_text()
    for old, new, said in (
        ('"autotts_jax": 2', '"autotts_jax": 1', "another version"),
        ('"tokens": ["int32", 3, 7]', '"tokens": ["int32", 3, 8]', "array tokens is"),
        ('"q0.0", ', "", r"the metadata name \[2, 3\] questions"),
    ):
        assert old in good
        file.write_text(good.replace(old, new))
        with pytest.raises(InputError, match=said):
            autotts_jax.load(path)


def test_directories_are_read_in_order(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no \.json or \.parquet"):
        autotts_jax.open_datasets(tmp_path)
    for name in ("b/x.json", "a/y.parquet"):
        made = Trajectories([Question.from_branches("?", "0", 500, [(["0"], 900, "0")])], model="P")
        autotts_jax.write_trajectories(made, tmp_path / name)
    assert [d.parts[0][0] for d in autotts_jax.open_datasets(tmp_path)] == ["P", "b/x"]


def test_a_store_is_a_pytree() -> None:
    store = dataset().store
    assert len(jax.tree.leaves(store)) == 6
    moved = jax.device_put(store)
    assert isinstance(moved.answers, jax.Array)
    assert jax.jit(lambda s: jnp.sum(s.branch_mask))(moved) == 18
