"""Artefacts decide what the Python they were made from decides, and a damaged one is refused."""

import functools
import json
import zipfile
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autotts_jax
from autotts_jax import (
    CONTROLLERS,
    Controller,
    Dataset,
    InputError,
    Observation,
    Outcome,
    Schedule,
    Setting,
    act,
    check_controller,
    evaluate,
    load_controller,
    save_controller,
)
from autotts_jax.artefacts import read_artefact
from autotts_jax.testing import _world

BETAS = jnp.asarray([0, 0.4, 1], jnp.float32)
WIDTHS = (64, 24)

# Programs this small run no faster when they are optimized, and compile in half the time when they are not.
QUICKLY = {"xla_backend_optimization_level": 0}
replayed = jax.jit(evaluate, static_argnames=("controller", "devices"), compiler_options=QUICKLY)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return autotts_jax.pack(autotts_jax.synthetic_trajectories("Qwen3-1.7B/aime24", questions=3, branches=30))


@functools.cache
def saved(directory: Path, name: str) -> Path:
    save_controller(CONTROLLERS[name], directory / f"{name}.zip", widths=WIDTHS)
    return directory / f"{name}.zip"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("artefacts")


def outcome_of(controller: Controller, data: Dataset, width: int, **more: Any) -> Outcome:
    params = jax.vmap(controller.schedule)(BETAS)
    return replayed(controller, data.store, params, autotts_jax.published_orders(data.store, 2, width), **more)


# --- the same decisions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "confidence_momentum",
        *(pytest.param(n, marks=pytest.mark.slow) for n in CONTROLLERS if n != "confidence_momentum"),
    ],
)
def test_a_loaded_controller_decides_the_same(data: Dataset, place: Path, name: str) -> None:
    original, loaded = CONTROLLERS[name], load_controller(saved(place, name))
    assert (loaded.name, loaded.probe_everything) == (original.name, original.probe_everything)
    assert (loaded.bounds, loaded.samples, loaded.opens) == (original.bounds, original.samples, original.opens)
    for width in WIDTHS:
        chex.assert_trees_all_equal(outcome_of(loaded, data, width), outcome_of(original, data, width))


def test_under_vmap_and_on_two_devices(data: Dataset, place: Path) -> None:
    original, loaded = CONTROLLERS["parallel_probe"], load_controller(saved(place, "parallel_probe"))
    expected = outcome_of(original, data, 24)
    orders = autotts_jax.published_orders(data.store, 2, 24)

    def one(beta: jax.Array) -> Outcome:
        params = jax.tree.map(lambda leaf: leaf[None], loaded.schedule(beta))
        return jax.tree.map(lambda leaf: leaf[0], evaluate(loaded, data.store, params, orders))

    chex.assert_trees_all_equal(jax.jit(jax.vmap(one), compiler_options=QUICKLY)(BETAS), expected)
    # What an exported schedule returns belongs to a device, and JAX moves no such array to several by itself.
    params = jax.device_get(jax.vmap(loaded.schedule)(BETAS))
    found = replayed(loaded, data.store, params, orders, devices=tuple(jax.devices()[:2]))
    chex.assert_trees_all_equal(found, expected)


def test_in_a_sweep(data: Dataset, place: Path) -> None:
    usual = {"betas": [0.4, 1], "shuffles": 2}
    tables = []
    for controller in (CONTROLLERS["early_stopping"], load_controller(saved(place, "early_stopping"))):
        settings = [Setting(controller, {"max_samples": 20}), Setting(controller, {"max_samples": 24, "beta": 1})]
        tables.append(autotts_jax.sweep(data, settings, **usual).table)
    assert tables[0].equals(tables[1])


@pytest.mark.slow
def test_it_keeps_the_contract(place: Path) -> None:
    """Also one that was loaded can be checked, and saved again."""
    loaded = load_controller(saved(place, "self_consistency"))
    assert check_controller(loaded).notes == ()


# --- values ----------------------------------------------------------------------------------------------------------


def test_two_loads_are_one_value(data: Dataset, place: Path) -> None:
    path = saved(place, "self_consistency")
    one, two = load_controller(path), load_controller(path)
    assert one is not two
    assert one == two
    assert hash(one) == hash(two)
    assert one != load_controller(saved(place, "early_stopping"))
    chex.clear_trace_counter()
    traced = chex.assert_max_traces(evaluate, n=1)
    run = jax.jit(traced, static_argnums=0, compiler_options=QUICKLY)
    orders = autotts_jax.published_orders(data.store, 1, 24)
    for controller in (one, two):
        run(controller, data.store, jax.vmap(controller.schedule)(BETAS), orders)


def test_saving_twice_gives_the_same_bytes(place: Path, tmp_path: Path) -> None:
    path = saved(place, "self_consistency")
    again, digest = tmp_path / "again.zip", None
    for source in (CONTROLLERS["self_consistency"], load_controller(path)):
        found = save_controller(source, again, widths=WIDTHS)
        digest = digest or found
        if source is CONTROLLERS["self_consistency"]:
            assert again.read_bytes() == path.read_bytes()
            assert found == digest
    # An export of an export is a call of the first; it decides the same, and has the same source text.
    texts = []
    for file in (path, again):
        with zipfile.ZipFile(file) as archive:
            texts.append(json.loads(archive.read("controller.json"))["source_text"])
    assert texts[0] == texts[1]
    assert "Self-consistency" in texts[0]


# --- what does not fit -----------------------------------------------------------------------------------------------


def test_another_width_is_refused(data: Dataset, place: Path) -> None:
    loaded = load_controller(saved(place, "self_consistency"))
    with pytest.raises(InputError, match=r"exported for 64 or 24 slots .* this replay has 32 .* widths=\(32,\)"):
        outcome_of(loaded, data, 32)
    for wrong in ((), (0,), (257,)):
        with pytest.raises(InputError, match="each must be from 1 to 256, and there must be at least one"):
            save_controller(CONTROLLERS["self_consistency"], place / "none.zip", widths=wrong)
    assert not (place / "none.zip").exists()


def entropic(params: Any, memory: Any, obs: Observation) -> Any:
    """Opens what there is, and answers the least uncertain."""
    entropy = jnp.where(obs.finished, obs.feature("entropy"), jnp.inf)
    answer = jnp.max(jnp.where(entropy == jnp.min(entropy), obs.answer, -1))
    done = (obs.round > 0) & ~jnp.any(obs.active)
    return memory, act(
        obs, branch=jnp.where(obs.round == 0, obs.unopened, 0), continue_=obs.active, stop=done, answer=answer
    )


ENTROPIC = Controller("entropic", lambda beta: {"beta": beta}, lambda params, obs: (), entropic)


def test_features_must_be_those_it_was_exported_for(tmp_path: Path) -> None:
    save_controller(ENTROPIC, tmp_path / "entropic.zip", widths=(8,), feature_names=("margin", "entropy"))
    loaded = load_controller(tmp_path / "entropic.zip")

    def run(controller: Controller, names: tuple[str, ...]) -> Outcome:
        store = _world(branches=8, feature_names=names)
        return replayed(controller, store, {"beta": BETAS}, autotts_jax.published_orders(store, 1, 8))

    chex.assert_trees_all_equal(run(loaded, ("margin", "entropy")), run(ENTROPIC, ("margin", "entropy")))
    for names in ((), ("entropy", "margin"), ("entropy",)):
        with pytest.raises(InputError, match="controller entropic: exported for 8 slots and the features"):
            run(loaded, names)
    with pytest.raises(InputError, match="feature 'entropy': not recorded"):
        save_controller(ENTROPIC, tmp_path / "none.zip", widths=(8,))


def test_what_breaks_the_contract_is_not_saved(tmp_path: Path) -> None:
    def calling(params: Any, memory: Any, obs: Observation) -> Any:
        answer = jax.pure_callback(lambda a: a, jax.ShapeDtypeStruct((), jnp.int32), jnp.max(obs.answer))
        return memory, act(obs, answer=answer)

    base = CONTROLLERS["self_consistency"]
    wrong = {"calling": calling, "shapeless": lambda params, memory, obs: (obs.depth, act(obs, answer=0))}
    for name, step in wrong.items():
        controller = Controller(name, base.schedule, base.init, step)
        with pytest.raises(InputError, match=f"{name}.step"):
            save_controller(controller, tmp_path / "wrong.zip")
    assert not list(tmp_path.iterdir())


# --- damage ----------------------------------------------------------------------------------------------------------


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewritten(path: Path, content: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def test_flipped_bits_are_never_silently_different(place: Path, tmp_path: Path) -> None:
    path = saved(place, "early_stopping")
    good, original = path.read_bytes(), load_controller(path)
    rng = np.random.default_rng(0)
    damaged, refused = tmp_path / "damaged.zip", 0
    for place_, bit in zip(rng.integers(0, len(good), 60), rng.integers(0, 8, 60), strict=True):
        flipped = bytearray(good)
        flipped[place_] ^= 1 << int(bit)
        damaged.write_bytes(flipped)
        try:
            found = load_controller(damaged)
        except InputError:
            refused += 1
        else:
            assert found == original  # what a zip file says twice may differ once
    assert refused >= 50


def test_damaged_files_are_refused(place: Path, tmp_path: Path) -> None:
    path, bad = saved(place, "self_consistency"), tmp_path / "bad.zip"
    good = path.read_bytes()
    for content in (b"", b"no zip", good[: len(good) // 2], good[:-1], good[100:]):
        bad.write_bytes(content)
        with pytest.raises(InputError, match=r"bad\.zip: not a controller artefact"):
            load_controller(bad)
    with pytest.raises(InputError, match=r"gone\.zip: no such file"):
        load_controller(tmp_path / "gone.zip")
    with pytest.raises(InputError, match="not a controller artefact"):
        load_controller(tmp_path)
    inside = members(path)
    for name in inside:
        rewritten(bad, {key: value for key, value in inside.items() if key != name})
        with pytest.raises(InputError, match=r"bad\.zip: (not a controller artefact|its digest is)"):
            load_controller(bad)
    about = json.loads(inside["controller.json"])
    swapped = inside | {"init-64": inside["step-64"], "step-64": inside["init-64"]}
    renamed = inside | {"controller.json": json.dumps(about | {"name": "other"}).encode()}
    more = inside | {"step-65": inside["step-64"]}
    for content in (swapped, renamed, more):
        with pytest.raises(InputError, match="damaged"):
            load_controller(rewritten(bad, content))
    assert load_controller(rewritten(bad, inside)) == load_controller(path)


def test_what_it_describes_must_be_there(place: Path, tmp_path: Path) -> None:
    """Also with a digest that fits."""
    inside = members(saved(place, "self_consistency"))
    inside.pop("digest")
    description = json.loads(inside.pop("controller.json"))

    def sealed(description: dict[str, Any], programs: dict[str, bytes]) -> Path:
        text = json.dumps(description)
        digest = autotts_jax.artefacts.Artefact(text, programs).digest
        members = {"controller.json": text.encode(), **programs, "digest": digest.encode()}
        return rewritten(tmp_path / "sealed.zip", members)

    assert load_controller(sealed(description, inside)).name == "self_consistency"
    with pytest.raises(InputError, match="not what it describes"):
        load_controller(sealed(description, {k: v for k, v in inside.items() if k != "step-24"}))
    with pytest.raises(InputError, match="not what it describes"):
        load_controller(sealed(description | {"widths": [64, 24, 32]}, inside))
    for wrong in ({"format": 2}, {"widths": "many"}, {"more": 1}, {"bounds": None}):
        with pytest.raises(InputError, match="not a controller artefact"):
            load_controller(sealed(description | wrong, inside))


def test_no_python_of_the_file_is_run(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source comes along as text only, whatever it says."""
    inside = members(saved(place, "self_consistency"))
    inside.pop("digest")
    trap = f"open({str(tmp_path / 'sprung')!r}, 'w')"
    text = json.dumps(json.loads(inside.pop("controller.json")) | {"source_text": trap, "source": trap})
    digest = autotts_jax.artefacts.Artefact(text, inside).digest
    path = rewritten(tmp_path / "trap.zip", {"controller.json": text.encode(), **inside, "digest": digest.encode()})

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the file's text is run")

    with monkeypatch.context() as patched:
        for name in ("exec", "eval", "compile"):
            patched.setattr(f"builtins.{name}", refuse)
        loaded = load_controller(path)
    store = _world(questions=2, branches=9)
    outcome = replayed(loaded, store, jax.vmap(loaded.schedule)(BETAS), autotts_jax.published_orders(store, 1, 24))
    assert outcome.opened.max() == 9
    assert loaded.source == trap
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["parallel_probe", "early_stopping", "confidence_momentum"])
def test_a_schedule_stays_data(name: str, tmp_path: Path) -> None:
    controller = CONTROLLERS[name]
    save_controller(controller, tmp_path / "c.zip", widths=(8,))
    artefact = read_artefact(tmp_path / "c.zip")
    if not isinstance(controller.schedule, Schedule):
        assert artefact.schedule is None
        return
    assert artefact.schedule is not None
    assert artefact.schedule.named_lines == controller.schedule.named_lines
    np.testing.assert_array_equal(artefact.schedule.ends, controller.schedule.ends)
    betas = jnp.linspace(0, 1, 11)
    found, wanted = (jax.tree.leaves(jax.vmap(s)(betas)) for s in (artefact.schedule, controller.schedule))
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a, b)
