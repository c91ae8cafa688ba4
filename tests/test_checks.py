"""Arguments that are numbers: what is out of range or fractional is refused, not cut off."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autotts_jax
from autotts_jax import CostModel, InputError, Rules
from autotts_jax.environment import check_rules
from autotts_jax.errors import check_whole


@pytest.mark.parametrize("value", [3, np.int8(3), np.array(3), jnp.asarray(3)])
def test_whole_numbers_of_any_kind(value: Any) -> None:
    number = check_whole("number", value, 3, 3)
    assert number == 3
    assert type(number) is int


@pytest.mark.parametrize("value", [0.5, 3.0, np.float32(3), float("nan"), "3", [3], np.array([3]), 2, 4, 2**64])
def test_what_is_no_such_number(value: Any) -> None:
    with pytest.raises(InputError, match=r"number .*3 to 3"):
        check_whole("number", value, 3, 3)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"probe_cost": -1}, "probe cost -1: outside 0 to 4096."),
        ({"probe_cost": 10**9}, "probe cost 1000000000: outside 0 to 4096."),
        ({"probe_cost": 0.5}, "probe cost 0.5: not a whole number from 0 to 4096."),
        ({"probe_cost": jnp.asarray(0.5)}, "not a whole number"),
        ({"cost": "released"}, "cost 'released': not a CostModel. Use one of CostModel.RELEASED, "),
        ({"budget": -1}, "budget -1: outside 0 to 1073741824. Leave it out for no limit."),
        ({"budget": 2**40}, "budget 1099511627776: outside 0 to"),
        ({"budget": 0.5}, "budget 0.5: not a whole number from 0 to"),
        ({"budget": float("nan")}, "budget nan: not a whole number"),
        ({"budget": np.array([1, 2])}, "not a whole number"),
    ],
)
def test_rules_that_cannot_be_kept(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as error:
        check_rules(Rules(**fields))
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    data = autotts_jax.pack(autotts_jax.synthetic_trajectories(questions=1, branches=2))
    with pytest.raises(InputError, match=r"cost |budget "):
        autotts_jax.sweep(data, ["self_consistency:samples=2"], shuffles=1, rules=Rules(**fields))


def test_trajectories_must_be_packed() -> None:
    made = autotts_jax.synthetic_trajectories(questions=1, branches=2)
    for data in (made, [made]):
        with pytest.raises(InputError, match=r"data: Trajectories, not a Dataset\. Make one with pack"):
            autotts_jax.sweep(data, ["self_consistency"])  # type: ignore[arg-type]


def test_rules_that_can() -> None:
    for fields in ({}, {"budget": 0, "probe_cost": 4096}, {"budget": jnp.asarray(2**30), "cost": CostModel.PRICED}):
        check_rules(Rules(**fields))
    jax.jit(lambda budget: check_rules(Rules(budget=budget, probe_cost=budget)))(-1)
