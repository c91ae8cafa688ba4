"""The oracle: the replay environment and the published controllers in plain Python, by atomic actions.

Slow and obvious on purpose. Answers are strings, branches are lists, every interval is paid for on its own,
and nothing comes from `autotts_jax`: what the library computes with arrays is counted here by hand.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

#: As a number of intervals to continue: until the branch finishes.
READ_TO_END = 2**31 - 1

#: The budget left, and the finish order of a slot that has not finished, where there is none.
UNLIMITED = 2**31 - 1

#: Rounds after which the Confidence Momentum Controller gives up.
MOMENTUM_ROUNDS = 500

#: Rounds in a row that may change nothing if the controller asks for it.
MAX_WAITS = 100

ANSWERED, IDLE = 1, 2


# --- votes --------------------------------------------------------------------------------------------------


def tally(answers: Iterable[str]) -> dict[str, int]:
    """Votes per answer, in the order in which the answers first occur."""
    counts: dict[str, int] = {}
    for answer in answers:
        counts[answer] = counts.get(answer, 0) + 1
    return counts


def plurality(answers: Iterable[str]) -> str | None:
    """The most frequent answer; of equally frequent ones the one that occurs first. None without votes."""
    winner, most = None, 0
    for answer, count in tally(answers).items():
        if count > most:
            winner, most = answer, count
    return winner


def top2(answers: Iterable[str]) -> tuple[int, int]:
    """The counts v1 ≥ v2 of the two most frequent answers, 0 where there is none."""
    counts = sorted(tally(answers).values(), reverse=True)
    return (*counts, 0, 0)[0], (*counts, 0, 0)[1]


def weighted_plurality(votes: Iterable[tuple[str, Fraction]]) -> tuple[str | None, Fraction, Fraction]:
    """The answer with the greatest sum of weights, that sum, and the next; ties as in `plurality`."""
    sums: dict[str, Fraction] = {}
    for answer, weight in votes:
        sums[answer] = sums.get(answer, Fraction(0)) + weight
    winner = max(sums, key=lambda answer: sums[answer], default=None)
    ranked = [*sorted(sums.values(), reverse=True), Fraction(0), Fraction(0)]
    return winner, ranked[0], ranked[1]


def entropy(answers: Sequence[str]) -> float:
    """The entropy of the answers in nats."""
    return -math.fsum(v / len(answers) * math.log(v / len(answers)) for v in tally(answers).values())


@functools.cache
def exact_confidence(v1: int, v2: int) -> Fraction:
    """1 − I₀.₅(v1 + 1, v2 + 1); 0 when v1 = 0.

    For whole numbers I_x(a, b) is the chance of a or more successes in a + b − 1 trials.
    """
    if v1 == 0:
        return Fraction(0)
    a, trials = v1 + 1, v1 + v2 + 1
    return 1 - Fraction(sum(math.comb(trials, successes) for successes in range(a, trials + 1)), 2**trials)


def confidence(v1: int, v2: int) -> float:
    """`exact_confidence`, rounded once."""
    return float(exact_confidence(v1, v2))


# --- the environment ----------------------------------------------------------------------------------------


class Branch(NamedTuple):
    """A recorded branch. Δ and price per token belong to it: a question may have branches of several models."""

    probes: Sequence[str]
    tokens: int
    final: str
    delta: int
    price: float = 1.0

    @property
    def answers(self) -> Sequence[str]:
        """What each interval reveals."""
        return (*self.probes, self.final)


@dataclass
class Slot:
    """An opened branch."""

    branch: Branch
    opened_in: int  # the round
    start: int  # tokens on the critical path before it opened
    whole: bool  # to be read to its end in the round that opens it
    depth: int = 0
    tokens: int = 0
    pruned: bool = False
    answer: str | None = None  # newest revealed
    run: int = 0  # newest revealed answers that are equal
    revealed_at: int = 0  # the depth at which it was revealed

    @property
    def finished(self) -> bool:
        """Generated to the end."""
        return self.depth == len(self.branch.probes) + 1

    @property
    def active(self) -> bool:
        """Neither pruned nor finished."""
        return not self.pruned and not self.finished

    @property
    def charge(self) -> int:
        """Price × tokens."""
        return round(self.branch.price * self.tokens)


class Ended(Exception):  # noqa: N818, it is no error
    """A round ended the episode."""


class Episode:
    """One question under one branch order.

    Args:
      branches: In the order in which they can be opened: the pool.
      cost_model: ``released``, ``generated``, ``intervals`` or ``priced``.
      probe_cost: κ_probe, in the cost model's unit.
      budget: In that unit; None for no limit.
      probe_everything: Each interval's answer is probed as it is generated, and paid for with it.
      unparsable: Answers that could not be parsed.
    """

    def __init__(
        self,
        branches: Sequence[Branch],
        *,
        cost_model: str = "released",
        probe_cost: int = 0,
        budget: int | None = None,
        probe_everything: bool = True,
        unparsable: Sequence[str] = ("ERR",),
    ) -> None:
        self.branches = branches
        self.cost_model = cost_model
        self.probe_cost = probe_cost
        self.budget = budget
        self.probe_everything = probe_everything
        self.unparsable = unparsable
        self.slots: dict[int, Slot] = {}  # the open ones, by number
        self.finish_order: list[int] = []
        self.rounds = 0
        self.tokens = 0
        self.intervals = 0
        self.probes = 0
        self.refused = 0
        self.stop_reason = 0
        self.prediction: str | None = None
        self.changed = False
        self.waited = 0
        self.clock = 0  # the critical path before the round
        # The closest that two different real numbers came when a controller compared them.
        self.margin = math.inf

    # What was spent.

    @property
    def cost(self) -> int:
        """Spent so far, in the cost model's unit."""
        spent = {"intervals": self.intervals, "priced": sum(slot.charge for slot in self.slots.values())}
        return spent.get(self.cost_model, self.tokens) + self.probe_cost * self.probes

    @property
    def budget_left(self) -> int | None:
        """In the cost model's unit; None without a budget."""
        return None if self.budget is None else self.budget - self.cost

    @property
    def sequential_tokens(self) -> int:
        """When the last of the slots is done, on a clock that counts tokens."""
        return max((slot.start + slot.tokens for slot in self.slots.values()), default=0)

    # What a controller may look at.

    @property
    def unopened(self) -> int:
        """Branches left in the pool."""
        return len(self.branches) - len(self.slots)

    @property
    def pool(self) -> list[int]:
        """The finished slots that are not pruned, in the order in which they finished."""
        return [i for i in self.finish_order if not self.slots[i].pruned]

    @property
    def finals(self) -> list[str]:
        """The pool's votes."""
        return [self.slots[i].branch.final for i in self.pool]

    def is_active(self, i: int) -> bool:
        """Opened, not pruned, not finished."""
        return i in self.slots and self.slots[i].active

    @property
    def active(self) -> list[int]:
        """The active slots in opening order."""
        return [i for i in sorted(self.slots) if self.is_active(i)]

    def following(self, branches: int) -> list[int]:
        """The slots that come after the last open one."""
        first = max(self.slots, default=-1) + 1
        return list(range(first, first + branches))

    def newest(self, slots: Iterable[int]) -> list[str]:
        """The newest revealed answers of these slots."""
        answers = [self.slots[i].answer for i in slots]
        return [answer for answer in answers if answer is not None]

    @property
    def shown(self) -> set[str]:
        """The answers of each open branch, up to the one revealed last."""
        return {a for slot in self.slots.values() for a in slot.branch.answers[: slot.revealed_at]}

    def at_least(self, a: float, b: float) -> bool:
        """``a ≥ b``, taking note of how close a call that was."""
        if a != b:
            self.margin = min(self.margin, abs(a - b))
        return a >= b

    def observe(self, width: int) -> dict[str, Any]:
        """What the library's Observation says, with lists of so many slots."""

        def per_slot(value: Callable[[Slot], Any], otherwise: Any) -> list[Any]:
            return [value(self.slots[i]) if i in self.slots else otherwise for i in range(width)]

        votes = tally(self.finals)
        return {
            "round": self.rounds,
            "opened": len(self.slots),
            "unopened": self.unopened,
            "available": [i < len(self.branches) and i not in self.slots for i in range(width)],
            "open": per_slot(lambda slot: True, False),
            "opened_now": per_slot(lambda slot: slot.opened_in == self.rounds, False),
            "run": per_slot(lambda slot: slot.run, 0),
            "depth": per_slot(lambda slot: slot.depth, 0),
            "answer": per_slot(lambda slot: slot.answer, None),
            "unparsable": per_slot(lambda slot: slot.answer in self.unparsable, False),
            "active": per_slot(lambda slot: slot.active, False),
            "finished": per_slot(lambda slot: slot.finished and not slot.pruned, False),
            "pruned": per_slot(lambda slot: slot.pruned, False),
            "pool_votes": per_slot(
                lambda slot: votes[slot.branch.final] if slot.finished and not slot.pruned else 0, 0
            ),
            "finish_order": self.pool,
            "tokens": self.tokens,
            "budget_left": UNLIMITED if self.budget_left is None else self.budget_left,
        }

    # Atomic actions. Each returns whether it was admitted.

    def prune(self, i: int) -> bool:
        """PRUNE(i)."""
        if i not in self.slots or self.slots[i].pruned:
            return self._refuse()
        self.slots[i].pruned = True
        self.changed = True
        return True

    def can_open(self, i: int) -> bool:
        """Whether a branch is behind the slot and it is not open."""
        return 0 <= i < len(self.branches) and i not in self.slots

    def branch(self, i: int, *, whole: bool = False) -> bool:
        """BRANCH(i)."""
        if not self.can_open(i) or not self._can_pay(self._price(self.branches[i])):
            return self._refuse()
        self.slots[i] = Slot(self.branches[i], opened_in=self.rounds, start=self.clock, whole=whole)
        self._generate(i)
        return True

    def continue_(self, i: int) -> bool:
        """CONTINUE(i)."""
        if not self.is_active(i) or not self._can_pay(self._price(self.slots[i].branch)):
            return self._refuse()
        self._generate(i)
        return True

    def probe(self, i: int) -> bool:
        """PROBE(i)."""
        if not self.is_active(i) or self.slots[i].revealed_at == self.slots[i].depth:
            return self._refuse()
        if not self._can_pay(self.probe_cost):
            return self._refuse()
        self.probes += 1
        self._reveal(self.slots[i])
        return True

    def answer(self, answer: str | None) -> None:
        """A round with nothing in it but ANSWER."""
        self.rounds += 1
        self.stop_reason, self.prediction = ANSWERED, answer

    def round(
        self,
        *,
        answer: str | None,
        prune: Iterable[int] = (),
        open_: Iterable[int] = (),
        continue_: Mapping[int, int] | None = None,
        probe: Iterable[int] = (),
        wait: bool = False,
        stop: bool = False,
    ) -> None:
        """One round of atomic actions.

        A slot that is not active is refused once, however many intervals it is to generate. Once the budget
        has refused an interval, each further one wanted that its branch still has is refused too.

        Raises:
          Ended: if the episode ends with this round: ANSWER, or nothing changed.
        """
        self.rounds += 1
        self.clock = self.sequential_tokens
        self.changed = False
        earlier = set(self.slots)

        for i in prune:
            self.prune(i)

        admitted = True
        for i in sorted(open_):
            if not self.can_open(i):
                self._refuse()
                continue
            whole = (continue_ or {}).get(i) == READ_TO_END
            admitted = self.branch(i, whole=whole) if admitted else self._refuse()

        wanted = {i: count for i, count in (continue_ or {}).items() if count > 0}
        depth = {i: self.slots[i].depth if i in self.slots else 0 for i in wanted}
        admitted = True
        for i in sorted(wanted, key=lambda i: (-depth[i], i)):
            # To go on with a branch that this very round opened and finished is to ask for more than it has.
            opened_now = i in self.slots and i not in earlier
            if not self.is_active(i) and not opened_now:
                self._refuse()
                continue
            has = len(self.slots[i].branch.probes) + 1 - self.slots[i].depth
            for _ in range(min(wanted[i], has)):
                admitted = self.continue_(i) if admitted else self._refuse()

        if not self.probe_everything:
            for i in probe:
                self.probe(i)

        waiting = wait and self.waited < MAX_WAITS
        self.waited = 0 if self.changed else self.waited + 1
        if stop or not (self.changed or waiting):
            self.stop_reason, self.prediction = ANSWERED if stop else IDLE, answer
            raise Ended

    def read(self, branches: int, answer: str | None) -> None:
        """A round that opens so many branches and reads them to their end."""
        slots = self.following(branches)
        self.round(open_=slots, continue_=dict.fromkeys(slots, READ_TO_END), answer=answer)

    # Helpers.

    def _refuse(self) -> bool:
        self.refused += 1
        return False

    def _price(self, branch: Branch) -> int:
        """Of one interval, whatever turns out to be left of the branch."""
        unit = {"intervals": 1, "priced": round(branch.price * branch.delta)}.get(self.cost_model, branch.delta)
        return unit + (self.probe_cost if self.probe_everything else 0)

    def _can_pay(self, price: int) -> bool:
        return self.budget_left is None or self.budget_left >= price

    def _generate(self, i: int) -> None:
        slot = self.slots[i]
        branch, before = slot.branch, slot.tokens
        slot.depth += 1
        self.intervals += 1
        if self.cost_model == "generated":
            slot.tokens = branch.tokens if slot.finished else min(before + branch.delta, branch.tokens)
        elif not slot.finished:
            slot.tokens += branch.delta
        elif slot.whole and slot.opened_in == self.rounds:
            slot.tokens = branch.tokens  # a full read
        else:
            slot.tokens += max(0, branch.tokens - before)
        self.tokens += slot.tokens - before
        if slot.finished:
            self.finish_order.append(i)
            self._reveal(slot)
        elif self.probe_everything:
            self.probes += 1
            self._reveal(slot)
        self.changed = True

    def _reveal(self, slot: Slot) -> None:
        answer = slot.branch.answers[slot.depth - 1]
        slot.run = slot.run + 1 if answer == slot.answer else 1
        slot.answer = answer
        slot.revealed_at = slot.depth
        self.changed = True


# --- the controllers, as the papers' loops ------------------------------------------------------------------


def self_consistency(episode: Episode, *, samples: int) -> str | None:
    """Reads n branches; plurality."""
    episode.read(min(samples, episode.unopened), None)
    return plurality(_in_opening_order(episode))


def adaptive_consistency(episode: Episode, *, max_samples: int, threshold: float) -> str | None:
    """Reads one branch at a time until the majority is beyond doubt."""
    for read in range(1, min(max_samples, len(episode.branches)) + 1):
        episode.read(1, plurality(episode.finals))
        if read >= 2 and not episode.at_least(threshold, confidence(*top2(episode.finals))):
            break
    return plurality(episode.finals)


def early_stopping(episode: Episode, *, max_samples: int, window: int) -> str | None:
    """Reads windows of w branches until one is unanimous."""
    samples = min(max_samples, len(episode.branches))
    window = min(window, samples)
    for _ in range(samples // window if window else 0):
        newest = episode.following(window)
        episode.read(window, plurality(_in_opening_order(episode)))
        finals = [episode.slots[i].branch.final for i in newest if i in episode.slots and episode.slots[i].finished]
        if len(finals) == window and len(set(finals)) == 1:
            return finals[0]
    return plurality(_in_opening_order(episode))


def parallel_probe(
    episode: Episode, *, chains: int, stable: int, patience: int, warm_up: int, max_rounds: int
) -> str | None:
    """Chains side by side, an interval a round; chains off track are pruned, a stable vote stops."""
    win: str | None = None
    kept = 0
    off_track: dict[int, int] = {}
    doomed: list[int] = []
    for r in range(max_rounds):
        if r == 0:
            opening = range(min(chains, episode.unopened))
            episode.round(open_=opening, continue_=dict.fromkeys(opening, 1), answer=None)
        else:
            going = [i for i in episode.active if i not in doomed]
            episode.round(prune=doomed, continue_=dict.fromkeys(going, 1), answer=win)
        voters = [i for i, slot in episode.slots.items() if not slot.pruned]
        previous, win = win, plurality(episode.newest(voters))
        doomed = []
        if r >= warm_up and len(voters) > 1:
            for i in voters:
                if not episode.slots[i].finished:
                    off_track[i] = off_track.get(i, 0) + 1 if episode.slots[i].answer != win else 0
                    if off_track[i] >= patience:
                        doomed.append(i)
        if doomed:
            left = [i for i in voters if i not in doomed]
            win = plurality(episode.newest(left)) if left else previous
        kept = kept + 1 if r > 0 and win == previous else 0
        if kept >= stable or all(i in doomed for i in episode.active):
            break
    return win


def answer_consistency(episode: Episode, *, chains: int, k: int) -> str | None:
    """Each chain runs until its own newest k answers are equal or it finishes; plurality of all chains."""
    seen: list[list[str]] = []
    episode.round(open_=range(min(chains, episode.unopened)), answer=None)
    while True:
        seen += [[] for _ in range(len(seen), len(episode.slots))]
        for i, answers in enumerate(seen):
            if len(answers) < episode.slots[i].depth:
                answers += episode.newest([i])
        going = [i for i in episode.active if len(seen[i]) < k or len(set(seen[i][-k:])) > 1]
        answer = plurality(answers[-1] for answers in seen)
        if not going:
            return answer
        episode.round(continue_=dict.fromkeys(going, 1), answer=answer)


def confidence_momentum(
    episode: Episode,
    *,
    n_init: int,
    max_branches: int,
    warm_up: int,
    patience: int,
    ema_window: int,
    min_finished: int,
    ema_alpha: float,
    conf_threshold: float,
    delta_slack: float,
    burst: int,
    widen: int,
    trend_threshold: float,
) -> str | None:
    """Widens while confidence in the pool stagnates, abandons what opposes its winner, stops when assured."""

    def answer() -> str | None:
        return plurality(episode.finals if episode.finals else episode.newest(episode.active))

    def blend(ema: float) -> float:
        return (1 - ema_alpha) * ema + ema_alpha * confidence(*top2(episode.finals))

    ema = 0.0
    history: list[float] = []
    against: dict[int, int] = {}
    episode.round(open_=range(min(n_init, episode.unopened)), answer=answer())
    for r in range(MOMENTUM_ROUNDS):
        winner = plurality(episode.finals)
        ema = blend(ema)
        history = [*history, ema][-ema_window:]
        warm = r >= warm_up

        live, abandoned = episode.active, []
        if warm and winner is not None:
            for i in live:
                against[i] = against.get(i, 0) + 1 if episode.slots[i].answer != winner else 0
            opposed = sorted((i for i in live if against[i] >= patience), key=lambda i: (-against[i], i))
            abandoned = opposed[: max(0, len(live) - 2)]

        def intervals(i: int, warm: bool = warm, winner: str | None = winner) -> int:
            return burst if warm and winner is not None and episode.slots[i].answer == winner else 1

        deepen = {i: intervals(i) for i in live if i not in abandoned}
        episode.round(prune=abandoned, continue_=deepen, answer=answer())

        ema = blend(ema)
        history[-1] = ema
        delta = history[-1] - history[0]
        if (
            warm
            and len(episode.finish_order) >= min_finished
            and episode.at_least(ema, conf_threshold)
            and episode.at_least(delta, -delta_slack)
        ):
            break
        if not episode.active:
            break
        if (
            len(episode.slots) < max_branches
            and r >= max(1, warm_up // 2)
            and episode.at_least(trend_threshold, delta)
            and not episode.at_least(ema, conf_threshold)
        ):
            opening = min(widen, max_branches - len(episode.slots), episode.unopened)
            if opening:
                episode.round(open_=episode.following(opening), answer=answer())
    return answer()


def _in_opening_order(episode: Episode) -> list[str]:
    return [slot.branch.final for slot in episode.slots.values() if slot.finished]


CONTROLLERS: dict[str, Callable[..., str | None]] = {
    "self_consistency": self_consistency,
    "adaptive_consistency": adaptive_consistency,
    "early_stopping": early_stopping,
    "parallel_probe": parallel_probe,
    "answer_consistency": answer_consistency,
    "confidence_momentum": confidence_momentum,
}

#: The sampling methods look at final answers only.
WITHOUT_PROBES = ("self_consistency", "adaptive_consistency", "early_stopping")


# --- replay -------------------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """How an episode ended and what it cost, field by field as the library's Outcome."""

    correct: bool
    passed: bool
    answer: str | None
    unshown: bool
    tokens: int
    sequential_tokens: int
    cost: int
    intervals: int
    probes: int
    rounds: int
    opened: int
    pruned: int
    refused: int
    stop_reason: int


def outcome(episode: Episode, gold: str) -> Outcome:
    """The outcome of an episode that has ended."""
    unshown = episode.prediction is not None and episode.prediction not in episode.shown
    answer = None if unshown else episode.prediction
    return Outcome(
        correct=answer == gold,
        passed=any(slot.branch.final == gold for slot in episode.slots.values() if slot.finished),
        answer=answer,
        unshown=unshown,
        tokens=episode.tokens,
        sequential_tokens=episode.sequential_tokens,
        cost=episode.cost,
        intervals=episode.intervals,
        probes=episode.probes,
        rounds=episode.rounds,
        opened=len(episode.slots),
        pruned=sum(slot.pruned for slot in episode.slots.values()),
        refused=episode.refused,
        stop_reason=episode.stop_reason,
    )


def replay(
    controller: str, branches: Sequence[Branch], gold: str, params: Mapping[str, Any], **rules: Any
) -> tuple[Outcome, float]:
    """Replays an episode.

    Args:
      controller: By its name in the library.
      branches: In the order in which they can be opened.
      gold: The right answer.
      params: The controller's parameters by name.
      rules: As for `Episode`.

    Returns:
      The outcome, and `Episode.margin`: a controller that computes in float32 may have decided otherwise
      where it is tiny.
    """
    episode = Episode(branches, probe_everything=controller not in WITHOUT_PROBES, **rules)
    with contextlib.suppress(Ended):
        episode.answer(CONTROLLERS[controller](episode, **params))
    return outcome(episode, gold), episode.margin


# --- the Confidence Momentum Controller's schedule ----------------------------------------------------------


def momentum_schedule(beta: float) -> dict[str, float]:
    """β to parameters; Python's `round` is half-to-even."""
    return {
        "n_init": max(2, round(2 + 6 * beta)),
        "max_branches": min(64, round(4 + 60 * beta)),
        "warm_up": max(2, round(2 + 8 * beta)),
        "patience": max(3, round(3 + 9 * beta)),
        "ema_window": max(2, round(2 + 6 * beta)),
        "min_finished": max(2, round(2 + 3 * beta)),
        "ema_alpha": round(0.70 - 0.40 * beta, 4),
        "conf_threshold": round(0.85 + 0.12 * beta, 4),
        "delta_slack": round(0.04 - 0.03 * beta, 4),
        "burst": max(1, round(1 + 2 * beta)),
        "widen": max(1, round(1 + 3 * beta)),
        "trend_threshold": round(0.04 - 0.03 * beta, 4),
    }
