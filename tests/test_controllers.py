"""Every built-in controller keeps the contract, and `check_controller` finds those that break it."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest

from autotts_jax import (
    CONTROLLERS,
    NO_ANSWER,
    Action,
    ContractError,
    Controller,
    Observation,
    ReplayStore,
    Rules,
    act,
    check_controller,
    environment,
    plurality,
)
from autotts_jax.environment import SLOTS, Episode, State

pytestmark = pytest.mark.usefixtures("quickly")


@pytest.mark.parametrize("name", CONTROLLERS)
def test_built_in_controllers_keep_the_contract(name: str) -> None:
    report = check_controller(CONTROLLERS[name])
    assert len(report.passed) == 10
    assert report.notes == ()


@pytest.mark.parametrize("name", CONTROLLERS)
def test_beta_spans_the_published_range(name: str) -> None:
    controller = CONTROLLERS[name]
    low, high = (controller.schedule(jnp.float32(beta)) for beta in (0, 1))
    if controller.samples:
        assert (getattr(low, controller.samples), getattr(high, controller.samples)) == (1, 64)
    for params in (low, high):
        for field, (least, greatest) in controller.bounds.items():
            assert least <= getattr(params, field) <= greatest
    assert set(controller.bounds) == set(low._fields)


# --- a controller to break ---------------------------------------------------------------------------------------


class Params(NamedTuple):
    branches: jax.Array


def schedule(beta: jax.Array) -> Params:
    return Params(jnp.round(1 + 9 * beta).astype(jnp.int32))


def init(params: Params) -> jax.Array:
    return jnp.zeros((), jnp.float32)


def step(params: Params, memory: jax.Array, obs: Observation) -> tuple[jax.Array, Action]:
    done = (obs.opened > 0) & ~jnp.any(obs.active)
    return memory, act(
        obs,
        branch=jnp.where(obs.round == 0, jnp.minimum(params.branches.astype(jnp.int32), obs.unopened), 0),
        continue_=obs.active,
        stop=done,
        answer=jnp.max(jnp.where(obs.finished, obs.answer, NO_ANSWER)),
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


def leaky_step() -> Callable[..., tuple[jax.Array, Action]]:
    table = jnp.arange(3)

    def closing(params: Params, memory: jax.Array, obs: Observation) -> tuple[jax.Array, Action]:
        return step(params, memory + table[0].astype(jnp.float32), obs)

    return closing


def impatient_init(params: Params) -> jax.Array:
    if params.branches > 3:
        return jnp.ones((), jnp.float32)
    return jnp.zeros((), jnp.float32)


def forgetful(params: Params, memory: jax.Array, obs: Observation) -> tuple[Any, Action]:
    return memory.astype(jnp.int32), step(params, memory, obs)[1]


def not_a_number(params: Params, memory: jax.Array, obs: Observation) -> tuple[jax.Array, Action]:
    return memory / 0, step(params, memory, obs)[1]


def calling_back(params: Params, memory: jax.Array, obs: Observation) -> tuple[jax.Array, Action]:
    memory = jax.pure_callback(lambda m: m, jax.ShapeDtypeStruct((), jnp.float32), memory, vmap_method="sequential")
    return step(params, memory, obs)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schedule": lambda b: Params(b > 0.5)}, "schedule: branches is bool"),
        ({"schedule": lambda b: ()}, "returns no parameters"),
        (
            {"schedule": lambda b: Params(jnp.abs(b - jnp.float32(0.5)))},
            "branches is not monotone in β: it turns at β = 0.51",
        ),
        ({"schedule": lambda b: Params(1 / b)}, "branches is not finite at β = 0.00"),
        ({"schedule": lambda b: Params(2 * b), "bounds": {"branches": (0, 1)}}, "outside its bounds 0 to 1"),
        (
            {"init": impatient_init},
            r"init \(line \d+: if params.branches > 3:\) raises TracerBoolConversionError",
        ),
        ({"step": lambda p, m, o: m}, r"does not return \(memory, Action\)"),
        ({"step": forgetful}, "memory: the value is int32.* instead of float32"),
        ({"step": acting(prune=lambda o: o.depth)}, r"action: prune is int32\[64\] instead of bool\[64\]"),
        ({"step": acting(answer=lambda o: o.depth)}, r"action: answer is int32\[64\] instead of int32\[\]"),
        ({"step": acting(answer=lambda o: jnp.int32(3))}, "answers id 3, which no branch has shown"),
        ({"step": leaky_step()}, "closes over the array table"),
        ({"step": not_a_number}, "memory.* becomes NaN"),
        ({"step": calling_back}, "cannot be exported"),
    ],
)
def test_breaches_are_found(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ContractError, match=said):
        check_controller(dataclasses.replace(GOOD, name="broken", **changes))


def test_an_endless_controller_is_found() -> None:
    """Pruning nothing and asking for one more interval cannot go on, but probing in turns could for long."""
    slow = acting(stop=lambda o: jnp.asarray(False), continue_=lambda o: jnp.zeros(SLOTS, jnp.int32))
    report = check_controller(dataclasses.replace(GOOD, step=slow))
    assert "ended by a round that changed nothing" in report.notes[0]


def test_waste_is_noted() -> None:
    greedy = acting(branch=lambda o: jnp.where(o.round == 0, jnp.int32(100), 0))
    assert "inadmissible actions were masked" in check_controller(dataclasses.replace(GOOD, step=greedy)).notes[0]
    idle = acting(branch=lambda o: jnp.int32(0))
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


def test_a_controller_may_probe_now_and_then() -> None:
    check_controller(PROBER)


def test_an_environment_that_shows_too_much_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    observe = environment.observe

    def leaking(store: ReplayStore, episode: Episode, state: State, rules: Rules) -> Observation:
        obs = observe(store, episode, state, rules)
        newest = store.answers[episode.question, episode.branch, jnp.maximum(obs.depth - 1, 0)].astype(jnp.int32)
        return dataclasses.replace(obs, answer=jnp.where(obs.depth > 0, newest, NO_ANSWER))

    monkeypatch.setattr(environment, "observe", leaking)
    with pytest.raises(ContractError, match="changing what no action has revealed"):
        check_controller(PROBER)
