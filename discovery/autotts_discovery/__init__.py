"""Discovery: a proposer writes controllers; the loop judges, tunes, remembers and proves them (AutoTTS, section 3).

`discover` searches, `prove` tests what was found on data that the search has not seen.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autotts_discovery.loop import Found, Standing, discover
    from autotts_discovery.proof import Proof, prove

__all__ = ["Found", "Proof", "Standing", "discover", "prove"]

_HOMES = {"Found": "loop", "Standing": "loop", "discover": "loop", "Proof": "proof", "prove": "proof"}


def __getattr__(name: str) -> Any:
    """Attributes resolved on first access: a worker, which runs strangers' code, should hold little."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"autotts_discovery.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
