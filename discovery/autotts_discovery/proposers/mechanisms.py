"""What the controllers of `builtin` are made of: for each decision some mechanisms, and the parameters they share.

In the code, `leader`, `v1` and `v2` are the leading answer, its votes and the runner-up's; `clear` is whether they are
enough to stop, `sure` whether they have been for long enough; `overlong` and `strays` are branches to abandon,
`running` counts those that run on, `wanted` are branches to open, `deepen` intervals to generate.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

__all__ = ["DECISIONS", "FACTS", "MEMORY", "NUMBERS", "Mechanism", "Number", "Remembered"]


class Number(NamedTuple):
    """A parameter: a line from β = 0 to β = 1 within bounds. A search moves flat ones as one number."""

    kind: str  # whole or real
    start: float
    stop: float
    least: float
    greatest: float
    log: bool
    comment: str


class Remembered(NamedTuple):
    """An array of integers in the memory."""

    shape: str
    comment: str


@dataclasses.dataclass(frozen=True)
class Mechanism:
    """One way to make a decision.

    Attributes:
      says: What it does, as a sentence of the module's docstring.
      numbers: Its parameters.
      code: Lines of `step`.
      memory: What it remembers.
    """

    says: str = ""
    numbers: tuple[str, ...] = ()
    code: str = ""
    memory: tuple[str, ...] = ()


#: All parameters by name. The values are hand-set: sensible on AIME 2024 with four Qwen3 models.
NUMBERS = {
    "most": Number("whole", 4, 64, 1, 64, True, "branches in all"),
    "start": Number("whole", 2, 6, 1, 64, True, "branches at the start"),
    "keep": Number("whole", 2, 8, 1, 48, True, "running branches are refilled to so many"),
    "spread": Number("real", 0.5, 0.5, 0, 4, False, "and so many more for each vote of the runner-up"),
    "wave": Number("whole", 1, 4, 1, 32, True, "branches in each later wave"),
    "widen": Number("whole", 1, 3, 1, 16, True, "branches opened at a time"),
    "gap": Number("whole", 12, 8, 1, 100, True, "rounds between two openings"),
    "stride": Number("whole", 2, 2, 1, 16, True, "intervals a round"),
    "burst": Number("whole", 5, 5, 1, 32, True, "the same, for branches that show the leading answer"),
    "after": Number("whole", 2, 2, 1, 12, False, "finished branches before any is measured by them"),
    "cut": Number("real", 2, 2, 1, 6, True, "mean finished depths after which a running branch is cut"),
    "longest": Number("whole", 43, 43, 10, 90, True, "intervals after which a running branch is cut"),
    "void": Number("real", 2, 2, 1, 6, True, "mean finished depths after which a finished branch has no vote"),
    "firm": Number("real", 1.5, 1.5, 0, 6, False, "votes from which disagreeing with the leader counts"),
    "patience": Number("whole", 21, 21, 2, 100, True, "intervals of disagreement before a branch is dropped"),
    "leash": Number(
        "real", 0.85, 0.85, 0.1, 3, True, "mean finished depths of disagreement before a branch is dropped"
    ),
    "slack": Number("real", 8, 8, 1, 40, True, "intervals of disagreement that are always allowed"),
    "half": Number("real", 0.5, 0.5, 0, 1, False, "vote of a running branch that repeats a leading answer"),
    "run": Number("whole", 4, 4, 1, 40, True, "equal probes in a row that this takes"),
    "weight": Number("real", 0.3, 0.3, 0, 1, False, "vote of a running branch whose answer has settled"),
    "settled": Number("real", 10, 10, 1, 100, True, "equal probes in a row until it has"),
    "length": Number("real", 1, 1, 0, 4, False, "how much less the votes of longer branches count"),
    "votes": Number("real", 1, 1, 0.25, 8, True, "the leader's least votes"),
    "margin": Number("real", 0.2, 2, -0.5, 5, False, "lead to stop at, in standard deviations"),
    "fall": Number("real", 0.2, 0.2, 0, 1, False, "by which it falls with each doubling of the finished branches"),
    "doubt": Number("real", 0.3, 0.02, 0.0001, 0.5, True, "chance that the leader is no majority, to stop at"),
    "quorum": Number("real", 1, 7, 1, 32, True, "the leader's votes to stop at"),
    "ahead": Number("real", 1, 4, 0.5, 16, True, "the leader's votes beyond the runner-up's to stop at"),
    "repeat": Number("whole", 8, 12, 1, 60, True, "equal probes in a row that settle a running branch"),
    "agree": Number("whole", 1, 5, 1, 16, True, "settled branches for the leader beyond those against, to stop at"),
    "hold": Number("whole", 2, 4, 1, 40, True, "rounds in a row for which that must hold"),
}

#: What is remembered, all of it whole numbers that begin at 0.
MEMORY = {
    "seen": Remembered("obs.width", "depth at which each branch last agreed with the leader"),
    "since": Remembered("()", "rounds since branches were opened"),
    "held": Remembered("()", "rounds in a row in which the vote was clear"),
}

_POOL = """\
pool = pool_tally(obs, parsable=True)
leader, v1 = pool.winner, pool.first.astype(jnp.float32)
v2 = pool.second.astype(jnp.float32)
"""

_LIVE_TIES = """\
pool = pool_tally(obs, parsable=True)
one, two = count(obs.active & (obs.answer == pool.winner), obs.active & (obs.answer == pool.runner_up))
leader = jnp.where((pool.first == pool.second) & (two > one), pool.runner_up, pool.winner)
v1 = pool.first.astype(jnp.float32)
v2 = pool.second.astype(jnp.float32)
"""

_BACKED = """\
pool = pool_tally(obs, parsable=True)
steady = obs.active & (obs.run >= params.run)
one, two = count(steady & (obs.answer == pool.winner), steady & (obs.answer == pool.runner_up))
first = pool.first.astype(jnp.float32) + params.half * one.astype(jnp.float32)
second = pool.second.astype(jnp.float32) + params.half * two.astype(jnp.float32)
leader = jnp.where(second > first, pool.runner_up, pool.winner)
v1 = jnp.maximum(first, second)
v2 = jnp.minimum(first, second)
"""

_SHORT = """\
excess = jnp.maximum(depth / jnp.maximum(mean_depth, 1) - 1, 0)
short = 1 / (1 + params.length * excess)
"""

_STEADY = """\
steady = params.weight * jnp.minimum(obs.run.astype(jnp.float32) / params.settled, 1)
"""

_WEIGHTED = """\
voters = {voters} & ~obs.unparsable
vote = weighted_plurality(obs.answer, {weight}, voters)
leader, v1 = vote.winner, vote.first
v2 = vote.second
"""

_LIVE = "(obs.finished | obs.active)"

_ASTRAY = """\
seen = jnp.where((obs.answer == leader) | (v1 < params.firm), obs.depth, memory.seen)
strays = obs.depth - seen >= params.patience
"""

_LEASH = """\
seen = jnp.where((obs.answer == leader) | (v1 == 0), obs.depth, memory.seen)
limit = jnp.maximum(params.leash * mean_depth, params.slack)
strays = (finished >= params.after) & ((obs.depth - seen).astype(jnp.float32) > limit)
"""

_OVERLONG = "overlong = (finished >= params.after) & (depth > params.cut * mean_depth)\n"

_CONTESTED = """\
keep = params.keep + (params.spread * v2).astype(jnp.int32)
wanted = jnp.where(start, params.start, keep - running)
"""

_WIDENING = """\
due = (memory.since >= params.gap) | (running == 0)
wanted = jnp.where(start, params.start, jnp.where(due, params.widen, 0))
"""

_MARGIN = """\
boundary = params.margin - params.fall * jnp.log2(done)
clear = (v1 >= params.votes) & ((v1 - v2) / jnp.sqrt(v1 + v2 + 1) >= boundary)
"""

_BETA = """\
sureness = confidence(jnp.round(v1).astype(jnp.int32), jnp.round(v2).astype(jnp.int32))
clear = (v1 >= params.votes) & (1 - sureness <= params.doubt)
"""

_SETTLED = """\
decided = obs.finished | (obs.active & (obs.run >= params.repeat))
with_it, against = count(decided & (obs.answer == leader), decided & (obs.answer != leader))
clear = (v1 >= params.votes) & (with_it - against >= params.agree)
"""

_HELD = """\
held = jnp.where(clear & ~start, memory.held + 1, 0)
sure = held >= params.hold
"""

#: The decisions, and the ways to make each.
DECISIONS: dict[str, dict[str, Mechanism]] = {
    "opening": {
        "refill": Mechanism(
            "A few branches run at a time; another opens when one has ended.",
            ("most", "start", "keep"),
            "wanted = jnp.where(start, params.start, params.keep - running)",
        ),
        "contested": Mechanism(
            "A few branches run at a time, more of them the more votes the runner-up has.",
            ("most", "start", "keep", "spread"),
            _CONTESTED,
        ),
        "waves": Mechanism(
            "Branches open in waves, the next when the last has ended.",
            ("most", "start", "wave"),
            "wanted = jnp.where(start, params.start, jnp.where(running == 0, params.wave, 0))",
        ),
        "widening": Mechanism(
            "A few branches open, then more from time to time while the vote is split.",
            ("most", "start", "widen", "gap"),
            _WIDENING,
            ("since",),
        ),
        "one_by_one": Mechanism(
            "Branches open one after another.", ("most",), "wanted = jnp.where(running == 0, 1, 0)"
        ),
        "at_once": Mechanism("All branches open at once.", ("most",), "wanted = jnp.where(start, params.most, 0)"),
    },
    "deepening": {
        "all": Mechanism("All running branches go on alike.", ("stride",), "deepen = params.stride"),
        "leaders": Mechanism(
            "Branches that show the leading answer go on faster.",
            ("stride", "burst"),
            "deepen = jnp.where(obs.answer == leader, params.burst, params.stride)",
        ),
    },
    "cutting": {
        "no_cut": Mechanism(),
        "relative": Mechanism(
            "Branches are cut that run long against the finished ones.", ("after", "cut"), _OVERLONG
        ),
        "absolute": Mechanism(
            "Branches are cut at a fixed depth.", ("longest",), "overlong = obs.depth >= params.longest"
        ),
        "both": Mechanism(
            "Branches are cut that run long against the finished ones, or past a fixed depth.",
            ("after", "cut", "longest"),
            _OVERLONG + "overlong |= obs.depth >= params.longest",
        ),
    },
    "dropping": {
        "no_drop": Mechanism(),
        "astray": Mechanism(
            "Branches are dropped that disagree with a firm leader for too long.",
            ("firm", "patience"),
            _ASTRAY,
            ("seen",),
        ),
        "leash": Mechanism(
            "Branches are dropped that disagree with the leader for long against the mean finished depth.",
            ("after", "leash", "slack"),
            _LEASH,
            ("seen",),
        ),
    },
    "withdrawing": {
        "no_void": Mechanism(),
        "void": Mechanism(
            "Finished branches that ran long against the others lose their vote.",
            ("after", "void"),
            "voided = obs.finished & (finished >= params.after) & (depth > params.void * mean_depth)",
        ),
    },
    "voting": {
        "finished": Mechanism("Finished branches vote.", code=_POOL),
        "live_ties": Mechanism(
            "Finished branches vote; between level leaders, the running ones decide.", code=_LIVE_TIES
        ),
        "backed": Mechanism(
            "Finished branches vote, and for less running ones that repeat one of the two leading answers.",
            ("half", "run"),
            _BACKED,
        ),
        "steady": Mechanism(
            "Finished branches vote, and running ones by how long their answer has been the same.",
            ("weight", "settled"),
            _STEADY + _WEIGHTED.format(weight="jnp.where(obs.finished, 1, steady)", voters=_LIVE),
        ),
        "short": Mechanism(
            "Finished branches vote, longer ones for less.",
            ("length",),
            _SHORT + _WEIGHTED.format(weight="short", voters="obs.finished"),
        ),
        "short_steady": Mechanism(
            "Finished branches vote, longer ones for less, and running ones by how long they have shown one answer.",
            ("length", "weight", "settled"),
            _SHORT + _STEADY + _WEIGHTED.format(weight="jnp.where(obs.finished, short, steady)", voters=_LIVE),
        ),
    },
    "stopping": {
        "margin": Mechanism(
            "It stops at a lead in standard deviations that falls as branches finish.",
            ("votes", "margin", "fall"),
            _MARGIN,
        ),
        "beta": Mechanism("It stops when the leader is a majority with enough confidence.", ("votes", "doubt"), _BETA),
        "lead": Mechanism("It stops at a lead in votes.", ("ahead",), "clear = v1 - v2 >= params.ahead"),
        "quorum": Mechanism("It stops at a number of votes.", ("quorum",), "clear = v1 >= params.quorum"),
        "settled": Mechanism(
            "It stops when enough branches have finished, or repeat their answer, with the leader.",
            ("votes", "repeat", "agree"),
            _SETTLED,
        ),
    },
    "holding": {
        "first": Mechanism(),
        "held": Mechanism(
            "That must hold for some rounds in a row, in which no branch opens.", ("hold",), _HELD, ("held",)
        ),
    },
}

#: What `step` may compute first. Here and in the mechanisms' code, lines whose name no later line uses are left out.
FACTS = """\
start = obs.round == 0
(finished,) = count(obs.finished)
done = jnp.maximum(finished, 1).astype(jnp.float32)
depth = obs.depth.astype(jnp.float32)
mean_depth = jnp.sum(jnp.where(obs.finished, depth, 0)) / done
"""
