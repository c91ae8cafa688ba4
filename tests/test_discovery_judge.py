"""The fitness against an oracle, benches, verdicts, and a judge that survives what it judges."""

import collections
import dataclasses
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from autotts_discovery import bench as benches
from autotts_discovery import judge as judges
from autotts_discovery.bench import Bench, Replayer, make_bench
from autotts_discovery.candidates import Refused
from autotts_discovery.fitness import PRICE, Means, Terms, assess, bar_of, fitness, means_of
from autotts_discovery.judge import Judge
from autotts_discovery.tuning import _Search, _Space

import autotts_jax as tts
from autotts_jax import InputError, Schedule
from autotts_jax.artefacts import Artefact, export_controller

EXAMPLES = Path(__file__).parent.parent / "notebooks" / "examples"
BETAS = (0.0, 0.5, 1.0)


@pytest.fixture(scope="module", autouse=True)
def _quickly() -> Iterator[None]:
    """Small programs, in the judge's process too: compiled fast."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


# --- the oracle ------------------------------------------------------------------------------------------------------


def reads(tokens: np.ndarray, accuracy: np.ndarray, budget: float) -> float:
    """The best accuracy within a budget: linear over log tokens along the running maximum."""
    order = np.argsort(tokens, kind="stable")
    return float(np.interp(np.log(budget), np.log(tokens[order]), np.maximum.accumulate(accuracy[order])))


def oracle(
    found: Means, references: Means, start: Means, budgets: np.ndarray, member: np.ndarray, terms: Terms
) -> Any:
    """Gain and penalty, one number at a time: see the head of `fitness.py`."""
    gains, excesses = [], []
    for mine, offered in zip(member, budgets, strict=True):
        if not mine.any():
            continue

        def mean(values: np.ndarray, mine: np.ndarray = mine) -> np.ndarray:
            return np.asarray(values, np.float64)[..., mine > 0].mean(axis=-1)

        def curve(means: Means, which: Any = ..., mean: Any = mean) -> tuple[np.ndarray, np.ndarray]:
            tokens, accuracy = (
                np.append(mean(getattr(start, field)[0]), mean(getattr(means, field)[which]))
                for field in ("tokens", "accuracy")
            )
            return tokens, accuracy

        known = [curve(references, which) for which in range(len(references.tokens))]
        if terms.objective == "gain":
            within = np.maximum(offered, mean(start.tokens[0]))
            best = [max(reads(*other, budget) for other in known) for budget in within]
            gains.append(np.mean([reads(*curve(found), budget) for budget in within]) - np.mean(best))
        else:
            best, *others = (np.max(accuracy - terms.gamma * tokens) for tokens, accuracy in (curve(found), *known))
            gains.append(best - max(others))
        pace = mean(references.sequential_tokens[0])
        if terms.latency is not None:
            over = np.log(mean(found.sequential_tokens) / (terms.latency * pace))
            excesses.append(np.mean(np.maximum(over, 0)))
    return float(np.mean(gains)), PRICE * float(np.mean(excesses)) if excesses else 0.0, gains


D, B, Q, R = 2, 5, 12, 3


def drawn(seed: int) -> tuple[Means, Means, Means, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)

    def means(*shape: int) -> Means:
        tokens = np.exp(rng.uniform(np.log(5e3), np.log(5e5), shape))
        drawn = (rng.uniform(size=shape), tokens, tokens * rng.uniform(0.1, 1, shape))
        return Means(*(values.astype(np.float32) for values in drawn))

    member = np.repeat(np.eye(D, dtype=np.float32), [5, 7], axis=1)
    budgets = np.geomspace([2e4, 6e4], [3e5, 2e6], 65, axis=1).astype(np.float32)
    # Questions 0 to 4 were answered by both models.
    clusters = np.equal.outer(np.arange(7), np.r_[:5, :7]).astype(np.float32)
    return means(B, Q), means(R, B, Q), means(1, Q), budgets, member, clusters


@pytest.mark.parametrize(
    "terms",
    [Terms(), Terms(latency=1.0), Terms(latency=0.3), Terms("accuracy"), Terms("reward", gamma=2e-7, latency=2.0)],
    ids=str,
)
def test_fitness_is_the_oracles(terms: Terms) -> None:
    for seed in range(5):
        found, references, start, budgets, member, _ = drawn(seed)
        score = fitness(means_of(found, member), bar_of(references, start, budgets, member, terms), terms)
        gain, penalty, gains = oracle(found, references, start, budgets, member, terms)
        np.testing.assert_allclose(score.gain, gain, atol=2e-6)
        np.testing.assert_allclose(score.penalty, penalty, atol=2e-6)
        np.testing.assert_allclose(score.gains, gains, atol=2e-6)


def test_a_dataset_without_questions_does_not_count() -> None:
    found, references, start, budgets, member, _ = drawn(0)
    member[0] = 0
    terms = Terms(latency=0.5)
    score = fitness(means_of(found, member), bar_of(references, start, budgets, member, terms), terms)
    gain, penalty, _ = oracle(found, references, start, budgets, member, terms)
    np.testing.assert_allclose([score.gain, score.penalty], [gain, penalty], atol=2e-6)


def test_the_standard_error_by_hand() -> None:
    """Delete one cluster, in both datasets, and all of the comparison anew."""
    terms = Terms(latency=0.5)
    found, references, start, budgets, member, clusters = drawn(1)
    left = [
        oracle(found, references, start, budgets, member * (1 - cluster), terms)[0] for cluster in clusters.astype(int)
    ]
    by_hand = np.sqrt(6 / 7 * np.sum((left - np.mean(left)) ** 2))
    assessment = assess(found, references, start, budgets, member, clusters, terms=terms)
    np.testing.assert_allclose(assessment.gain_se, by_hand, rtol=1e-4)
    # Were every question a cluster of its own, it would be another.
    alone = assess(found, references, start, budgets, member, np.eye(Q, dtype=np.float32), terms=terms)
    assert abs(alone.gain_se - by_hand) > 0.01 * by_hand


def test_noise_common_to_both_sides_is_no_error() -> None:
    found, _, start, budgets, member, clusters = drawn(2)
    alone = jax.tree.map(lambda values: values[None], found)
    assessment = assess(found, alone, start, budgets, member, clusters, terms=Terms())
    assert (assessment.score.gain, assessment.gain_se) == (0, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"objective": "best"},
        {"gamma": 1e-7},
        {"objective": "reward"},
        {"objective": "reward", "gamma": -1.0},
        {"latency": 0.0},
        {"latency": float("nan")},
    ],
)
def test_terms_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"\. (Use|Give)|needs a gamma"):
        Terms(**wrong)


# --- candidates ------------------------------------------------------------------------------------------------------


class Params(NamedTuple):
    samples: jax.Array
    margin: jax.Array


def _init(params: Params, obs: tts.Observation) -> tuple[()]:
    return ()


def _step(params: Params, memory: tuple[()], obs: tts.Observation) -> tuple[tuple[()], tts.Action]:
    """Reads branches one at a time, up to a number, until the leader is far enough ahead."""
    pool = tts.pool_tally(obs)
    following = tts.fresh_slots(obs, 1)
    ahead = (pool.first - pool.second).astype(jnp.float32) >= params.margin
    done = (obs.opened >= params.samples) | (obs.unopened == 0) | ahead
    return memory, tts.act(
        obs, open=following, continue_=jnp.where(following, tts.READ_TO_END, 0), stop=done, answer=pool.winner
    )


SCHEDULE = Schedule(Params(samples=tts.whole(1, 8, log=True), margin=tts.real(3, 3, least=0.5, greatest=6)))
VOTES = tts.Controller("votes", SCHEDULE, _init, _step, probe_everything=False, opens=("samples",))


def artefact(step: Callable[..., Any] = _step, name: str = "votes", schedule: Schedule = SCHEDULE) -> Artefact:
    return export_controller(dataclasses.replace(VOTES, name=name, step=step, schedule=schedule), (8,))


# --- benches ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data() -> list[tts.Dataset]:
    """Two models on the same five questions."""
    names = ("Qwen3-1.7B/aime24", "Qwen3-8B/aime24")
    packed = [tts.pack(tts.synthetic_trajectories(name, questions=5, branches=[6, 8, 8, 7, 8])) for name in names]
    return [dataclasses.replace(dataset, texts=packed[0].texts) for dataset in packed]


@pytest.fixture(scope="module")
def bench(data: list[tts.Dataset]) -> Bench:
    return make_bench(data, betas=BETAS, shuffles=4, looks=2, references=[VOTES], terms=Terms(latency=1.0))


@pytest.fixture(scope="module")
def replayer(bench: Bench) -> Replayer:
    return Replayer(bench)


def test_a_bench_holds_what_it_says(bench: Bench, data: list[tts.Dataset]) -> None:
    assert bench.names == ("confidence_momentum", "votes")
    assert bench.clusters.shape == (5, 10)
    assert (bench.clusters.sum(axis=1) == 2).all()
    assert {count: means.tokens.shape for count, means in bench.references.items()} == dict.fromkeys(
        (2, 4), (2, 3, 10)
    )
    for part, budgets in enumerate(bench.budgets):
        mine = bench.member[part] > 0
        ends = bench.start.tokens[0, mine].mean(), bench.references[4].tokens[0, -1, mine].mean()
        np.testing.assert_allclose(budgets[[0, -1]], ends, rtol=1e-6)
        np.testing.assert_allclose(np.diff(np.log(budgets)), np.log(ends[1] / ends[0]) / 64, rtol=1e-3)


def test_one_branch_is_the_mean_over_branches(bench: Bench, data: list[tts.Dataset]) -> None:
    question = 0
    for dataset in data:
        store = dataset.store
        for q, n in enumerate(store.branches.tolist()):
            right = [store.answers[q, b, store.intervals[q, b] - 1] == store.gold[q] for b in range(n)]
            accuracy, tokens, sequential = (field[0, question] for field in bench.start)
            assert accuracy == pytest.approx(sum(right) / n)
            assert tokens == sequential == pytest.approx(store.tokens[q, :n].sum() / n)
            question += 1


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"betas": [0, 2]}, "betas"),
        ({"betas": []}, "betas"),
        ({"betas": [0.5, 0.5]}, "betas"),
        ({"shuffles": 0}, "shuffles"),
        ({"looks": 9}, "looks"),
        ({"tokens": (5, 5)}, "tokens"),
        ({"seed": -1}, "seed"),
        ({"datasets": []}, "data"),
    ],
)
def test_bad_benches(data: list[tts.Dataset], wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=f"^{named} "[:-1]):
        make_bench(**({"datasets": data, "shuffles": 4, "looks": 2, "references": []} | wrong))


# --- verdicts --------------------------------------------------------------------------------------------------------


def test_references_against_themselves(replayer: Replayer) -> None:
    bench = replayer.bench
    pace, votes = (
        bench.judged(jax.tree.map(lambda values, place=place: values[place], bench.references[4]), 4)
        for place in (0, 1)
    )
    assert pace["latency"] == pytest.approx(1)
    assert pace["penalty"] == 0
    assert pace["gain"] <= 0
    verdict = replayer.verdict(artefact(), 4)
    assert verdict.episodes == 3 * 10 * 4
    assert votes == verdict.model_dump(include=set(votes))
    assert verdict == type(verdict).model_validate_json(verdict.model_dump_json())
    looks = [bench.judged(jax.tree.map(lambda values, r=r: values[r], bench.references[2]), 2) for r in (0, 1)]
    assert replayer.floor == min(look["gain"] for look in looks) < 0


def test_a_verdict_is_the_sweeps(replayer: Replayer, data: list[tts.Dataset]) -> None:
    verdict = replayer.verdict(artefact(), 4)
    table = tts.sweep(data, VOTES, betas=BETAS, shuffles=4, orders="random").table.to_pylist()
    for column in ("accuracy", "tokens", "sequential_tokens"):
        means = [np.mean([row[column] for row in table if row["beta"] == beta]) for beta in BETAS]
        np.testing.assert_allclose(getattr(verdict, column), means, rtol=1e-6)
    assert verdict.gain == pytest.approx(np.mean(list(verdict.gains.values())))
    assert list(verdict.gains) == ["synthetic/Qwen3-1.7B-aime24", "synthetic/Qwen3-8B-aime24"]
    assert verdict.penalty > 0  # one branch after the other
    assert verdict.lower == pytest.approx(verdict.gain - verdict.gain_se - verdict.penalty)


def test_equal_behaviour_is_recognised(replayer: Replayer) -> None:
    def otherwise(params: Params, memory: tuple[()], obs: tts.Observation) -> tuple[tuple[()], tts.Action]:
        """The same decisions, written differently."""
        pool = tts.pool_tally(obs)
        ahead = ~((pool.first - pool.second).astype(jnp.float32) < params.margin)
        done = ahead | ~((obs.opened < params.samples) & (obs.unopened > 0))
        slots = tts.fresh_slots(obs, 1)
        reading = jnp.where(slots, tts.READ_TO_END, 0)
        return memory, tts.act(obs, open=slots, continue_=reading, stop=done, answer=pool.winner)

    bolder = Schedule(SCHEDULE.lines._replace(margin=tts.real(1, 1, least=0.5, greatest=6)))
    first, same, other = artefact(), artefact(otherwise, "same"), artefact(schedule=bolder)
    looks = [replayer.verdict(each, 2) for each in (first, same, other)]
    assert looks[0].signature == looks[1].signature != looks[2].signature
    assert looks[0].signature == replayer.verdict(first, 4).signature
    # A candidate with another schedule, name or text runs the same program.
    assert benches.program_of(first) == benches.program_of(other) != benches.program_of(same)


# --- the process -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judge(bench: Bench) -> Iterator[Judge]:
    with Judge(bench, seconds=120) as process:
        yield process


def forever(params: Params, memory: tuple[()], obs: tts.Observation) -> tuple[tuple[()], tts.Action]:
    turns = jax.lax.while_loop(lambda n: n >= 0, lambda n: (n + 1) % 1000, obs.round)
    return _step(params._replace(samples=params.samples + turns), memory, obs)


def test_the_judge_says_what_the_bench_says(judge: Judge, replayer: Replayer) -> None:
    kept = {"seconds"}
    for shuffles, ask in ((4, judge.judge), (2, judge.look)):
        said, here = ask(artefact()), replayer.verdict(artefact(), shuffles)
        assert said.model_dump(exclude=kept) == here.model_dump(exclude=kept)


def test_what_is_far_below_is_refused(judge: Judge) -> None:
    with pytest.raises(Refused, match=r"^judge: far below everything known: .* ± .* points") as refused:
        judge.look(artefact(), floor=0.9)
    assert refused.value.stage == "judge"
    assert judge.look(artefact(), floor=-0.9).shuffles == 2


def test_a_hanging_candidate_is_killed_in_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "a key")
    with Judge(bench, seconds=2) as judge:
        judge._start()
        process = judge._process
        assert process is not None
        environment = Path(f"/proc/{process.pid}/environ")
        if environment.exists():
            assert b"JAX_NUM_CPU_DEVICES" in environment.read_bytes()
            assert b"a key" not in environment.read_bytes()
        hanging, began = artefact(forever), time.monotonic()
        with pytest.raises(Refused, match="no answer from the judge within 2 s") as refused:
            judge.judge(hanging)
        assert time.monotonic() - began < 6
        assert refused.value.stage == "deadline"
        assert process.returncode == -signal.SIGKILL
        judge._seconds = 60
        assert judge.judge(artefact()).episodes == 120  # by another process


def test_a_judge_that_crashes_is_replaced(judge: Judge) -> None:
    hanging = artefact(forever)
    judge.judge(artefact())
    process = judge._process
    assert process is not None
    threading.Timer(1, os.kill, (process.pid, signal.SIGSEGV)).start()
    with pytest.raises(Refused, match=r"its process ended \(signal SIGSEGV\)") as refused:
        judge.judge(hanging)
    assert refused.value.stage == "judge"
    assert judge.judge(artefact()).episodes == 120


def test_a_judge_killed_between_calls_is_replaced(judge: Judge) -> None:
    judge.judge(artefact())
    process = judge._process
    assert process is not None
    process.kill()
    process.wait()
    assert judge.judge(artefact()).episodes == 120


@pytest.fixture
def silent(bench: Bench) -> Iterator[Judge]:
    """A judge whose process says nothing."""
    with Judge(bench, seconds=0.2) as judge:
        judge._process = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(60)"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        yield judge


def test_an_interrupt_leaves_no_answer_behind(silent: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(process: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(judges, "_resident", interrupted)
    with pytest.raises(KeyboardInterrupt):
        silent.judge(artefact())
    assert silent._process is None


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"{}",
        b'{"verdict": 1}',
        b'{"refused": {"stage": "root", "reason": ""}}',
        b"\x80\x04cos\nsystem\n.",
        judges._TooLongError(5 << 20),
    ],
)
def test_answers_are_parsed_with_care(silent: Judge, monkeypatch: pytest.MonkeyPatch, said: Any) -> None:
    monkeypatch.setattr(
        judges, "_converse", lambda *args: args[-1].put((said, b"") if isinstance(said, bytes) else said)
    )
    with pytest.raises(Refused) as refused:
        silent.judge(artefact())
    assert refused.value.stage == "output"
    assert silent._process is None


def test_long_messages_are_not_read() -> None:
    with pytest.raises(judges._TooLongError):
        judges._receive(io.BytesIO(b"\0\0\0\1\0\0\0\0 and so on"), 1000)
    with pytest.raises(OSError, match="ended"):
        judges._receive(io.BytesIO(b"\0\0\0\0\0\0\0\5four"), 1000)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is watched on Linux only")
def test_a_candidate_that_takes_too_much_memory_is_killed(bench: Bench) -> None:
    def greedy(params: Params, memory: tuple[()], obs: tts.Observation) -> tuple[tuple[()], tts.Action]:
        drawn = jax.lax.sort(jnp.arange(2**22, dtype=jnp.int32) % 1013 + obs.round)
        return _step(params._replace(samples=params.samples + drawn[7]), memory, obs)

    with Judge(bench) as judge:
        judge._start()
        judge._memory_bytes = judges._resident(judge._process) + (400 << 20)
        with pytest.raises(Refused, match="memory") as refused:
            judge.judge(artefact(greedy))
        assert refused.value.stage == "memory"


def test_what_is_no_program_is_refused(judge: Judge) -> None:
    whole = artefact()
    for name, program in (("step-8", b"not StableHLO"), ("init-8", whole.programs["step-8"])):
        broken = Artefact(whole.description, {**whole.programs, name: program})
        with pytest.raises(Refused) as refused:
            judge.judge(broken)
        assert refused.value.stage in ("program", "judge")  # an abort of the deserializer is as good
        assert refused.value.reason.isprintable()
    assert judge.judge(whole).episodes == 120


# --- tuning ----------------------------------------------------------------------------------------------------------


def test_a_space_moves_constants_as_one_number() -> None:
    schedule = Schedule(
        collections.OrderedDict(
            rising=tts.whole(1, 8, greatest=16, log=True),
            fixed=tts.real(2, 2),
            pair=tts.real((0.25, 0.5), (0.25, 1), least=0, greatest=1),
        )
    )
    space = _Space.of(schedule, None)
    assert space.names == ("rising", "pair")
    assert space.start.tolist() == [0, 0.75, 0.25, 0.5, 1]
    np.testing.assert_array_equal(space.ends(jnp.asarray(space.start)), schedule.ends)
    assert space.moved(space.start) == schedule
    moved = space.moved(np.array([0.5, 1, 0.123456, 0, 0.75], np.float32))
    assert moved.named_lines["rising"] == dataclasses.replace(schedule.named_lines["rising"], start=4, stop=16)
    assert moved.named_lines["fixed"] == schedule.named_lines["fixed"]
    assert moved.named_lines["pair"].start == (0.1235, 0)
    assert moved.named_lines["pair"].stop == (0.1235, 0.75)
    assert _Space.of(schedule, ["rising"]).names == ("rising",)
    with pytest.raises(InputError, match="'raising' is no parameter"):
        _Space.of(schedule, ["raising"])


def test_tuning_finds_what_is_there(judge: Judge) -> None:
    """A margin so large that every branch is read, where a smaller one loses nothing."""
    wasteful = Schedule(Params(samples=tts.whole(7, 8, least=1), margin=tts.real(6, 6, least=0.5, greatest=6)))
    found = judge.tune(artefact(schedule=wasteful), seconds=4)
    assert (found.free, found.splits >= 1) == (3, True)
    assert found.after > found.before
    assert len(found.ends) == 4
    assert all(0 <= end <= 1 for end in found.ends)
    assert found.curve[0][0] == pytest.approx(found.curve[0][1], abs=1)
    assert len(found.curve) >= 2
    samples, margin = found.values["samples"], found.values["margin"]
    assert all(isinstance(value, int) for value in samples)
    assert margin[0] == margin[1]
    moved = Schedule(
        Params(samples=tts.whole(*samples, least=1, greatest=8), margin=tts.real(*margin, least=0.5, greatest=6))
    )
    again = judge.judge(artefact(schedule=moved))
    assert again.gain - again.penalty == pytest.approx(found.after, abs=1e-6)


def test_a_search_sees_its_own_questions_only(replayer: Replayer) -> None:
    bench = dataclasses.replace(replayer.bench, terms=Terms())
    seen = np.array([1, 1, 1, 0, 0] * 2, np.float32)
    store = dataclasses.replace(bench.data.store, gold=np.where(seen > 0, bench.data.store.gold, -1))
    blind = {count: Means(*(field * seen for field in means)) for count, means in bench.references.items()}
    other = dataclasses.replace(bench, data=dataclasses.replace(bench.data, store=store), references=blind)
    space, key = _Space.of(SCHEDULE, None), jax.random.key(1)
    # evosax leans on implicit promotion; in the judge's process it may.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        first, second = (_Search(Replayer(each), artefact(), SCHEDULE, space) for each in (bench, other))
        found = [search.run(key, seen, None, 3, np.inf)[0] for search in (first, second)]
        third, _ = first.run(key, 1 - seen, None, 3, np.inf)
        bar = first._bar(seen, 4, 2)
        scores = first._scores(jnp.tile(space.start, (16, 1)), key, seen, bar)
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[0] != third).any()
    # And what it maximizes is the fitness on them.
    orders = tts.random_orders(key, bench.data.store, 8, width=8)
    controller = benches.program_of(artefact()).controller()
    params = jax.vmap(artefact().schedule)(jnp.asarray([0, 1], jnp.float32))
    outcome = benches.replay(controller, bench.data.store, params, orders, devices=tuple(jax.devices()))
    means = benches.by_question(outcome, 8)
    gain, _, _ = oracle(means, bench.references[4], bench.start, bench.budgets, bench.member * seen, bench.terms)
    np.testing.assert_allclose(scores, gain, atol=2e-6)


def test_tuning_only_what_is_named(judge: Judge) -> None:
    found = judge.tune(artefact(), free=["margin"], seconds=1)
    assert list(found.values) == ["margin"]
    assert found.free == 1
    assert found.ends[0] == SCHEDULE.ends[0]
    assert found.ends[2] == SCHEDULE.ends[2]
    for free, why in ((["other"], "no parameter"), ([], "room")):
        with pytest.raises(Refused, match=why):
            judge.tune(artefact(), free=free)


# --- what the trial found --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_gains_of_the_trial(replay_directory: Path) -> None:
    """Over CMC alone, 60k to 550k tokens: both gained 1.9 points there, by another seed of the shuffles."""
    data = [d for path in sorted(replay_directory.glob("*/aime24.json")) for d in tts.open_datasets(path)]
    replayer = Replayer(make_bench(data, shuffles=64, references=[], tokens=(60_000, 550_000)))
    assert len(replayer.bench.clusters) == 30
    for name in ("LAT2", "TASC"):
        controller = tts.Setting.parse(str(EXAMPLES / f"family.py:{name}")).controller
        verdict = replayer.verdict(export_controller(controller), 64)
        assert 0.014 < verdict.gain < 0.024
        assert 0.003 < verdict.gain_se < 0.008
