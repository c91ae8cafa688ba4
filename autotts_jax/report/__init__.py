"""A sweep as one self-contained page: curves, intervals, comparisons, failures, and episodes to step through.

The page works without a network. Its tables are HTML, filled in here; scripts sort and filter them, draw the curves
with Vega-Lite, and play episodes. ``shell`` has what this page shares with others.
"""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Callable

import numpy as np
from jaxtyping import Int

import autotts_jax as tts
import autotts_jax.plots  # before there are threads: a library that grows while controllers are traced looks changed
from autotts_jax.report import episodes, shell, tables

__all__ = ["page"]


def page(
    results: tts.Results,
    dataset: tts.Dataset,
    orders: Int[np.ndarray, "Q S B"],
    rules: tts.Rules,
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> str:
    """The page, as HTML; it needs no network.

    Args:
      results: Of a sweep.
      dataset: What was swept, as one dataset.
      orders: ``[Q, S, B]`` the orders that were replayed.
      rules: What actions cost.
      progress: Called with a setting's label before its episodes are replayed again, from any thread.

    Raises:
      InputError: if episodes do not end as they did in the sweep.
    """

    def watch(number: int) -> episodes.Watched:
        progress(results.rows[number].label)
        return episodes.watch(results, number, dataset, orders, rules)

    # Most of the work is compiling, which threads share.
    with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        numbers = threads.submit(tables.tables, results)
        threads.submit(shell.vega)
        watched = list(threads.map(watch, tables.middle_rows(results)))
    variables = {"watched": watched, "modes": episodes.MODES, "shown": episodes.fitting(watched)}
    return shell.render("autotts_jax.report", numbers.result() | variables)
