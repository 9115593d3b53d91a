"""The gradient engine: exact per-component products of per-sample gradients, in one pass and bounded memory.

It needs torch, transformers and numpy, and no other package.

Examples:
    Here a variant is compared with two originals, of which
    the first has the same text and so the same gradient:

    >>> import numpy as np
    >>> from transformers import AutoModelForCausalLM, LlamaConfig
    >>> from gradsim_assets.core.models.encoded_sample import IGNORED, EncodedSample
    >>> sizes = {"vocab_size": 50, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1}
    >>> model = AutoModelForCausalLM.from_config(LlamaConfig(**sizes, num_attention_heads=2))
    >>> def sample(name, prompt, answer):
    ...     return EncodedSample(name, np.array(prompt + answer), np.array([IGNORED] * len(prompt) + answer))
    >>> request = PassRequest(
    ...     originals=[sample("a", [3, 4], [5, 6, 7]), sample("b", [3, 9], [8, 8])],
    ...     variants={"paraphrased": [sample("a", [3, 4], [5, 6, 7])]},
    ...     pairs={"paraphrased": [("a", "a"), ("a", "b")]},
    ...     products=frozenset({"paraphrased"}),
    ... )
    >>> result = run_pass(model, request)
    >>> len(result.components), result.components[0]
    (12, 'model.embed_tokens.weight')
    >>> products = result.dot_products, result.variant_self, result.original_self
    >>> products[0]["paraphrased"].shape  # pairs, components
    (2, 12)
    >>> dot, variant, original = (product["paraphrased"].sum(axis=1) for product in products)
    >>> cosine = dot / np.sqrt(variant * original)  # of the full gradients
    >>> round(float(cosine[0]), 4), bool(cosine[1] < 0.99)
    (1.0, True)
"""

from gradsim_assets.core.gradients.engine.gradient_pass import GradientPass, Progress
from gradsim_assets.core.gradients.engine.planning.model_shape import ModelShape, shape_of, shape_of_config
from gradsim_assets.core.gradients.engine.planning.pass_graph import PassGraph
from gradsim_assets.core.gradients.engine.planning.plan import Plan, plan_pass
from gradsim_assets.core.gradients.engine.planning.turns import describe_turns, plan_turns
from gradsim_assets.core.gradients.engine.request import PairBlock, PassOptions, PassReport, PassRequest, PassResult
from gradsim_assets.core.gradients.engine.turns import run_pass
from gradsim_assets.core.sample_gradients.reference import plain_gradient, sample_loss

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
    "describe_turns",
    "plain_gradient",
    "plan_pass",
    "plan_turns",
    "run_pass",
    "sample_loss",
    "shape_of",
    "shape_of_config",
]
