"""The built-in proposer: no language model, but a search over controllers made of known mechanisms.

A `Genome` names one mechanism for each decision (see `mechanisms`). `write` turns it into the source of a controller,
with the code and the parameters of its mechanisms and no others; `read` finds genome and numbers in a source again. So
all that the search knows is in what was tried, and a run can be repeated or resumed.
"""

from __future__ import annotations

import ast
import functools
import itertools
import operator
import re
from collections.abc import Mapping, Sequence, Set
from typing import NamedTuple

import numpy as np

from autotts_discovery.proposers import Proposal, Request
from autotts_discovery.proposers.mechanisms import DECISIONS, FACTS, MEMORY, NUMBERS, Mechanism

__all__ = ["SEEDS", "Builtin", "Ends", "Genome", "neighbours", "read", "write"]

#: Values of parameters at β = 0 and β = 1, by name.
Ends = Mapping[str, tuple[float, float]]

#: More numbers than this fit the questions rather than the model.
MOST_FREE = 20

# Genomes that are drawn for each one proposed from nowhere; the one least like all others is taken.
_DRAWN = 32


class Genome(NamedTuple):
    """The mechanism for each decision."""

    opening: str
    deepening: str
    cutting: str
    dropping: str
    withdrawing: str
    voting: str
    stopping: str
    holding: str

    @property
    def mechanisms(self) -> tuple[Mechanism, ...]:
        """What the names stand for."""
        return tuple(DECISIONS[decision][choice] for decision, choice in self._asdict().items())

    @property
    def numbers(self) -> tuple[str, ...]:
        """The names of the parameters."""
        return tuple(dict.fromkeys(itertools.chain(*(mechanism.numbers for mechanism in self.mechanisms))))

    @property
    def free(self) -> int:
        """How many numbers a search has to set, if it moves parameters that are the same for every β as one."""
        return sum(1 if NUMBERS[name].start == NUMBERS[name].stop else 2 for name in self.numbers)

    @property
    def name(self) -> str:
        """The controller's name; no two genomes have the same."""
        number = 0
        for decision, choice in self._asdict().items():
            number = number * len(DECISIONS[decision]) + list(DECISIONS[decision]).index(choice)
        return f"{self.opening}_{self.voting}_{self.stopping}_{number}"


#: Where a search begins: different mechanisms, each in good company.
SEEDS = (
    Genome("refill", "leaders", "both", "astray", "no_void", "short_steady", "margin", "first"),
    Genome("waves", "all", "absolute", "astray", "void", "short", "lead", "first"),
    Genome("contested", "all", "both", "leash", "no_void", "backed", "beta", "held"),
    Genome("widening", "leaders", "absolute", "no_drop", "void", "live_ties", "quorum", "first"),
    Genome("one_by_one", "all", "both", "leash", "no_void", "finished", "settled", "first"),
    Genome("at_once", "all", "both", "astray", "no_void", "short", "settled", "held"),
)


class Parent(NamedTuple):
    """A candidate of this grammar."""

    digest: str
    genome: Genome
    ends: Ends


class Builtin:
    """Proposes the seeds and, from the second request on, children of the parents and strangers.

    Children are mutants, which differ from a parent in one mechanism, and crosses of two. They take over the numbers,
    perhaps tuned, that their parents have for their parameters. Strangers are as unlike as can be to all that was
    tried. No structure is proposed twice, and proposals depend on nothing but the request.

    Attributes:
      name: Its kind, for the ledger.
      reads: That it does not read a request's text.
    """

    name = "builtin"
    reads = False

    def propose(self, request: Request) -> list[Proposal]:
        """As many proposals as are asked for; fewer once everything was tried."""
        rng = np.random.default_rng([request.seed, request.number])
        parents = [
            Parent(known.digest, *found) for known in request.parents if (found := read(known.source)) is not None
        ]
        seen = {found[0] for known in request.tried if (found := read(known.source)) is not None}
        seen.update(parent.genome for parent in parents)
        proposals = []
        for place in range(request.wanted):
            # Half of what is asked for later are seeds, as long as there are any.
            seeds = [_seed] if request.number == 1 or place % 2 == 0 else []
            way = (_mutant, _mutant, _cross, _stranger)[int(rng.integers(4))]
            ways = [*seeds, way, _mutant, _stranger]
            made = next((made for make in ways if (made := make(parents, seen, rng)) is not None), None)
            if made is None:
                break
            genome, proposal = made
            seen.add(genome)
            proposals.append(proposal)
        return proposals


_Made = tuple[Genome, Proposal]


def _seed(parents: Sequence[Parent], seen: Set[Genome], rng: np.random.Generator) -> _Made | None:
    """The next of the seeds."""
    return next(((seed, _described(seed)) for seed in SEEDS if seed not in seen), None)


def _mutant(parents: Sequence[Parent], seen: Set[Genome], rng: np.random.Generator) -> _Made | None:
    """A parent, rather one of the first, with another mechanism for one decision."""
    for parent in _drawn(parents, rng):
        children = [child for child in neighbours(parent.genome) if child not in seen]
        if not children:
            continue
        child = children[int(rng.integers(len(children)))]
        changes = zip(Genome._fields, parent.genome, child, strict=True)
        change = next(f"{decision}: {new} instead of {old}" for decision, old, new in changes if old != new)
        idea = f"{parent.genome.name} with another {change}"
        return child, Proposal(source=write(child, parent.ends), idea=idea, parents=(parent.digest,))
    return None


def _cross(parents: Sequence[Parent], seen: Set[Genome], rng: np.random.Generator) -> _Made | None:
    """Each mechanism, with its numbers, from one of two parents."""
    for one, other in itertools.combinations(_drawn(parents, rng), 2):
        for _ in range(_DRAWN):
            sides = [(one, other)[side] for side in rng.integers(2, size=len(Genome._fields))]
            child = Genome(*(side.genome[i] for i, side in enumerate(sides)))
            if child in seen or child.free > MOST_FREE:
                continue
            ends: dict[str, tuple[float, float]] = {}
            for side, mechanism in zip(sides, child.mechanisms, strict=True):
                for name in mechanism.numbers:
                    ends.setdefault(name, side.ends[name])
            idea = f"{one.genome.name} crossed with {other.genome.name}"
            return child, Proposal(source=write(child, ends), idea=idea, parents=(one.digest, other.digest))
    return None


def _stranger(parents: Sequence[Parent], seen: Set[Genome], rng: np.random.Generator) -> _Made | None:
    """Of some genomes drawn from those never tried, the one that is least like any that was."""
    untried = [genome for genome in _genomes() if genome not in seen]
    if not untried:
        return None
    drawn = [untried[int(i)] for i in rng.integers(len(untried), size=_DRAWN)]

    def unlikeness(genome: Genome) -> int:
        return min((sum(map(operator.ne, genome, other)) for other in seen), default=0)

    genome = max(drawn, key=unlikeness)
    return genome, _described(genome)


def _drawn(parents: Sequence[Parent], rng: np.random.Generator) -> list[Parent]:
    """The parents in an order that is drawn; each of them is half as likely to come next as the one before."""
    times = rng.exponential(2.0 ** np.arange(len(parents)))
    return [parents[int(i)] for i in np.argsort(times)]


def _described(genome: Genome) -> Proposal:
    return Proposal(source=write(genome), idea=" ".join(filter(None, (part.says for part in genome.mechanisms))))


def neighbours(genome: Genome) -> list[Genome]:
    """The genomes that differ in exactly one mechanism."""
    mutants = (
        genome._replace(**{decision: choice})
        for decision, choices in DECISIONS.items()
        for choice in choices
        if choice != getattr(genome, decision)
    )
    return [mutant for mutant in mutants if mutant.free <= MOST_FREE]


@functools.cache
def _genomes() -> tuple[Genome, ...]:
    """All genomes."""
    genomes = itertools.starmap(Genome, itertools.product(*DECISIONS.values()))
    return tuple(genome for genome in genomes if genome.free <= MOST_FREE)


# --- source ----------------------------------------------------------------------------------------------------------

_MODULE = '''\
"""{summary}

{points}

Mechanisms: {genome}
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from autotts_jax import {imports}


class Params(NamedTuple):
    """What the schedule sets."""

{fields}


SCHEDULE = Schedule(
    Params(
{lines}
    )
)


{memory}


def step(params, memory, obs):
    """Votes, stops, cuts, opens and deepens."""
{body}


CONTROLLER = Controller("{name}", SCHEDULE, init, step, opens=("most",))
'''

_MEMORY = '''\
class Memory(NamedTuple):
    """What is remembered from round to round."""

{fields}


def init(params, obs):
    """Nothing seen yet."""
    return Memory({zeros})'''

_NO_MEMORY = '''\
def init(params, obs):
    """Nothing is remembered."""
    return ()'''

# What modules import where they call it.
_PUBLIC = ("act", "confidence", "count", "plurality", "pool_tally", "real", "weighted_plurality", "whole")


def write(genome: Genome, ends: Ends | None = None) -> str:
    """The source of a controller.

    Args:
      genome: Its mechanisms.
      ends: Values of parameters at β = 0 and β = 1 where they are not the usual ones. They are kept within their
        bounds, and names that the controller does not have are ignored.
    """
    summary, *points = filter(None, (mechanism.says for mechanism in genome.mechanisms))
    lines = [_line(name, (ends or {}).get(name)) for name in genome.numbers]
    body = _step(genome)
    called = [name for name in _PUBLIC if re.search(rf"\b{name}\(", "\n".join([*lines, body]))]
    remembered = _remembered(genome)
    if remembered:
        memory = _MEMORY.format(
            fields="\n".join(f"    {name}: jax.Array  # {MEMORY[name].comment}" for name in remembered),
            zeros=", ".join(f"{name}=jnp.zeros({MEMORY[name].shape}, jnp.int32)" for name in remembered),
        )
    return _MODULE.format(
        summary=summary,
        points="\n".join(f"* {point}" for point in points),
        genome=", ".join(genome),
        imports=", ".join(["Controller", "Schedule", *called]),
        fields="\n".join(f"    {name}: jax.Array  # {NUMBERS[name].comment}" for name in genome.numbers),
        lines="\n".join(f"        {line}" for line in lines),
        memory=memory if remembered else _NO_MEMORY,
        body="\n".join(f"    {line}" if line else "" for line in body.splitlines()),
        name=genome.name,
    )


def read(source: str) -> tuple[Genome, dict[str, tuple[float, float]]] | None:
    """The genome of a source and its parameters' values at β = 0 and β = 1; None if `write` did not make it.

    Since then, nothing of its functions may have changed, and of the schedule only numbers.
    """
    named = re.findall(r"^Mechanisms: ([a-z_]+(?:, [a-z_]+)*)$", source, re.MULTILINE)
    choices = named[0].split(", ") if len(named) == 1 else []
    if len(choices) != len(DECISIONS) or not all(map(operator.contains, DECISIONS.values(), choices)):
        return None
    genome = Genome(*choices)
    try:
        module = ast.parse(source)
        ends = _ends(module)
        same = _functions(module) == _written(genome)
    except (SyntaxError, ValueError, TypeError, OverflowError, RecursionError, MemoryError):
        return None
    return (genome, ends) if same and set(ends) == set(genome.numbers) else None


@functools.cache
def _written(genome: Genome) -> list[str]:
    return _functions(ast.parse(write(genome)))


def _functions(module: ast.Module) -> list[str]:
    return [ast.dump(node) for node in module.body if isinstance(node, ast.FunctionDef)]


def _ends(module: ast.Module) -> dict[str, tuple[float, float]]:
    """The numbers in ``SCHEDULE = Schedule(Params(name=whole(start, stop, …), …))``."""
    ends = {}
    for node in module.body:
        match node:
            case ast.Assign([ast.Name("SCHEDULE")], ast.Call(args=[ast.Call(keywords=lines)])):
                for line in lines:
                    match line:
                        case ast.keyword(str(name), ast.Call(args=[start, stop])):
                            ends[name] = float(ast.literal_eval(start)), float(ast.literal_eval(stop))
    return ends


def _line(name: str, ends: tuple[float, float] | None) -> str:
    """A parameter of the schedule."""
    number = NUMBERS[name]
    values = np.clip(ends or (number.start, number.stop), number.least, number.greatest)
    start, stop = (f"{round(value)}" if number.kind == "whole" else f"{value:.4g}" for value in values)
    log = ", log=True" if number.log else ""
    return f"{name}={number.kind}({start}, {stop}, least={number.least}, greatest={number.greatest}{log}),"


def _remembered(genome: Genome) -> list[str]:
    used = set(itertools.chain(*(mechanism.memory for mechanism in genome.mechanisms)))
    return [name for name in MEMORY if name in used]


def _step(genome: Genome) -> str:
    """The body of `step`."""
    code = {d: mechanism.code.rstrip() for d, mechanism in zip(DECISIONS, genome.mechanisms, strict=True)}
    held, widening = bool(code["holding"]), "since" in _remembered(genome)
    abandoned = [name for name in ("overlong", "strays") if name in code["cutting"] + code["dropping"]]
    doomed = f"({' | '.join(abandoned)})" if len(abandoned) > 1 else "".join(abandoned)
    pruned = ["doomed"] * bool(abandoned) + ["voided"] * bool(code["withdrawing"])
    sections = {
        "Vote.": [code["voting"]],
        "Enough?": [code["stopping"], code["holding"]],
        "Which branches end?": [
            code["cutting"],
            code["dropping"],
            f"doomed = obs.active & {doomed}" if abandoned else "",
            code["withdrawing"],
        ],
        "Which open?": [
            f"going = obs.active{' & ~doomed' if abandoned else ''}",
            "(running,) = count(going)",
            code["opening"],
            "wanted = jnp.where(clear, 0, wanted)" if held else "",
            "branch = jnp.clip(wanted, 0, jnp.minimum(params.most - obs.opened, obs.unopened))",
            "since = jnp.where(branch > 0, 0, memory.since + 1)" if widening else "",
        ],
        "How far?": [
            code["deepening"],
            "deepen = jnp.minimum(deepen, params.longest - obs.depth)" if "longest" in genome.numbers else "",
        ],
        "The end, and an answer even if nobody has voted.": [
            f"stop = ~start & ({'sure' if held else 'clear'} | ((running == 0) & (branch == 0)))",
            "newest = plurality(obs.answer, obs.open & ~obs.unparsable, when=stop & (v1 == 0))",
            "answer = jnp.where(v1 > 0, leader, newest.winner)",
        ],
    }
    rules = "\n\n".join(
        "\n".join([f"# {title}", *filter(None, lines)]) for title, lines in sections.items() if any(lines)
    )
    action = [
        *([f"prune={' | '.join(pruned)},"] if pruned else []),
        "branch=branch,",
        "continue_=jnp.where(going, deepen, 0),",
        "stop=stop,",
        "answer=answer,",
    ]
    remembered = _remembered(genome)
    memory = f"Memory({', '.join(remembered)})" if remembered else "memory"
    text = f"{rules}\n" + "\n    ".join([f"return {memory}, act(", "obs,", *action]) + "\n)"
    return _needed(f"{FACTS}\n{text}")


def _needed(code: str) -> str:
    """The code without the lines that assign a name which no later line uses."""
    needed: list[str] = []
    for line in reversed(code.splitlines()):
        name = re.match(r"\(?(\w+),?\)? = ", line)
        if name is None or re.search(rf"(?<![.\w]){name[1]}\b", "\n".join(needed)):
            needed.insert(0, line)
    return "\n".join(needed)
