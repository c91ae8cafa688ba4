"""Every built-in controller keeps the contract, and `check_controller` finds those that break it."""

import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autotts_jax
from autotts_jax import (
    CONTROLLERS,
    NO_ANSWER,
    Action,
    ContractError,
    Controller,
    Observation,
    Outcome,
    Schedule,
    Setting,
    StopReason,
    act,
    check_controller,
    environment,
    evaluate,
    fresh_slots,
    plurality,
    pool_tally,
    published_orders,
    real,
    rows_of,
    traces,
    whole,
)
from autotts_jax.environment import MAX_WAITS, Episode, State, World
from autotts_jax.testing import _world

pytestmark = pytest.mark.usefixtures("quickly")


FAST = ("confidence_momentum", "self_consistency")


@pytest.mark.parametrize(
    "name", [*FAST, *(pytest.param(n, marks=pytest.mark.slow) for n in CONTROLLERS if n not in FAST)]
)
def test_built_in_controllers_keep_the_contract(name: str) -> None:
    report = check_controller(CONTROLLERS[name])
    assert len(report.passed) == 14
    assert report.notes == ()


@pytest.mark.parametrize("name", CONTROLLERS)
def test_beta_spans_the_published_range(name: str) -> None:
    controller = CONTROLLERS[name]
    low, high = (controller.schedule(jnp.float32(beta)) for beta in (0, 1))
    if controller.samples:
        assert (getattr(low, controller.samples), getattr(high, controller.samples)) == (1, 64)
    for params in (low, high):
        for field, (least, greatest) in controller.bounds.items():
            assert least <= float(getattr(params, field)) <= greatest
    assert set(controller.bounds) == set(low._fields)


# --- a controller to break ---------------------------------------------------------------------------------------


class Params(NamedTuple):
    branches: jax.Array


def schedule(beta: jax.Array) -> Params:
    return Params(jnp.round(1 + 9 * beta).astype(jnp.int32))


def init(params: Params, obs: Observation) -> jax.Array:
    return jnp.zeros((), jnp.float32)


def step(params: Params, memory: jax.Array, obs: Observation) -> tuple[jax.Array, Action]:
    done = (obs.opened > 0) & ~jnp.any(obs.active)
    return memory, act(
        obs,
        branch=jnp.where(obs.round == 0, jnp.minimum(params.branches.astype(jnp.int32), obs.unopened), 0),
        continue_=obs.active,
        stop=done,
        answer=pool_tally(obs).winner,
    )


GOOD = Controller("good", schedule, init, step)


def acting(**changes: Callable[[Observation], Any]) -> Callable[..., tuple[jax.Array, Action]]:
    """`step` with fields of its action replaced."""

    def changed(params: Params, memory: jax.Array, obs: Observation) -> tuple[jax.Array, Action]:
        memory, action = step(params, memory, obs)
        return memory, dataclasses.replace(action, **{key: make(obs) for key, make in changes.items()})

    return changed


def test_the_controller_to_break_is_sound() -> None:
    assert check_controller(GOOD).notes == ()


def impatient_init(params: Params, obs: Observation) -> jax.Array:
    if params.branches > 3:
        return jnp.ones((), jnp.float32)
    return jnp.zeros((), jnp.float32)


def of_64_slots(params: Params, obs: Observation) -> jax.Array:
    return jnp.zeros(64, jnp.int32)


def adding_depths(params: Params, memory: jax.Array, obs: Observation) -> tuple[jax.Array, Action]:
    return memory + obs.depth, step(params, jnp.zeros((), jnp.float32), obs)[1]


def forgetful(params: Params, memory: jax.Array, obs: Observation) -> tuple[Any, Action]:
    return memory.astype(jnp.int32), step(params, memory, obs)[1]


def not_a_number(params: Params, memory: jax.Array, obs: Observation) -> tuple[jax.Array, Action]:
    return memory / 0, step(params, memory, obs)[1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schedule": lambda b: Params(b > 0.5)}, "schedule: branches is bool"),
        ({"schedule": lambda b: ()}, "returns no parameters"),
        (
            {"schedule": lambda b: Params(jnp.abs(b - jnp.float32(0.5)))},
            "branches is not monotone in β: it turns at β = 0.51",
        ),
        ({"schedule": lambda b: Params(jnp.sin(9 * b))}, "branches is not monotone in β: it turns at β = 0.18"),
        ({"schedule": lambda b: Params(1 / b)}, "branches is not finite at β = 0.00"),
        ({"schedule": lambda b: Params(2 * b), "bounds": {"branches": (0, 1)}}, "outside its bounds 0 to 1"),
        (
            {"init": impatient_init},
            r"init \(line \d+: if params.branches > 3:\) raises TracerBoolConversionError",
        ),
        (
            {"init": lambda params: jnp.zeros((), jnp.float32)},
            r"broken.init takes one argument. Write init\(params, obs\)",
        ),
        (
            {"init": of_64_slots, "step": adding_depths},
            "It passes with 64 slots and fails with 24: a number of slots is hard-coded. Use obs.width.",
        ),
        ({"opens": ("breadth",)}, "broken.opens: there is no parameter breadth."),
        (
            {"opens": ("branches",), "step": acting(open=lambda o: (o.round == 0) & fresh_slots(o, 11))},
            "opens 11 branches, more than its opens parameters allow: 1.",
        ),
        (
            {"opens": ("branches",), "step": acting(stop=lambda o: (o.opened > 0) & (o.unopened > 40))},
            "leaving out slots that opens says it never opens changes",
        ),
        ({"step": lambda p, m, o: m}, r"does not return \(memory, Action\)"),
        ({"step": forgetful}, "memory: the value is int32.* instead of float32"),
        ({"step": acting(prune=lambda o: o.depth)}, r"action: prune is int32\[64\] instead of bool\[64\]"),
        ({"step": acting(answer=lambda o: o.depth)}, r"action: answer is int32\[64\] instead of int32\[\]"),
        ({"step": acting(answer=lambda o: jnp.int32(3))}, "answers id 3, which no branch has shown"),
        ({"step": not_a_number}, "memory.* becomes NaN"),
        ({"step": acting(answer=lambda o: jnp.max(o.answer))}, "other answer ids and gold answers change answer of"),
    ],
)
def test_breaches_are_found(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ContractError, match=said):
        check_controller(dataclasses.replace(GOOD, name="broken", **changes))


@pytest.mark.slow
def test_an_endless_controller_is_found() -> None:
    """Pruning nothing and asking for one more interval cannot go on, but probing in turns could for long."""
    slow = acting(stop=lambda o: jnp.asarray(False), continue_=lambda o: jnp.zeros(o.width, jnp.int32))
    report = check_controller(dataclasses.replace(GOOD, step=slow))
    assert "ended with a round that changed nothing" in report.notes[0]


@pytest.mark.slow
def test_waste_is_noted() -> None:
    greedy = acting(open=lambda o: o.round == jnp.zeros(o.width, jnp.int32))
    assert "inadmissible actions were masked" in check_controller(dataclasses.replace(GOOD, step=greedy)).notes[0]
    idle = acting(open=lambda o: jnp.zeros(o.width, bool))
    assert "no branch was ever opened." in check_controller(dataclasses.replace(GOOD, step=idle)).notes


_calls = iter(range(10**6))


def test_outside_state_is_found() -> None:
    """A step that depends on more than its arguments is another function each time it is traced."""

    def moody(params: Params, memory: jax.Array, obs: Observation) -> tuple[jax.Array, Action]:
        memory, action = step(params, memory, obs)
        longer = obs.active.astype(jnp.int32) * (1 + next(_calls) % 7)
        return memory, dataclasses.replace(action, continue_=longer)

    with pytest.raises(ContractError, match="Let the functions depend on their arguments only"):
        check_controller(dataclasses.replace(GOOD, step=moody))


def prober(params: Params, memory: jax.Array, obs: Observation) -> tuple[jax.Array, Action]:
    """Probes in every other round, and stops by what it sees."""
    vote = plurality(obs.answer, obs.answer >= 0)
    return memory, act(
        obs,
        branch=jnp.where(obs.round == 0, jnp.minimum(params.branches, obs.unopened), 0),
        continue_=jnp.where(obs.active, 1, 0),
        probe=(obs.round % 2 == 1) & obs.active,
        stop=(obs.round > 4) & ((vote.first >= 4) | ~jnp.any(obs.active)),
        answer=vote.winner,
    )


PROBER = Controller("prober", schedule, init, prober, probe_everything=False)


@pytest.mark.slow
def test_a_controller_may_probe_now_and_then() -> None:
    check_controller(PROBER)


def test_an_environment_that_shows_too_much_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    observe = environment.observe

    def leaking(world: World, episode: Episode, state: State) -> Observation:
        obs = observe(world, episode, state)
        answers = jnp.asarray(world.store.answers).reshape(-1)
        newest = answers[episode.row + jnp.maximum(obs.depth - 1, 0)].astype(jnp.int32)
        return dataclasses.replace(obs, answer=jnp.where(obs.depth > 0, newest, NO_ANSWER))

    monkeypatch.setattr(environment, "observe", leaking)
    with pytest.raises(ContractError, match="changing what no action has revealed"):
        check_controller(PROBER)


# --- waiting ---------------------------------------------------------------------------------------------------------


class Naps(NamedTuple):
    rounds: jax.Array


def sleeping(params: Naps, memory: jax.Array, obs: Observation) -> tuple[jax.Array, Action]:
    """Reads three branches, sleeps, and then answers."""
    start, awake = obs.round == 0, obs.round > params.rounds
    opening = start & fresh_slots(obs, 3)
    whole_branches = jnp.where(opening, autotts_jax.READ_TO_END, 0)
    answer = jnp.where(awake, pool_tally(obs).winner, NO_ANSWER)
    return memory, act(obs, open=opening, continue_=whole_branches, wait=True, stop=awake, answer=answer)


SLEEPER = Controller("sleeper", Schedule(Naps(whole(5, 20, least=0, greatest=500))), init, sleeping)


def slept(rounds: list[int], controller: Controller = SLEEPER) -> Outcome:
    store = _world()
    return jax.device_get(evaluate(controller, store, Naps(jnp.asarray(rounds)), published_orders(store, 2)))


def test_rounds_of_waiting_pass() -> None:
    assert check_controller(SLEEPER).notes == ()
    outcome = slept([0, 5, MAX_WAITS])
    assert (outcome.stop_reason == StopReason.ANSWERED).all()
    assert (outcome.rounds == np.array([2, 7, MAX_WAITS + 2])[:, None, None]).all()
    assert not outcome.idle.any()
    for field in ("answer", "tokens", "cost", "refused"):
        found = getattr(outcome, field)
        assert (found == found[0]).all(), field


def test_waiting_for_too_long_is_idling() -> None:
    """The first round opens; MAX_WAITS wait; the next that changes nothing ends the episode."""
    outcome = slept([MAX_WAITS + 1, 400])
    assert outcome.idle.all()
    assert (outcome.rounds == MAX_WAITS + 2).all()
    assert (outcome.answer == NO_ANSWER).all()
    never = dataclasses.replace(SLEEPER, schedule=Schedule(Naps(whole(300, 400))), bounds={})
    (note,) = check_controller(never).notes
    assert note.startswith("12 of 12 episodes ended with a round that changed nothing")


def test_waits_are_counted_in_a_row() -> None:
    """Between two naps of 80 rounds something happens."""

    def twice(params: Naps, memory: jax.Array, obs: Observation) -> tuple[jax.Array, Action]:
        opening = (obs.round % 80 == 0) & fresh_slots(obs, 1)
        return memory, act(obs, open=opening, wait=True, stop=obs.round > 170, answer=NO_ANSWER)

    outcome = slept([0], dataclasses.replace(SLEEPER, step=twice))
    assert (outcome.stop_reason == StopReason.ANSWERED).all()
    assert (outcome.opened == 3).all()


# --- parameters and numbers of other kinds ---------------------------------------------------------------------------


class Weighted(NamedTuple):
    branches: jax.Array
    weights: jax.Array


def weighing(params: Weighted, memory: jax.Array, obs: Observation) -> tuple[jax.Array, Action]:
    """Branches in the earlier thirds of the slots count as the weights say."""
    third = jnp.minimum(jnp.arange(obs.width, dtype=jnp.int32) // 3, 2)
    vote = autotts_jax.weighted_plurality(obs.answer, params.weights[third], obs.finished)
    action = step(Params(params.branches), memory, obs)[1]
    return memory, dataclasses.replace(action, answer=vote.winner)


WEIGHING = Controller(
    "weighing",
    Schedule(Weighted(branches=whole(2, 9), weights=real((0.1, 0.25, 1.0), (0.9, 0.75, 0.5), least=0))),
    init,
    weighing,
    opens=("branches",),
)


@pytest.mark.slow
def test_a_parameter_may_be_a_vector(tmp_path: Path) -> None:
    assert check_controller(WEIGHING).notes == ()
    data = autotts_jax.pack(autotts_jax.synthetic_trajectories(questions=3, branches=10))
    results = autotts_jax.sweep(data, [WEIGHING, Setting(WEIGHING, {"branches": 4})], betas=[0, 1], shuffles=2)
    expected = [
        {"branches": 2, "weights": [0.1, 0.25, 1.0]},
        {"branches": 9, "weights": [0.9, 0.75, 0.5]},
        {"branches": 4, "weights": [0.1, 0.25, 1.0]},
        {"branches": 4, "weights": [0.9, 0.75, 0.5]},
    ]
    assert [json.loads(row["params"]) for row in results.table.to_pylist()] == expected
    results.write(tmp_path, per_question=True)
    written = list(csv.DictReader((tmp_path / "results.csv").read_text(encoding="utf-8").splitlines()))
    assert [json.loads(row["params"]) for row in written] == expected

    rows = rows_of(Setting(WEIGHING), [0, 1])
    orders = published_orders(data.store, 2)
    told = [[traces.trace(data, row, orders, q, s) for q in range(3) for s in range(2)] for row in rows]
    assert [episodes[0].params for episodes in told] == expected[:2]
    for episodes, row in zip(told, results.table.to_pylist(), strict=False):
        assert sum(episode.outcome["correct"] for episode in episodes) == row["correct"]
        assert sum(episode.outcome["tokens"] for episode in episodes) == row["tokens_total"]
    with pytest.raises(autotts_jax.InputError, match=r"it has 3 values\. Only scalars can be given"):
        Setting(WEIGHING, {"weights": 0.5})


@pytest.mark.slow
@pytest.mark.parametrize("x64", [True], indirect=True)
def test_double_precision_inside_a_step(x64: bool) -> None:
    def exact(params: Params, memory: jax.Array, obs: Observation) -> tuple[jax.Array, Action]:
        share = obs.tokens.astype(jnp.float64) / (obs.opened + 1).astype(jnp.float64)
        assert share.dtype == np.float64
        mean = memory.astype(jnp.float64) + jnp.log1p(share)
        action = step(params, memory, obs)[1]
        return mean.astype(jnp.float32), dataclasses.replace(action, stop=action.stop | (mean > 60))

    controller = dataclasses.replace(GOOD, name="exact", step=exact)
    assert check_controller(controller).notes == ()
    store = _world()
    params = jax.vmap(controller.schedule)(jnp.asarray([0, 1], jnp.float32))
    outcome = evaluate(controller, store, params, published_orders(store, 1))
    assert {leaf.dtype for leaf in jax.tree.leaves(outcome)} == {np.dtype(np.int32), np.dtype(bool)}


@pytest.mark.parametrize("x64", [True], indirect=True)
def test_double_precision_outside_a_step_is_named(x64: bool) -> None:
    def wide(params: Params, memory: jax.Array, obs: Observation) -> tuple[jax.Array, Action]:
        return memory.astype(jnp.float64), step(params, memory, obs)[1]

    with pytest.raises(ContractError, match=r"memory: the value is float64\[\] instead of float32"):
        check_controller(dataclasses.replace(GOOD, name="wide", step=wide))
