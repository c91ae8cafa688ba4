"""Realistic traces without a model: a generator, and figures that make it resemble eight recorded benchmarks."""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int, Int32

from autotts_jax import trajectories
from autotts_jax.trajectories import Question, Trajectories

GOLD, ERR, NO, OTHER, RIVAL = range(5)
RIVALS = 4
COLUMNS = RIVAL + RIVALS
APPROACH = 3
SETTLED = APPROACH
PHASES = APPROACH + 1
QUANTILES = np.linspace(0.0, 1.0, 5)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class QuestionModel:
    delta: int
    shares: Float64[np.ndarray, "C"]
    length: Float64[np.ndarray, "C"]
    spread: Float64[np.ndarray, "C"]
    tokens: tuple[int, int]
    probes: tuple[int, int]
    clock: Float64[np.ndarray, "3"]
    settling: Float64[np.ndarray, "2 5"]
    repeat: Float64[np.ndarray, "P"]
    own: Float64[np.ndarray, "P"]
    shown: Float64[np.ndarray, "P C"]
    others: int


@dataclasses.dataclass(frozen=True)
class Preset:
    name: str
    questions: Sequence[QuestionModel]


_NORMAL = (np.linspace(0, 1, 2049)[1:-1], np.array([statistics.NormalDist().inv_cdf(i / 2048) for i in range(1, 2048)]))


def generate(preset, *, questions: int = 30, branches: int = 128, seed: int = 0) -> Trajectories:
    rng = np.random.default_rng(seed)
    rows = len(preset.questions)
    full, rest = divmod(questions, rows)
    chosen = np.concatenate([np.tile(np.arange(rows), full), np.sort(rng.choice(rows, rest, replace=False))])
    drawn = [_question(preset.questions[r], branches, f"{preset.name}, question {r}", rng) for r in chosen]
    return Trajectories(drawn, model="synthetic", benchmark=preset.name.replace("/", "-"), sampling={"seed": seed, "preset": preset.name})


def _stratified(groups, rng):
    n = len(groups)
    order = np.lexsort((rng.random(n), groups))
    rank = np.empty(n, np.int64)
    rank[order] = np.arange(n)
    _, start, inverse, counts = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    return (rank - start[inverse] + rng.random(n)) / counts[inverse]


def _question(model, N, text, rng):
    C = COLUMNS
    # classes
    cum = np.cumsum(model.shares)
    classes = np.searchsorted(cum[:-1] / cum[-1], (np.arange(N) + rng.random()) / N, side="right")
    z = np.interp(_stratified(classes, rng), *_NORMAL)
    tokens = np.exp(model.length[classes] + model.spread[classes] * z)
    tokens = np.clip(tokens, *model.tokens).astype(np.int32)
    a, b, noise = model.clock
    n = np.floor((a + (b + noise * rng.standard_normal(N)) * tokens) / model.delta)
    n = np.clip(n, model.probes[0], np.minimum(model.probes[1], tokens // model.delta + 1)).astype(np.int32)
    wrong = (classes != GOLD).astype(np.int64)
    u = _stratified(classes, rng)
    frac = np.where(wrong, np.interp(u, QUANTILES, model.settling[1]), np.interp(u, QUANTILES, model.settling[0]))
    k = np.minimum(np.rint(frac * n), n - 1)
    finals = np.where(classes == OTHER, C + (model.others * rng.random(N) ** 2).astype(np.int64), classes)
    D = int(n.max()) + 1
    t = np.arange(D)
    phase = np.where(t < k[:, None], (APPROACH * t / np.maximum(k, 1)[:, None]).astype(np.int64), SETTLED)
    phase = np.minimum(phase, SETTLED)
    shape = (N, D)
    cumshown = np.cumsum(model.shown, axis=1)
    cumshown /= cumshown[:, -1:]
    cumshown[:, -1] = 1
    guess = np.searchsorted((cumshown + np.arange(PHASES)[:, None]).ravel(), rng.random(shape) + phase, side="right") - C * phase
    guess = np.where(guess == OTHER, C + (model.others * rng.random(shape) ** 2).astype(np.int64), guess)
    guess = np.where(rng.random(shape) < model.own[phase], finals[:, None], guess)
    again = rng.random(shape) < model.repeat[phase]
    again[:, 0] = False
    last = np.maximum.accumulate(np.where(again, 0, t), axis=1)
    ids = np.take_along_axis(guess, last, axis=1)
    ids = np.where(t >= n[:, None] - 1, finals[:, None], ids)
    ids[t > n[:, None]] = -1
    ids = ids[rng.permutation(N)] if False else ids
    perm = rng.permutation(N)
    ids, n, tokens = ids[perm], n[perm], tokens[perm]
    pool = C + max(model.others, 1)
    names = rng.permutation(max(1000, pool))[:pool].astype(str)
    names = names.astype(object)
    names[ERR], names[NO] = "ERR", "No"
    inside = ids >= 0
    used, first, inverse = np.unique(ids[inside], return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    answers = np.full(shape, -1, np.int32)
    answers[inside] = rank[inverse]
    return Question(text, str(names[GOLD]), model.delta, tuple(names[used[order]].tolist()), answers, (n + 1).astype(np.int32), tokens.astype(np.int32))


def fit(recorded, name=None):
    return Preset(name or recorded.name, [_fit(q, recorded.unparsable) for q in recorded.questions])


def _columns(q, finals, unparsable):
    probes = q.answers[q.answers >= 0]
    weight = np.bincount(finals, minlength=len(q.choices)) / len(finals) + np.bincount(probes, minlength=len(q.choices)) / len(probes)
    col = np.full(len(q.choices), OTHER)
    fixed = [(GOLD, c == q.gold) for c in q.choices]
    for i, c in enumerate(q.choices):
        if c == q.gold: col[i] = GOLD
        elif c in unparsable: col[i] = ERR
        elif c == "No": col[i] = NO
    weight[col != OTHER] = -1
    riv = np.argsort(-weight, kind="stable")[:RIVALS]
    for j, i in enumerate(riv):
        if weight[i] > 0: col[i] = RIVAL + j
    return col


def _fit(q, unparsable):
    N, D = q.answers.shape
    n = q.intervals - 1
    finals = q.answers[np.arange(N), n]
    col = _columns(q, finals, unparsable)
    classes = col[finals]
    shares = np.bincount(classes, minlength=COLUMNS) / N
    logs = np.log(q.tokens)
    length, spread = np.zeros((2, COLUMNS))
    right = classes == GOLD
    for c in np.unique(classes):
        m = classes == c
        pooled = m if m.sum() >= 4 else (right if c == GOLD else ~right)
        # few: own mean, pooled spread
        length[c] = logs[m].mean()
        spread[c] = logs[pooled].std() if m.sum() < 4 else logs[m].std()
    A = np.c_[np.ones(N), q.tokens]
    y = q.delta * (n + 0.5)
    (a, b), *_ = np.linalg.lstsq(A, y)
    noise = np.sqrt(max((y - A @ (a, b)).var() - q.delta**2 / 12, 0.0) / np.mean(q.tokens.astype(float)**2))
    # settle
    t = np.arange(D)
    valid = t < n[:, None]
    match = q.answers == finals[:, None]
    gain = np.where(valid, np.where(match, 1, -2), 0)
    suffix = gain[:, ::-1].cumsum(axis=1)[:, ::-1]
    k = suffix.argmax(axis=1)
    frac = k / n
    settling = np.array([np.quantile(frac[m] if m.any() else frac, QUANTILES) for m in (right, ~right)])
    phase = np.where(t < k[:, None], np.minimum(APPROACH * t // np.maximum(k, 1)[:, None], APPROACH - 1), SETTLED)
    ids = np.where(q.answers >= 0, col[q.answers], -1)
    others = max(int((col == OTHER).sum()), 1)
    prev = np.c_[np.full(N, -1), q.answers[:, :-1]]
    use = t < n[:, None] - 1
    x, p = ids[use], phase[use]
    same, mine = (q.answers == prev)[use], match[use]
    repeat, own, shown = np.full(PHASES, 0.5), np.full(PHASES, 0.5), np.full((PHASES, COLUMNS), 1 / COLUMNS)
    chance = np.where(x == OTHER, 1 / others, 1.0)
    firsts = (np.broadcast_to(t, q.answers.shape) == 0)[use]
    for _ in range(60):
        r = np.where(firsts, 0.0, repeat[p])
        wr = r * same
        wo = (1 - r) * own[p] * mine
        wc = (1 - r) * (1 - own[p]) * shown[p, x] * chance
        s = wr + wo + wc + 1e-300
        wr, wo, wc = wr / s, wo / s, wc / s
        cnt = lambda w, p=p: np.bincount(p, w, minlength=PHASES)
        repeat = cnt(wr) / np.maximum(cnt(~firsts * 1.0), 1e-9)
        own = (cnt(wo) + 1e-6) / (cnt(wo + wc) + 2e-6)
        shown = np.bincount(p * COLUMNS + x, wc, minlength=PHASES * COLUMNS).reshape(PHASES, COLUMNS) + 1e-9
        shown /= shown.sum(1, keepdims=True)
    return QuestionModel(delta=q.delta, shares=shares, length=length, spread=spread, tokens=(int(q.tokens.min()), int(q.tokens.max())), probes=(int(n.min()), int(n.max())), clock=np.array([a, b, noise]), settling=settling, repeat=repeat, own=own, shown=shown, others=others)
