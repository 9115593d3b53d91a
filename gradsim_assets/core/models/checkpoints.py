"""Whether a checkpoint is what its configuration says: all of its weights, no others, and numbers in them."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from gradsim_assets.core.errors import InputError, first_line
from gradsim_assets.core.memory import ran_out
from gradsim_assets.core.models.positions import logits_of, named_context, padding_of
from gradsim_assets.core.models.quantised_base import weights_in_bits
from gradsim_assets.core.sample_gradients.quantised_linear import QuantisedLinear

#: Weights that a sentence names one by one.
_NAMED = 3

#: Tokens of the pass that tries a model: more than chunks that some models draw at random (Reformer).
_LENGTH = 80

#: Differences of logits, as share of the largest, that rounding explains.
_ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-3}


def check_loading(model_id: str, report: Mapping[str, Any]) -> None:
    """Refuses a model whose file does not hold exactly its weights, as transformers reports it (`output_loading_info`).

    Tied weights, and what the model's class declares to be of no account, are not in the report.

    Raises:
        InputError: weights are missing (they would be random), left over, or of another shape.
    """
    if missing := report["missing_keys"]:
        raise InputError(
            f"{model_id} lacks {_listed(missing)}, which its config.json asks for and transformers would draw at random; "
            "save the whole model again, or correct its config.json."
        )
    if other := report["mismatched_keys"]:
        name, held, wanted = min(other)
        raise InputError(
            f"{model_id} holds {_listed(key for key, *_ in other)} in another shape than its config.json asks for "
            f"({name}: {list(held)}, not {list(wanted)}); correct its config.json, or save the model again."
        )
    if extra := report["unexpected_keys"]:
        raise InputError(
            f"{model_id} holds {_listed(extra)}, which the model of its config.json does not have and would go without; "
            "correct its config.json (number of layers, architecture), or save the model again."
        )


def check_weights(model_id: str, model: Any) -> None:
    """Raises InputError where a weight is no number, or of a type that has no gradient."""
    in_bits = weights_in_bits(model)
    for name, weight in (*model.named_parameters(), *_scales(model)):
        if id(weight) in in_bits:
            continue
        if not weight.is_floating_point():
            raise InputError(
                f"{model_id}: the weight {name} is of type {str(weight.dtype).removeprefix('torch.')}, which has no "
                "gradient; give the model that it was quantised from."
            )
        if not bool(torch.isfinite(weight).all()):
            raise InputError(
                f"{model_id}: the weight {name} holds NaN or infinite values, so no gradient would be a number; "
                "save the model again from a sound checkpoint."
            )


def _scales(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The scales of quantised weights that are numbers."""
    for name, layer in model.named_modules():
        if isinstance(layer, QuantisedLinear):
            yield from ((f"{name}.{own}", held) for own, held in layer.named_buffers() if held.is_floating_point())


def check_forward(model_id: str, model: Any) -> None:
    """Tries a short pass: a causal language model reads text alone, and no token behind the one that it predicts from.

    Raises:
        InputError: the pass fails, gives other numbers the second time or behind another text, or looks ahead.
    """
    # Some keep the first positions of their context for padding.
    length = min(_LENGTH, (named_context(model) or 2 * _LENGTH) - 4)
    tokens = torch.arange(len(model.get_input_embeddings().weight))
    padding = padding_of(model)
    tokens = tokens if padding is None else tokens[tokens != padding]
    first = tokens.repeat(-(-length // len(tokens)))[None, :length]
    second = torch.cat([first[:, :-1], first[:, :1]], dim=1)
    short = first[:, : length // 2]
    try:
        with torch.no_grad():
            before, once, again, other, behind = (
                logits_of(model, ids)[:, :-1].float() for ids in (short, first, first, second, short)
            )
    except Exception as error:
        if ran_out(error):
            raise
        raise InputError(
            f"{model_id} cannot read a text by itself ({first_line(error)}); choose a causal language model."
        ) from error
    tolerance = _ROUNDING.get(model.dtype, 5e-2) * float(once.abs().max())
    if float((once - again).abs().max()) > tolerance:
        raise InputError(f"{model_id} gives other numbers for the same text each time; choose a deterministic model.")
    if float((before - behind).abs().max()) > tolerance:
        raise InputError(
            f"{model_id} gives other numbers for a short text when it has read a longer one, since it keeps something of what "
            "it has read; choose a model that does not."
        )
    if float((once - other).abs().max()) > tolerance:
        raise InputError(
            f"{model_id} looks at tokens behind the one that it predicts from, so its loss says nothing of what it "
            "learned; choose a causal language model (or set is_decoder in its config.json)."
        )


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - _NAMED} more" if len(ordered) > _NAMED else ""
    return f"{len(ordered)} weight{'s' * (len(ordered) > 1)} ({', '.join(ordered[:_NAMED])}{more})"
