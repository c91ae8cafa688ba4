"""Recorded rollouts against the fast driver, the oracle, and readings by hand."""

import json
from pathlib import Path
from typing import Any

import chex
import jax
import numpy as np
import pytest
import reference

import autotts_jax
from autotts_jax import CONTROLLERS, CostModel, Dataset, Rules, failures, traces
from autotts_jax.controllers import confidence_momentum
from autotts_jax.failures import Failure
from autotts_jax.settings import Row, Setting, rows_of
from autotts_jax.traces import Trace

SHUFFLES = 3


@pytest.fixture(scope="module")
def data() -> Dataset:
    return autotts_jax.pack(autotts_jax.synthetic_trajectories("Qwen3-1.7B/aime24", questions=6, branches=40))


def row_of(text: str, beta: float = 0.5) -> Row:
    return rows_of(Setting.parse(text), [beta])[0]


def stacked(row: Row) -> Any:
    return jax.tree.map(lambda leaf: leaf[None], row.params)


def traced(data: Dataset, row: Row, orders: np.ndarray, places: list[tuple[int, int]], rules: Rules) -> list[Trace]:
    recording = traces.record_episodes(data, row, orders, places, rules)
    return [traces.decode(data, row, orders, recording, i) for i in range(len(places))]


def replayed(data: Dataset, orders: np.ndarray, trace: Trace, rules: Rules) -> reference.Episode:
    """The trace's events, given to the oracle round by round."""
    q, store = trace.question, data.store
    branches = []
    for n in orders[q, trace.shuffle][orders[q, trace.shuffle] >= 0]:
        *probes, final = (data.choices[q][i] for i in store.answers[q, n, : store.intervals[q, n]])
        branches.append(reference.Branch(probes, int(store.tokens[q, n]), final, int(store.delta[q, n])))
    episode = reference.Episode(
        branches,
        cost_model=rules.cost.value,
        probe_cost=int(rules.probe_cost),
        budget=rules.budget,
        probe_everything=CONTROLLERS[trace.controller].probe_everything,
    )
    for moment in trace.rounds:
        kinds: dict[str, list[int]] = {"PRUNE": [], "BRANCH": [], "CONTINUE": [], "PROBE": []}
        for event in moment.events:
            if event.slot is not None:
                kinds[event.kind].append(event.slot)
        wanted = {slot: kinds["CONTINUE"].count(slot) for slot in kinds["CONTINUE"]}
        if (
            trace.controller in reference.WITHOUT_PROBES
        ):  # they ask for whole branches, however many intervals those have
            wanted |= {slot: reference.READ_TO_END for slot in kinds["BRANCH"] if slot in wanted}
        answers = [event.answer for event in moment.events if event.kind == "ANSWER"]
        stop = bool(answers) and trace.outcome["stop_reason"] == "ANSWERED"
        try:
            episode.round(
                prune=kinds["PRUNE"],
                open_=kinds["BRANCH"],
                continue_=wanted,
                probe=kinds["PROBE"],
                answer=answers[0] if answers else None,
                stop=stop,
            )
        except reference.Ended:
            assert moment is trace.rounds[-1]
        assert (moment.tokens, moment.cost) == (episode.tokens, episode.cost)
        assert moment.pool == reference.tally(episode.finals)
        standing = [i for i, slot in episode.slots.items() if not slot.pruned]
        assert moment.votes == reference.tally(episode.newest(standing))
    return episode


FREE, BUDGET = Rules(), Rules(cost=CostModel.INTERVALS, probe_cost=2, budget=300)


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        ("confidence_momentum", BUDGET),
        ("self_consistency", FREE),
        pytest.param("early_stopping", BUDGET, marks=pytest.mark.slow),
        *(
            pytest.param(name, FREE, marks=pytest.mark.slow)
            for name in sorted(set(CONTROLLERS) - {"self_consistency"})
        ),
    ],
)
def test_a_trace_is_what_happened(data: Dataset, name: str, rules: Rules) -> None:
    """Recorded as fast, and replayed by the oracle to the same cost and answer."""
    row = row_of(name)
    orders = autotts_jax.published_orders(data.store, SHUFFLES)
    places = [(q, s) for q in range(len(data)) for s in range(SHUFFLES)]
    fast = autotts_jax.evaluate(row.controller, data.store, stacked(row), orders, rules)
    recording = traces.record_episodes(data, row, orders, places, rules)
    chex.assert_trees_all_equal(recording.outcome, jax.tree.map(lambda leaf: np.asarray(leaf).reshape(-1), fast))
    for trace in traced(data, row, orders, places[::5], rules):
        episode = replayed(data, orders, trace, rules)
        asked = (
            "correct",
            "passed",
            "answer",
            "tokens",
            "sequential_tokens",
            "cost",
            "intervals",
            "probes",
            "rounds",
            "opened",
            "pruned",
        )
        found = reference.outcome(episode, trace.gold)._asdict()
        assert {key: found[key] for key in asked} == {key: trace.outcome[key] for key in asked}


def test_probes_by_name_are_traced(data: Dataset) -> None:
    """A controller that probes for itself, twice where the answer stays the same."""

    def step(params: Any, memory: Any, obs: Any) -> Any:
        start, odd = obs.round == 0, obs.round % 2 == 1
        return memory, autotts_jax.act(
            obs,
            branch=jax.numpy.where(start, 3, 0),
            continue_=jax.numpy.where(obs.active, 1, 0),
            probe=odd & obs.active,
            stop=obs.round > 5,
            answer=autotts_jax.plurality(obs.answer, obs.answer >= 0).winner,
        )

    base = CONTROLLERS["self_consistency"]
    prober = autotts_jax.Controller("self_consistency", base.schedule, base.init, step, probe_everything=False)
    row = Row(prober, 0.5, row_of("self_consistency").params)
    orders = autotts_jax.published_orders(data.store, SHUFFLES)
    for trace in traced(data, row, orders, [(0, 0), (3, 1)], Rules(probe_cost=7)):
        episode = replayed(data, orders, trace, Rules(probe_cost=7))
        assert episode.probes == trace.outcome["probes"] == 9
        assert episode.cost == trace.outcome["cost"]


def test_traces_are_written_as_lines(data: Dataset, tmp_path: Path) -> None:
    row = row_of("confidence_momentum")
    orders = autotts_jax.published_orders(data.store, SHUFFLES)
    two = traced(data, row, orders, [(0, 0), (5, 2)], Rules())
    lines = [json.loads(line) for line in traces.write(two, tmp_path / "traces.jsonl").read_text().splitlines()]
    ends = [i for i, line in enumerate(lines) if line["type"] == "outcome"]
    assert [line["type"] for line in lines[: ends[0] + 1]] == ["episode"] + ["round"] * len(two[0].rounds) + [
        "outcome"
    ]
    assert lines[ends[0] + 1]["question"] == 5
    assert lines[1]["memory"].keys() == set(confidence_momentum.Memory._fields)
    assert len(lines[1]["memory"]["against"]) == 5  # the branches opened
    assert lines[-1]["answer"] == two[1].outcome["answer"]


# --- summaries -------------------------------------------------------------------------------------------------------


def reading(trace: Trace, data: Dataset) -> Failure:
    """Why an episode failed, as a person reads it off its trace."""
    if trace.outcome["correct"]:
        return Failure.NONE
    given, gold, last = trace.outcome["answer"], trace.gold, trace.rounds[-1]
    if given == "ERR":
        return Failure.UNPARSABLE_WON
    newest: dict[int, str] = {}
    pruned_right, seen, running = 0, False, set()
    for moment in trace.rounds:
        for event in moment.events:
            if event.slot is None:
                continue
            if event.kind == "PRUNE":
                pruned_right += newest.get(event.slot) == gold
                running.discard(event.slot)
            if event.kind == "BRANCH":
                running.add(event.slot)
            if event.answer is not None:
                newest[event.slot] = event.answer
                seen |= event.answer == gold
                if event.kind != "PROBE":
                    running.discard(event.slot)
    if not seen:
        return Failure.NEVER_SAMPLED
    votes = last.pool or last.votes
    right, wrong = votes.get(gold, 0), votes.get(given, 0)
    if right == wrong and right:
        return Failure.TIE_LOST
    if pruned_right and right + pruned_right >= wrong:
        return Failure.RIGHT_PRUNED
    middle = trace.rounds[len(trace.rounds) // 2].votes
    rising = last.votes.get(gold, 0) * sum(middle.values()) > middle.get(gold, 0) * sum(last.votes.values())
    if rising and running:
        return Failure.STOPPED_EARLY
    changed = [moment.number + 1 for moment in trace.rounds if moment.answer != given]
    settled = trace.rounds[max(changed) - 1].tokens if changed else 0
    return Failure.OVERSPENT if 2 * (trace.outcome["tokens"] - settled) > trace.outcome["tokens"] else Failure.OUTVOTED


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "confidence_momentum",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("parallel_probe", "early_stopping")),
    ],
)
def test_failures_hold_when_read_by_hand(data: Dataset, name: str) -> None:
    row = row_of(name)
    orders = autotts_jax.published_orders(data.store, 8)
    watched = failures.watch(data, row, orders)
    fast = autotts_jax.evaluate(row.controller, data.store, stacked(row), orders)
    chex.assert_trees_all_equal(watched.outcome, jax.tree.map(lambda leaf: np.asarray(leaf[0]), fast))
    counts = {mode: count for mode, (count, _) in failures.count_failures(watched).items()}
    assert sum(counts.values()) == (~watched.outcome.correct).sum() > 0
    places = [(q, s) for q in range(len(data)) for s in range(8)]
    for trace, place in zip(traced(data, row, orders, places, Rules()), places, strict=True):
        assert reading(trace, data) == watched.failure[place]


def test_what_is_watched(data: Dataset) -> None:
    row = row_of("confidence_momentum")
    orders = autotts_jax.published_orders(data.store, SHUFFLES)
    watched = failures.watch(data, row, orders)
    places = [(q, s) for q in range(len(data)) for s in range(SHUFFLES)]
    for trace, place in zip(traced(data, row, orders, places, Rules()), places, strict=True):
        rounds = trace.rounds
        leading = [next(iter(moment.votes), None) == trace.gold for moment in rounds]
        ties = [list(moment.votes.values())[:2] for moment in rounds]
        if all(len(two) < 2 or two[0] > two[1] for two in ties):  # or else who came first decides
            assert watched.led_first[place] == (leading.index(True) if any(leading) else -1)
            assert watched.led_last[place] == leading[-1]
        assert watched.width[place][0] == sum(event.kind == "BRANCH" for event in rounds[0].events)
        deepest = max(event.depth or 0 for moment in rounds for event in moment.events)
        assert watched.depth[place][-1] == deepest
        assert 0 <= watched.settled[place] <= trace.outcome["tokens"]


@pytest.mark.parametrize("characters", [0, 10, 400, 1000, 10**6])
def test_a_summary_keeps_to_its_budget(data: Dataset, characters: int) -> None:
    row = row_of("confidence_momentum")
    orders = autotts_jax.published_orders(data.store, SHUFFLES)
    watched = failures.watch(data, row, orders)
    text = failures.summarize(data, row, watched, characters=characters)
    assert len(text) <= characters
    if characters >= 400:
        assert text.startswith("confidence_momentum {")
        assert f"{watched.outcome.correct.mean():.1%} right" in text
    if characters == 10**6:
        assert all(f"question {q}: " in text for q in range(len(data)))
    elif characters >= 400:
        assert "more lines" in text


@pytest.mark.slow
def test_recorded_is_fast_on_the_public_files(replay_directory: Path) -> None:
    """Every built-in controller on all eight files for ten shuffles."""
    every = autotts_jax.concatenate(autotts_jax.open_datasets(replay_directory))
    orders = autotts_jax.published_orders(every.store, 10)
    for name in CONTROLLERS:
        row = row_of(name)
        watched = failures.watch(every, row, orders)
        fast = autotts_jax.evaluate(row.controller, every.store, stacked(row), orders)
        chex.assert_trees_all_equal(watched.outcome, jax.tree.map(lambda leaf: np.asarray(leaf[0]), fast))
        assert sum(count for count, _ in failures.count_failures(watched).values()) == (~watched.outcome.correct).sum()
