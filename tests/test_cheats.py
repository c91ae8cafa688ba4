"""What a controller must not get out of the data, or around the rules, and that it does not."""

from pathlib import Path

import numpy as np
from scipy.stats import rankdata, spearmanr

from autotts_jax import pack
from autotts_jax.trajectories import Trajectories, read

# --- answer ids ------------------------------------------------------------------------------------------------------


def numbered(trajectories: Trajectories, seed: int) -> list[np.ndarray]:
    """Per question, ids as a permutation of its own answers' numbers: how answers are not to be numbered."""
    rng = np.random.default_rng(seed)
    return [rng.permutation(len(q.choices))[q.answers[:, 0]] for q in trajectories.questions]


def drawn(trajectories: Trajectories, seed: int) -> list[np.ndarray]:
    """Per question, the ids that the first probe of each branch reveals."""
    store = pack(trajectories, seed=seed).store
    return [store.answers[q, :n, 0].astype(int) for q, n in enumerate(store.branches)]


def told(files: list[Trajectories], ids: list[np.ndarray]) -> tuple[float, float, float]:
    """What a branch's first revealed id tells.

    Returns:
      Spearman's ρ with the question's number of distinct answers, and with its share of right branches; and the area
      under the curve of "this branch is right".
    """
    questions = [question for file in files for question in file.questions]
    right = []
    for question in questions:
        final = question.answers[np.arange(len(question.intervals)), question.intervals - 1]
        right.append(np.array([choice == question.gold for choice in question.choices])[final])
    sizes = [len(some) for some in right]
    flat, truth = np.concatenate(ids), np.concatenate(right)
    disagreement = np.repeat([len(question.choices) for question in questions], sizes)
    accuracy = np.repeat([some.mean() for some in right], sizes)
    positives = truth.sum()
    above = rankdata(flat)[truth].sum() - positives * (positives + 1) / 2
    area = above / (positives * (len(truth) - positives))
    return spearmanr(flat, disagreement).statistic, spearmanr(flat, accuracy).statistic, area


def test_ids_say_nothing(replay_directory: Path) -> None:
    """On the eight public files; an id is one draw per answer, so that ten seeds average what a seed happens to give.

    Numbered up to the question's own number of answers, they would say a lot.
    """
    files = [read(path) for path in sorted(replay_directory.glob("*/*.json"))]
    seeds = range(10)
    before, after = (
        np.mean([told(files, [ids for file in files for ids in number(file, seed)]) for seed in seeds], axis=0)
        for number in (numbered, drawn)
    )
    np.testing.assert_allclose(before, (0.78, -0.48, 0.26), atol=0.04)
    np.testing.assert_allclose(after, (0, 0, 0.5), atol=0.04)
