"""What a controller must not get out of the data, or around the rules, and that it does not."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback
from scipy.stats import rankdata, spearmanr

from autotts_jax import (
    READ_TO_END,
    ContractError,
    Controller,
    Dataset,
    Observation,
    Outcome,
    Schedule,
    Setting,
    act,
    check_controller,
    environment,
    evaluate,
    fresh_slots,
    pack,
    published_orders,
    rows_of,
    synthetic_trajectories,
    traces,
    whole,
)
from autotts_jax.artefacts import export_controller
from autotts_jax.controllers import check_shapes, tracing
from autotts_jax.environment import World
from autotts_jax.testing import check_replay
from autotts_jax.trajectories import Question, Trajectories, read

pytestmark = pytest.mark.usefixtures("quickly")

# --- answer ids ------------------------------------------------------------------------------------------------------


def numbered(trajectories: Trajectories, seed: int) -> list[np.ndarray]:
    """Per question, ids as a permutation of its own answers' numbers: how answers are not to be numbered."""
    rng = np.random.default_rng(seed)
    return [rng.permutation(len(q.choices))[q.answers[:, 0]] for q in trajectories.questions]


def drawn(trajectories: Trajectories, seed: int) -> list[np.ndarray]:
    """Per question, the ids that the first probe of each branch reveals."""
    store = pack(trajectories, seed=seed).store
    return [store.answers[q, :n, 0].astype(int) for q, n in enumerate(store.branches)]


def told(files: list[Trajectories], ids: list[np.ndarray]) -> tuple[float, float, float]:
    """What a branch's first revealed id tells.

    Returns:
      Spearman's ρ with the question's number of distinct answers, and with its share of right branches; and the area
      under the curve of "this branch is right".
    """
    questions = [question for file in files for question in file.questions]
    right = []
    for question in questions:
        final = question.answers[np.arange(len(question.intervals)), question.intervals - 1]
        right.append(np.array([choice == question.gold for choice in question.choices])[final])
    sizes = [len(some) for some in right]
    flat, truth = np.concatenate(ids), np.concatenate(right)
    disagreement = np.repeat([len(question.choices) for question in questions], sizes)
    accuracy = np.repeat([some.mean() for some in right], sizes)
    positives = truth.sum()
    above = rankdata(flat)[truth].sum() - positives * (positives + 1) / 2
    area = above / (positives * (len(truth) - positives))
    return spearmanr(flat, disagreement).statistic, spearmanr(flat, accuracy).statistic, area


def test_ids_say_nothing(replay_directory: Path) -> None:
    """On the eight public files; an id is one draw per answer, so that ten seeds average what a seed happens to give.

    Numbered up to the question's own number of answers, they would say a lot.
    """
    files = [read(path) for path in sorted(replay_directory.glob("*/*.json"))]
    seeds = range(10)
    before, after = (
        np.mean([told(files, [ids for file in files for ids in number(file, seed)]) for seed in seeds], axis=0)
        for number in (numbered, drawn)
    )
    np.testing.assert_allclose(before, (0.78, -0.48, 0.26), atol=0.04)
    np.testing.assert_allclose(after, (0, 0, 0.5), atol=0.04)


# --- controllers that cheat ------------------------------------------------------------------------------------------


class Params(NamedTuple):
    branches: jax.Array


Answer = Callable[[Observation], jax.Array]


def init(params: Params, obs: Observation) -> tuple[()]:
    return ()


def reading(answer: Answer, branches: int = 1) -> Controller:
    """Reads so many branches to their end, and answers; a new function each time."""

    def step(params: Params, memory: tuple[()], obs: Observation) -> tuple[tuple[()], environment.Action]:
        opening = (obs.round == 0) & fresh_slots(obs, params.branches)
        reading = jnp.where(opening, READ_TO_END, 0)
        return memory, act(obs, open=opening, continue_=reading, stop=obs.round > 0, answer=answer(obs))

    return Controller("cheat", Schedule(Params(whole(branches, branches))), init, step)


def what_it_read(obs: Observation) -> jax.Array:
    return obs.answer[0]


HONEST = reading(what_it_read)

run = jax.jit(evaluate, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(scope="module")
def data() -> Dataset:
    return pack(synthetic_trajectories("Qwen3-1.7B/aime24", questions=10, branches=30))


@pytest.fixture(scope="module")
def orders(data: Dataset) -> np.ndarray:
    return published_orders(data.store, 8, 8)


@pytest.fixture(scope="module")
def honest(data: Dataset, orders: np.ndarray) -> Outcome:
    return replayed(HONEST, data, orders)


def params_of(controller: Controller) -> Params:
    return jax.vmap(controller.schedule)(jnp.zeros(1, jnp.float32))


def replayed(controller: Controller, data: Dataset, orders: np.ndarray) -> Outcome:
    return jax.device_get(run(controller, data.store, params_of(controller), orders))


def gold_by_tokens(data: Dataset) -> np.ndarray:
    """The gold answer's id by the number of tokens of a branch: right nearly always, after one branch."""
    store = data.store
    table = np.full(store.tokens.max() + 1, -2, np.int32)
    table[store.tokens] = store.gold[:, None]
    assert np.mean(table[store.tokens] == store.gold[:, None]) > 0.9
    return table


def refuses(controller: Controller, data: Dataset, orders: np.ndarray, said: str) -> None:
    """Whoever runs it learns why not, in one line that names it, before anything is compiled."""
    for use in (check_controller, functools.partial(replayed, data=data, orders=orders)):
        with pytest.raises(ContractError, match=said) as error:
            use(controller)
        assert str(error.value).startswith("cheat.step")
        assert "\n" not in str(error.value)


def test_honest_only_when_checked(data: Dataset, orders: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check cannot know what the function becomes elsewhere; there it is refused."""
    table = gold_by_tokens(data)

    def answer(obs: Observation) -> jax.Array:
        return what_it_read(obs) if "check" in sys.argv else jnp.asarray(table)[obs.tokens]

    with monkeypatch.context() as patched:
        patched.setattr(sys, "argv", ["autotts", "check", "cheat.py:CHEAT"])
        check_shapes(reading(answer))
    with pytest.raises(ContractError, match="brings along"):
        replayed(reading(answer), data, orders)


def test_honest_only_in_small_worlds() -> None:
    """Where branches are long, it hopes that the ids tell something."""

    def answer(obs: Observation) -> jax.Array:
        return jnp.where(obs.tokens < 6000, what_it_read(obs), jnp.max(obs.answer[:2]))

    with pytest.raises(ContractError, match="other answer ids and gold answers change answer"):
        check_controller(reading(answer, 2))


GLOBAL: dict[str, np.ndarray] = {}


def by_global(table: np.ndarray) -> Answer:
    globals()["TABLE"] = jnp.asarray(table)
    return lambda obs: globals()["TABLE"][obs.tokens]


def by_dict(table: np.ndarray) -> Answer:
    GLOBAL["table"] = table
    return lambda obs: jnp.asarray(GLOBAL["table"])[obs.tokens]


def by_partial(table: np.ndarray) -> Answer:
    return functools.partial(lambda table, obs: jnp.asarray(table)[obs.tokens], table)


def by_default(table: np.ndarray) -> Answer:
    return lambda obs, table=table: jnp.asarray(table)[obs.tokens]


def by_attribute(table: np.ndarray) -> Answer:
    there = SimpleNamespace(table=jnp.asarray(table))
    return lambda obs: there.table[obs.tokens]


def by_inner_function(table: np.ndarray) -> Answer:
    inner = jax.jit(lambda tokens: jnp.asarray(table)[tokens])
    return lambda obs: jax.lax.cond(obs.round > 0, inner, lambda tokens: jnp.int32(-1), obs.tokens)


def by_batching_rule(table: np.ndarray) -> Answer:
    """Brought along only when the function is batched."""

    @jax.custom_batching.custom_vmap
    def answer(tokens: jax.Array, read: jax.Array) -> jax.Array:
        return read

    @answer.def_vmap
    def _(size: int, batched: Any, tokens: jax.Array, read: jax.Array) -> tuple[jax.Array, bool]:
        return jnp.asarray(table)[tokens], True

    return lambda obs: answer(obs.tokens, what_it_read(obs))


def by_expressions(table: np.ndarray) -> Answer:
    some = [(np.int32(tokens), np.int32(table[tokens])) for tokens in np.flatnonzero(table > -2)]

    def answer(obs: Observation) -> jax.Array:
        found = what_it_read(obs)
        for tokens, gold in some:
            found = jnp.where(obs.tokens == tokens, gold, found)
        return found

    return answer


@pytest.mark.parametrize(
    "bring",
    [
        by_global,
        by_dict,
        by_partial,
        by_default,
        by_attribute,
        by_inner_function,
        by_batching_rule,
        by_expressions,
    ],
)
def test_a_table_of_the_right_answers(
    data: Dataset, orders: np.ndarray, bring: Callable[[np.ndarray], Answer]
) -> None:
    refuses(
        reading(bring(gold_by_tokens(data))), data, orders, r"cheat\.step brings along \d+ .* Make them parameters"
    )


def test_a_table_in_an_artefact(data: Dataset, orders: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever exports it may have a library of their own that lets it pass."""
    with monkeypatch.context() as patched:
        patched.setattr(tracing, "MAX_CONSTANTS", 10**6)
        loaded = export_controller(reading(by_default(gold_by_tokens(data))), (8,)).controller()
    refuses(loaded, data, orders, "brings along")


def test_small_tables_are_fine(data: Dataset, orders: np.ndarray) -> None:
    weights = np.arange(tracing.MAX_CONSTANTS, dtype=np.int32)
    honest_program = tracing.trace("table", lambda x: jnp.asarray(weights)[x], jnp.int32(0))
    assert honest_program(jnp.int32(7)) == 7
    with pytest.raises(ContractError, match=r"table brings along 257 numbers in arrays; at most 256"):
        tracing.trace("table", lambda x: jnp.asarray(np.append(weights, 0))[x], jnp.int32(0))


def gold_in(frame: Any) -> jax.Array | None:
    """The gold answer of the episode at hand, if any caller holds it."""
    while frame is not None:
        here = list(frame.f_locals.values())
        worlds = [value for value in here if isinstance(value, World)]
        episodes = [value for value in here if isinstance(value, environment.Episode)]
        if worlds and episodes:
            return jnp.asarray(worlds[0].store.gold)[episodes[0].question]
        frame = frame.f_back
    return None


def test_looking_for_the_store_in_callers(data: Dataset, orders: np.ndarray, honest: Outcome) -> None:
    asked = []

    def answer(obs: Observation) -> jax.Array:
        gold = gold_in(sys._getframe())
        asked.append(gold)
        return what_it_read(obs) if gold is None else gold

    chex.assert_trees_all_equal(replayed(reading(answer), data, orders), honest)
    assert asked == [None]


def test_looking_for_the_store_when_batched(data: Dataset, orders: np.ndarray, honest: Outcome) -> None:
    asked = []

    @jax.custom_batching.custom_vmap
    def answer(read: jax.Array) -> jax.Array:
        return read

    @answer.def_vmap
    def _(size: int, batched: Any, read: jax.Array) -> tuple[jax.Array, bool]:
        asked.append(gold_in(sys._getframe()))
        return read, True

    found = replayed(reading(lambda obs: answer(what_it_read(obs))), data, orders)
    chex.assert_trees_all_equal(found, honest)
    assert asked == [None]


def test_a_value_of_another_trace(data: Dataset, orders: np.ndarray) -> None:
    @jax.jit
    def embedded(gold: jax.Array) -> Outcome:
        cheat = reading(lambda obs: gold[0])
        return evaluate(cheat, data.store, params_of(cheat), orders)

    with pytest.raises(ContractError, match=r"cheat\.step closes over a value .* Make it a parameter"):
        embedded(jnp.asarray(data.store.gold))


def replacing(obs: Observation) -> jax.Array:
    environment.tokens = lambda episode, state, rules: jnp.int32(0)
    return what_it_read(obs)


def rewriting(obs: Observation) -> jax.Array:
    environment.tokens.__code__ = (lambda episode, state, rules: episode.tokens[0] * 0).__code__
    return what_it_read(obs)


def hiding(obs: Observation) -> jax.Array:
    environment.State.depth = property(lambda state: state.slots * 0)
    return what_it_read(obs)


@pytest.mark.parametrize(
    ("answer", "name"), [(replacing, "environment.tokens"), (rewriting, "tokens"), (hiding, "environment.State.depth")]
)
def test_changing_the_library(data: Dataset, orders: np.ndarray, answer: Answer, name: str) -> None:
    before = environment.tokens, environment.tokens.__code__, environment.State.depth
    refuses(reading(answer), data, orders, rf"cheat\.step replaces autotts_jax\.\S*{name} when it is traced")
    assert (environment.tokens, environment.tokens.__code__, environment.State.depth) == before


def pure(obs: Observation) -> jax.Array:
    there = jax.ShapeDtypeStruct((), jnp.int32)
    return jax.pure_callback(lambda x: x, there, what_it_read(obs), vmap_method="sequential")


def with_io(obs: Observation) -> jax.Array:
    return io_callback(lambda x: x, jax.ShapeDtypeStruct((), jnp.int32), what_it_read(obs))


def debugging(obs: Observation) -> jax.Array:
    jax.debug.callback(lambda x: None, obs.answer)
    return what_it_read(obs)


def within(obs: Observation) -> jax.Array:
    return jax.jit(lambda obs: jax.lax.cond(obs.round > 0, pure, what_it_read, obs))(obs)


@pytest.mark.parametrize("answer", [pure, with_io, debugging, within])
def test_calling_back(data: Dataset, orders: np.ndarray, answer: Answer) -> None:
    refuses(reading(answer), data, orders, r"cheat\.step calls back into Python or has another side effect \(\w+\)")


def test_an_answer_that_was_never_shown(data: Dataset, orders: np.ndarray) -> None:
    """An id from elsewhere is right where the branch showed it, and nowhere else; in every driver."""
    store, first = data.store, orders[:, :, 0]
    remembered = int(store.gold[0])
    cheat = reading(lambda obs: jnp.int32(remembered))
    found = jax.tree.map(lambda leaf: leaf[0], replayed(cheat, data, orders))
    question = np.arange(len(data))[:, None]
    shown = (store.answers[question, first] == remembered).any(axis=-1)
    assert shown.any()
    assert not shown.all()
    np.testing.assert_array_equal(found.unshown, ~shown)
    np.testing.assert_array_equal(found.answer, np.where(shown, remembered, -1))
    np.testing.assert_array_equal(found.correct, shown & (store.gold[:, None] == remembered))

    row = rows_of(Setting(cheat), [0])[0]
    where = list(np.ndindex(*first.shape))
    recording = traces.record_episodes(data, row, orders, where)
    recorded = jax.tree.map(lambda leaf: leaf.reshape(first.shape), recording.outcome)
    chex.assert_trees_all_equal(recorded, found)
    told = traces.decode(data, row, orders, recording, int(np.argmin(shown)))
    assert told.outcome["answer"] is None


def test_shown_up_to_the_newest_probe() -> None:
    """One branch of four intervals, of which three are generated and the second is probed, then pruned."""

    class Given(NamedTuple):
        answer: jax.Array

    def step(params: Given, memory: tuple[()], obs: Observation) -> tuple[tuple[()], environment.Action]:
        start = obs.round == 0
        return memory, act(
            obs,
            open=start & fresh_slots(obs, 1),
            continue_=(obs.round < 2) & (obs.active | fresh_slots(obs, 1)),
            probe=start,
            prune=obs.round == 2,
            stop=obs.round > 2,
            answer=params.answer,
        )

    found = {}
    for everything in (False, True):
        branches = [(["a", "b", "c"], 2000, "d")] * 2
        data = pack(Trajectories([Question.from_branches("", "c", 500, branches)]))
        ids = {text: number for number, text in data.choices[0].items()}
        given = Given(jnp.asarray([ids[text] for text in "abcd"], jnp.int32))
        controller = Controller("given", lambda beta: Given(jnp.int32(0)), init, step, probe_everything=everything)
        orders = published_orders(data.store, 1, 8)
        found[everything] = jax.device_get(run(controller, data.store, given, orders)).unshown.ravel().tolist()
    assert found == {False: [False, False, True, True], True: [False, False, False, True]}


def test_ids_known_by_heart(data: Dataset, orders: np.ndarray) -> None:
    """Few numbers, all of them shown, and the sound check knows nothing of this data; on the data itself it shows."""
    golds = data.store.gold

    def answer(obs: Observation) -> jax.Array:
        known = jnp.isin(obs.answer, jnp.asarray(golds))
        return jnp.max(jnp.where(known, obs.answer, what_it_read(obs)))

    cheat = reading(answer, 8)
    assert replayed(cheat, data, orders).correct.mean() > replayed(HONEST, data, orders).correct.mean()
    with pytest.raises(ContractError, match=r"change \w+ of \d+ episodes, as with parameters 0, question \d"):
        check_replay(cheat, data, params_of(cheat), orders)


def test_an_honest_controller_replays_the_same_in_disguise(data: Dataset, orders: np.ndarray) -> None:
    assert check_replay(HONEST, data, params_of(HONEST), orders) == ()


# --- traced alone ----------------------------------------------------------------------------------------------------


def test_traced_once(data: Dataset, orders: np.ndarray) -> None:
    """However often and wherever it is replayed."""
    calls = []

    def answer(obs: Observation) -> jax.Array:
        calls.append(obs.width)
        return what_it_read(obs)

    counted = reading(answer)
    for _ in range(2):
        replayed(counted, data, orders)
    traces.trace(data, rows_of(Setting(counted), [0])[0], orders, 0, 0)
    assert calls == [8]


def test_settings_of_the_caller_hold() -> None:
    """Those of its own thread, too."""

    def function(x: jax.Array) -> jax.Array:
        return jnp.exp(x.astype(jnp.float64))

    with jax.enable_x64(True):
        assert tracing.trace("wide", function, jnp.float32(1)).out.dtype == np.float64
    narrow = tracing.trace("wide", lambda x: x + 1, jnp.float32(1)).out
    assert narrow.dtype == np.float32
    with jax.numpy_dtype_promotion("strict"), pytest.raises(Exception, match="promotion"):
        tracing.trace("mixed", lambda x: x + jnp.int16(1), jnp.int32(1))
    with jax.numpy_dtype_promotion("standard"):
        assert tracing.trace("mixed", lambda x: x + jnp.int16(1), jnp.int32(1)).out.dtype == np.int32
