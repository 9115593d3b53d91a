"""The gradient engine: exact per-component products of per-sample gradients, in one pass and bounded memory."""

from gradsim_assets.core.gradients.engine.components import trainable_components
from gradsim_assets.core.gradients.engine.gradient_pass import GradientPass, Progress, run_pass
from gradsim_assets.core.gradients.engine.planning.model_shape import ModelShape, shape_of_config
from gradsim_assets.core.gradients.engine.planning.pass_graph import PassGraph
from gradsim_assets.core.gradients.engine.planning.plan import Plan, plan_pass
from gradsim_assets.core.gradients.engine.request import PairBlock, PassOptions, PassReport, PassRequest, PassResult
from gradsim_assets.core.gradients.engine.values.reference import plain_gradient, sample_loss

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
