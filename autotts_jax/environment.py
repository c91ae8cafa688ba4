"""The replay environment: the width–depth MDP of AutoTTS (arXiv 2605.08083, section 3), one episode at a time.

An episode is one question under one shuffle (a branch order) with one parameter vector. Its *slots* hold the
branches in opening order: slot k holds the k-th branch of the shuffle. In each *round* the controller sees an
`Observation` and returns an `Action`, a batch of the paper's atomic actions, so an episode's sequential length is its
number of decisions, not of tokens. `step` applies a round in this order:

1. PRUNE: the named slots leave the active set. Their depth and answers stay. Pruning a finished slot withdraws its
   vote: it leaves the pool.
2. BRANCH: the named slots open, each with its first interval, lower slots first.
3. CONTINUE: each slot generates up to the requested number of further intervals, stopping early where it finishes;
   a slot opened in step 2 may continue at once. The deepest slots are served first, lower slots first among equals,
   all of a slot's intervals before the next slot's.
4. PROBE: the newest answer of each named slot is revealed. A finished branch's answer needs no probe.
5. ANSWER: the episode ends with the given answer.

An atomic action is admissible when

* PRUNE(i): i is open and not pruned;
* BRANCH(i): slot i holds a branch, is not open, and the remaining budget pays for one interval;
* CONTINUE(i): i is active, and the remaining budget pays for one interval;
* PROBE(i): i is active, its newest answer is not revealed yet, and the remaining budget is at least κ_probe;
* ANSWER: always.

A slot is *active* if it is open, not pruned and not finished. Inadmissible actions are masked and counted
(`State.refused`): each PRUNE, BRANCH and PROBE once; CONTINUE once for a slot that is not active, however many
intervals were requested, and, once the budget has refused one, once for each requested interval that the branch still
has. Requesting more intervals than a branch has is not a fault. The first interval that the budget refuses ends that
step of the round: slots later in the service order get nothing. An interval is priced at Δ tokens (or 1), whether or
not it turns out to be the last: nobody knows that in advance. A finishing interval that turns out longer may therefore
overdraw the budget by its excess.

A round that changes nothing (no prune, interval or new answer) ends the episode as ANSWER does, since the controller
would see the same observation again; `Action.wait` allows up to MAX_WAITS such rounds in a row. So `Action.answer`
holds the answer to give should this round be the last, every episode ends, and controllers need no budget rules.

`step` is `admit` followed by `reveal`. `admit` decides which actions may happen and what they cost at most; `reveal`
takes what the branches then showed. In replay both know the recorded branches. A live runner generates in between:
until a branch has finished, its `Episode.intervals` and `Episode.tokens` hold upper bounds.

All functions are pure, take and return fixed shapes and dtypes (int32, float32, bool), and are written for one
episode; `jax.vmap` batches them. ``B``, the number of slots, is the width of the branch order, 1 to MAX_WIDTH.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float32, Int32, Shaped, UInt32

from autotts_jax.errors import InputError
from autotts_jax.replay import ReplayStore
from autotts_jax.trajectories import MAX_INTERVALS

__all__ = [
    "MAX_WAITS",
    "MAX_WIDTH",
    "NO_ANSWER",
    "READ_TO_END",
    "UNLIMITED",
    "Action",
    "Admitted",
    "CostModel",
    "Episode",
    "Observation",
    "Rules",
    "State",
    "StopReason",
    "Tariff",
    "World",
    "act",
    "admit",
    "cost",
    "count",
    "deal",
    "example_observation",
    "finish_keys",
    "fresh_slots",
    "init",
    "observe",
    "probes",
    "reveal",
    "sequential_tokens",
    "step",
    "tariff",
    "tokens",
]

#: The answer id of a slot with none revealed, and of an episode that ends without one. Never right.
NO_ANSWER = -1

#: In `Action.continue_`: until the branch finishes.
READ_TO_END = np.iinfo(np.int32).max

#: `Observation.budget_left` without a budget; `Observation.finished_at` of slots outside the pool.
UNLIMITED = np.iinfo(np.int32).max

#: The most slots an episode can have; the packing into 32-bit words relies on it.
MAX_WIDTH = 256

#: How many rounds in a row may change nothing under `Action.wait`.
MAX_WAITS = 100


# What lies above the depth in the words of `State.slots`: three flags and a number.
_PRUNED, _READ_WHOLE, _OPENED_NOW, _RUN = ((MAX_INTERVALS + 1) << place for place in range(4))


class CostModel(enum.StrEnum):
    """What an episode is charged for; `Rules.probe_cost` is in the same unit. See `tariff`.

    RELEASED, the published tables' accounting: each interval costs Δ tokens, the finishing one the remaining
      tokens (at least 0); a branch opened with READ_TO_END that finishes in that round costs its tokens.
    GENERATED: the tokens that the model generated, at most the branch's.
    INTERVALS, the paper's cost (arXiv 2605.08083, section 3.2): one unit per interval, Σ ℓᵢ + κ_probe·|Ω|.
    PRICED: each branch's tokens × its price per token (`ReplayStore.price`), rounded per branch.
    Under INTERVALS and PRICED, tokens are reported as under RELEASED.
    """

    RELEASED = "released"
    GENERATED = "generated"
    INTERVALS = "intervals"
    PRICED = "priced"


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
      cost: The cost model: unit and accounting.
      probe_cost: κ_probe, an integer from 0 to 4096 in that unit; scalar.
      budget: The most an episode may cost, in that unit, up to 2³⁰; scalar. None: no limit.
    """

    cost: CostModel = dataclasses.field(default=CostModel.RELEASED, metadata={"static": True})
    probe_cost: ArrayLike = 0
    budget: ArrayLike | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """What all episodes of a controller share.

    Attributes:
      store: The recorded branches.
      rules: What actions cost.
      runs: For each answer in the store, how many equal answers in a row end with it in its branch; flat.
      probe_everything: Whether each interval's answer is probed, and paid for, as it is generated.
    """

    store: ReplayStore
    rules: Rules
    runs: Int32[Array, " QND"]
    probe_everything: bool = dataclasses.field(metadata={"static": True})

    @classmethod
    def of(cls, store: ReplayStore, rules: Rules, *, probe_everything: bool) -> World:
        """The world of a store under these rules."""
        return cls(store=store, rules=rules, runs=_runs(store), probe_everything=probe_everything)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Episode:
    """What stays fixed in an episode: the branch in each slot. Hidden from the controller.

    Slots without a branch have 0 intervals. Made by `deal`.
    """

    question: Int32[Array, ""]
    row: Int32[Array, " B"]  # offset of the branch's answers in the flattened store
    intervals: Int32[Array, " B"]
    tokens: Int32[Array, " B"]
    delta: Int32[Array, " B"]
    pool: Int32[Array, ""]  # slots that hold a branch
    agrees: tuple[UInt32[Array, " B"], ...]  # bit j of word w at i: slots i and 32·w + j have the same final answer
    model: Int32[Array, " B"] | None
    price: Float32[Array, " B"] | None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """What changes in an episode: the paper's (m, I, ℓ, Ω), and what costs are computed from.

    Small numbers and flags of a slot share a word: fewer arrays make rounds faster and programs smaller.
    """

    round: Int32[Array, ""]
    opened: Int32[Array, ""]  # m
    slots: Int32[Array, " B"]  # see the properties and `_slot_word`
    answer: Int32[Array, " B"]  # newest revealed
    finished_at: Int32[Array, " B"]  # see Observation
    started: Int32[Array, " B"]  # tokens on the critical path before the slot opened
    waited: Int32[Array, ""]  # rounds in a row, up to the latest, that changed nothing
    refused: Int32[Array, ""]  # inadmissible atomic actions
    stop_reason: Int32[Array, ""]  # StopReason
    prediction: Int32[Array, ""]  # the episode's answer once it has ended
    # None where every interval is probed, since the depth determines them:
    revealed_at: Int32[Array, " B"] | None  # the depth at which the answer was revealed
    probed: Int32[Array, ""] | None  # |Ω|, see `probes`

    @property
    def depth(self) -> Int32[Array, "*T B"]:
        """ℓ, intervals generated per slot."""
        return self.slots & MAX_INTERVALS

    @property
    def pruned(self) -> Bool[Array, "*T B"]:
        """Whether each slot has been pruned."""
        return self.slots & _PRUNED != 0

    @property
    def read_whole(self) -> Bool[Array, "*T B"]:
        """Whether each slot was opened with READ_TO_END and finished in that round."""
        return self.slots & _READ_WHOLE != 0

    @property
    def opened_now(self) -> Bool[Array, "*T B"]:
        """Whether each slot was opened in the latest round."""
        return self.slots & _OPENED_NOW != 0

    @property
    def run(self) -> Int32[Array, "*T B"]:
        """See Observation; 0 where every interval is probed, since the depth determines it."""
        return self.slots >> _RUN.bit_length() - 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Observation:
    """What a controller sees: nothing that has not been paid for.

    Attributes:
      round: Rounds so far; 0 at the first call.
      opened: Slots opened so far, m.
      unopened: Branches left to open.
      available: Per slot, whether it holds a branch that is not open yet.
      open: Per slot, whether it has been opened; pruned and finished slots stay open.
      opened_now: Per slot, whether it was opened in the latest round.
      depth: Per slot, intervals generated.
      answer: Per slot, the newest revealed answer; NO_ANSWER before any. Ids are per question; the number does not
        tell which id is right, or frequent.
      run: Per slot, how many of its newest revealed answers are equal in a row, intermediate ones included; 0 before
        any. In rounds of several intervals every probed answer counts, not only the last one.
      unparsable: Per slot, whether the newest revealed answer could not be parsed (`ERR`). The published controllers
        count such votes; ``voters & ~obs.unparsable`` ignores them.
      active: Per slot, whether it is open, not pruned and not finished.
      finished: Per slot, whether it was generated to the end and not pruned. The *pool* is the answers of these slots.
      pruned: Per slot, whether it has been pruned.
      pool_votes: Per slot in the pool, the number of pool slots with its answer, itself included; 0 elsewhere.
      finished_at: Per slot in the pool, a key, smaller for slots that finished earlier; no two are equal, all are
        below ``finish_keys(B)``; UNLIMITED outside the pool. Among slots that finished in the same round, those that
        BRANCH finished come first, then the deepest (before they continued), then lower slots.
      model: Per slot, the model its branch comes from, even before it is opened; 0 in stores of one model.
      price: Per slot, the price per token, even before it is opened; 1 in stores without prices.
      features: ``[B, F]`` recorded features of the interval revealed last; 0 before any. F is 0 in stores without
        features; `feature` finds one by name.
      tokens: Tokens spent.
      budget_left: The remaining budget, in the cost model's unit; UNLIMITED without one.
      feature_names: The names of the F features.
    """

    round: Int32[Array, ""]
    opened: Int32[Array, ""]
    unopened: Int32[Array, ""]
    available: Bool[Array, " B"]
    open: Bool[Array, " B"]
    opened_now: Bool[Array, " B"]
    depth: Int32[Array, " B"]
    answer: Int32[Array, " B"]
    run: Int32[Array, " B"]
    unparsable: Bool[Array, " B"]
    active: Bool[Array, " B"]
    finished: Bool[Array, " B"]
    pruned: Bool[Array, " B"]
    pool_votes: Int32[Array, " B"]
    finished_at: Int32[Array, " B"]
    model: Int32[Array, " B"]
    price: Float32[Array, " B"]
    features: Float32[Array, "B F"]
    tokens: Int32[Array, ""]
    budget_left: Int32[Array, ""]
    feature_names: tuple[str, ...] = dataclasses.field(default=(), metadata={"static": True})

    @property
    def width(self) -> int:
        """B, the number of slots."""
        return int(self.depth.shape[-1])

    def feature(self, name: str) -> Float32[Array, " B"]:
        """``[B]`` a recorded feature by name.

        Raises:
          InputError: if the store does not have it.
        """
        if name not in self.feature_names:
            known = ", ".join(self.feature_names) or "none"
            raise InputError(f"feature {name!r}: not recorded in these trajectories, which have {known}.")
        return self.features[:, self.feature_names.index(name)]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Action:
    """One round of atomic actions; `act` fills in what a controller leaves out.

    Attributes:
      prune: PRUNE these slots.
      open: BRANCH: open these slots, each with its first interval.
      continue_: CONTINUE each slot by this many intervals; READ_TO_END for all that remain.
      probe: Then PROBE these slots; ignored for controllers with `probe_everything`.
      wait: Lets the round change nothing without ending the episode, up to MAX_WAITS rounds in a row.
      stop: Then ANSWER.
      answer: The answer to give if the episode ends with this round, an id as in `Observation.answer`.
    """

    prune: Bool[Array, " B"]
    open: Bool[Array, " B"]
    continue_: Int32[Array, " B"]
    probe: Bool[Array, " B"]
    wait: Bool[Array, ""]
    stop: Bool[Array, ""]
    answer: Int32[Array, ""]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Admitted:
    """The admitted actions of a round: what a live runner must generate and probe.

    Attributes:
      prune: Slots to prune.
      opening: Slots to open.
      intervals: Per slot, the most intervals it generates, the first of an opening slot included.
      whole: Slots to open and read to the end.
      probe: Slots whose newest answer is probed unless they finish.
      most: The most the round can cost, in the cost model's unit.
      refused: Per slot, the number of inadmissible atomic actions.
      over_budget: Intervals that the budget refused.
      running: Whether the episode was still running before the round.
      action: The action as requested.
    """

    prune: Bool[Array, " B"]
    opening: Bool[Array, " B"]
    intervals: Int32[Array, " B"]
    whole: Bool[Array, " B"]
    probe: Bool[Array, " B"]
    most: Int32[Array, ""]
    refused: Int32[Array, " B"]
    over_budget: Int32[Array, ""]
    running: Bool[Array, ""]
    action: Action


class Tariff(NamedTuple):
    """What slots have cost at a depth, probes excluded."""

    tokens: Int32[Array, " B"]
    charge: Int32[Array, " B"]  # in the cost model's unit
    interval: Int32[Array, " B"]  # price of one more interval, in that unit


def act(
    obs: Observation,
    *,
    answer: ArrayLike,
    stop: ArrayLike = False,
    wait: ArrayLike = False,
    prune: ArrayLike = False,
    branch: ArrayLike | None = None,
    open: ArrayLike = False,
    continue_: ArrayLike = 0,
    probe: ArrayLike = False,
) -> Action:
    """An `Action` with the right shapes and dtypes; scalars apply to every slot.

    ``branch=n`` opens the next n slots (see `fresh_slots`); `open` is a mask of slots. Where `stop` holds, the other
    actions are dropped: they can no longer improve the answer.
    """
    stop = once(jnp.asarray(stop, bool))
    go = ~stop
    opening = jnp.asarray(open, bool)
    if branch is not None:
        opening = opening | fresh_slots(obs, branch)
    return Action(
        prune=jnp.broadcast_to(go & jnp.asarray(prune, bool), obs.width),
        open=jnp.broadcast_to(go & opening, obs.width),
        continue_=jnp.broadcast_to(jnp.where(go, jnp.asarray(continue_, jnp.int32), 0), obs.width),
        probe=jnp.broadcast_to(go & jnp.asarray(probe, bool), obs.width),
        wait=jnp.asarray(wait, bool),
        stop=stop,
        answer=jnp.asarray(answer, jnp.int32),
    )


def fresh_slots(obs: Observation, branches: ArrayLike) -> Bool[Array, " B"]:
    """``[B]`` the slots that ``act(obs, branch=branches)`` opens: those right after the last open one.

    Slots that hold no branch are included, and refused.
    """
    slots = _slots(obs.width)
    following = jnp.max(jnp.where(obs.open, slots + 1, 0))
    number = once(jnp.clip(jnp.asarray(branches, jnp.int32), 0, obs.width))
    return (slots >= following) & (slots - following < number)


def once(values: Shaped[Array, "*S"]) -> Shaped[Array, "*S"]:
    """The same flags, or integers below 2²⁴, computed once instead of in every loop that uses them.

    XLA copies cheap arithmetic into each of its consumers: an episode's scalars would be recomputed for every slot
    and every array that depends on them. It does not copy a division, so this divides by one.
    """
    number = values.astype(jnp.float32)
    number = number / (1 + 0 * number)  # written so that XLA cannot know that it is one
    return number != 0 if values.dtype == jnp.bool_ else number.astype(values.dtype)


def count(*masks: Bool[Array, " B"] | Int32[Array, " B"]) -> tuple[Int32[Array, ""], ...]:
    """The number of slots in each mask, or the sum of integers from 0 to 7, in as few passes as 32-bit words allow."""
    width = masks[0].shape[-1]
    totals: list[Int32[Array, ""]] = []
    word: list[tuple[Array, int, int]] = []  # masks, each with its place in the word and its number of bits

    def add_up() -> None:
        total = jnp.sum(sum(mask << np.uint32(place) for mask, place, _ in word), dtype=jnp.uint32)
        for _, place, bits in word:
            totals.append(((total >> np.uint32(place)) & np.uint32(2**bits - 1)).astype(jnp.int32))
        word.clear()

    for mask in masks:
        bits = (width * (1 if mask.dtype == jnp.bool_ else 7)).bit_length()
        place = sum(bits for *_, bits in word)
        if place + bits > 32:
            add_up()
            place = 0
        word.append((mask.astype(jnp.uint32), place, bits))
    add_up()
    return tuple(totals)


def example_observation(width: int = 64, feature_names: tuple[str, ...] = ()) -> Observation:
    """An abstract observation (shapes and dtypes only) for tracing a controller's functions."""
    per_question: Any = jax.ShapeDtypeStruct((1,), jnp.int32)
    per_branch: Any = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    per_interval: Any = jax.ShapeDtypeStruct((1, 1, 1), jnp.int32)
    features: Any = jax.ShapeDtypeStruct((1, 1, 1, len(feature_names)), jnp.float32) if feature_names else None
    store = ReplayStore(
        answers=per_interval,
        intervals=per_branch,
        tokens=per_branch,
        delta=per_branch,
        gold=per_question,
        unparsable=jax.ShapeDtypeStruct((1, 1), jnp.bool_),  # type: ignore[arg-type]  # a shape stands for an array
        features=features,
        feature_names=feature_names,
    )

    def first(store: ReplayStore, order: Array) -> Observation:
        world = World.of(store, Rules(), probe_everything=False)
        episode = deal(store, jnp.zeros((), jnp.int32), order)
        return observe(world, episode, init(world, episode))

    obs: Observation = jax.eval_shape(first, store, jax.ShapeDtypeStruct((width,), jnp.int32))
    return obs


def deal(store: ReplayStore, question: Int32[Array, ""], order: Int32[Array, " B"]) -> Episode:
    """The episode of a question in which slot k holds branch ``order[k]``; −1 for no branch."""
    dealt = order >= 0
    branch = jnp.maximum(order, 0).astype(jnp.int32)

    def per_branch(array: Any, otherwise: Any = 0) -> Any:
        return jnp.where(dealt, jnp.asarray(array)[question, branch], otherwise)

    intervals = per_branch(store.intervals).astype(jnp.int32)
    final = jnp.where(dealt, store.answers[question, branch, jnp.maximum(intervals - 1, 0)], NO_ANSWER)
    return Episode(
        question=jnp.asarray(question, jnp.int32),
        row=(question * store.answers.shape[1] + branch) * store.answers.shape[2],
        intervals=intervals,
        tokens=per_branch(store.tokens),
        delta=per_branch(store.delta),
        pool=jnp.sum(intervals > 0, dtype=jnp.int32),
        agrees=tuple(_pack(final[:, None] == final[None, :]).T),
        model=None if store.model is None else per_branch(store.model),
        price=None if store.price is None else per_branch(store.price),
    )


def init(world: World, episode: Episode) -> State:
    """The state before the first round: nothing opened, nothing spent."""
    width = episode.intervals.shape[-1]
    zero, zeros = jnp.zeros((), jnp.int32), jnp.zeros(width, jnp.int32)
    return State(
        round=zero,
        opened=zero,
        slots=zeros,
        answer=jnp.full(width, NO_ANSWER, jnp.int32),
        finished_at=jnp.full(width, UNLIMITED, jnp.int32),
        started=zeros,
        waited=zero,
        refused=zero,
        stop_reason=jnp.asarray(StopReason.RUNNING, jnp.int32),
        prediction=jnp.asarray(NO_ANSWER, jnp.int32),
        revealed_at=None if world.probe_everything else zeros,
        probed=None if world.probe_everything else zero,
    )


def observe(world: World, episode: Episode, state: State) -> Observation:
    """What the controller sees of a state."""
    store, rules = world.store, world.rules
    width = state.depth.shape[-1]
    is_open = state.depth > 0
    finished = _ended(episode, state.depth) & ~state.pruned
    words = _pack(finished)
    shared = [jax.lax.population_count(episode.agrees[w] & words[w]) for w in range(len(words))]
    votes = functools.reduce(jnp.add, shared).astype(jnp.int32)
    seen = state.depth if state.revealed_at is None else state.revealed_at
    latest = episode.row + jnp.maximum(seen - 1, 0)
    if store.features is None:
        features = jnp.zeros((width, 0), jnp.float32)
    else:
        flat = jnp.asarray(store.features).reshape(-1, store.features.shape[-1])
        features = jnp.where((seen > 0)[:, None], _take(flat, latest), 0)
    run = jnp.where(is_open, _take(world.runs, latest), 0) if world.probe_everything else state.run
    answered = state.answer >= 0
    unparsable = jnp.asarray(store.unparsable)
    first_id = episode.question * unparsable.shape[-1]
    unparsable = _take(unparsable.reshape(-1), first_id + jnp.maximum(state.answer, 0))
    return Observation(
        round=state.round,
        opened=state.opened,
        unopened=episode.pool - state.opened,
        available=(episode.intervals > 0) & ~is_open,
        open=is_open,
        opened_now=state.opened_now,
        depth=state.depth,
        answer=state.answer,
        run=run,
        unparsable=answered & unparsable,
        active=_active(episode, state),
        finished=finished,
        pruned=state.pruned,
        pool_votes=jnp.where(finished, votes, 0),
        finished_at=jnp.where(state.pruned, UNLIMITED, state.finished_at),
        model=jnp.zeros(width, jnp.int32) if episode.model is None else episode.model,
        price=jnp.ones(width, jnp.float32) if episode.price is None else episode.price,
        features=features,
        tokens=tokens(episode, state, rules),
        budget_left=_budget_left(episode, state.depth, state.read_whole, probes(world, episode, state), rules),
        feature_names=store.feature_names,
    )


def step(world: World, episode: Episode, state: State, action: Action) -> State:
    """One round in replay: `admit`, then `reveal`. An ended episode stays unchanged."""
    return reveal(world, episode, state, admit(world, episode, state, action))


def admit(world: World, episode: Episode, state: State, action: Action) -> Admitted:
    """Decides which actions of a round may happen."""
    rules = world.rules
    running = state.stop_reason == StopReason.RUNNING
    is_open = state.depth > 0

    def probed(depth: Int32[Array, " B"]) -> Int32[Array, ""]:
        return _all_probes(episode, depth) if state.probed is None else state.probed

    # 1. PRUNE
    prune = action.prune & is_open & ~state.pruned & running

    # 2. BRANCH
    opening = action.open & (episode.intervals > 0) & ~is_open & running
    whole = state.read_whole | (opening & (action.continue_ == READ_TO_END))
    if rules.budget is not None:
        left = _budget_left(episode, state.depth, whole, probed(state.depth), rules)
        want = opening.astype(jnp.int32)
        slots = _slots(len(want))
        opening = _affordable(world, episode, state.depth, want, whole, left, slots) > 0
    first = state.depth + opening.astype(jnp.int32)

    # 3. CONTINUE
    admissible = (_active(episode, state) & running & ~prune) | opening
    generated = jnp.where(admissible, jnp.clip(action.continue_, 0, episode.intervals - first), 0)
    over_budget = jnp.zeros((), jnp.int32)
    if rules.budget is not None:
        left = _budget_left(episode, first, whole, probed(first), rules)
        deepest_first = jnp.argsort(-first, stable=True)
        paid = _affordable(world, episode, first, generated, whole, left, deepest_first)
        over_budget = jnp.sum(generated - paid, dtype=jnp.int32)
        generated = paid
    depth = first + generated

    # 4. PROBE
    probe = jnp.zeros_like(prune)
    if state.revealed_at is not None:
        probe = action.probe & admissible & ~_ended(episode, depth) & (depth > state.revealed_at)
        if rules.budget is not None:
            left = _budget_left(episode, depth, whole, probed(depth), rules)
            probe = probe & (jnp.cumsum(probe, dtype=jnp.int32) * rules.probe_cost <= left)

    masked = (action.prune & ~prune).astype(jnp.int32) + (action.open & ~opening).astype(jnp.int32)
    masked += ((action.continue_ > 0) & ~admissible).astype(jnp.int32)
    if not world.probe_everything:
        masked += (action.probe & ~probe).astype(jnp.int32)
    refused = jnp.where(running, masked, 0)
    intervals, refused, prune, opening, whole, probe = _decided(
        depth - state.depth, refused, prune, opening, opening & whole, probe
    )
    price = tariff(episode, state.depth, state.read_whole, rules).interval
    probing = intervals if world.probe_everything else probe.astype(jnp.int32)
    return Admitted(
        prune=prune,
        opening=opening,
        intervals=intervals,
        whole=whole,
        probe=probe,
        most=jnp.sum(intervals * price + probing * rules.probe_cost, dtype=jnp.int32),
        refused=refused,
        over_budget=over_budget,
        running=running,
        action=action,
    )


def reveal(world: World, episode: Episode, state: State, admitted: Admitted) -> State:
    """The next state, given what the branches showed."""
    action, running = admitted.action, admitted.running
    slots = _slots(state.depth.shape[-1])
    depth = jnp.minimum(state.depth + admitted.intervals, episode.intervals)
    deeper = depth > state.depth
    before, finished = _ended(episode, state.depth), _ended(episode, depth)
    answers = jnp.asarray(world.store.answers)
    newest = _take(answers.reshape(-1), episode.row + jnp.maximum(depth - 1, 0)).astype(jnp.int32)
    revealed, revealed_at, run, probed = deeper, state.revealed_at, state.run, state.probed
    if revealed_at is not None and probed is not None:
        probe = admitted.probe & ~finished
        revealed = probe | (finished & deeper)
        revealed_at = jnp.where(revealed, depth, revealed_at)
        run = jnp.where(revealed, jnp.where(newest == state.answer, run + 1, 1), run)
        probed = probed + count(probe)[0]

    changes = admitted.prune | revealed | deeper
    changed, earlier, opened, refused = count(changes, before, admitted.opening, admitted.refused)
    idle = changed == 0
    waiting = action.wait & (state.waited < MAX_WAITS)
    unasked = jnp.where(idle & ~waiting, StopReason.IDLE, StopReason.RUNNING)
    reason = jnp.where(action.stop, StopReason.ANSWERED, unasked).astype(jnp.int32)

    first = state.depth + admitted.opening.astype(jnp.int32)
    at_once = admitted.opening & _ended(episode, first)
    finish_key = jnp.where(at_once, _finish_key(earlier, 0, 0, slots), _finish_key(earlier, 1, first, slots))
    return State(
        round=state.round + running.astype(jnp.int32),
        opened=state.opened + opened,
        slots=_slot_word(
            depth, state.pruned | admitted.prune, state.read_whole | (admitted.whole & finished), admitted.opening, run
        ),
        answer=jnp.where(revealed, newest, state.answer),
        finished_at=jnp.where(finished & ~before, finish_key, state.finished_at),
        # A branch starts once everything that its opening was decided on has been generated.
        started=jnp.where(admitted.opening, sequential_tokens(episode, state, world.rules), state.started),
        waited=jnp.where(idle, state.waited + 1, 0),
        refused=state.refused + refused + admitted.over_budget,
        stop_reason=jnp.where(running, reason, state.stop_reason),
        prediction=jnp.where(running, action.answer, state.prediction),
        revealed_at=revealed_at,
        probed=probed,
    )


def tokens(episode: Episode, state: State, rules: Rules) -> Int32[Array, ""]:
    """Tokens spent so far."""
    return jnp.sum(tariff(episode, state.depth, state.read_whole, rules).tokens, dtype=jnp.int32)


def sequential_tokens(episode: Episode, state: State, rules: Rules) -> Int32[Array, ""]:
    """Tokens on the critical path when the open branches run side by side.

    A branch starts once everything generated before its opening round is available, and then runs without waiting. So
    branches run together cost their longest, windows the sum of their longest, and one-by-one sampling the sum of all,
    as in Parallel-Probe (arXiv 2602.03845).
    """
    return jnp.max(state.started + tariff(episode, state.depth, state.read_whole, rules).tokens)


def probes(world: World, episode: Episode, state: State) -> Int32[Array, ""]:
    """|Ω|, the probes paid for; a finished branch's answer needs none."""
    return _all_probes(episode, state.depth) if state.probed is None else state.probed


def cost(world: World, episode: Episode, state: State) -> Int32[Array, ""]:
    """What the episode has cost so far, in the cost model's unit, plus κ_probe per probe."""
    charge = tariff(episode, state.depth, state.read_whole, world.rules).charge
    paid = jnp.asarray(world.rules.probe_cost, jnp.int32) * probes(world, episode, state)
    return jnp.sum(charge, dtype=jnp.int32) + paid


def tariff(episode: Episode, depth: Int32[Array, " B"], read_whole: Bool[Array, " B"], rules: Rules) -> Tariff:
    """What slots have cost at a depth: the accounting of every `CostModel`.

    Args:
      episode: The branches behind the slots.
      depth: Intervals generated.
      read_whole: Whether a finished slot was opened with READ_TO_END and finished in that round.
      rules: Which cost model.
    """
    ended, steps = _ended(episode, depth), depth * episode.delta
    if rules.cost is CostModel.GENERATED:
        spent = jnp.where(ended, episode.tokens, jnp.minimum(steps, episode.tokens))
    else:
        stepped = jnp.maximum(episode.tokens, steps - episode.delta)
        spent = jnp.where(ended, jnp.where(read_whole, episode.tokens, stepped), steps)
    match rules.cost:
        case CostModel.INTERVALS:
            return Tariff(spent, depth, jnp.ones_like(depth))
        case CostModel.PRICED if episode.price is not None:
            return Tariff(spent, _priced(episode.price, spent), _priced(episode.price, episode.delta))
        case _:
            return Tariff(spent, spent, episode.delta)


def finish_keys(width: int) -> int:
    """The number of possible `Observation.finished_at` keys, all below it, for `width` slots; at most 2²⁹.

    The digits of a key, highest first: branches finished in earlier rounds (base `width`), whether BRANCH or CONTINUE
    finished it (base 2), how far its depth was from the greatest (base MAX_INTERVALS + 1), its slot (base `width`).
    """
    return width * 2 * (MAX_INTERVALS + 1) * width


# --- helpers, per slot -------------------------------------------------------------------------------------------


def _slots(width: int) -> Int32[Array, " B"]:
    return jnp.arange(width, dtype=jnp.int32)


def _ended(episode: Episode, depth: Int32[Array, " B"]) -> Bool[Array, " B"]:
    """Generated to the end, pruned or not."""
    return (depth > 0) & (depth == episode.intervals)


def _active(episode: Episode, state: State) -> Bool[Array, " B"]:
    return (state.depth > 0) & (state.depth < episode.intervals) & ~state.pruned


def _priced(price: Float32[Array, " B"], spent: Int32[Array, " B"]) -> Int32[Array, " B"]:
    return jnp.round(price * spent.astype(jnp.float32)).astype(jnp.int32)


def _probes_passed(episode: Episode, depth: Int32[Array, " B"]) -> Int32[Array, " B"]:
    """Probes of a slot that is probed after every interval; the finishing one needs none."""
    return jnp.minimum(depth, jnp.maximum(episode.intervals - 1, 0))


def _all_probes(episode: Episode, depth: Int32[Array, " B"]) -> Int32[Array, ""]:
    return jnp.sum(_probes_passed(episode, depth), dtype=jnp.int32)


def _budget_left(
    episode: Episode,
    depth: Int32[Array, " B"],
    read_whole: Bool[Array, " B"],
    probed: Int32[Array, ""],
    rules: Rules,
) -> Int32[Array, ""]:
    if rules.budget is None:
        return jnp.asarray(UNLIMITED, jnp.int32)
    spent = jnp.sum(tariff(episode, depth, read_whole, rules).charge, dtype=jnp.int32)
    return jnp.asarray(rules.budget, jnp.int32) - spent - jnp.asarray(rules.probe_cost, jnp.int32) * probed


def _affordable(
    world: World,
    episode: Episode,
    depth: Int32[Array, " B"],
    wanted: Int32[Array, " B"],
    whole: Bool[Array, " B"],
    left: Int32[Array, ""],
    service: Int32[Array, " B"],
) -> Int32[Array, " B"]:
    """How many of each slot's wanted intervals the remaining budget pays for, serving slots in that order."""
    rules = world.rules

    def charge(depth: Int32[Array, " B"]) -> Int32[Array, " B"]:
        """What a slot has cost at a depth, including the probes that come with its intervals."""
        spent = tariff(episode, depth, whole, rules).charge
        return spent + rules.probe_cost * _probes_passed(episode, depth) if world.probe_everything else spent

    interval = tariff(episode, depth, whole, rules).interval
    price = interval + rules.probe_cost if world.probe_everything else interval
    charged = charge(depth)
    bill = (charge(depth + wanted) - charged)[service]
    ahead = jnp.zeros_like(bill).at[service].set(jnp.cumsum(bill, dtype=jnp.int32) - bill)

    def fits(start: Int32[Array, ""]) -> Bool[Array, " B"]:
        """Whether an interval that starts at this depth is wanted, and affordable after what was paid before it."""
        paid = charge(jnp.full_like(depth, start)) - charged
        return (start >= depth) & (start < depth + wanted) & (ahead + paid + price <= left)

    depths = jnp.arange(world.store.answers.shape[-1], dtype=jnp.int32)
    affordable = jnp.sum(jax.vmap(fits)(depths), axis=0, dtype=jnp.int32)
    refused = (affordable < wanted)[service].astype(jnp.int32)
    cut = jnp.zeros_like(refused).at[service].set(jnp.cumsum(refused, dtype=jnp.int32) - refused)
    return jnp.where(cut > 0, 0, affordable)


def _finish_key(earlier: Any, phase: int, depth: Any, slots: Int32[Array, " B"]) -> Int32[Array, " B"]:
    """See `finish_keys`."""
    return ((2 * earlier + phase) * (MAX_INTERVALS + 1) + (MAX_INTERVALS - depth)) * len(slots) + slots


def _slot_word(
    depth: Int32[Array, " B"],
    pruned: Bool[Array, " B"],
    read_whole: Bool[Array, " B"],
    opened_now: Bool[Array, " B"],
    run: Int32[Array, " B"],
) -> Int32[Array, " B"]:
    """Depth and run, both at most MAX_INTERVALS, with the flags between them."""
    flags = ((_PRUNED, pruned), (_READ_WHOLE, read_whole), (_OPENED_NOW, opened_now))
    return depth + sum(jnp.where(flag, np.int32(bit), 0) for bit, flag in flags) + run * _RUN


def _decided(
    intervals: Int32[Array, " B"], refused: Int32[Array, " B"], *flags: Bool[Array, " B"]
) -> tuple[Array, ...]:
    """What was decided for each slot, computed `once`: it all fits into an integer below 2²⁴."""
    code = intervals * 8 + refused
    for flag in flags:
        code = code * 2 + flag.astype(jnp.int32)
    code = once(code)
    apart = [(code >> place) & 1 != 0 for place in reversed(range(len(flags)))]
    rest = code >> len(flags)
    return rest >> 3, rest & 7, *apart


def _runs(store: ReplayStore) -> Int32[Array, " QND"]:
    """See `World.runs`. Controllers that do not read `Observation.run` do not pay for it."""
    answers = jnp.asarray(store.answers)
    depth = jax.lax.broadcasted_iota(jnp.int32, answers.shape, answers.ndim - 1)
    before = jnp.concatenate([jnp.full_like(answers[..., :1], -1), answers[..., :-1]], axis=-1)
    begun = jax.lax.cummax(jnp.where(answers != before, depth, 0), axis=answers.ndim - 1)
    return (depth - begun + 1).reshape(-1)


def _take(table: Shaped[Array, "M ..."], index: Int32[Array, " B"]) -> Shaped[Array, "B ..."]:
    """``table[index]`` for indices known to be in bounds: smaller programs than with general indexing."""
    return table.at[index].get(mode="promise_in_bounds", wrap_negative_indices=False)


def _pack(bits: Bool[Array, "... B"]) -> UInt32[Array, "... W"]:
    """Sets of slots as words of 32 bits."""
    words = -(-bits.shape[-1] // 32)
    padding = [(0, 0)] * (bits.ndim - 1) + [(0, 32 * words - bits.shape[-1])]
    lanes = jnp.pad(bits, padding).reshape(*bits.shape[:-1], words, 32).astype(jnp.uint32)
    places = jnp.broadcast_to(jnp.arange(32, dtype=jnp.uint32), lanes.shape)
    return jnp.sum(lanes << places, axis=-1, dtype=jnp.uint32)
