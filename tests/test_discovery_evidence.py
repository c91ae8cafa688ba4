"""What is kept of evaluations, and what it says: gains corrected for the choice, parents, losses, rivals."""

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
import test_discovery_loop as loops
from autotts_discovery import evaluations, evidence, ledger, loop, proof, strategies
from autotts_discovery import judge as judges
from autotts_discovery.bench import Bench, Verdict
from autotts_discovery.candidates import Refused
from autotts_discovery.evaluations import References
from autotts_discovery.fitness import Means, Terms, bar_of, fitness, means_of
from autotts_discovery.ledger import Ledger
from autotts_discovery.loop import discover
from autotts_discovery.proposers import Tried
from autotts_discovery.strategies import parents_among

import autotts_jax as tts
from autotts_jax import InputError, results

# Its fixtures: a run whose wall and judge only pretend, and the command.
calls, data, other_data = loops.calls, loops.data, loops.other_data
finished, vault, command_line = loops.finished, loops.vault, loops.command_line

BETAS = (0.0, 1.0)


def means(accuracy: Any, tokens: Any = 1e4, sequential: Any = 1e3) -> Means:
    accuracy = np.asarray(accuracy, np.float32)
    each = (np.broadcast_to(np.asarray(values, np.float32), accuracy.shape) for values in (tokens, sequential))
    return Means(accuracy, *(values.copy() for values in each))


def simple(questions: int, reference: float = 0.5, copies: int = 1) -> References:
    """Gains are plain differences in accuracy to one reference; `copies` models answer the same questions."""
    count = questions * copies
    return References(
        names=("known",),
        betas=BETAS,
        means=means(np.full((1, 2, count), reference)),
        start=means(np.zeros((1, count)), 1e3),
        budgets=np.geomspace([2e4] * copies, [1e5] * copies, 65, axis=1).astype(np.float32),
        member=np.repeat(np.eye(copies, dtype=np.float32), questions, axis=1),
        clusters=np.tile(np.eye(questions, dtype=np.float32), copies),
    )


def drawn(seed: int, candidates: int = 4) -> tuple[Means, References]:
    """Anything; five questions under two models and two under one of them."""
    rng = np.random.default_rng(seed)

    def anything(*shape: int) -> Means:
        tokens = np.exp(rng.uniform(np.log(5e3), np.log(5e5), shape))
        return means(rng.uniform(size=shape), tokens, tokens * rng.uniform(0.1, 1, shape))

    clusters = np.equal.outer(np.arange(7), np.r_[:5, :7]).astype(np.float32)
    member = np.repeat(np.eye(2, dtype=np.float32), [5, 7], axis=1)
    budgets = np.geomspace([2e4, 6e4], [3e5, 2e6], 65, axis=1).astype(np.float32)
    known = References(("a", "b"), BETAS, anything(2, 2, 12), anything(1, 12), budgets, member, clusters)
    return anything(candidates, 2, 12), known


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_evaluations_are_kept(tmp_path: Path) -> None:
    found, references = drawn(0)
    key = evaluations.keep_references(tmp_path, references)
    again = evaluations.kept_references(tmp_path, key)
    jax.tree.map(np.testing.assert_array_equal, dataclasses.asdict(again), dataclasses.asdict(references))
    digests = [evaluations.keep_means(tmp_path, jax.tree.map(lambda leaf, n=n: leaf[n], found)) for n in (0, 1, 0)]
    assert digests[0] == digests[2] != digests[1]
    np.testing.assert_array_equal(evaluations.kept_means(tmp_path, digests[1], again).tokens, found.tokens[1])
    assert len(list((tmp_path / "evaluations").iterdir())) == 3


def test_damaged_and_foreign_evaluations_are_refused(tmp_path: Path) -> None:
    found, references = drawn(0)
    one, other = (evaluations.keep_means(tmp_path, jax.tree.map(lambda leaf, n=n: leaf[n], found)) for n in (0, 1))
    key = evaluations.keep_references(tmp_path, references)
    folder = tmp_path / "evaluations"

    def refused(digest: str, said: str) -> None:
        with pytest.raises(InputError, match=said) as caught:
            evaluations.kept_means(tmp_path, digest, references)
        assert str(folder / digest) in str(caught.value)
        assert "\n" not in str(caught.value)

    refused("0" * 32, "missing")
    refused(key, "not the means of a candidate")
    with pytest.raises(InputError, match="not the references of a run"):
        evaluations.kept_references(tmp_path, one)
    shutil.copytree(folder / one, folder / "kept")
    shutil.rmtree(folder / one)
    shutil.copytree(folder / other, folder / one)
    refused(one, "another archive than the ledger says")
    for file in (folder / other).rglob("*"):
        if file.is_file() and "arrays" in file.parts and file.stat().st_size > 64:
            file.write_bytes(file.read_bytes()[:-32] + b"\0" * 32)
    refused(other, "damaged")


def test_what_a_kill_left_is_swept_up(tmp_path: Path) -> None:
    evaluations.sweep_up(tmp_path)  # nothing there yet
    key = evaluations.keep_means(tmp_path, means(np.zeros((2, 3))))
    (tmp_path / "evaluations" / "tmpab12cd_x" / key).mkdir(parents=True)
    evaluations.sweep_up(tmp_path)
    assert [path.name for path in (tmp_path / "evaluations").iterdir()] == [key]


# --- what the judge sends --------------------------------------------------------------------------------------------


@pytest.fixture
def silent() -> Iterator[judges.Judge]:
    """A judge on a bench of two βs and three questions, whose process says nothing."""
    bench: Any = SimpleNamespace(betas=BETAS, data=(0, 1, 2))
    with judges.Judge(bench) as judge:
        command = [sys.executable, "-c", "import time; time.sleep(60)"]
        pipe = subprocess.PIPE
        judge._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True)
        yield judge


def _bytes(accuracy: float = 0.5, tokens: float = 1e4, questions: int = 3) -> bytes:
    return np.stack(means(np.full((2, questions), accuracy), tokens)).astype("<f4").tobytes()


NUMBERS = {
    "as they should be": (_bytes(), True),
    "too few": (_bytes()[:-1], False),
    "none": (b"", False),
    "of other questions": (_bytes(questions=4), False),
    "an accuracy above 1": (_bytes(accuracy=1.5), False),
    "no number": (_bytes(accuracy=np.nan), False),
    "infinite": (_bytes(tokens=np.inf), False),
    "negative": (_bytes(tokens=-1), False),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_numbers_are_taken_with_care(silent: judges.Judge, monkeypatch: Any, case: str) -> None:
    numbers, sound = NUMBERS[case]
    head = judges._Answer(verdict=verdict(0.01, "a")).model_dump_json().encode()
    monkeypatch.setattr(judges, "_converse", lambda *args: args[-1].put((head, numbers)))
    artefact: Any = SimpleNamespace(programs={}, description="")
    if sound:
        found = silent.evaluate(artefact)
        assert found[0] == verdict(0.01, "a")
        assert found[1].accuracy.shape == (2, 3)
        assert (found[1].tokens == 1e4).all()
        return
    with pytest.raises(Refused) as refused:
        silent.evaluate(artefact)
    assert refused.value.stage == "output"
    assert silent._process is None


def verdict(gain: float, signature: str, error: float = 0.01) -> Verdict:
    return Verdict(
        lower=gain - error,
        gain=gain,
        gain_se=error,
        penalty=0,
        gains={"synthetic": gain},
        betas=BETAS,
        accuracy=(0.5, 0.6),
        tokens=(1e4, 2e4),
        sequential_tokens=(1e3, 2e3),
        latency=1,
        shuffles=4,
        episodes=1,
        seconds=0,
        signature=signature,
    )


# --- the choice, again -----------------------------------------------------------------------------------------------


def again(found: Means, known: References, resamples: int = 100, seed: int = 0, **more: Any) -> evidence.Draws:
    count = len(found.accuracy)
    options = {
        "errors": np.zeros(count, np.float32),
        "parents": np.arange(count, dtype=np.int32),
        "credits": np.full(count, np.inf, np.float32),
        "terms": Terms(),
        **more,
    }
    rest = (known.means, known.start, known.budgets, known.member, known.clusters, jax.random.key(seed))
    arrays = (options.pop(name) for name in ("errors", "parents", "credits"))
    return jax.device_get(evidence.choose_again(found, *arrays, *rest, resamples=resamples, **options))


def test_the_choice_is_redone_as_by_hand() -> None:
    """One sample after the other, its questions copied out, with the references anew in each."""
    found, known = drawn(3, 5)
    terms = Terms(latency=0.8)
    errors = np.array([0.02, 0.1, 0.05, 0, 0.3], np.float32)
    parents, credits = np.array([0, 0, 2, 3, 3], np.int32), np.array([np.inf, -0.02, np.inf, np.inf, 0.01], np.float32)
    key = jax.random.key(7)
    draws = again(found, known, 3, 7, errors=errors, parents=parents, credits=credits, terms=terms)
    indices = np.asarray(jax.random.randint(key, (3, 7), 0, 7, np.int32))

    def scores(clusters: list[int]) -> tuple[list[float], list[float]]:
        questions = np.concatenate([np.flatnonzero(known.clusters[c]) for c in clusters])

        def some(values: Any) -> Any:
            return jax.tree.map(lambda leaf: leaf[..., questions], values)

        member = known.member[:, questions]
        bar = bar_of(some(known.means), some(known.start), known.budgets, member, terms)
        each = [fitness(means_of(Means(*(f[n] for f in some(found))), member), bar, terms) for n in range(5)]
        gains = [float(score.gain) for score in each]
        lower = [float(s.gain - s.penalty) - e for s, e in zip(each, errors.tolist(), strict=True)]
        capped = [[min(v[n], v[parents[n]] + credits[n]) for n in range(5)] for v in (gains, lower)]
        return capped[0], capped[1]

    np.testing.assert_allclose(draws.observed, scores(list(range(7)))[0], atol=2e-6)
    for number, sample in enumerate(indices.tolist()):
        within, lower = scores(sample)
        outside, _ = scores([c for c in range(7) if c not in sample])
        np.testing.assert_allclose(draws.within[number], within, atol=2e-6)
        np.testing.assert_allclose(draws.outside[number], outside, atol=2e-6)
        assert draws.chosen[number] == np.argmax(lower)
    assert draws.usable.all()


def test_luck_is_corrected_away_and_merit_is_kept() -> None:
    """Twenty candidates that are as good as the reference, but for luck; then one of them is better."""
    questions, count, spread = 30, 20, 0.1
    seen, found, better, wide = [], [], [], []
    for universe in range(12):
        rng = np.random.default_rng(universe)
        lucky = rng.normal(0.5, spread, (count, 1, questions)).clip(0, 1).repeat(2, axis=1)
        for merit, into in ((0.0, found), (0.2, better)):
            lucky[7] += merit
            draws = again(means(lucky), simple(questions), 200)
            best = int(np.argmax(draws.observed))
            gain, low, high = evidence.correction(draws, best, questions, 0.95)
            into.append(gain)
            wide.append(high - low)
            if not merit:
                seen.append(float(draws.observed[best]))
                assert low < 0 < high
            else:
                assert best == 7
                assert gain == pytest.approx(float(draws.observed[7]), abs=0.003)
    error = spread / np.sqrt(questions)
    assert np.mean(seen) > 1.5 * error  # the best of twenty
    assert abs(np.mean(found)) < 0.4 * error
    assert np.mean(better) == pytest.approx(0.2, abs=error)
    assert np.mean(wide) == pytest.approx(2 * 2.05 * error, rel=0.2)


# --- a run -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def kept_run(calls: loops.Calls, data: tts.Dataset, monkeypatch: Any) -> None:
    """Likewise a run that pretends, but keeps what it finds."""
    known = simple(2)
    bench = Bench(
        data=data,
        betas=BETAS,
        orders=np.zeros((2, 4, 4), np.int32),
        looks=2,
        terms=Terms(),
        budgets=known.budgets,
        start=known.start,
        names=known.names,
        references={2: known.means, 4: known.means},
    )

    def evaluate(self: Any, artefact: Any) -> tuple[Verdict, Means]:
        gain = artefact.described.told["gain"]
        return self.judge(artefact), means(np.full((2, 2), [0.5 + gain / 2, 0.5 - gain / 2]))

    monkeypatch.setattr(loop.Judge, "evaluate", evaluate)
    monkeypatch.setattr(loop, "evaluations", evaluations)
    monkeypatch.setattr(loop.evidence, "corrected", corrected)
    monkeypatch.setattr(loop, "make_bench", lambda *_, **__: bench)


corrected = evidence.corrected  # whatever a fixture puts in its place


@pytest.mark.usefixtures("kept_run")
def test_a_run_keeps_its_evaluations(data: tts.Dataset, tmp_path: Path) -> None:
    run = tmp_path / "run"
    found = discover(data, out=run, proposer=loops.Scripted(), rounds=2, say=loops.quietly)
    assert found.best is not None
    events = loops.events(run)
    (benched,) = (line for line in events if line["event"] == "benched")
    full = [line for line in events if line["event"] == "evaluated" and line["kind"] == "full"]
    assert all(line["means"] == "" for line in events if line.get("kind") == "look")
    named = {benched["means"], *(line["means"] for line in full)}
    assert {path.name for path in (run / "evaluations").iterdir()} == named
    said = [line["figures"] for line in events if line["event"] == "corrected"]
    assert len(said) == 2
    assert said[-1] == corrected(run).model_dump(mode="json")
    assert said[-1]["candidate"] == found.best.digest
    assert said[-1]["candidates"] == len(full)
    # With credit for tuning as in the ranking: nothing of what only the tuned questions show.
    assert said[-1]["cross_fitted"] == pytest.approx(0, abs=1e-6)
    assert found.file is not None
    header = found.file.read_text()
    assert f"corrected for choosing the best of {len(full)}" in header
    assert evidence.sentence(corrected(run)) in header


def test_a_run_may_have_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    digest = evaluations.keep_means(Path("run"), Means(*np.ones((3, 2, 2), np.float32)))
    assert (tmp_path / "run" / "evaluations" / digest).is_dir()


@pytest.mark.usefixtures("kept_run")
@pytest.mark.parametrize("after", [False, True])
def test_a_kill_between_archive_and_event(data: tts.Dataset, tmp_path: Path, monkeypatch: Any, after: bool) -> None:
    class Killed(BaseException):
        pass

    whole, run = tmp_path / "whole", tmp_path / "run"
    discover(data, out=whole, proposer=loops.Scripted(), rounds=1, say=loops.quietly)
    append = Ledger.append

    def killed(self: Ledger, event: Any) -> None:
        dies = isinstance(event, ledger.Corrected) if after else getattr(event, "kind", "") == "full"
        if dies:
            (self.directory / "evaluations" / "tmpab12cd_x").mkdir()
            raise Killed
        append(self, event)

    tape = {"proposer": f"tape:{whole}", "rounds": 1, "say": loops.quietly}
    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "append", killed)
        with pytest.raises(Killed):
            discover(data, out=run, **tape)
    discover(data, out=run, resume=True, **tape)
    assert loops.work(run) == loops.work(whole)
    names = [sorted(path.name for path in (each / "evaluations").iterdir()) for each in (run, whole)]
    assert names[0] == names[1]


@pytest.mark.usefixtures("kept_run")
def test_a_correction_needs_what_was_kept(data: tts.Dataset, tmp_path: Path) -> None:
    run = tmp_path / "run"
    discover(data, out=run, proposer=loops.Scripted(), rounds=1, tuning=False, say=loops.quietly)
    for wrong, named in (({"resamples": 5}, "resamples 5"), ({"level": 1.0}, "level 1"), ({"seed": -1}, "seed -1")):
        with pytest.raises(InputError, match=named):
            corrected(run, **wrong)
    one = next(fate.full.means for fate in Ledger(run).fates.values() if fate.full)
    shutil.rmtree(run / "evaluations" / one)
    with pytest.raises(InputError, match=rf"{one}: missing\. Put"):
        corrected(run)
    # A ledger from before says so, and goes on without.
    lines = [json.loads(line) for line in (run / "ledger.jsonl").read_text().splitlines()]
    old = [line for line in lines if line["event"] not in ("benched", "corrected")]
    for line in old:
        line.pop("means", None)
        line.get("settings", {}).pop("strategy", None)
    (run / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in old))
    with pytest.raises(InputError, match="judged before means by question were kept"):
        corrected(run)
    shutil.rmtree(run / "evaluations")
    more = {"proposer": loops.Scripted(), "rounds": 2, "resume": True, "tuning": False, "say": loops.quietly}
    discover(data, out=run, **more)
    assert not Ledger(run).of(ledger.Corrected)


@pytest.mark.usefixtures("kept_run")
def test_what_tuning_did_not_keep(data: tts.Dataset, tmp_path: Path, command_line: Any) -> None:
    run = tmp_path / "run"
    discover(data, out=run, proposer=loops.Scripted(), rounds=1, say=loops.quietly)
    gap = evidence.gaps(run)[0]
    assert (gap.seen, gap.unseen) == (0.01, 0.006)
    out, _ = command_line("show", run)
    assert evidence.sentence(corrected(run)) in out
    assert (
        f"{gap.candidate[:8]}, tuned on half of the questions: gained +1.00 points there, +0.60 on the others" in out
    )


# --- parents ---------------------------------------------------------------------------------------------------------


def one(digest: str, lower: float, round: int = 1, tokens: float = 1e5, sequential: float = 1e4, **more: Any) -> Tried:
    return Tried(digest=digest, round=round, source="", lower=lower, tokens=tokens, sequential=sequential, **more)


def test_a_front_and_niches() -> None:
    best, cheap, fast = one("a", 0.03), one("b", 0.01, tokens=2e4), one("c", 0.02, sequential=1e3)
    worse, wide = one("d", 0.02), one("e", 0.005, tokens=4e5)
    refused = Tried(digest="f", round=1, source="", refused="syntax")
    assert strategies.front([best, cheap, fast, worse, wide]) == [best, cheap, fast]
    assert strategies.front([best, one("g", 0.03)]) == [best, one("g", 0.03)]  # equals do not dominate
    assert strategies.niche(best) == strategies.niche(worse) != strategies.niche(wide)
    pool = [worse, wide, cheap, refused, fast, best]
    named = [each.digest for each in parents_among(pool, strategy="archive", round=1)]
    # First the front, then the best of other niches, then the rest.
    assert named == ["a", "c", "b", "e", "d"]
    assert [each.digest for each in parents_among(pool, 2, strategy="archive", round=1)] == ["a", "c"]
    # All in one line of descent or each a founder: the other strategy goes by the lower bound.
    assert [each.digest for each in parents_among(pool)] == ["a", "d", "c", "b", "e"]


def test_islands_take_turns() -> None:
    first, second, third = one("a", 0.03, 1), one("b", 0.02, 2, tokens=5e5), one("c", 0.01, 3, sequential=10)

    def digests(round: int, *pool: Tried) -> set[str]:
        return {each.digest for each in parents_among(pool, strategy="archive", round=round)}

    assert digests(1) == set()
    assert digests(2, first) == set()  # an island begins by itself
    assert digests(3, first, second) == {"a"}
    assert digests(4, first, second, third) == {"a", "b", "c"}  # migration
    assert digests(5, first, second, third) == {"a", "c"}
    tuned = one("t", 0.04, 1, parents=("a",), tuned=True)
    assert digests(5, first, second, third, tuned) == {"t", "c"}


@pytest.mark.usefixtures("calls")
def test_a_run_has_a_strategy(data: tts.Dataset, tmp_path: Path) -> None:
    proposers = loops.Scripted(), loops.Scripted()
    for proposer, strategy in zip(proposers, strategies.STRATEGIES, strict=True):
        discover(data, out=tmp_path / strategy, proposer=proposer, rounds=2, strategy=strategy, say=loops.quietly)
    assert [len(proposer.requests[1].parents) for proposer in proposers] == [3, 0]
    with pytest.raises(InputError, match="a run with strategy archive, not lineage"):
        discover(data, out=tmp_path / "archive", proposer=loops.Scripted(), resume=True, say=loops.quietly)
    with pytest.raises(InputError, match="strategy 'best': not understood"):
        discover(data, out=tmp_path / "new", proposer=loops.Scripted(), strategy="best", say=loops.quietly)
    assert not (tmp_path / "new").exists()


# --- by question -----------------------------------------------------------------------------------------------------


def test_losses_by_hand() -> None:
    """Two references with a row for 1e4 tokens and one for 1e5 each; what is dearer on average is not to be had."""
    known = dataclasses.replace(
        simple(3),
        names=("thin", "thick"),
        means=means(
            [[[0.2, 0.4, 0.6], [0.9, 0.9, 0.0]], [[0.5, 0.5, 0.5], [1.0, 1.0, 1.0]]],
            np.array([[1e4, 1e5], [2e4, 1e6]])[..., None],
        ),
    )
    # At β = 0 for one branch only, at β = 1 for the first row of `thick` and both of `thin`.
    mine = means([[0.0, 0.1, 0.0], [0.25, 0.9, 0.5]], np.array([[500], [1e5]]))
    found = evidence.losses(mine, known)
    # The best affordable row is thin's second, mean 0.6.
    assert [(loss.question, loss.accuracy, loss.best) for loss in found] == [
        (0, pytest.approx(0.125), pytest.approx(0.45)),
        (1, pytest.approx(0.5), pytest.approx(0.45)),
        (2, pytest.approx(0.25), pytest.approx(0.0)),
    ]
    assert {loss.reference for loss in found} <= {"", "thin"}


def test_a_proposer_is_told_where_a_parent_loses(monkeypatch: Any) -> None:
    data = tts.pack(tts.synthetic_trajectories(questions=4, branches=6))
    known = dataclasses.replace(simple(4), names=("rival",), means=means([[[1, 1, 0.5, 0], [1, 1, 0.5, 0]]], 5e3))
    mine = means([[0, 1, 0.5, 0.5]] * 2)
    bench = SimpleNamespace(data=data, orders=tts.draw_orders([data], 4, "random", 0), looks=4)
    monkeypatch.setattr(evaluations.References, "of", lambda bench: known)
    text, episodes, failures = loop.summarized(bench, tts.CONTROLLERS["self_consistency"], mine)  # type: ignore[arg-type]
    assert episodes == 16
    assert sum(failures.values()) <= episodes
    lines = text.splitlines()
    assert lines[0].startswith("against the best hand-made controllers")
    assert lines[1].startswith("  lost on question 0: 0% right instead of 100% (rival)")
    assert lines[2] == "  won on questions 3 (50% instead of 0%)"
    assert lines[3] == "  alike on 2 of 4"
    first = next(number for number, line in enumerate(lines) if line == "by question:") + 1
    assert lines[first].startswith("  question 0: ")
    assert len(lines) == first + 4  # each question once
    text, *_ = loop.summarized(bench, tts.CONTROLLERS["self_consistency"], None)  # type: ignore[arg-type]
    assert "against" not in text


def test_a_loss_has_an_episode() -> None:
    watched: Any = SimpleNamespace(failure=np.array([[0, 0, 5], [0, 0, 0]], np.int32))
    found = [evidence.Loss(0, 0.2, 0.6, "rival"), evidence.Loss(1, 0.3, 0.5, "")]
    text, questions = evidence.told(found, watched, 0.5)
    assert "question 0: 20% right instead of 60% (rival); in shuffle 2 at β = 0.5: stopped early\n" in text
    assert "question 1: 30% right instead of 50% (one branch)\n" in text
    assert questions == [0, 1]


# --- rivals ----------------------------------------------------------------------------------------------------------


def test_rivals_in_the_proof(vault: Path, other_data: tts.Dataset) -> None:
    rival = tts.Setting(tts.CONTROLLERS["parallel_probe"], {"chains": 4}, "mine")
    proved = proof.prove(vault, other_data, [rival])
    rows = proved.comparison.to_pylist()
    assert {row["baseline"] for row in rows} == {"self_consistency", "adaptive_consistency", "mine"}
    assert proved.folder == vault / "proof-1"
    read = results.read(proved.folder)
    assert {row.label for row in read.rows} == {"found", "self_consistency", "adaptive_consistency", "mine"}
    np.testing.assert_array_equal(read.sums["correct"], proved.results.sums["correct"])
    assert tts.frontier.compare(read, "found").to_pylist() == rows
    (event,) = Ledger(vault).of(ledger.Proved)
    assert event.results == "proof-1"


def test_bad_rivals_open_nothing(vault: Path, other_data: tts.Dataset) -> None:
    def breaking(params: Any, memory: Any, obs: Any) -> Any:
        return memory, None

    known = tts.CONTROLLERS["self_consistency"]
    bad = dataclasses.replace(known, name="bad", step=breaking)
    twice = [tts.Setting(known, label="mine")] * 2
    for rivals, said in (
        ([known], "self_consistency: a name that is taken"),
        (twice, "mine: a name that is taken"),
        ([dataclasses.replace(known, name="found")], "found: a name that is taken"),
        ([bad], "bad"),
    ):
        with pytest.raises(InputError, match=said):
            proof.prove(vault, other_data, rivals)
    assert not Ledger(vault).of(ledger.VaultOpened)


def test_judge_against(vault: Path, command_line: Any, tmp_path: Path) -> None:
    _, err = command_line("judge", vault, "--on", tmp_path / "other.json", "--against", "nobody", code=2)
    assert "no such controller" in err
    assert not Ledger(vault).of(ledger.VaultOpened)
    out, _ = command_line("judge", vault, "--on", tmp_path / "other.json", "--against", "mine=parallel_probe")
    assert "mine" in out
    assert f"wrote {vault / 'proof-1'}" in out
