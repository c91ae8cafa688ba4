"""`evaluate` as part of somebody else's JAX program."""

import functools
import re
import subprocess
import sys
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autotts_jax
from autotts_jax import (
    COMPILER_OPTIONS,
    CONTROLLERS,
    CostModel,
    InputError,
    Outcome,
    Rules,
    environment,
    evaluate,
    rollout,
)
from autotts_jax.environment import World
from autotts_jax.replay import ReplayStore
from autotts_jax.rollout import evaluate_and_count
from autotts_jax.testing import _world

CMC = CONTROLLERS["confidence_momentum"]
BETAS = np.linspace(0, 1, 4, dtype=np.float32)


@pytest.fixture(scope="module")
def store() -> ReplayStore:
    return jax.tree.map(jnp.asarray, _world(questions=3, branches=20, depth=9))


@pytest.fixture(scope="module")
def orders(store: ReplayStore) -> jax.Array:
    return jnp.asarray(autotts_jax.published_orders(store, 2))


@pytest.fixture(scope="module")
def expected(store: ReplayStore, orders: jax.Array) -> Outcome:
    return evaluate(CMC, store, jax.vmap(CMC.schedule)(BETAS), orders)


def test_shapes_and_dtypes(expected: Outcome) -> None:
    for leaf in jax.tree.leaves(expected):
        chex.assert_shape(leaf, (4, 3, 2))
        assert leaf.dtype in (jnp.int32, jnp.bool_)


def test_under_jit_nothing_retraces(store: ReplayStore, orders: jax.Array, expected: Outcome) -> None:
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(store: ReplayStore, betas: jax.Array, orders: jax.Array) -> Outcome:
        return evaluate(CMC, store, jax.vmap(CMC.schedule)(betas), orders)

    chex.assert_trees_all_equal(run(store, BETAS, orders), expected)
    other = jax.tree.map(jnp.asarray, _world(questions=3, branches=20, depth=9, seed=1))
    run(other, BETAS / 2, orders[:, ::-1])


def test_under_vmap(store: ReplayStore, orders: jax.Array, expected: Outcome) -> None:
    def one(beta: jax.Array) -> Outcome:
        params = jax.tree.map(lambda leaf: leaf[None], CMC.schedule(beta))
        return jax.tree.map(lambda leaf: leaf[0], evaluate(CMC, store, params, orders))

    chex.assert_trees_all_equal(jax.jit(jax.vmap(one))(BETAS), expected)


def test_vmapped_parameters_join_the_queue(store: ReplayStore, orders: jax.Array, expected: Outcome) -> None:
    """They do not multiply the lanes, which would run until the slowest of them ends."""

    def pair(betas: jax.Array) -> tuple[Outcome, jax.Array]:
        return evaluate_and_count(CMC, store, jax.vmap(CMC.schedule)(betas), orders)

    outcome, ran = jax.jit(jax.vmap(jax.vmap(pair)))(BETAS.reshape(2, 1, 2))
    chex.assert_trees_all_equal(jax.tree.map(lambda leaf: leaf.reshape(4, 3, 2), outcome), expected)
    assert np.sum(ran) == pair(BETAS)[1]
    # Parameters that only some leaves of vary.
    params = jax.vmap(CMC.schedule)(BETAS)
    some = jax.vmap(lambda widen: evaluate(CMC, store, params._replace(widen=widen), orders))
    outcome = some(jnp.stack([params.widen, params.widen + 1]))
    chex.assert_trees_all_equal(jax.tree.map(lambda leaf: leaf[0], outcome), expected)


@pytest.mark.slow
def test_under_vmap_of_orders_and_stores(store: ReplayStore, orders: jax.Array, expected: Outcome) -> None:
    params = jax.vmap(CMC.schedule)(BETAS)
    by_shuffle = jax.vmap(lambda orders: evaluate(CMC, store, params, orders[:, None]), in_axes=1, out_axes=3)(orders)
    chex.assert_trees_all_equal(jax.tree.map(lambda leaf: leaf[:, :, 0], by_shuffle), expected)

    def one(store: ReplayStore, orders: jax.Array, beta: jax.Array) -> Outcome:
        one_question = jax.tree.map(lambda leaf: leaf[None], store)
        return evaluate(CMC, one_question, jax.vmap(CMC.schedule)(beta[None]), orders[None])

    by_question = jax.jit(jax.vmap(one))(store, orders, BETAS[:3])
    for q in range(3):
        chex.assert_trees_all_equal(
            jax.tree.map(lambda leaf, q=q: leaf[q, 0, 0], by_question),
            jax.tree.map(lambda leaf, q=q: leaf[q, q], expected),
        )


def test_occupancy(store: ReplayStore, orders: jax.Array, expected: Outcome) -> None:
    params = jax.vmap(CMC.schedule)(BETAS)
    outcome, ran = evaluate_and_count(CMC, store, params, orders, lanes=1)
    assert ran == outcome.rounds.sum()
    _, ran = evaluate_and_count(CMC, store, params, orders, lanes=1, rounds=7)
    assert ran == (-(-outcome.rounds // 7) * 7).sum()
    _, ran = evaluate_and_count(CMC, store, params, orders, lanes=100)
    assert ran == 24 * outcome.rounds.max()


def test_under_scan(store: ReplayStore, orders: jax.Array, expected: Outcome) -> None:
    def body(total: jax.Array, beta: jax.Array) -> tuple[jax.Array, Outcome]:
        outcome = evaluate(CMC, store, jax.vmap(CMC.schedule)(beta[None]), orders)
        return total + jnp.sum(outcome.tokens, dtype=jnp.int32), jax.tree.map(lambda leaf: leaf[0], outcome)

    total, outcomes = jax.jit(lambda betas: jax.lax.scan(body, jnp.int32(0), betas))(BETAS)
    chex.assert_trees_all_equal(outcomes, expected)
    assert total == expected.tokens.sum()


@pytest.mark.slow
def test_without_jit(store: ReplayStore, orders: jax.Array, expected: Outcome) -> None:
    params = jax.vmap(CMC.schedule)(BETAS[1:2])
    with jax.disable_jit():
        outcome = evaluate(CMC, store, params, orders[:, :1])
    chex.assert_trees_all_equal(outcome, jax.tree.map(lambda leaf: leaf[1:2, :, :1], expected))


def test_under_x64(store: ReplayStore, orders: jax.Array, expected: Outcome, x64: bool) -> None:
    outcome = evaluate(CMC, store, jax.vmap(CMC.schedule)(BETAS), orders)
    chex.assert_trees_all_equal_dtypes(outcome, expected)
    chex.assert_trees_all_equal(outcome, expected)


def test_on_several_devices(store: ReplayStore, orders: jax.Array, expected: Outcome) -> None:
    params = jax.vmap(CMC.schedule)(BETAS)
    run = jax.jit(evaluate, static_argnames=("controller", "devices"))
    for devices in (jax.devices()[:1], jax.devices()[:2]):
        outcome = run(CMC, store, params, orders[:, :1], devices=tuple(devices))
        chex.assert_trees_all_equal(outcome, jax.tree.map(lambda leaf: leaf[:, :, :1], expected))


@pytest.mark.parametrize(("lanes", "rounds"), [(1, 1), (5, 3), (20, 1), (1000, 4)])
def test_any_number_of_lanes(
    store: ReplayStore, orders: jax.Array, expected: Outcome, lanes: int, rounds: int
) -> None:
    outcome = evaluate(CMC, store, jax.vmap(CMC.schedule)(BETAS), orders, lanes=lanes, rounds=rounds)
    chex.assert_trees_all_equal(outcome, expected)


def test_numpy_arrays_will_do(store: ReplayStore, orders: jax.Array, expected: Outcome) -> None:
    host, params = jax.device_get((store, jax.vmap(CMC.schedule)(BETAS)))
    chex.assert_trees_all_equal(evaluate(CMC, host, params, np.asarray(orders)), expected)


def test_budget_as_a_runtime_value(store: ReplayStore, orders: jax.Array) -> None:
    """A sweep over budgets is a vmap over rules."""
    params = jax.vmap(CMC.schedule)(BETAS[-1:])

    def run(budget: jax.Array) -> Outcome:
        return evaluate(CMC, store, params, orders, Rules(cost=CostModel.INTERVALS, budget=budget))

    outcome = jax.jit(jax.vmap(run))(jnp.array([0, 5, 40, 2**30], jnp.int32))
    most = outcome.cost.max(axis=(1, 2, 3))
    assert most[0] == 0
    assert most[1] == 5
    assert most[2] == 40
    unlimited = evaluate(CMC, store, params, orders, Rules(cost=CostModel.INTERVALS))
    chex.assert_trees_all_equal(jax.tree.map(lambda leaf: leaf[3], outcome), unlimited)


def test_wrong_shapes_are_refused(store: ReplayStore, orders: jax.Array) -> None:
    params = jax.vmap(CMC.schedule)(BETAS)
    wide = jnp.broadcast_to(orders[:, :, :1], (3, 2, 257))
    for wrong in (orders[:, :, :0], wide, orders[:2], orders[:, 0]):
        said = (
            f"orders: shape {wrong.shape}; it must be [Q, S, B], for this store [3, S, 1 to 256], Q and S at least 1."
        )
        with pytest.raises(InputError, match=re.escape(said)):
            evaluate(CMC, store, params, wrong)
    for leaf in (jnp.int32(1), jnp.ones(3, jnp.int32)):
        said = (
            f"params, leaf widen: shape {leaf.shape}; it must be [P, …], with the leading axis P = 4 as in the other"
        )
        with pytest.raises(InputError, match=re.escape(said)):
            evaluate(CMC, store, params._replace(widen=leaf), orders)
    with pytest.raises(InputError, match="with the leading axis P in every leaf"):
        evaluate(CMC, store, CMC.schedule(jnp.float32(0)), orders)


def test_no_reduction_over_slots_is_split() -> None:
    """XLA's tree_reduction_rewriter makes two stages, the first over 32 slots, which are not vectorised.

    The option names a pass of XLA, which ignores names that it does not know: both ways show that it still does.
    """
    wide = jax.tree.map(jnp.asarray, _world(questions=3, branches=70, depth=9))
    world = World.of(wide, Rules(), probe_everything=True)
    orders = jnp.asarray(autotts_jax.published_orders(wide, 32)).reshape(96, 64)

    def begin(question: jax.Array, order: jax.Array, beta: jax.Array) -> Any:
        episode = environment.deal(wide, question, order)
        params = CMC.schedule(beta)
        return episode, params, *rollout.begin(CMC, world, episode, params)

    questions = jnp.repeat(jnp.arange(3, dtype=jnp.int32), 32)
    lanes = jax.vmap(begin)(questions, orders, jnp.linspace(0, 1, 96, dtype=jnp.float32))
    one_round = jax.vmap(functools.partial(rollout.play_round, CMC), in_axes=(None, 0, 0, 0, 0))

    def windows(options: dict[str, Any]) -> set[str]:
        text = jax.jit(one_round, compiler_options=options).lower(world, *lanes).compile().as_text()
        assert " reduce(" in text
        return set(re.findall(r"= (\S+) reduce-window\(", text))

    passes = COMPILER_OPTIONS["xla_disable_hlo_passes"].split(",")
    assert "tree_reduction_rewriter" in passes
    others = ",".join(name for name in passes if name != "tree_reduction_rewriter")
    assert windows(COMPILER_OPTIONS) == set()
    # 64 slots in two halves of 32.
    assert any("[96,2]" in shape for shape in windows(COMPILER_OPTIONS | {"xla_disable_hlo_passes": others}))


def test_refilling_lanes_copies_none(store: ReplayStore, orders: jax.Array) -> None:
    """XLA must see that they are read before they are overwritten; else it copies each array of all lanes."""
    sc = CONTROLLERS["self_consistency"]
    run = jax.jit(evaluate, static_argnames=("controller", "lanes"), compiler_options=COMPILER_OPTIONS)
    params = jax.vmap(sc.schedule)(jnp.linspace(0, 1, 50, dtype=jnp.float32))
    text = run.lower(sc, store, params, orders, lanes=48).compile().as_text()
    loops, _, once = text.partition("ENTRY ")
    assert "[48,64]" in loops
    assert len(re.findall(r"\[48,64\]\S* copy\(", loops)) <= 2  # both of the inner loop
    assert "ROOT" in once


EIGHT_DEVICES = """
import jax
jax.config.update("jax_num_cpu_devices", 8)
import jax.numpy as jnp, numpy as np, re
import autotts_jax as tts
from autotts_jax.testing import _world
store = jax.tree.map(jnp.asarray, _world(questions=3, branches=20, depth=9))
orders = jnp.asarray(tts.published_orders(store, 5))
cmc = tts.CONTROLLERS["confidence_momentum"]
params = jax.vmap(cmc.schedule)(jnp.linspace(0, 1, 3, dtype=jnp.float32))
run = jax.jit(tts.evaluate, static_argnames=("controller", "devices"))
one = run(cmc, store, params, orders)
for n in (1, 2, 8):
    lowered = run.lower(cmc, store, params, orders, devices=tuple(jax.devices()[:n]))
    compiled = lowered.compile()
    many = compiled(store, params, orders)
    assert len(many.tokens.sharding.device_set) == n or n == 1, many.tokens.sharding
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many)):
        assert np.array_equal(a, b)
    # Computations in the compiled text that a loop runs: none of them may wait for another device.
    text = compiled.as_text()
    bodies = set(re.findall(r"(?:body|condition|to_apply|calls)=%?([\\w.-]+)", text))
    for name, body in re.findall(r"^%?([\\w.-]+) [^\\n]*{\\n(.*?)^}", text, flags=re.M | re.S):
        if name in bodies:
            assert not re.search(r"all-|collective-|reduce-scatter", body), name
print("same")
"""


@pytest.mark.slow
def test_on_eight_devices_without_waiting() -> None:
    """The same integers on 1, 2 and 8 devices, and no collective inside a loop of the compiled program."""
    done = subprocess.run([sys.executable, "-c", EIGHT_DEVICES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "same"
