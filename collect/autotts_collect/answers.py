"""From what a model says to an answer in normal form: equal answers are equal strings."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from autotts_jax.trajectories import UNPARSABLE

__all__ = ["BOXED", "GRADINGS", "VERBATIM", "Grading"]


class Grading(NamedTuple):
    r"""How answers are read and compared.

    Attributes:
      name: As results and recordings name it.
      read: From a branch's text, or from a suffix and the reply to it, to the answer in normal form; ``ERR`` if there
        is none.
      normal: From a gold answer to its normal form.
    """

    name: str
    read: Callable[[str], str]
    normal: Callable[[str], str]


def _boxed(text: str) -> str:
    """The contents of the last box whose braces are closed."""
    found = UNPARSABLE[0]
    for opening in re.finditer(r"\\boxed\s*\{", text):
        depth = 1
        for place in range(opening.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if depth == 0:
                found = _normal(text[opening.end() : place]) or found
                break
    return found


def _normal(answer: str) -> str:
    """Without dollar signs and outer blanks, inner blanks as one; whole numbers without commas and leading zeros."""
    answer = " ".join(answer.replace("$", "").split())
    plain = re.sub(r"(?<=\d),(?=\d{3})", "", answer)
    return str(int(plain)) if re.fullmatch(r"[+-]?[0-9]{1,1000}", plain) else answer


#: The last ``\\boxed{…}``.
BOXED = Grading("boxed, string equality", _boxed, _normal)

#: The text itself: recorded answers.
VERBATIM = Grading("string equality", lambda text: text, lambda gold: gold)

#: By the name that the command line knows.
GRADINGS = {"boxed": BOXED, "verbatim": VERBATIM}
