"""The built-in proposer: its grammar writes controllers that keep the contract, and its search repeats nothing."""

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from autotts_discovery.candidates import check_source, with_ends
from autotts_discovery.proposers import Proposal, Request, Tried
from autotts_discovery.proposers.builtin import MOST_FREE, SEEDS, Builtin, Genome, neighbours, read, write
from autotts_discovery.proposers.mechanisms import DECISIONS, MEMORY, NUMBERS

import autotts_jax
from autotts_jax.controllers.base import check_shapes

ROOT = Path(__file__).parent.parent


def _sample(number: int, seed: int = 0) -> list[Genome]:
    """Genomes in which each mechanism occurs as often as any other for its decision."""
    rng = np.random.default_rng(seed)
    while True:
        columns = [rng.permutation(np.resize(list(choices), number)) for choices in DECISIONS.values()]
        genomes = [Genome(*map(str, row)) for row in zip(*columns, strict=True)]
        fit = [genome for genome in genomes if genome.free <= MOST_FREE]
        if set(map(frozenset, zip(*fit, strict=True))) == set(map(frozenset, DECISIONS.values())):
            return fit


def _controller(source: str) -> autotts_jax.Controller:
    namespace: dict[str, Any] = {}
    exec(compile(source, "candidate.py", "exec"), namespace)
    controller: autotts_jax.Controller = namespace["CONTROLLER"]
    return controller


def _tried(proposal: Proposal, gain: float = 0.0) -> Tried:
    # Any digest will do.
    return Tried(digest=f"{hash(proposal.source) % 2**32:08x}", round=1, source=proposal.source, gain=gain, lower=gain)


def _request(tried: tuple[Tried, ...] = (), parents: tuple[Tried, ...] = (), **fields: Any) -> Request:
    return Request(
        **{"number": 1, "round": 1, "wanted": 4, "text": "", "seed": 0} | fields, tried=tried, parents=parents
    )


def _run(rounds: int, wanted: int = 4, seed: int = 0) -> list[list[Proposal]]:
    """A run in which the newest candidates are the best."""
    tried: tuple[Tried, ...] = ()
    replies = []
    for number in range(1, rounds + 1):
        request = _request(tried, tried[::-1][:3], number=number, wanted=wanted, seed=seed + number)
        replies.append(Builtin().propose(request))
        tried += tuple(map(_tried, replies[-1]))
    return replies


# --- the grammar -----------------------------------------------------------------------------------------------------


def test_controllers_fit_together() -> None:
    for genome in _sample(12):
        controller = _controller(write(genome))
        check_shapes(controller)
        assert controller.name == genome.name


def test_a_controller_keeps_the_contract() -> None:
    report = autotts_jax.check_controller(_controller(write(SEEDS[0])))
    assert not report.notes


@pytest.mark.slow
@pytest.mark.parametrize("genome", [*SEEDS, *_sample(12)], ids=lambda genome: genome.name)
def test_controllers_keep_the_contract(genome: Genome) -> None:
    assert not autotts_jax.check_controller(_controller(write(genome))).notes


def test_sources_are_clean(tmp_path: Path) -> None:
    for genome in [*SEEDS, *_sample(200)]:
        (tmp_path / f"{genome.name}.py").write_text(write(genome), encoding="utf-8")
    ruff = [sys.executable, "-m", "ruff"]
    settings = ["--config", str(ROOT / "pyproject.toml"), "--config", f"src = ['{ROOT}']", "--no-cache"]
    for command in (["format", "--check"], ["check"]):
        done = subprocess.run([*ruff, *command, *settings, str(tmp_path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_sources_are_allowed() -> None:
    for genome in [*SEEDS, *_sample(30)]:
        check_source(write(genome))


def test_a_source_holds_what_its_mechanisms_need_and_no_more() -> None:
    for genome in _sample(100):
        source = write(genome)
        body = source.partition("def step")[2]
        assert {name for name in NUMBERS if f"params.{name}" in body} >= set(genome.numbers)
        assert [name for name in NUMBERS if f"    {name}: jax.Array" in source] == sorted(
            genome.numbers, key=list(NUMBERS).index
        )
        for name in MEMORY:
            assert (f"memory.{name}" in body) == (f"{name}=jnp.zeros" in source)


def test_every_number_is_used_by_a_mechanism_and_lies_within_its_bounds() -> None:
    used = {name for choices in DECISIONS.values() for mechanism in choices.values() for name in mechanism.numbers}
    assert used == set(NUMBERS)
    for number in NUMBERS.values():
        assert number.least <= min(number.start, number.stop) <= max(number.start, number.stop) <= number.greatest


def test_names_are_unique() -> None:
    genomes = {Genome(*choices) for choices in itertools.product(*DECISIONS.values())}
    assert len({genome.name for genome in genomes}) == len(genomes)


def test_round_trip() -> None:
    for genome in [*SEEDS, *_sample(60)]:
        found = read(write(genome))
        assert found is not None
        assert found == (genome, {name: (NUMBERS[name].start, NUMBERS[name].stop) for name in genome.numbers})


def test_tuned_numbers_are_read_and_written_again() -> None:
    genome = SEEDS[0]
    tuned = with_ends(write(genome), {"margin": (-0.25, 1.5), "keep": (3, 7), "longest": (41, 41)})
    found = read(tuned)
    assert found is not None
    assert found[0] == genome
    assert {name: found[1][name] for name in ("margin", "keep", "longest")} == {
        "margin": (-0.25, 1.5),
        "keep": (3, 7),
        "longest": (41, 41),
    }
    assert read(write(*found)) == found
    ends = _controller(write(*found)).schedule.named_lines["margin"]
    assert (ends.start, ends.stop) == (-0.25, 1.5)


def test_numbers_are_kept_within_their_bounds() -> None:
    found = read(write(SEEDS[0], {"margin": (-100, 100), "keep": (0.4, 7.6), "unknown": (1, 1)}))
    assert found is not None
    assert (found[1]["margin"], found[1]["keep"]) == ((-0.5, 5), (1, 8))


@pytest.mark.parametrize(
    "change",
    [
        lambda source: "x = 1",
        lambda source: "def (",
        lambda source: source.replace("Mechanisms: ", "Mechanisms: unheard_of, "),
        lambda source: source.replace("Mechanisms: refill", "Mechanisms: waves"),
        lambda source: source.replace("Mechanisms: refill", "Mechanisms: hostile"),
        lambda source: source.replace('"""\n\nfrom', 'Mechanisms: refill\n"""\n\nfrom', 1) + source,
        lambda source: source.replace("margin=real(", "margin=real(evil(), "),
        lambda source: source.replace("margin=real(0.2", "margin=real(1" + 500 * "0"),
        lambda source: source.replace("margin=real(", "another=real("),
        lambda source: source.replace("stop = ~start &", "stop = start |"),
        lambda source: source.replace("    stop = ~start", f"    x = {2000 * '-'}1\n    stop = ~start"),
        lambda source: source + "\0",
    ],
)
def test_sources_of_others_are_not_taken_for_its_own(change: Any) -> None:
    source = write(SEEDS[0])
    assert change(source) != source
    assert read(change(source)) is None


# --- the search ------------------------------------------------------------------------------------------------------


def test_neighbours_differ_in_one_mechanism() -> None:
    for genome in _sample(30):
        found = neighbours(genome)
        assert len(found) == len(set(found)) > 8
        assert all(sum(a != b for a, b in zip(genome, other, strict=True)) == 1 for other in found)
        assert all(other.free <= MOST_FREE for other in found)


def test_it_begins_with_seeds() -> None:
    (first,) = _run(1)
    assert [read(proposal.source)[0] for proposal in first] == list(SEEDS[:4])
    assert all(proposal.idea and not proposal.parents for proposal in first)
    assert {genome.opening for genome in SEEDS} == set(DECISIONS["opening"])


def test_it_depends_on_the_request_alone() -> None:
    assert _run(4) == _run(4)
    assert _run(4) != _run(4, seed=1)


def test_nothing_is_proposed_twice() -> None:
    genomes = [read(proposal.source) for reply in _run(12, wanted=8) for proposal in reply]
    assert None not in genomes
    assert len({found[0] for found in genomes if found}) == len(genomes) == 96


def test_children_take_over_their_parents_numbers() -> None:
    parents = tuple(
        _tried(Proposal(source=write(genome, {name: (NUMBERS[name].least,) * 2 for name in genome.numbers})))
        for genome in SEEDS[:2]
    )
    known = {parent.digest: read(parent.source) for parent in parents}
    kinds = set()
    for number in range(2, 12):
        request = _request(parents + tuple(_tried(Proposal(source=write(seed))) for seed in SEEDS), parents)
        request = request.model_copy(update={"number": number})
        for proposal in Builtin().propose(request):
            kinds.add(len(proposal.parents))
            child = read(proposal.source)
            assert child is not None
            genomes = [known[digest][0] for digest in proposal.parents]
            if len(genomes) == 1:
                assert sum(a != b for a, b in zip(child[0], genomes[0], strict=True)) == 1
            elif genomes:
                assert all(choice in both for choice, *both in zip(child[0], *genomes, strict=True))
            inherited = set().union(*(genome.numbers for genome in genomes)) if genomes else set()
            for name, ends in child[1].items():
                number_ = NUMBERS[name]
                assert ends == ((number_.least,) * 2 if name in inherited else (number_.start, number_.stop))
    assert kinds == {0, 1, 2}


def test_without_parents_of_its_own_it_goes_on_with_strangers() -> None:
    foreign = Tried(digest="00", round=1, source="import os", gain=0.1, lower=0.1)
    tried = (foreign, *(_tried(Proposal(source=write(seed))) for seed in SEEDS))
    found = Builtin().propose(_request(tried, (foreign,), number=3))
    assert len(found) == 4
    assert not any(proposal.parents for proposal in found)


def test_it_ends_when_everything_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autotts_discovery.proposers.builtin._genomes", lambda: SEEDS)
    tried = tuple(_tried(Proposal(source=write(seed))) for seed in SEEDS[1:])
    assert [proposal.source for proposal in Builtin().propose(_request(tried))] == [write(SEEDS[0])]
