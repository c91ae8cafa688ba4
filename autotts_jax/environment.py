"""The replay environment: the width–depth MDP of AutoTTS (arXiv 2605.08083, section 3), one episode at a time.

An episode is one question under one branch order. Its *slots* are the branches in the order in which they can
be opened: slot k holds the k-th branch of the order. A controller sees an `Observation` and returns an `Action`,
one *round* of the paper's atomic actions, so that the sequential length of an episode is its decisions and not
its tokens. `step` applies a round in this order:

1. PRUNE: the slots named leave the active set. Their depth and answers stay.
2. BRANCH: the next `Action.branch` slots open, each with its first interval.
3. CONTINUE: each slot generates up to its number of further intervals and stops early where it finishes;
   a slot opened in step 2 may continue at once. Deepest slots are served first, earlier opened first among
   equals, each slot's intervals in a row.
4. PROBE: the newest answer of the slots named is revealed. A finished branch's answer needs no probe.
5. ANSWER: the episode ends with the answer named.

An atomic action is admissible when

* BRANCH: a branch is left in the pool, and the budget left pays for one interval;
* CONTINUE(i): i is active, and the budget left pays for one interval;
* PROBE(i): i is active, its newest answer is not revealed yet, and the budget left is at least κ_probe;
* PRUNE(i): i is active;
* ANSWER: always.

*Active* is a slot that is opened, not pruned and not finished. What is not admissible is masked and counted
(`State.refused`): each BRANCH, PROBE and PRUNE once; CONTINUE once for a slot that is not active, however many
intervals are asked for, and after the budget's refusal once for every interval asked for that its branch still has.
Asking for more intervals than a branch has is not a fault. The first interval that the budget
refuses ends that step of the round: the slots behind it in the order of service get nothing. The price of an
interval is Δ (or 1), whether or not it will be the last: nobody knows that before. A finishing interval that turns
out longer may therefore overdraw the budget by its excess.

A round that changes nothing (no prune, interval or new answer) ends the episode as ANSWER does: the controller
would see the same again. So `Action.answer` always carries the answer to give if this round is the last, every
episode ends, and a controller needs no rules for budgets.

All functions are pure, take and return fixed shapes and dtypes (int32, bool, float32), and are written for one
episode; `jax.vmap` batches them. ``B`` is the number of slots, SLOTS.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Int32, UInt32

from autotts_jax.replay import SLOTS, ReplayStore
from autotts_jax.trajectories import MAX_INTERVALS

__all__ = [
    "FINISH_KEYS",
    "NO_ANSWER",
    "READ_TO_END",
    "SLOTS",
    "UNLIMITED",
    "Action",
    "CostModel",
    "Episode",
    "Observation",
    "Rules",
    "State",
    "StopReason",
    "act",
    "cost",
    "count",
    "deal",
    "example_observation",
    "init",
    "observe",
    "sequential_tokens",
    "step",
    "tokens",
]

#: The answer of a slot before any was revealed, and of an episode that ends without one. Never right.
NO_ANSWER = -1

#: As a number of intervals to continue: until the branch finishes.
READ_TO_END = np.iinfo(np.int32).max

#: `Observation.finished_at` of finished slots is below this, 2²⁵: the number of branches that finished earlier, the
#: phase, the depth and, last, the slot, as digits.
FINISH_KEYS = SLOTS * 2 * (MAX_INTERVALS + 1) * SLOTS

#: `Observation.budget_left` where there is no budget.
UNLIMITED = np.iinfo(np.int32).max


class CostModel(enum.StrEnum):
    """What an episode is charged for; `Rules.probe_cost` is in the same unit.

    RELEASED, the published tables' accounting: each interval costs Δ tokens, the finishing one the tokens that
      remain (at least 0); a branch opened and read to its end in one round costs its tokens.
    GENERATED: the tokens the model generated, never more than the branch's.
    INTERVALS, the paper's cost (arXiv 2605.08083, section 3.2): one unit an interval, Σ ℓᵢ + κ_probe·|Ω|.
      Tokens are reported as in RELEASED.
    """

    RELEASED = "released"
    GENERATED = "generated"
    INTERVALS = "intervals"


class StopReason(enum.IntEnum):
    """Why an episode ended."""

    RUNNING = 0
    ANSWERED = 1  # the controller's ANSWER
    IDLE = 2  # a round that changed nothing


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """What actions cost.

    Attributes:
      cost: The unit and the accounting.
      probe_cost: κ_probe, an integer from 0 to 4096 in that unit; scalar.
      budget: What an episode may cost, in that unit, at most 2³⁰; scalar. None: no limit.
    """

    cost: CostModel = dataclasses.field(default=CostModel.RELEASED, metadata={"static": True})
    probe_cost: ArrayLike = 0
    budget: ArrayLike | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Episode:
    """What stays fixed in an episode: the branch behind each slot. Hidden from the controller.

    Slots beyond the pool have no intervals. Made by `deal`.
    """

    question: Int32[Array, ""]
    branch: Int32[Array, " B"]
    row: Int32[Array, " B"]  # where the branch's answers begin among all of the store's
    intervals: Int32[Array, " B"]
    tokens: Int32[Array, " B"]
    delta: Int32[Array, " B"]
    pool: Int32[Array, ""]  # slots with a branch behind them; they come first
    agrees: UInt32[Array, "B W"]  # bit j of row i: slots i and j have the same final answer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """What changes in an episode: (m, I, ℓ, Ω) of the paper, and what its costs follow from."""

    round: Int32[Array, ""]
    opened: Int32[Array, ""]  # m
    depth: Int32[Array, " B"]  # ℓ, in intervals
    pruned: Bool[Array, " B"]
    answer: Int32[Array, " B"]  # newest revealed
    revealed_at: Int32[Array, " B"]  # the depth at which it was revealed; 0 where every interval is probed
    read_whole: Bool[Array, " B"]  # opened and read to its end in one round
    finished_at: Int32[Array, " B"]  # see Observation
    started: Int32[Array, " B"]  # tokens on the critical path before the slot opened
    probes: Int32[Array, ""]  # |Ω|
    refused: Int32[Array, ""]  # atomic actions that were not admissible
    stop_reason: Int32[Array, ""]  # StopReason
    prediction: Int32[Array, ""]  # the episode's answer once it has ended


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Observation:
    """What a controller sees. Nothing that was not paid for is in it.

    Attributes:
      round: Rounds so far; 0 at the first call.
      opened: Slots opened so far, m. The next to open is slot `opened`.
      unopened: Branches left in the pool.
      depth: Intervals generated, per slot.
      answer: Newest revealed answer per slot, NO_ANSWER before any. Ids are per question; which id is the right
        answer, or a frequent one, cannot be told from the number.
      unparsable: The newest revealed answer is one that could not be parsed (`ERR`), per slot. The published
        controllers count such votes; ``voters & ~obs.unparsable`` ignores them.
      active: Opened, not pruned, not finished, per slot.
      finished: Generated to the end, per slot.
      pruned: Pruned, per slot.
      pool_votes: For a finished slot the number of finished slots with its answer, itself included; else 0.
        The *pool* is the answers of the finished branches.
      finished_at: Smaller for slots that finished earlier, no two equal; UNLIMITED for the others. In one round
        those that BRANCH finished come first, then in the order of service.
      tokens: Tokens spent.
      budget_left: What is left of the budget, in the cost model's unit; UNLIMITED without one.
    """

    round: Int32[Array, ""]
    opened: Int32[Array, ""]
    unopened: Int32[Array, ""]
    depth: Int32[Array, " B"]
    answer: Int32[Array, " B"]
    unparsable: Bool[Array, " B"]
    active: Bool[Array, " B"]
    finished: Bool[Array, " B"]
    pruned: Bool[Array, " B"]
    pool_votes: Int32[Array, " B"]
    finished_at: Int32[Array, " B"]
    tokens: Int32[Array, ""]
    budget_left: Int32[Array, ""]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Action:
    """One round of atomic actions; `act` fills in what a controller leaves out.

    Attributes:
      prune: PRUNE these slots.
      branch: BRANCH so many times.
      continue_: CONTINUE each slot by so many intervals, READ_TO_END for all that remain.
      probe: PROBE these slots after that; ignored for controllers with `probe_everything`.
      stop: ANSWER after that.
      answer: The answer to give if the episode ends with this round, an id as in `Observation.answer`.
    """

    prune: Bool[Array, " B"]
    branch: Int32[Array, ""]
    continue_: Int32[Array, " B"]
    probe: Bool[Array, " B"]
    stop: Bool[Array, ""]
    answer: Int32[Array, ""]


def act(
    obs: Observation,
    *,
    answer: ArrayLike,
    stop: ArrayLike = False,
    prune: ArrayLike = False,
    branch: ArrayLike = 0,
    continue_: ArrayLike = 0,
    probe: ArrayLike = False,
) -> Action:
    """An `Action` with the right shapes and dtypes; scalars stand for every slot.

    Where `stop` holds, the other actions are dropped: the answer cannot profit from them any more.
    """
    stop = jnp.asarray(stop, bool)
    go = ~stop
    return Action(
        prune=jnp.broadcast_to(go & jnp.asarray(prune, bool), SLOTS),
        branch=jnp.where(go, jnp.asarray(branch, jnp.int32), 0),
        continue_=jnp.broadcast_to(jnp.where(go, jnp.asarray(continue_, jnp.int32), 0), SLOTS),
        probe=jnp.broadcast_to(go & jnp.asarray(probe, bool), SLOTS),
        stop=stop,
        answer=jnp.asarray(answer, jnp.int32),
    )


def count(*masks: Bool[Array, " B"] | Int32[Array, " B"]) -> tuple[Int32[Array, ""], ...]:
    """The number of slots in each of up to four masks, in one pass; or sums of numbers from 0 to 3."""
    # Each sum fits into a byte of its own: at most 3 × 64.
    bytes_ = [mask.astype(jnp.uint32) << jnp.uint32(8 * place) for place, mask in enumerate(masks)]
    total = jnp.sum(sum(bytes_[1:], start=bytes_[0]), dtype=jnp.uint32)
    return tuple(((total >> jnp.uint32(8 * place)) & jnp.uint32(255)).astype(jnp.int32) for place in range(len(masks)))


def example_observation() -> Observation:
    """An observation of shapes and dtypes only, to trace a controller's `step` with."""
    scalar: Any = jax.ShapeDtypeStruct((), jnp.int32)
    slots: Any = jax.ShapeDtypeStruct((SLOTS,), jnp.int32)
    flags: Any = jax.ShapeDtypeStruct((SLOTS,), jnp.bool_)
    return Observation(
        round=scalar,
        opened=scalar,
        unopened=scalar,
        depth=slots,
        answer=slots,
        unparsable=flags,
        active=flags,
        finished=flags,
        pruned=flags,
        pool_votes=slots,
        finished_at=slots,
        tokens=scalar,
        budget_left=scalar,
    )


def deal(store: ReplayStore, question: Int32[Array, ""], order: Int32[Array, " B"]) -> Episode:
    """The episode of a question whose k-th slot holds branch ``order[k]``; −1 for no branch, at the end only."""
    dealt = order >= 0
    branch = jnp.maximum(order, 0).astype(jnp.int32)
    intervals = jnp.where(dealt, store.intervals[question, branch], 0).astype(jnp.int32)
    last = jnp.maximum(intervals - 1, 0)
    final = jnp.where(dealt, store.answers[question, branch, last], NO_ANSWER)
    return Episode(
        question=jnp.asarray(question, jnp.int32),
        branch=branch,
        row=(question * store.answers.shape[1] + branch) * store.answers.shape[2],
        intervals=intervals,
        tokens=jnp.where(dealt, store.tokens[question, branch], 0),
        delta=jnp.where(dealt, store.delta[question, branch], 0),
        pool=jnp.sum(intervals > 0, dtype=jnp.int32),
        agrees=_pack(final[:, None] == final[None, :]),
    )


def init(episode: Episode) -> State:
    """The state before the first round: nothing opened, nothing spent."""
    zero = jnp.zeros((), jnp.int32)
    return State(
        round=zero,
        opened=zero,
        depth=jnp.zeros(SLOTS, jnp.int32),
        pruned=jnp.zeros(SLOTS, bool),
        answer=jnp.full(SLOTS, NO_ANSWER, jnp.int32),
        revealed_at=jnp.zeros(SLOTS, jnp.int32),
        read_whole=jnp.zeros(SLOTS, bool),
        finished_at=jnp.full(SLOTS, UNLIMITED, jnp.int32),
        started=jnp.zeros(SLOTS, jnp.int32),
        probes=zero,
        refused=zero,
        stop_reason=jnp.asarray(StopReason.RUNNING, jnp.int32),
        prediction=jnp.asarray(NO_ANSWER, jnp.int32),
    )


def observe(store: ReplayStore, episode: Episode, state: State, rules: Rules) -> Observation:
    """What the controller sees of a state."""
    finished = _finished(episode, state.depth)
    votes = jnp.sum(jax.lax.population_count(episode.agrees & _pack(finished)[None]), axis=-1).astype(jnp.int32)
    return Observation(
        round=state.round,
        opened=state.opened,
        unopened=episode.pool - state.opened,
        depth=state.depth,
        answer=state.answer,
        unparsable=(state.answer >= 0) & store.unparsable[episode.question, jnp.maximum(state.answer, 0)],
        active=_active(episode, state),
        finished=finished,
        pruned=state.pruned,
        pool_votes=jnp.where(finished, votes, 0),
        finished_at=state.finished_at,
        tokens=tokens(episode, state, rules),
        budget_left=_budget_left(episode, state.depth, state.read_whole, state.probes, rules),
    )


def step(
    store: ReplayStore, episode: Episode, state: State, action: Action, rules: Rules, probe_everything: bool
) -> State:
    """One round. An ended episode stays as it is.

    With `probe_everything` each interval's answer is probed as it is generated, and paid for with it.
    """
    slots = jnp.arange(SLOTS, dtype=jnp.int32)
    ended = state.stop_reason != StopReason.RUNNING
    action = jax.tree.map(lambda leaf: jnp.where(ended, jnp.zeros_like(leaf), leaf), action)
    active = _active(episode, state)

    def probed(depth: Int32[Array, " B"]) -> Int32[Array, ""]:
        return jnp.sum(_probes_passed(episode, depth), dtype=jnp.int32) if probe_everything else state.probes

    # 1. PRUNE
    prune = action.prune & active
    not_pruned = action.prune & ~active
    active = active & ~prune

    # 2. BRANCH
    wanted = jnp.clip(action.branch, 0, 2**16)
    refused = state.refused + wanted
    opened = jnp.minimum(wanted, episode.pool - state.opened)
    opening = (slots >= state.opened) & (slots - state.opened < opened)
    if rules.budget is not None:
        whole = state.read_whole | opening
        left = _budget_left(episode, state.depth, whole, state.probes, rules)
        want = opening.astype(jnp.int32)
        opening = _admit(store, episode, state.depth, want, whole, left, slots, rules, probe_everything) > 0
        (opened,) = count(opening)
    first = state.depth + opening.astype(jnp.int32)

    # 3. CONTINUE
    admissible = active | opening
    not_continued = (action.continue_ > 0) & ~admissible
    generated = jnp.where(admissible, jnp.clip(action.continue_, 0, episode.intervals - first), 0)
    if rules.budget is not None:
        left = _budget_left(episode, first, whole, probed(first), rules)
        deepest_first = jnp.argsort(-first, stable=True)
        paid = _admit(store, episode, first, generated, whole, left, deepest_first, rules, probe_everything)
        refused += jnp.sum(generated - paid, dtype=jnp.int32)
        generated = paid
    depth = first + generated
    finished = _finished(episode, depth)

    # 4. PROBE
    deeper = depth > state.depth
    if probe_everything:
        revealed, revealed_at = deeper, state.revealed_at
        not_probed = jnp.zeros(SLOTS, bool)
        probes = probed(depth)
    else:
        probe = action.probe & admissible & ~finished & (depth > state.revealed_at)
        if rules.budget is not None:
            left = _budget_left(episode, depth, whole, state.probes, rules)
            probe = probe & (jnp.cumsum(probe, dtype=jnp.int32) * rules.probe_cost <= left)
        not_probed = action.probe & ~probe
        revealed = probe | (finished & deeper)
        revealed_at = jnp.where(revealed, depth, state.revealed_at)
        probes = state.probes + jnp.sum(probe, dtype=jnp.int32)
    newest = store.answers.reshape(-1)[episode.row + jnp.maximum(depth - 1, 0)].astype(jnp.int32)

    # 5. ANSWER
    masked = not_pruned.astype(jnp.int32) + not_continued.astype(jnp.int32) + not_probed.astype(jnp.int32)
    changed, earlier, masked = count(prune | revealed | deeper, _finished(episode, state.depth), masked)
    unasked = jnp.where(changed > 0, StopReason.RUNNING, StopReason.IDLE)
    reason = jnp.where(action.stop, StopReason.ANSWERED, unasked).astype(jnp.int32)
    reason = jnp.where(ended, state.stop_reason, reason)

    at_once = opening & _finished(episode, first)
    finish_key = jnp.where(at_once, _finish_key(earlier, 0, 0, slots), _finish_key(earlier, 1, first, slots))
    return State(
        round=state.round + (~ended).astype(jnp.int32),
        opened=state.opened + opened,
        depth=depth,
        pruned=state.pruned | prune,
        answer=jnp.where(revealed, newest, state.answer),
        revealed_at=revealed_at,
        read_whole=state.read_whole | (opening & finished),
        finished_at=jnp.where(finished & (state.finished_at == UNLIMITED), finish_key, state.finished_at),
        # A branch starts when everything that its opening was decided on has been generated.
        started=jnp.where(opening, sequential_tokens(episode, state, rules), state.started),
        probes=probes,
        refused=refused - opened + masked,
        stop_reason=reason,
        prediction=jnp.where(ended, state.prediction, action.answer),
    )


def tokens(episode: Episode, state: State, rules: Rules) -> Int32[Array, ""]:
    """Tokens spent so far."""
    return jnp.sum(_slot_tokens(episode, state.depth, state.read_whole, rules), dtype=jnp.int32)


def sequential_tokens(episode: Episode, state: State, rules: Rules) -> Int32[Array, ""]:
    """Tokens on the critical path when the open branches run side by side.

    A branch starts when all that was generated before the round that opens it is there, and then runs on without
    waiting. So branches stepped together cost the longest one, windows the sum of the longest of each, and
    one-by-one sampling the sum, as Parallel-Probe (arXiv 2602.03845) counts them.
    """
    return jnp.max(state.started + _slot_tokens(episode, state.depth, state.read_whole, rules))


def cost(episode: Episode, state: State, rules: Rules) -> Int32[Array, ""]:
    """What the episode has cost so far, in the cost model's unit: intervals or tokens, plus κ_probe per probe."""
    spent = jnp.sum(_spent(episode, state.depth, state.read_whole, rules), dtype=jnp.int32)
    return spent + jnp.asarray(rules.probe_cost, jnp.int32) * state.probes


# --- helpers, per slot -------------------------------------------------------------------------------------------


def _finished(episode: Episode, depth: Int32[Array, " B"]) -> Bool[Array, " B"]:
    return (depth > 0) & (depth == episode.intervals)


def _active(episode: Episode, state: State) -> Bool[Array, " B"]:
    return (state.depth > 0) & (state.depth < episode.intervals) & ~state.pruned


def _slot_tokens(
    episode: Episode, depth: Int32[Array, " B"], read_whole: Bool[Array, " B"], rules: Rules
) -> Int32[Array, " B"]:
    """Tokens a slot has cost at a depth."""
    steps = depth * episode.delta
    if rules.cost is CostModel.GENERATED:
        return jnp.where(_finished(episode, depth), episode.tokens, jnp.minimum(steps, episode.tokens))
    stepped = jnp.maximum(episode.tokens, steps - episode.delta)
    whole = jnp.where(read_whole, episode.tokens, stepped)
    return jnp.where(_finished(episode, depth), whole, steps)


def _spent(
    episode: Episode, depth: Int32[Array, " B"], read_whole: Bool[Array, " B"], rules: Rules
) -> Int32[Array, " B"]:
    """What a slot has cost at a depth, in the cost model's unit, without probes."""
    if rules.cost is CostModel.INTERVALS:
        return depth
    return _slot_tokens(episode, depth, read_whole, rules)


def _probes_passed(episode: Episode, depth: Int32[Array, " B"]) -> Int32[Array, " B"]:
    """Probes of a slot that has been probed after each of its intervals; the finishing one needs none."""
    return jnp.minimum(depth, jnp.maximum(episode.intervals - 1, 0))


def _budget_left(
    episode: Episode,
    depth: Int32[Array, " B"],
    read_whole: Bool[Array, " B"],
    probes: Int32[Array, ""],
    rules: Rules,
) -> Int32[Array, ""]:
    if rules.budget is None:
        return jnp.asarray(UNLIMITED, jnp.int32)
    spent = jnp.sum(_spent(episode, depth, read_whole, rules), dtype=jnp.int32)
    return jnp.asarray(rules.budget, jnp.int32) - spent - jnp.asarray(rules.probe_cost, jnp.int32) * probes


def _charge(
    episode: Episode, depth: Int32[Array, " B"], whole: Bool[Array, " B"], rules: Rules, probe_everything: bool
) -> Int32[Array, " B"]:
    """What a slot has cost at a depth, with the probes that come with its intervals."""
    spent = _spent(episode, depth, whole, rules)
    if probe_everything:
        spent += rules.probe_cost * _probes_passed(episode, depth)
    return spent


def _admit(
    store: ReplayStore,
    episode: Episode,
    depth: Int32[Array, " B"],
    wanted: Int32[Array, " B"],
    whole: Bool[Array, " B"],
    left: Int32[Array, ""],
    service: Int32[Array, " B"],
    rules: Rules,
    probe_everything: bool,
) -> Int32[Array, " B"]:
    """How many of the intervals wanted from each slot the budget left pays for, slots served in that order."""
    unit = jnp.ones_like(episode.delta) if rules.cost is CostModel.INTERVALS else episode.delta
    price = unit + (rules.probe_cost if probe_everything else 0)
    charged = _charge(episode, depth, whole, rules, probe_everything)
    bill = (_charge(episode, depth + wanted, whole, rules, probe_everything) - charged)[service]
    ahead = jnp.zeros_like(bill).at[service].set(jnp.cumsum(bill, dtype=jnp.int32) - bill)

    def fits(start: Int32[Array, ""]) -> Bool[Array, " B"]:
        """Whether an interval that starts at this depth is wanted, and what was paid before it leaves its price."""
        paid = _charge(episode, jnp.full_like(depth, start), whole, rules, probe_everything) - charged
        return (start >= depth) & (start < depth + wanted) & (ahead + paid + price <= left)

    depths = jnp.arange(store.answers.shape[-1], dtype=jnp.int32)
    admitted = jnp.sum(jax.vmap(fits)(depths), axis=0, dtype=jnp.int32)
    refused = (admitted < wanted)[service].astype(jnp.int32)
    cut = jnp.zeros_like(refused).at[service].set(jnp.cumsum(refused, dtype=jnp.int32) - refused)
    return jnp.where(cut > 0, 0, admitted)


def _finish_key(earlier: Any, phase: int, depth: Any, slots: Int32[Array, " B"]) -> Int32[Array, " B"]:
    """Orders finished branches: by round, then BRANCH before CONTINUE, then deepest, then earlier opened."""
    return ((2 * earlier + phase) * (MAX_INTERVALS + 1) + (MAX_INTERVALS - depth)) * SLOTS + slots


def _pack(bits: Bool[Array, "... B"]) -> UInt32[Array, "... W"]:
    """Sets of slots as words of 32 bits."""
    words = -(-bits.shape[-1] // 32)
    padding = [(0, 0)] * (bits.ndim - 1) + [(0, 32 * words - bits.shape[-1])]
    lanes = jnp.pad(bits, padding).reshape(*bits.shape[:-1], words, 32).astype(jnp.uint32)
    places = jnp.broadcast_to(jnp.arange(32, dtype=jnp.uint32), lanes.shape)
    return jnp.sum(lanes << places, axis=-1, dtype=jnp.uint32)
