import dataclasses
import random
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autotts_jax
from autotts_jax import Dataset, InputError, Question, Trajectories
from autotts_jax.orders import WIDTH
from autotts_jax.replay import ReplayStore, joint_shape, part


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
        assert len(set(choices.values())) == len(choices)
        final = store.answers[q, 0, store.intervals[q, 0] - 1]
        assert data.answer(q, final) == "ERR"
        assert store.unparsable[q, final]
        assert store.unparsable[q].sum() == 1
    assert data.answer(0, -1) is None
    assert data.answer(0, next(i for i in range(1024) if i not in data.choices[0])) is None


def test_ids_are_drawn_per_question() -> None:
    """Neither the first answer seen nor a frequent one may have a telling id, nor one where answers are few."""
    choices = [str(i) for i in range(20)]
    questions = [Question.from_branches("?", "0", 500, [(choices, 9_000, "0")] * 3) for _ in range(200)]
    gold = autotts_jax.pack(Trajectories(questions)).store.gold
    assert len(np.unique(gold)) > 150
    assert 440 < gold.mean() < 584
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
        ('"autotts_jax": 3', '"autotts_jax": 1', "another version"),
        ('"tokens": ["int32", 3, 7]', '"tokens": ["int32", 3, 8]', "array tokens is"),
        ('"q0.0", ', "", r"the metadata names \[2, 3\] questions"),
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


# --- optional fields -------------------------------------------------------------------------------------------------


def with_fields(
    data: Dataset, *fields: str, seed: int = 0, names: tuple[str, ...] = ("logprob", "entropy")
) -> Dataset:
    """The dataset with some of the optional fields, drawn at random where there is a branch or an interval."""
    rng, store = np.random.default_rng(seed), data.store
    there = store.intervals > 0
    read = np.arange(store.answers.shape[2]) < store.intervals[..., None]
    drawn = {
        "features": rng.normal(size=(*read.shape, len(names))).astype(np.float32) * read[..., None],
        "model": rng.integers(0, 3, there.shape, np.int32) * there,
        "price": np.where(there, rng.choice(np.array([0.5, 2], np.float32), there.shape), np.float32(1)),
    }
    known = {"feature_names": names} if "features" in fields else {}
    return dataclasses.replace(data, store=dataclasses.replace(store, **{f: drawn[f] for f in fields}, **known))


ALL = ("features", "model", "price")
PADS = {"features": 0, "model": 0, "price": 1}


@pytest.mark.parametrize("fields", [(), ("features",), ("model", "price"), ALL])
def test_what_is_not_there_takes_no_place(fields: tuple[str, ...]) -> None:
    store = with_fields(dataset(), *fields).store
    assert len(jax.tree.leaves(store)) == 6 + len(fields)
    assert list(store.arrays()) == ["answers", "intervals", "tokens", "delta", "gold", "unparsable", *fields]
    moved = jax.device_put(store)
    assert moved.feature_names == store.feature_names
    assert jax.tree.structure(moved) == jax.tree.structure(store)


def assert_inside(whole: ReplayStore, piece: ReplayStore, first: int = 0) -> None:
    """The piece lies in the whole from question `first` on; around it there is padding."""
    for name, array in piece.arrays().items():
        found = getattr(whole, name)[first : first + len(array)]
        inside = tuple(map(slice, array.shape))
        np.testing.assert_array_equal(found[inside], array, name)
        around = np.ones(found.shape, bool)
        around[inside] = False
        pad = PADS.get(name, -1 if name in ("answers", "gold") else 0)
        assert (found[around] == pad).all(), name


def test_joined_optional_fields_keep_their_values() -> None:
    one, two = with_fields(dataset(0), *ALL), with_fields(dataset(1, 2, 9), *ALL, seed=1)
    both = autotts_jax.concatenate([one, two]).store
    assert both.features.shape[-1] == 2
    assert both.feature_names == ("logprob", "entropy")
    assert_inside(both, one.store)
    assert_inside(both, two.store, 3)


@pytest.mark.parametrize("field", ["model", "price"])
def test_a_store_without_a_field_is_filled_up(field: str) -> None:
    bare, full = dataset(0), with_fields(dataset(1, 2, 9), field)
    for datasets in ([bare, full], [full, bare]):
        both = autotts_jax.concatenate(datasets).store
        assert set(both.arrays()) == {*bare.store.arrays(), field}
        first = len(datasets[0])
        filled = getattr(both, field)[:first] if datasets[0] is bare else getattr(both, field)[first:]
        assert (filled == PADS[field]).all()
        assert getattr(both, field).dtype == getattr(full.store, field).dtype
        assert_inside(both, full.store, 0 if datasets[0] is full else first)


def test_features_must_agree() -> None:
    some = with_fields(dataset(0), "features")
    others = (dataset(1), with_fields(dataset(1), "features", names=("entropy", "logprob")))
    for other in others:
        for pair in ([some, other], [other, some]):
            with pytest.raises(InputError, match="Stores that are replayed together must have the same ones"):
                autotts_jax.concatenate(pair)
            with pytest.raises(InputError, match=r"features: .*logprob"):
                autotts_jax.sweep(pair, ["self_consistency:samples=2"], shuffles=1)


def test_the_number_of_features_is_never_padded() -> None:
    names = tuple(f"f{i}" for i in range(19))  # a bucket would make 20 of it
    stores = [with_fields(dataset(seed, 2, 19), *ALL, names=names).store for seed in (0, 1)]
    for bucketed in (False, True):
        shape = joint_shape(stores, bucketed=bucketed)
        assert shape["features"][-1] == 19
        assert shape["features"][:2] == shape["answers"]
        assert shape["model"] == shape["price"] == shape["intervals"] == (20 if bucketed else 19,)
    assert joint_shape([dataset().store]).keys() == dataset().store.arrays().keys()


@pytest.mark.parametrize(("start", "stop"), [(0, 3), (1, 4), (2, 9), (4, 5)])
def test_parts_with_optional_fields(start: int, stop: int) -> None:
    stores = [with_fields(dataset(0), "price").store, with_fields(dataset(1, 2, 9), "model").store]
    whole = part(stores, 0, 5, joint_shape(stores))
    piece = part(stores, start, stop, joint_shape(stores))
    for name, array in piece.arrays().items():
        expected = getattr(whole, name)[start:stop]
        np.testing.assert_array_equal(array[: len(expected)], expected)
        assert (array[len(expected) :] == PADS.get(name, -1 if name in ("answers", "gold") else 0)).all()


@pytest.mark.parametrize("fields", [("features",), ("model", "price"), ALL])
def test_optional_fields_on_disk(tmp_path: Path, fields: tuple[str, ...]) -> None:
    data = with_fields(dataset(), *fields)
    autotts_jax.save(data, tmp_path / "store")
    found = autotts_jax.load(tmp_path / "store").store
    assert found.feature_names == data.store.feature_names
    assert found.arrays().keys() == data.store.arrays().keys()
    jax.tree.map(np.testing.assert_array_equal, data.store, found)
    assert {a.dtype for a in jax.tree.leaves(found)} == {a.dtype for a in jax.tree.leaves(data.store)}


def test_padding_with_optional_fields_changes_no_outcome() -> None:
    data = with_fields(dataset(branches=8), *ALL)
    controller = autotts_jax.CONTROLLERS["early_stopping"]
    params = jax.vmap(controller.schedule)(jnp.asarray([0.3, 1], jnp.float32))
    rules = autotts_jax.Rules(cost=autotts_jax.CostModel.PRICED)
    orders = autotts_jax.published_orders(data.store, 2, 8)
    run = jax.jit(autotts_jax.evaluate, static_argnums=0)
    padded = part([data.store], 0, 4, joint_shape([data.store, with_fields(dataset(1, 3, 11), *ALL).store]))
    expected = run(controller, data.store, params, orders, rules)
    found = run(controller, padded, params, np.pad(orders, [(0, 1), (0, 0), (0, 0)], constant_values=-1), rules)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[:, :3], b), found, expected)
    assert (np.asarray(expected.cost) != np.asarray(expected.tokens)).any()
