"""The gradient engine: exact per-component products of per-sample gradients, in one pass and bounded memory."""

from gradsim_assets.core.engine.components import trainable_components
from gradsim_assets.core.engine.plain import plain_gradient, sample_loss
from gradsim_assets.core.engine.request import PairBlock, PassOptions, PassReport, PassRequest, PassResult
from gradsim_assets.core.engine.run import GradientPass, Progress, run_pass

__all__ = [
    "GradientPass",
    "PairBlock",
    "PassOptions",
    "PassReport",
    "PassRequest",
    "PassResult",
    "Progress",
    "plain_gradient",
    "run_pass",
    "sample_loss",
    "trainable_components",
]
