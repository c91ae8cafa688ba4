"""What a controller sees and pays, round by round, on stores small enough to read."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autotts_jax import (
    NO_ANSWER,
    READ_TO_END,
    UNLIMITED,
    Controller,
    CostModel,
    InputError,
    Observation,
    ReplayStore,
    Rules,
    Schedule,
    act,
    check_controller,
    environment,
    evaluate,
    fresh_slots,
    pack,
    plurality,
    pool_tally,
    sweep,
    synthetic_trajectories,
    whole,
)
from autotts_jax.environment import Episode, State, World

pytestmark = pytest.mark.usefixtures("quickly")


def store_of(*branches: str, tokens: Any = None, **more: Any) -> ReplayStore:
    """One question; a branch is its answers' ids as digits, Δ is 100. Answer 0 is gold, answer 9 cannot be parsed."""
    depth, count = max(map(len, branches)), len(branches)
    answers = np.full((1, count, depth), -1, np.int16)
    for n, branch in enumerate(branches):
        answers[0, n, : len(branch)] = [int(digit) for digit in branch]
    lengths = np.array([[len(branch) for branch in branches]], np.int32)
    return ReplayStore(
        answers=answers,
        intervals=lengths,
        tokens=100 * lengths if tokens is None else np.array([tokens], np.int32),
        delta=np.full((1, count), 100, np.int32),
        gold=np.zeros(1, np.int32),
        unparsable=np.arange(10)[None] == 9,
        **more,
    )


class Play:
    """An episode played by hand, one branch per slot in the store's order."""

    def __init__(
        self, store: ReplayStore, rules: Rules | None = None, *, probe_everything: bool = True, order: Any = None
    ) -> None:
        store = jax.tree.map(jnp.asarray, store)
        order = np.arange(store.answers.shape[1]) if order is None else np.asarray(order)
        self.world = World.of(store, rules or Rules(), probe_everything=probe_everything)
        self.episode: Episode = environment.deal(store, jnp.int32(0), jnp.asarray(order, jnp.int32))
        self.state: State = environment.init(self.world, self.episode)

    @property
    def obs(self) -> Observation:
        return environment.observe(self.world, self.episode, self.state)

    @property
    def cost(self) -> int:
        return int(environment.cost(self.world, self.episode, self.state))

    def round(self, **action: Any) -> Observation:
        """One round; slots by number or, for `continue_`, a list of numbers of intervals."""
        for name in ("open", "prune", "probe"):
            if isinstance(action.get(name), list):
                action[name] = np.isin(np.arange(self.obs.width), action[name])
        if isinstance(action.get("continue_"), list):
            action["continue_"] = np.asarray(action["continue_"], np.int32)
        answer = action.pop("answer", NO_ANSWER)
        done = act(environment.observe(self.world, self.episode, self.state), answer=answer, **action)
        self.state = environment.step(self.world, self.episode, self.state, done)
        return self.obs


def test_opening_by_mask_and_in_turn() -> None:
    play = Play(store_of(*["00"] * 5), order=[0, 1, 2, -1, 3, 4])
    assert play.obs.available.tolist() == [True, True, True, False, True, True]
    obs = play.round(open=[1, 4])
    assert obs.open.tolist() == obs.opened_now.tolist() == [False, True, False, False, True, False]
    assert obs.available.tolist() == [True, False, True, False, False, True]
    assert (obs.opened, obs.unopened) == (2, 3)
    assert fresh_slots(obs, 2).tolist() == [False] * 5 + [True]  # after the last one that is open
    obs = play.round(open=[0, 1, 3])  # 1 is open already, and nothing is behind 3
    assert obs.opened_now.tolist() == [True] + [False] * 5
    assert play.state.refused == 2
    obs = play.round(branch=1)
    assert obs.opened_now.tolist() == [False] * 5 + [True]
    obs = play.round(continue_=[1, 0, 0, 0, 0, 0])
    assert not obs.opened_now.any()
    assert obs.open.tolist() == [True, True, False, False, True, True]


def test_pruning_a_finished_slot_withdraws_its_vote() -> None:
    play = Play(store_of("1", "0", "1", "00"))
    obs = play.round(open=[0, 1, 2, 3])
    assert obs.pool_votes.tolist() == [2, 1, 2, 0]
    assert (pool_tally(obs).winner, pool_tally(obs).first) == (1, 2)
    obs = play.round(prune=[0])
    assert obs.finished.tolist() == [False, True, True, False]
    assert obs.pruned.tolist() == [True, False, False, False]
    assert obs.pool_votes.tolist() == [0, 1, 1, 0]
    assert obs.finished_at[0] == UNLIMITED
    assert play.state.refused == 0
    # A tie now: the earlier slot of those that one round finished.
    tally = pool_tally(obs)
    assert (tally.winner, tally.first, tally.second, tally.runner_up) == (0, 1, 1, 1)
    obs = play.round(prune=[0, 1, 2])  # the first has gone already
    assert play.state.refused == 1
    assert pool_tally(obs).winner == NO_ANSWER
    assert obs.tokens == 400  # what was generated is paid for


def test_runs_under_bursts() -> None:
    """Answers that a burst passes count where every interval is probed, and else only those that are seen."""
    play = Play(store_of("0111220", "2" * 7))
    assert play.obs.run.tolist() == [0, 0]
    found = [play.round(open=[0, 1]).run.tolist()]
    for burst in (3, 1, 1, 1):
        found.append(play.round(continue_=burst).run.tolist())
    assert found == [[1, 1], [3, 4], [1, 5], [2, 6], [1, 7]]

    play = Play(store_of("0111220", "2" * 7), probe_everything=False)
    assert play.round(open=[0, 1]).run.tolist() == [0, 0]
    found = []
    for burst in (1, 2, 1, 1):
        found.append(play.round(continue_=burst, probe=[0, 1]).run.tolist())
    found.append(play.round(continue_=1).run.tolist())  # a finished branch's answer needs no probe
    assert found == [[1, 1], [2, 2], [1, 3], [2, 4], [1, 5]]


def test_features_come_with_the_probe() -> None:
    features = np.arange(12, dtype=np.float32).reshape(1, 2, 3, 2) + 1
    store = store_of("012", "01", features=features, feature_names=("logprob", "entropy"))
    play = Play(store, probe_everything=False)
    assert play.obs.features.tolist() == [[0, 0], [0, 0]]
    assert not play.round(open=[0, 1]).features.any()
    obs = play.round(probe=[0])
    assert obs.features.tolist() == [[1, 2], [0, 0]]
    obs = play.round(continue_=[1, 0])
    assert obs.features.tolist() == [[1, 2], [0, 0]]  # of the interval that was revealed last
    obs = play.round(continue_=[0, 1])  # finishes
    assert obs.features.tolist() == [[1, 2], [9, 10]]
    obs = play.round(probe=[0])
    assert obs.feature("entropy").tolist() == [4, 10]
    assert obs.feature("logprob").tolist() == [3, 9]
    with pytest.raises(InputError, match=r"feature 'margin': not recorded.*which have logprob, entropy"):
        obs.feature("margin")

    play = Play(store)
    assert play.round(open=[0, 1], continue_=[1, 0]).features.tolist() == [[3, 4], [7, 8]]
    plain = Play(store_of("012")).obs
    assert plain.features.shape == (1, 0)
    with pytest.raises(InputError, match="which have none"):
        plain.feature("entropy")


@pytest.mark.slow
def test_a_controller_of_features_keeps_the_contract() -> None:
    """It stops by what was revealed; the check fills what was not with noise."""

    def step(params: Any, memory: Any, obs: Observation) -> Any:
        start = obs.round == 0
        sure = jnp.max(jnp.where(obs.open, obs.feature("margin"), -1)) > 1
        done = ~start & (sure | ~jnp.any(obs.active))
        vote = plurality(obs.answer, obs.answer >= 0)
        return memory, act(
            obs,
            open=start & fresh_slots(obs, params.chains) & obs.available,
            continue_=obs.active,
            probe=(obs.round % 2 == 1) & obs.active,
            stop=done,
            answer=vote.winner,
        )

    class Params(NamedTuple):
        chains: Any

    schedule = Schedule(Params(whole(2, 7)))
    for everything in (True, False):
        controller = Controller(
            "sure", schedule, lambda p, o: (), step, probe_everything=everything, opens=("chains",)
        )
        check_controller(controller, feature_names=("entropy", "margin"))
    with pytest.raises(InputError, match="feature 'margin': not recorded"):
        check_controller(controller)


# --- several models --------------------------------------------------------------------------------------------------

PRICE = np.array([[0.5, 4, 0.5, 4]], np.float32)
MODEL = np.array([[0, 1, 0, 1]], np.int32)


def of_two_models() -> ReplayStore:
    """A small and a large model in turns; each branch has two intervals and 130 or 170 tokens."""
    return store_of("10", "00", "11", "00", tokens=[130, 170, 130, 170], model=MODEL, price=PRICE)


def test_models_and_prices_are_known_before_opening() -> None:
    obs = Play(of_two_models(), order=[3, 2, -1, 0]).obs
    assert obs.model.tolist() == [1, 0, 0, 0]
    assert obs.price[np.array([0, 1, 3])].tolist() == [4, 0.5, 0.5]
    plain = Play(store_of("0", "0")).obs
    assert plain.model.tolist() == [0, 0]
    assert plain.price.tolist() == [1, 1]


def test_priced_cost_by_hand() -> None:
    play = Play(of_two_models(), Rules(cost=CostModel.PRICED, probe_cost=3), probe_everything=False)
    play.round(open=[0, 1])
    assert play.cost == 100 * 0.5 + 100 * 4
    play.round(probe=[0, 1])
    assert play.cost == 450 + 2 * 3
    play.round(continue_=[1, 1, 0, 0])  # to the end: 30 and 70 tokens more
    assert play.cost == 130 * 0.5 + 170 * 4 + 6
    play.round(open=[2], continue_=[0, 0, READ_TO_END, 0])
    assert play.cost == 2 * 65 + 680 + 6
    assert play.obs.tokens == 130 + 170 + 130


def test_a_budget_in_money() -> None:
    """The large model's interval costs 400: the budget pays for one, and then for the small one's of 50."""
    play = Play(of_two_models(), Rules(cost=CostModel.PRICED, budget=520))
    obs = play.round(open=[1])
    assert obs.budget_left == 120
    obs = play.round(open=[0, 2, 3])
    assert obs.open.tolist() == [True, True, True, False]
    assert (obs.budget_left, int(play.state.refused)) == (20, 1)
    obs = play.round(continue_=1)
    assert obs.budget_left == 20
    assert play.state.stop_reason == 2


def test_a_controller_can_choose_among_models() -> None:
    """All of the cheap ones, then the dear ones if those disagree: opened by mask, never in turn."""

    def step(params: Any, memory: Any, obs: Observation) -> Any:
        start, cheap = obs.round == 0, obs.price < 1
        tally = pool_tally(obs)
        split = (obs.round == 1) & (tally.second > 0)
        opening = obs.available & jnp.where(start, cheap, split & ~cheap)
        return memory, act(
            obs,
            open=opening,
            continue_=jnp.where(opening, READ_TO_END, 0),
            stop=~start & ~split,
            answer=tally.winner,
        )

    controller = Controller("cascade", lambda beta: {"beta": beta}, lambda p, o: (), step, probe_everything=False)
    order = np.arange(4, dtype=np.int32)[None, None]
    params = {"beta": np.zeros(1, np.float32)}
    rules = Rules(cost=CostModel.PRICED)
    outcome = evaluate(controller, of_two_models(), params, order, rules)
    assert (outcome.opened.item(), outcome.cost.item(), outcome.refused.item()) == (4, 2 * 65 + 2 * 680, 0)
    assert outcome.correct.item()
    agreeing = dataclasses.replace(of_two_models(), answers=np.zeros((1, 4, 2), np.int16))
    outcome = evaluate(controller, agreeing, params, order, rules)
    assert (outcome.opened.item(), outcome.cost.item(), outcome.rounds.item()) == (2, 130, 2)


@pytest.mark.parametrize("price", [-1.0, 1e6, np.nan])
def test_prices_that_cannot_be_summed_are_refused(price: float) -> None:
    data = pack(synthetic_trajectories(questions=2, branches=4))
    prices = np.full(data.store.tokens.shape, price, np.float32)
    data = dataclasses.replace(data, store=dataclasses.replace(data.store, price=prices))
    with pytest.raises(InputError, match=r"price: synthetic.* no branch may cost more than 4194304"):
        sweep(data, ["self_consistency:samples=2"], rules=Rules(cost=CostModel.PRICED))
