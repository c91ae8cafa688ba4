"""What all pages share: their frame, style, script and charts, in one file that needs no network.

A page is a folder of its package with ``page.html``, ``page.css`` and ``page.js``. Whatever comes from data reaches it
as escaped text or as JSON, never as markup, and scripts write it as text only.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import re
from collections.abc import Mapping
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup

__all__ = ["SHAPES", "render", "vega"]

#: Matplotlib's markers in Vega's terms, and as signs.
SHAPES = {
    "o": ("circle", "●"),
    "s": ("square", "■"),
    "D": ("diamond", "◆"),
    "^": ("triangle-up", "▲"),
    "v": ("triangle-down", "▼"),
    "P": ("cross", "✚"),
    "X": ("M-1,-.6L-.6,-1L0,-.4L.6,-1L1,-.6L.4,0L1,.6L.6,1L0,.4L-.6,1L-1,.6L-.4,0Z", "✖"),
    "<": ("triangle-left", "◀"),
    ">": ("triangle-right", "▶"),
}

_HERE = "autotts_jax.report"

# Control characters but tab and line feed, and those that direct writing.
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def render(folder: str, variables: Mapping[str, Any]) -> str:
    """A page, as HTML.

    Args:
      folder: The package that the page's files are in.
      variables: Of its template.
    """
    return _template(folder).render(
        variables,
        curves=json.loads(_file(_HERE, "curves.json")),
        style=Markup("\n".join(_file(each, name) for each, name in ((_HERE, "shell.css"), (folder, "page.css")))),
        script=Markup("\n".join(_file(each, name) for each, name in ((_HERE, "shell.js"), (folder, "page.js")))),
        vega=Markup(vega()),
    )


@functools.cache
def vega() -> str:
    """The script that draws charts; it takes a second to put together."""
    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed"))


@functools.cache
def _template(folder: str) -> jinja2.Template:
    loader = jinja2.ChoiceLoader([jinja2.PackageLoader(each, ".") for each in (folder, _HERE)])
    made = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_visible)
    # For `tojson`, which escapes <, >, & and whatever is not ASCII. JavaScript would not read NaN or infinities.
    made.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return made.get_template("page.html")


def _visible(value: object) -> object:
    """A text with what would be invisible in it, such as characters that turn others around, written out."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return _INVISIBLE.sub(lambda found: found[0].encode("unicode_escape").decode(), value)


def _file(folder: str, name: str) -> str:
    return importlib.resources.files(folder).joinpath(name).read_text("utf-8")
