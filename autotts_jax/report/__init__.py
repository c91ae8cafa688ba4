"""A sweep as one self-contained page: curves, intervals, comparisons, failures, and episodes to step through.

The page works without a network. Its tables are HTML, filled in here; ``page.js`` sorts and filters them, draws the
curves with Vega-Lite, and plays episodes. Whatever comes from data reaches the page as escaped text or as JSON, never
as markup, and the script writes it as text only.
"""

from __future__ import annotations

import concurrent.futures
import importlib.resources
import json
import os
from collections.abc import Callable

import jinja2
import numpy as np
import vl_convert
from jaxtyping import Int
from markupsafe import Markup

import autotts_jax as tts
import autotts_jax.plots  # before there are threads: a library that grows while controllers are traced looks changed
from autotts_jax.report import episodes, tables

__all__ = ["page"]

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("autotts_jax", "report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
)
# For `tojson`, which escapes <, >, & and whatever is not ASCII. JavaScript would not read NaN or infinities.
_TEMPLATES.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}


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
        vega = threads.submit(vl_convert.javascript_bundle, "window.vegaEmbed = vegaEmbed")
        watched = list(threads.map(watch, tables.middle_rows(results)))
    return _TEMPLATES.get_template("page.html").render(
        numbers.result(),
        watched=watched,
        modes=episodes.MODES,
        shown=episodes.fitting(watched),
        curves=json.loads(_file("curves.json")),
        style=Markup(_file("page.css")),
        script=Markup(_file("page.js")),
        vega=Markup(vega.result()),
    )


def _file(name: str) -> str:
    return importlib.resources.files("autotts_jax.report").joinpath(name).read_text("utf-8")
