"""Exact, vectorized replay of test-time scaling controllers in JAX.

`pack` turns recorded trajectories (`read_trajectories`) into arrays; `sweep` replays controllers on them over a β grid
and returns result tables; `evaluate` is the same replay as one pure function, to embed in larger programs. A
controller is three pure functions (`Controller`); `CONTROLLERS` holds the published ones, and `check_controller`
checks your own.

`frontier` says what a sweep is evidence for, `traces` shows single episodes, `failures` explains why episodes fail,
and `plots` draws figures.
"""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

from autotts_jax import failures, frontier, traces
from autotts_jax.artefacts import load_controller, save_controller
from autotts_jax.controllers import CONTROLLERS, Controller, Line, Schedule, real, spare_last, whole
from autotts_jax.downloads import fetch
from autotts_jax.environment import (
    NO_ANSWER,
    READ_TO_END,
    UNLIMITED,
    Action,
    CostModel,
    Observation,
    Rules,
    StopReason,
    act,
    count,
    fresh_slots,
    once,
)
from autotts_jax.errors import ContractError, FetchError, InputError, PresetError
from autotts_jax.orders import Orders, bootstrap_orders, draw_orders, published_orders, random_orders
from autotts_jax.replay import Dataset, ReplayStore, concatenate, load, open_datasets, pack, save
from autotts_jax.results import Results
from autotts_jax.results import read as read_results
from autotts_jax.rollout import COMPILER_OPTIONS, Outcome, evaluate
from autotts_jax.settings import Row, Setting, rows_of
from autotts_jax.sweeps import BETAS, sweep
from autotts_jax.synthetic import generate as synthetic_trajectories
from autotts_jax.testing import check_controller
from autotts_jax.trajectories import Question, Trajectories
from autotts_jax.trajectories import read as read_trajectories
from autotts_jax.trajectories import write as write_trajectories
from autotts_jax.voting import Tally, confidence, entropy, plurality, pool_tally, votes, weighted_plurality

if TYPE_CHECKING:
    from autotts_jax import plots

    __version__: str
else:

    def __getattr__(name: str) -> Any:
        """Attributes resolved on first access, so that importing the library imports no matplotlib."""
        if name == "plots":
            return importlib.import_module("autotts_jax.plots")
        if name == "__version__":
            return importlib.metadata.version("autotts-jax")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "BETAS",
    "COMPILER_OPTIONS",
    "CONTROLLERS",
    "NO_ANSWER",
    "READ_TO_END",
    "UNLIMITED",
    "Action",
    "ContractError",
    "Controller",
    "CostModel",
    "Dataset",
    "FetchError",
    "InputError",
    "Line",
    "Observation",
    "Orders",
    "Outcome",
    "PresetError",
    "Question",
    "ReplayStore",
    "Results",
    "Row",
    "Rules",
    "Schedule",
    "Setting",
    "StopReason",
    "Tally",
    "Trajectories",
    "act",
    "bootstrap_orders",
    "check_controller",
    "concatenate",
    "confidence",
    "count",
    "draw_orders",
    "entropy",
    "evaluate",
    "failures",
    "fetch",
    "fresh_slots",
    "frontier",
    "load",
    "load_controller",
    "once",
    "open_datasets",
    "pack",
    "plots",
    "plurality",
    "pool_tally",
    "published_orders",
    "random_orders",
    "read_results",
    "read_trajectories",
    "real",
    "rows_of",
    "save",
    "save_controller",
    "spare_last",
    "sweep",
    "synthetic_trajectories",
    "traces",
    "votes",
    "weighted_plurality",
    "whole",
    "write_trajectories",
]
