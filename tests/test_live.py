"""Live use: through recorded branches it equals replay, whatever goes wrong; what was finished is kept."""

import asyncio
import csv
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from autotts_collect import live
from autotts_collect.answers import VERBATIM
from autotts_collect.engines import Branch, EngineError, Faulty, Patience, Piece, Recorded, Sampling
from autotts_collect.engines.http import Http
from autotts_collect.growing import Growing
from autotts_collect.questions import read_questions
from autotts_collect.tables import UNREAD, LiveResults
from loopback import FAULTS, MODEL, Loopback, hangs, refuses, resets, serving

import autotts_jax
from autotts_jax import (
    READ_TO_END,
    Controller,
    CostModel,
    Dataset,
    InputError,
    Observation,
    Rules,
    Schedule,
    act,
    whole,
)
from autotts_jax.cli import main

QUICK = Patience(seconds=20, first=0.001, longest=0.002)

#: All that the environment says of an episode; `refused` is only without a budget the same in both.
FIELDS = [field.name for field in dataclasses.fields(autotts_jax.Outcome) if field.name not in ("answer", "refused")]


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Three questions; branches of all kinds: with a long last interval, fewer tokens than probes say, no probe."""
    rng = random.Random(4)

    def branch() -> tuple[list[str], int, str]:
        probes = [rng.choice("1123E") for _ in range(rng.randrange(6))]
        tokens = max(1, 10 * len(probes) + rng.choice([-7, 0, 3, 8, 25]))
        return probes, tokens, rng.choice("112")

    questions = [
        autotts_jax.Question.from_branches(f"question {q}", "12"[q % 2], 10, [branch() for _ in range(8)])
        for q in range(3)
    ]
    return autotts_jax.pack(autotts_jax.Trajectories(questions, model="M", benchmark="b", unparsable=("E",)))


def asked(data: Dataset) -> list[live.Asked]:
    return [live.Asked(text, gold) for text, gold in zip(data.texts, data.golds, strict=True)]


def lived(data: Dataset, settings: Any, *, shuffles: int = 1, engine: Any = None, **options: Any) -> LiveResults:
    orders = autotts_jax.published_orders(data.store, shuffles)
    options = {"grading": VERBATIM, "patience": QUICK, "shuffles": shuffles, **options}
    return asyncio.run(live.run(engine or Recorded(data, orders), asked(data), settings, **options))


def check_equal(
    results: LiveResults, data: Dataset, controller: Controller, betas: Sequence[float], rules: Rules
) -> None:
    """Every episode ended as in replay."""
    rows = autotts_jax.rows_of(autotts_jax.Setting(controller), betas)
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[row.params for row in rows])
    orders = autotts_jax.published_orders(data.store, results.shuffles)
    replayed = jax.device_get(autotts_jax.evaluate(controller, data.store, params, orders, rules))
    fields = [*FIELDS, "refused"] if rules.budget is None else FIELDS
    assert len(results.finished) == len(rows) * len(data) * results.shuffles
    for one in results.finished:
        place = (one.row, one.question, one.shuffle)
        expected = {field: int(getattr(replayed, field)[place]) for field in fields}
        assert {field: one.outcome[field] for field in fields} == expected, place
        assert one.answer == data.answer(one.question, int(replayed.answer[place])), place


# --- replay equals live ----------------------------------------------------------------------------------------------


class Most(NamedTuple):
    """The probing controller's parameter."""

    most: Any


def _probing_step(params: Most, memory: tuple[()], obs: Observation) -> Any:
    """Opens branches one by one, deepens by two or three intervals, probes some, drops those that fell behind."""
    even = jnp.arange(obs.width, dtype=jnp.int32) % 2 == 0
    behind = obs.active & (obs.depth < jnp.max(obs.depth) - 3)
    return memory, act(
        obs,
        branch=jnp.where(obs.opened < params.most, 1, 0),
        prune=behind & (obs.round % 3 == 2),
        continue_=jnp.where(even & (obs.round > 4), READ_TO_END, 2 + obs.round % 2),
        probe=(obs.active & even) | (obs.round % 2 == 0),
        stop=jnp.max(obs.run) > 3,
        answer=autotts_jax.plurality(obs.answer, obs.answer >= 0).winner,
    )


PROBING = Controller(
    name="probing",
    schedule=Schedule(Most(most=whole(2, 8))),
    init=lambda params, obs: (),
    step=_probing_step,
    probe_everything=False,
)

RULES = {
    "free": Rules(),
    "budget": Rules(budget=130),
    "probes cost": Rules(budget=150, probe_cost=3),
    "intervals": Rules(cost=CostModel.INTERVALS, budget=14, probe_cost=1),
    "generated": Rules(cost=CostModel.GENERATED, budget=120),
}


@pytest.mark.parametrize(
    ("controller", "rules"),
    [
        (autotts_jax.CONTROLLERS["confidence_momentum"], "free"),
        (autotts_jax.CONTROLLERS["confidence_momentum"], "probes cost"),
        (autotts_jax.CONTROLLERS["early_stopping"], "free"),
        (autotts_jax.CONTROLLERS["self_consistency"], "budget"),
        (autotts_jax.CONTROLLERS["adaptive_consistency"], "generated"),
        (PROBING, "free"),
        (PROBING, "probes cost"),
        (PROBING, "intervals"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_replay_equals_live(quickly: None, data: Dataset, controller: Controller, rules: str) -> None:
    betas = [0.0, 1.0]
    orders = autotts_jax.published_orders(data.store, 4)
    faulty = Faulty(Recorded(data, orders), share=0.2, seconds=0.002)
    options = {"betas": betas, "shuffles": 4, "rules": RULES[rules]}
    check_equal(lived(data, controller, engine=faulty, **options), data, controller, betas, RULES[rules])
    assert faulty.faults > 20


@pytest.mark.slow
@pytest.mark.parametrize("model", ["Qwen3-0.6B", "Qwen3-1.7B", "Qwen3-4B", "Qwen3-8B"])
@pytest.mark.parametrize("name", sorted(autotts_jax.CONTROLLERS))
def test_replay_equals_live_on_public_files(replay_directory: Path, model: str, name: str) -> None:
    data = autotts_jax.pack(autotts_jax.read_trajectories(replay_directory / model / "aime24.json"))
    controller, betas = autotts_jax.CONTROLLERS[name], [0.0, 0.3, 1.0]
    check_equal(lived(data, controller, betas=betas, shuffles=2), data, controller, betas, Rules())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["self_consistency", "confidence_momentum", "parallel_probe"])
def test_replay_equals_live_on_a_budget(replay_directory: Path, name: str) -> None:
    data = autotts_jax.pack(autotts_jax.read_trajectories(replay_directory / "Qwen3-8B" / "aime24.json"))
    controller, betas, rules = autotts_jax.CONTROLLERS[name], [1.0], Rules(budget=150_000, probe_cost=50)
    check_equal(lived(data, controller, betas=betas, rules=rules), data, controller, betas, rules)


@pytest.mark.slow
def test_decisions_take_little_time(replay_directory: Path) -> None:
    """210 questions at once: the controller's own time is at most 2 ms a decision, at the median."""
    data = autotts_jax.pack(autotts_jax.read_trajectories(replay_directory / "Qwen3-8B" / "aime24.json"))
    results = lived(data, "confidence_momentum", shuffles=7, at_once=210)
    decisions = np.concatenate([one.decisions[1:] for one in results.finished])  # the first one may compile
    assert np.median(decisions) < 0.002


# --- what a live question knows --------------------------------------------------------------------------------------


def growing(entropy: Sequence[int]) -> Growing:
    return Growing(Sampling(branches=4, delta=10, max_tokens=40).pool(), "b", 8, (), entropy)


def test_ids_say_nothing() -> None:
    first = []
    for seed in range(300):
        grown = growing([seed])
        grown.reveal(0, 1, "a")
        grown.reveal(1, 1, "b")
        grown.finish(2, 2, 15, "a")
        ids = grown.store.answers[0]
        assert ids[0, 0] == ids[2, 1] != ids[1, 0]
        assert grown.store.gold[0] == ids[1, 0]
        assert [grown.answer(ids[0, 0]), grown.answer(ids[1, 0]), grown.answer(5000)] == ["a", "b", None]
        first.append((int(ids[0, 0]), int(ids[1, 0])))
    assert len(set(first)) > 290
    assert 400 < np.mean(first) < 620
    assert abs(np.mean([a < b for a, b in first]) - 0.5) < 0.1


def test_a_store_knows_bounds_of_what_goes_on() -> None:
    grown = growing([1])
    assert grown.store.gold.tolist() == [-1]
    assert grown.store.intervals.tolist() == [[4, 4, 4, 4, 0, 0, 0, 0]]
    grown.grow(1, 2)
    grown.reveal(1, 2, "ERR")
    grown.finish(0, 1, 7, "b")
    assert grown.store.intervals.tolist() == [[1, 4, 4, 4, 0, 0, 0, 0]]
    assert grown.store.tokens[0, :2].tolist() == [7, 40]
    assert grown.known[:2].tolist() == [1, 2]
    assert grown.store.unparsable[0, grown.store.answers[0, 1, 1]]
    assert grown.recorded(0) == (["b"], 7, True)
    assert grown.recorded(1) == ([None, "ERR"], 20, False)


# --- side by side ----------------------------------------------------------------------------------------------------


class Watched(Faulty):
    """Recorded branches with a delay by question, and a count of what is asked."""

    def __init__(self, data: Dataset, shuffles: int = 1, seconds: Callable[[int], float] = lambda q: 0.0) -> None:
        super().__init__(Recorded(data, autotts_jax.published_orders(data.store, shuffles)), share=0)
        self.delay, self.asked, self.closed, self.cancelled = seconds, [], False, 0  # type: ignore[var-annotated]
        self.breaks: Callable[[Branch], bool] = lambda branch: False

    async def extend(self, branch: Branch, most: int, *, logprobs: int = 0) -> Piece:
        self.asked.append((branch.question, branch.shuffle, branch.slot, len(branch.tokens)))
        if self.breaks(branch):
            raise EngineError("broken")
        try:
            await asyncio.sleep(self.delay(branch.question))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return await super().extend(branch, most, logprobs=logprobs)

    async def close(self) -> None:
        self.closed = True


def test_a_question_waits_for_no_other(quickly: None, data: Dataset) -> None:
    engine = Watched(data, seconds=lambda q: 0.3 if q == 0 else 0.0)
    results = lived(data, "self_consistency:samples=4", engine=engine)
    seconds = [one.seconds for one in results.finished]
    assert seconds[0] > 0.3
    assert max(seconds[1:]) < 0.3
    assert engine.closed
    assert results.table["seconds"].to_pylist() == [pytest.approx(np.mean(seconds))]
    assert results.per_question["first_answer_seconds"].to_pylist()[0] >= 0.3


def test_branches_run_side_by_side(quickly: None, data: Dataset) -> None:
    results = lived(data, "self_consistency:samples=8", engine=Watched(data, seconds=lambda q: 0.2))
    assert max(one.seconds for one in results.finished) < 8 * 0.2


def test_what_cannot_be_had_is_listed_and_tried_again(quickly: None, data: Dataset, tmp_path: Path) -> None:
    engine = Watched(data, seconds=lambda q: 0.05)
    engine.breaks = lambda branch: branch.question == 1 and branch.slot == 2
    journal = tmp_path / "journal.jsonl"
    with pytest.raises(live.UnfinishedError, match=r"question 1, shuffle 0: broken. 1 of 3 could not") as caught:
        lived(data, "self_consistency:samples=4", engine=engine, journal=journal)
    assert list(caught.value.failures) == [(0, 1, 0)]
    assert [one.question for one in caught.value.finished] == [0, 2]
    assert engine.cancelled == 3  # the branches beside the one that broke
    assert engine.closed
    healed = Watched(data)
    results = lived(data, "self_consistency:samples=4", engine=healed, journal=journal)
    assert {q for q, *_ in healed.asked} == {1}
    calm = lived(data, "self_consistency:samples=4")
    assert [one.outcome for one in results.finished] == [one.outcome for one in calm.finished]


# --- the journal -----------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """What nothing may catch."""


def test_a_run_goes_on_where_it_was_killed(quickly: None, data: Dataset, tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    calm = lived(data, "confidence_momentum", shuffles=3)
    asked_by_all: list[tuple[int, ...]] = []
    finished: set[tuple[int, int]] = set()
    for kill in range(30):
        engine = Watched(data, shuffles=3, seconds=lambda q: 0.0)
        budget = random.Random(kill).randrange(20, 120)

        def breaks(branch: Branch, engine: Watched = engine, budget: int = budget) -> bool:
            if len(engine.asked) > budget:
                raise Killed
            return False

        engine.breaks = breaks
        try:
            results = lived(data, "confidence_momentum", shuffles=3, engine=engine, journal=journal, at_once=2)
            break
        except Killed:
            asked_by_all += engine.asked
            assert not {(q, s) for q, s, *_ in engine.asked} & finished  # nothing twice
            lines = journal.read_bytes().splitlines()[1:]
            finished = {(line["question"], line["shuffle"]) for line in map(json.loads, lines)}
            with journal.open("ab") as torn:
                torn.write(b'{"row": 0, "ques')
    assert kill > 2
    assert [one.outcome for one in results.finished] == [one.outcome for one in calm.finished]
    assert [one.answer for one in results.finished] == [one.answer for one in calm.finished]
    assert results.table.drop_columns(["seconds", "first_answer_seconds"]).equals(
        calm.table.drop_columns(["seconds", "first_answer_seconds"])
    )


def test_another_run_leaves_a_journal_alone(quickly: None, data: Dataset, tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    lived(data, "self_consistency", journal=journal)
    kept = journal.read_bytes()
    for options, what in (
        ({"betas": [1.0]}, "parameters"),
        ({"settings": "early_stopping"}, "controllers, parameters"),
        ({"rules": Rules(budget=50)}, "rules"),
        ({"shuffles": 2}, "engine, shuffles"),
        ({"seed": 1}, "seed"),
        ({"record": True}, "record"),
    ):
        with pytest.raises(InputError, match=f"of a run with other {what}. Run that one again"):
            lived(data, **{"settings": "self_consistency", "journal": journal, **options})  # type: ignore[arg-type]
    assert journal.read_bytes() == kept
    journal.write_bytes(kept.replace(b'"row":0', b'"row":"x"', 1))
    with pytest.raises(InputError, match=r"line 2, row: .* It is damaged"):
        lived(data, "self_consistency", journal=journal)


# --- recordings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["confidence_momentum", "early_stopping", "probing"])
def test_a_recording_replays(quickly: None, data: Dataset, tmp_path: Path, name: str) -> None:
    controller = {**autotts_jax.CONTROLLERS, "probing": PROBING}[name]
    rules = Rules(budget=100)
    results = lived(data, controller, betas=[0.3], rules=rules, record=True)
    assert results.recording is not None
    autotts_jax.write_trajectories(results.recording, tmp_path / "recorded.parquet")
    recording = autotts_jax.read_trajectories(tmp_path / "recorded.parquet")
    again = autotts_jax.pack(recording)
    width = again.store.intervals.shape[1]
    orders = np.where(np.asarray(again.store.intervals) > 0, np.arange(width), -1)[:, None].astype(np.int32)
    row = autotts_jax.rows_of(autotts_jax.Setting(controller), [0.3])[0]
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], row.params)
    replayed = jax.device_get(autotts_jax.evaluate(controller, again.store, params, orders, rules))
    for one in results.finished:
        place = (0, one.question, 0)
        for field in ("correct", "tokens", "sequential_tokens", "probes", "rounds", "opened", "pruned"):
            assert one.outcome[field] == int(getattr(replayed, field)[place]), field
        assert one.answer == again.answer(one.question, int(replayed.answer[place]))
    assert recording.sampling["complete"] is False
    assert UNREAD in recording.unparsable
    cut = recording.sampling["branches_not_generated_to_their_end"]
    assert cut == sum(not branch.ended for one in results.finished for branch in one.branches or ())
    assert cut > 0  # the budget ends before the branches
    finals = [final for question in recording.questions for _, _, final in question.branches()]
    assert finals.count(UNREAD) == cut


def test_a_recording_is_of_one_row(data: Dataset) -> None:
    engine = Watched(data)
    with pytest.raises(InputError, match="record: 2 controllers or βs and 1 shuffles"):
        lived(data, "self_consistency", betas=[0.0, 1.0], record=True, engine=engine)
    assert not engine.asked


# --- bad input, before a token is paid for ---------------------------------------------------------------------------


def test_bad_input_is_refused_first(data: Dataset) -> None:
    engine = Watched(data)

    def refused(match: str, questions: Sequence[live.Asked], settings: Any = "self_consistency", **more: Any) -> None:
        with pytest.raises(InputError, match=match):
            asyncio.run(live.run(engine, questions, settings, **more))

    good = asked(data)
    refused("questions: none", [])
    refused("questions: question 2 is the same as question 0", [*good[:2], good[0]])
    refused("no such controller", good, "nobody")
    refused("settings: empty", good, [])
    refused("beta 2: outside 0 to 1", good, betas=[2])
    refused("shuffles 0: outside", good, shuffles=0)
    refused("at_once 0: outside", good, at_once=0)
    refused("parts: 2 questions of 3", good, parts=[("a", 2)])
    refused("probe cost -1: outside", good, rules=Rules(probe_cost=-1))
    assert not engine.asked


def test_questions_are_read(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [("What is 1 + 1?\n[red]", "2"), ("And 7?", "007")]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"q": q, "a": a, "n": 1}) for q, a in rows))
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("n", "q", "a"), *((1, *row) for row in rows)])
    pq.write_table(pa.table({"q": [q for q, _ in rows], "a": [2, 7]}), tmp_path / "a.parquet")
    assert read_questions(tmp_path / "a.jsonl", "q", "a") == read_questions(tmp_path / "a.csv", "q", "a") == rows
    assert read_questions(tmp_path / "a.parquet", "q", "a")[1] == ("And 7?", "7")
    (tmp_path / "empty.csv").write_text("q,a\n")
    (tmp_path / "hole.jsonl").write_text('{"q": "x", "a": "1"}\n{"q": "y"}\n')
    (tmp_path / "broken.jsonl").write_text('{"q": ')
    for name, match in {
        "a.jsonl": "no column 'question', but q, a, n",
        "none.csv": "no such file",
        "a.txt": "no such file",
    }.items():
        with pytest.raises(InputError, match=match):
            read_questions(tmp_path / name)
    for name, match in {
        "empty.csv": "no questions",
        "hole.jsonl": "row 1, column a: no answer",
        "broken.jsonl": "cannot be read",
    }.items():
        with pytest.raises(InputError, match=match):
            read_questions(tmp_path / name, "q", "a")


# --- a server --------------------------------------------------------------------------------------------------------

SAMPLING = Sampling(branches=8, delta=20, max_tokens=120)
QUESTIONS = [live.Asked(f"question {q}", str(q)) for q in range(3)]


@pytest.fixture
def server() -> Iterator[Loopback]:
    with serving() as found:
        yield found


def served(server: Loopback, **options: Any) -> LiveResults:
    engine = Http(server.url, MODEL, SAMPLING, timeout=2.0, stream=False)
    return asyncio.run(live.run(engine, QUESTIONS, "confidence_momentum", patience=QUICK, **options))


def test_a_server_is_steered(quickly: None, server: Loopback) -> None:
    calm = served(server, record=True)
    assert calm.recording is not None
    assert calm.recording.model == MODEL
    asked_when_calm = len(server.asked)
    assert calm.table["engine_tokens"][0].as_py() > calm.table["tokens"][0].as_py() > 0
    server.faults = [fault for fault in FAULTS if fault is not hangs] * 3
    faulty = served(server)
    assert [one.outcome for one in faulty.finished] == [one.outcome for one in calm.finished]
    assert len(server.asked) - asked_when_calm == asked_when_calm + 3 * (len(FAULTS) - 1)
    for question in calm.recording.questions:
        for probes, tokens, _ in question.branches():
            assert 20 * len(probes) <= tokens + 20
    server.faults = [refuses]
    with pytest.raises(live.UnfinishedError, match="status 400: prompt is too long"):
        served(server)


def test_a_server_that_dies_may_come_back(quickly: None) -> None:
    with serving() as server:
        calm = served(server)
    first = Loopback()
    port = int(first.url.split(":")[2].removesuffix("/v1"))
    again: list[Loopback] = []

    def restart() -> None:
        while len(first.asked) < len(server.asked) // 3:
            time.sleep(0.01)
        first.faults = [resets] * 1000  # what is in flight is reset
        first.close()
        time.sleep(0.3)
        again.append(Loopback(port))

    watcher = threading.Thread(target=restart)
    watcher.start()
    try:
        results = served(first)
    finally:
        watcher.join()
        again[0].close()
    assert [one.outcome for one in results.finished] == [one.outcome for one in calm.finished]
    assert first.asked
    assert again[0].asked


def test_questions_longer_than_the_context_are_refused(quickly: None, server: Loopback) -> None:
    server.context = 130
    with pytest.raises(InputError, match=r"question 0: 10 tokens, .* the model's context has 130"):
        served(server)
    assert not server.asked


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def command(
    quickly: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command in this process."""

    def go(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["autotts", "live", *map(str, args)])
        with pytest.raises(SystemExit) as exit_:
            main()
        out, err = capsys.readouterr()
        return int(exit_.value.code or 0), out, err

    return go


def test_the_command_plays_recorded_branches(data: Dataset, command: Any, tmp_path: Path) -> None:
    source, out, record = tmp_path / "M" / "b.json", tmp_path / "out", tmp_path / "r.parquet"
    questions = []
    for q, gold in enumerate(data.golds):
        branches = [
            ([data.choices[q][i] for i in row[: n - 1].tolist()], int(tokens), data.choices[q][int(row[n - 1])])
            for row, n, tokens in zip(
                data.store.answers[q], data.store.intervals[q], data.store.tokens[q], strict=True
            )
        ]
        questions.append(autotts_jax.Question.from_branches(data.texts[q], gold, 10, branches))
    autotts_jax.write_trajectories(autotts_jax.Trajectories(questions, model="M", benchmark="b"), source)
    arguments = ["--controller", "early_stopping", "--recorded", source, "--out", out, "--record", record, "--quiet"]
    code, said, error = command(*arguments, "--format", "json")
    assert code == 0, error
    swept = autotts_jax.sweep(autotts_jax.open_datasets(source), "early_stopping", betas=[0.5], shuffles=1)
    expected = swept.table.to_pylist()[0]
    table = pyarrow_table(out / "results.parquet")
    assert {name: table[0][name] for name in expected} == expected
    assert autotts_jax.read_trajectories(record).questions
    assert sorted(path.name for path in out.iterdir() if path.suffix != ".lock") == [
        "journal.jsonl",
        "live.json",
        "questions.csv",
        "questions.parquet",
        "results.csv",
        "results.parquet",
    ]
    before = (out / "results.csv").read_bytes()
    assert command(*arguments)[0] == 0  # all is in the journal: the same again, at once
    assert (out / "results.csv").read_bytes() == before
    assert said == ""


def pyarrow_table(file: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return list(pq.read_table(file).to_pylist())


def test_the_command_refuses_bad_input(command: Any, tmp_path: Path, server: Loopback) -> None:
    (tmp_path / "q.csv").write_text("question,answer\nwhat?,1\n")
    base = ["--controller", "self_consistency"]
    model = [*base, "--base-url", server.url, "--model", MODEL]
    for arguments, match in (
        (base, "--base-url, --model: missing"),
        (model, "--questions: missing"),
        ([*model, "--questions", tmp_path / "none.csv"], "no such file"),
        ([*model, "--questions", tmp_path / "q.csv", "--question-column", "q"], "no column 'q', but question, answer"),
        ([*base, "--base-url", server.url, "--model", "x", "--questions", tmp_path / "q.csv"], "does not have it"),
        ([*model, "--questions", tmp_path / "q.csv"], "the model's context has 10000"),
        ([*model, "--interval", "500", "--max-tokens", "100"], "delta 500: outside 1 to 100"),
        ([*base, "--recorded", tmp_path, "--model", "x"], "--model: not used beside --recorded"),
        ([*base, "--recorded", tmp_path, "--record", tmp_path / "r.txt"], "suffix '.txt' is not understood"),
    ):
        code, _, error = command(*arguments)
        assert (code, match in " ".join(error.split())) == (2, True), (match, error)
    assert not server.asked


def _started(arguments: Sequence[object]) -> subprocess.Popen[str]:
    code = "import sys; from autotts_jax.cli import command; sys.argv[0] = 'autotts'; command()"
    environment = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_twenty_kills_lose_and_repeat_nothing(replay_directory: Path, tmp_path: Path) -> None:
    journal, out = tmp_path / "out" / "journal.jsonl", tmp_path / "out"
    source = replay_directory / "Qwen3-0.6B" / "aime24.json"
    arguments = ["live", "--controller", "confidence_momentum", "--recorded", source, "--shuffles", 8]
    arguments += ["--out", out, "--at-once", 4]
    rng = random.Random(0)
    kept: list[bytes] = []
    for _ in range(20):
        process = _started(arguments)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if journal.exists() and journal.read_bytes().count(b"\n") > len(kept) + 1:
                time.sleep(rng.random() / 2)
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        lines = journal.read_bytes().splitlines(keepends=True)
        assert lines[: len(kept)] == kept
        kept = [line for line in lines if line.endswith(b"\n")]
    last = _started(arguments)
    _, error = last.communicate(timeout=600)
    assert last.returncode == 0, error
    places = [
        (line["row"], line["question"], line["shuffle"])
        for line in map(json.loads, journal.read_bytes().splitlines()[1:])
    ]
    assert len(places) == len(set(places)) == 240
    swept = autotts_jax.sweep(autotts_jax.open_datasets(source), "confidence_momentum", betas=[0.5], shuffles=8)
    expected = swept.table.to_pylist()[0]
    assert {name: pyarrow_table(out / "results.parquet")[0][name] for name in expected} == expected


@pytest.mark.slow
def test_ctrl_c_ends_in_order(replay_directory: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    source = replay_directory / "Qwen3-0.6B" / "aime24.json"
    process = _started(
        ["live", "--controller", "confidence_momentum", "--recorded", source, "--shuffles", 50, "--out", out]
    )
    journal = out / "journal.jsonl"
    while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") > 3):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=10)
    assert process.returncode == 130, error
    assert f"finished questions are kept in {out}" in " ".join(error.replace("\n", "").split())
    assert "Traceback" not in error
