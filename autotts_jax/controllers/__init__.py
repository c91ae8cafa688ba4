"""The published controllers by name; `CONTROLLERS` is the registry."""

from autotts_jax.controllers.adaptive_consistency import ADAPTIVE_CONSISTENCY
from autotts_jax.controllers.answer_consistency import ANSWER_CONSISTENCY
from autotts_jax.controllers.base import Controller, check_shapes, spare_last
from autotts_jax.controllers.confidence_momentum import CONFIDENCE_MOMENTUM
from autotts_jax.controllers.early_stopping import EARLY_STOPPING
from autotts_jax.controllers.parallel_probe import PARALLEL_PROBE
from autotts_jax.controllers.schedules import Line, Schedule, real, whole
from autotts_jax.controllers.self_consistency import SELF_CONSISTENCY

__all__ = ["CONTROLLERS", "Controller", "Line", "Schedule", "check_shapes", "real", "spare_last", "whole"]

CONTROLLERS: dict[str, Controller] = {
    controller.name: controller
    for controller in (
        SELF_CONSISTENCY,
        ADAPTIVE_CONSISTENCY,
        EARLY_STOPPING,
        PARALLEL_PROBE,
        ANSWER_CONSISTENCY,
        CONFIDENCE_MOMENTUM,
    )
}
