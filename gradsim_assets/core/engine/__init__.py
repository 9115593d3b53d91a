"""The gradient engine: exact per-component products of per-sample gradients, in one pass and bounded memory."""

from gradsim_assets.core.engine.components import trainable_components
from gradsim_assets.core.engine.plain import plain_gradient, sample_loss
from gradsim_assets.core.engine.plan import PassGraph, Plan, plan_pass
from gradsim_assets.core.engine.request import PairBlock, PassOptions, PassReport, PassRequest, PassResult
from gradsim_assets.core.engine.run import GradientPass, Progress, run_pass
from gradsim_assets.core.engine.shape import ModelShape, shape_of_config

__all__ = [
    "GradientPass",
    "ModelShape",
    "PairBlock",
    "PassGraph",
    "PassOptions",
    "PassReport",
    "PassRequest",
    "PassResult",
    "Plan",
    "Progress",
    "plain_gradient",
    "plan_pass",
    "run_pass",
    "sample_loss",
    "shape_of_config",
    "trainable_components",
]
