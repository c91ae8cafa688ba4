"""Engines: what generates tokens. `base` has the protocol."""

from autotts_collect.engines.base import (
    DYNASOR,
    Branch,
    Engine,
    EngineError,
    LogProbs,
    Piece,
    Pool,
    Reading,
    Sampling,
    Suffix,
    UnavailableError,
)
from autotts_collect.engines.faults import Faulty
from autotts_collect.engines.patience import Patience
from autotts_collect.engines.recorded import Recorded

__all__ = [
    "DYNASOR",
    "Branch",
    "Engine",
    "EngineError",
    "Faulty",
    "LogProbs",
    "Patience",
    "Piece",
    "Pool",
    "Reading",
    "Recorded",
    "Sampling",
    "Suffix",
    "UnavailableError",
]
