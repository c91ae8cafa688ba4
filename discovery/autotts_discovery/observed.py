"""What recorded branches look like, in a dozen lines: what a proposer may build on before anything was tried."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from autotts_jax.replay import Dataset

__all__ = ["describe"]

# Of how many branches the first to finish are looked at, and how many draws of them.
_DRAWN, _DRAWS = 16, 32

_RELATIVE = (0, 0.6, 0.8, 1, 1.25, 1.6, np.inf)
_AT = (0.25, 0.5, 0.75, 0.9)
_RUNS = (2, 4, 8, 16, 32)


class _Question(NamedTuple):
    """A question's branches, without padding; ids of answers that could not be parsed are −1."""

    answers: Int[np.ndarray, "N D"]
    intervals: Int[np.ndarray, " N"]
    tokens: Int[np.ndarray, " N"]
    finals: Int[np.ndarray, " N"]
    gold: int

    @property
    def right(self) -> Bool[np.ndarray, " N"]:
        """Which branches end with the gold answer."""
        return (self.finals == self.gold) & (self.gold >= 0)


def describe(data: Dataset, *, seed: int = 0) -> str:
    """Lengths, accuracies, and what a live probe is worth.

    Args:
      data: The search set. Gold answers are used, as for any figure of accuracy.
      seed: Of the branches that are drawn.

    Returns:
      Plain text, one fact a line.
    """
    questions = list(_questions(data))
    rng = np.random.default_rng(seed)
    return "\n".join(
        [*_sizes(questions), _by_length(questions), *_probes(questions), _backed(questions), _first(questions, rng)]
    )


def _questions(data: Dataset) -> Iterator[_Question]:
    store = data.store
    for q, count in enumerate(np.asarray(store.branches)):
        intervals = np.asarray(store.intervals[q, :count])
        answers = np.asarray(store.answers[q, :count])
        bad = np.append(np.asarray(store.unparsable[q]), False)  # the last is for −1
        answers = np.where(bad[answers], -1, answers)
        finals = answers[np.arange(count), intervals - 1]
        yield _Question(answers, intervals, np.asarray(store.tokens[q, :count]), finals, int(store.gold[q]))


def _sizes(questions: Sequence[_Question]) -> list[str]:
    lengths = np.concatenate([q.intervals for q in questions])
    tokens = np.concatenate([q.tokens for q in questions])
    low, middle, high = np.quantile(lengths, (0.1, 0.5, 0.9))
    alone = np.array([q.right.mean() for q in questions])
    voted = np.array([_plurality(q.finals) == q.gold >= 0 for q in questions])
    return [
        f"{len(questions)} questions, {len(lengths) / len(questions):.0f} branches each; a branch takes {low:.0f} / "
        f"{middle:.0f} / {high:.0f} intervals (10, 50, 90 % of them), {tokens.sum() / lengths.sum():.0f} tokens each",
        f"one branch is right in {_percent(alone.mean())}, the plurality of all branches in {_percent(voted.mean())}; "
        f"no branch is right in {_percent((alone == 0).mean())} of the questions, all are in "
        f"{_percent((alone == 1).mean())}",
    ]


def _by_length(questions: Sequence[_Question]) -> str:
    mixed = [q for q in questions if 0 < q.right.mean() < 1]
    if not mixed:
        return "no question has both right and wrong branches"
    relative = np.concatenate([q.intervals / q.intervals.mean() for q in mixed])
    right = np.concatenate([q.right for q in mixed])
    parts = []
    for low, high in itertools.pairwise(_RELATIVE):
        there = (relative >= low) & (relative < high)
        if there.any():
            name = f"{low:g}–{high:g}" if np.isfinite(high) else f"over {low:g}"
            parts.append(f"{name}: {_percent(right[there].mean())} of {_percent(there.mean())}")
    ratio = np.mean([q.intervals[~q.right].mean() / q.intervals[q.right].mean() for q in mixed])
    return (
        f"in questions with right and wrong branches the wrong ones are {ratio:.2f} times as long; right by length "
        f"relative to the question's mean: {'; '.join(parts)}"
    )


def _probes(questions: Sequence[_Question]) -> list[str]:
    """What a live probe says of its branch's final answer, by progress and by how long it has not changed."""
    parts = []
    for share in _AT:
        pairs = [(_at(q, np.maximum((share * q.intervals).astype(int), 1)), q.finals) for q in questions]
        same = np.concatenate([(probe == final) & (final >= 0) for probe, final in pairs])
        none = np.concatenate([probe < 0 for probe, _ in pairs])
        parts.append(f"at {_percent(share)}: {_percent(same.mean())} ({_percent(none.mean())} unparsable)")
    kept: dict[int, list[Bool[np.ndarray, " K"]]] = {run: [] for run in _RUNS}
    for q in questions:
        run = np.ones(len(q.intervals), int)
        first = dict.fromkeys(_RUNS, np.zeros(len(q.intervals), bool))
        for d in range(1, int(q.intervals.max())):
            now = q.answers[:, d]
            run = np.where((now == q.answers[:, d - 1]) & (now >= 0), run + 1, 1)
            for least in _RUNS:  # each branch once: when its run first gets so long
                hit = (run >= least) & ~first[least] & (d < q.intervals - 1)
                first[least] = first[least] | hit
                kept[least].append(now[hit] == q.finals[hit])
    runs = [(least, np.concatenate(hits)) for least, hits in kept.items()]
    told = "; ".join(f"{least} in a row: {_percent(same.mean())}" for least, same in runs if len(same))
    return [
        f"a live probe is its branch's final answer: {'; '.join(parts)} of the branch",
        f"an answer that a branch first repeats is its final one: {told}",
    ]


def _backed(questions: Sequence[_Question]) -> str:
    """What a live probe is worth when a branch that has finished by then backs it, all running in lockstep."""
    found: dict[bool, list[Bool[np.ndarray, " K"]]] = {True: [], False: []}
    for q in questions:
        for d in range(4, int(q.intervals.max()), 4):
            finished, live = q.intervals <= d, q.intervals > d
            probe = q.answers[live, d - 1]
            backed = np.isin(probe, q.finals[finished & (q.finals >= 0)])
            same = probe == q.finals[live]
            for backing in found:
                found[backing].append(same[(probe >= 0) & (backed == backing)])
    backed, alone = (np.concatenate(found[backing] or [np.zeros(0, bool)]) for backing in (True, False))
    return (
        f"a live probe that equals a finished branch's answer is its branch's final one in {_share(backed)}, "
        f"another in {_share(alone)}"
    )


def _first(questions: Sequence[_Question], rng: np.random.Generator) -> str:
    """What the first branches to finish say."""
    counts = (1, 2, 3, 5, 8, 12, _DRAWN)
    agree: dict[int, list[bool]] = {2: [], 3: [], 4: []}
    right: dict[int, list[bool]] = {count: [] for count in counts}
    for q in questions:
        for _ in range(_DRAWS):
            drawn = rng.permutation(len(q.intervals))[:_DRAWN]
            drawn = drawn[np.argsort(q.tokens[drawn], kind="stable")]
            for count in counts:
                right[count].append(_plurality(q.finals[drawn[:count]]) == q.gold >= 0)
            for count in agree:
                if len(set(q.finals[drawn[:count]])) == 1:
                    agree[count].append(bool(q.right[drawn[0]]))
    voted = ", ".join(f"{count}: {_percent(np.mean(hits))}" for count, hits in right.items())
    told = ", ".join(
        f"{count} ({_percent(len(hits) / (len(questions) * _DRAWS))}): {_share(hits)}" for count, hits in agree.items()
    )
    return (
        f"of {_DRAWN} branches side by side, the plurality of the first to finish is right: {voted}; where the first "
        f"ones agree, they are right: {told}"
    )


def _at(q: _Question, reached: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    return q.answers[np.arange(len(reached)), np.minimum(reached, q.intervals) - 1]


def _plurality(ids: Int[np.ndarray, " K"]) -> int:
    """The most frequent id, the first seen of equal ones; −2 without any that was parsed."""
    seen, first, counts = np.unique(ids[ids >= 0], return_index=True, return_counts=True)
    return int(seen[np.lexsort((first, -counts))[0]]) if len(seen) else -2


def _share(hits: Sequence[bool] | Bool[np.ndarray, " K"]) -> str:
    return _percent(float(np.mean(hits))) if len(hits) else "no case"


def _percent(share: float | np.floating) -> str:
    return f"{100 * share:.0f} %"
