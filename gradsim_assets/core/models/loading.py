"""Models, tokenizers and configurations of exactly one revision, through transformers and tokenizers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradsim_assets.core.errors import InputError, ServiceError, first_line
from gradsim_assets.core.models.quantisation import Quantisation, Quantize, quantisation_of
from gradsim_assets.core.models.revisions import Part, Revision, may_pass, tokenizer_revision
from gradsim_assets.core.models.tokenization import ChatTokenizer

if TYPE_CHECKING:
    from gradsim_assets.core.sample_gradients.components import Components

#: How transformers writes that a tokenizer has no longest text.
NO_LIMIT = int(1e30)

#: What every fast tokenizer is saved as.
_TOKENIZER = "tokenizer.json"

#: Context of generation for models whose configuration names none.
_UNBOUNDED_CONTEXT = 2048


@dataclass(frozen=True)
class LoadedModel:
    """A model on its device with its tokenizer, ready for gradients and generation."""

    model: Any  # a PreTrainedModel
    tokenizer: ChatTokenizer
    revision: Revision
    device: str

    @cached_property
    def max_positions(self) -> int | None:
        """The model's context in tokens; None where its configuration names none."""
        from gradsim_assets.core.models.positions import context_of

        return context_of(self.model)

    @cached_property
    def quantised(self) -> str:
        """How the base of the model is quantised, such as "4 bits (nf4) by bitsandbytes 0.50.2"; "" where it is not."""
        from gradsim_assets.core.sample_gradients.quantised_linear import how_quantised

        return how_quantised(self.model)

    @cached_property
    def generation_positions(self) -> int:
        """Where prompt and answer must end; for models without a context of their own, what they take up to a stand-in."""
        from gradsim_assets.core.models.positions import longest_taken, takes

        if self.max_positions is not None:
            return self.max_positions
        return (
            _UNBOUNDED_CONTEXT
            if takes(self.model, _UNBOUNDED_CONTEXT)
            else longest_taken(self.model, _UNBOUNDED_CONTEXT)
        )

    def takes(self, length: int) -> bool:
        """Whether the model's forward pass goes through that many tokens, whatever its configuration names."""
        from gradsim_assets.core.models.positions import takes

        return takes(self.model, length)


@lru_cache(maxsize=1)  # steps of one process share the model; a second one would not fit on a GPU
def load_model(
    model_id: str,
    revision: Revision,
    dtype: str,
    device: str,
    components: "Components" = (),
    quantize: Quantize = "",
    part: Part = "",
) -> tuple[Any, Any]:
    """The model, checked and in evaluation mode on its device, and its tokenizer.

    What `components` leaves out has no gradients (see `choose_components`); an adapter is in the layers of its base, or merged
    into them where that says so. The base of an adapter may be in few bits, or is quantised to them as `quantize` says. Of a model that reads images as well, its
    text `part` alone may be asked for.

    Raises:
        InputError: it is no causal language model, its checkpoint is not whole and sound, it cannot be loaded, or `components`
            says what it does not have.
        ServiceError: the hub does not hand it out now.
    """
    from transformers.utils import logging

    from gradsim_assets.core.models.checkpoints import check_forward, check_weights
    from gradsim_assets.core.sample_gradients.components import choose_components

    _check_view(model_id, revision, components)
    config, quantisation = _configured(model_id, revision, quantize, part)
    # A log line of ours says more than a bar in a step's log; downloads keep theirs.
    logging.disable_progress_bar()
    with _loading(model_id):
        if revision.base is not None:
            made = _adapted(model_id, revision, config, dtype, device, components, quantisation)
        else:
            made = (
                _stored(model_id, revision, config, dtype) if revision.seed is None else _drawn(config, revision, dtype)
            )
    model = made.to(device).eval()
    check_weights(model_id, model)
    check_forward(model_id, model)
    freeze_other_modalities(model)
    choose_components(model, components)
    return model, load_tokenizer(model_id, revision)


def _stored(
    model_id: str,
    revision: Revision,
    config: Any,
    dtype: str,
    device: str = "cpu",
    quantisation: Quantisation | None = None,
) -> Any:
    """The model with the weights of its files, on the CPU; a quantised one is on its device, where it is quantised."""
    import torch

    from gradsim_assets.core.models.checkpoints import check_loading
    from gradsim_assets.core.models.quantised_base import options, with_exact_layers

    model, report = _made_by(config).from_pretrained(
        revision.source,
        dtype=getattr(torch, dtype),
        output_loading_info=True,
        trust_remote_code=False,  # None would ask whoever sits before the terminal
        ignore_mismatched_sizes=True,  # the report names them all, an error the first
        **(options(quantisation, device) if quantisation else {}),
        **_at(revision),
    )
    check_loading(model_id, report)
    return with_exact_layers(model) if quantisation else model


def _check_view(model_id: str, revision: Revision, components: "Components") -> None:
    if isinstance(components, str) and revision.base is None:
        raise InputError(
            f'{model_id} is no adapter, and components = "{components}" is for adapters; give patterns of names, or leave '
            "components out of its entry under [[models]]."
        )


def _configured(model_id: str, revision: Revision, quantize: Quantize, part: Part) -> tuple[Any, Quantisation | None]:
    """The configuration of a revision, and how the weights of its base are quantised; raises as both do."""
    config = load_config(model_id, revision, part)
    return config, quantisation_of(model_id, config, revision.base is not None, quantize)


def _adapted(
    model_id: str,
    revision: Revision,
    config: Any,
    dtype: str,
    device: str,
    components: "Components",
    quantisation: Quantisation | None,
) -> Any:
    """An adapter over its base."""
    import torch

    from gradsim_assets.core.models.adapters import merged, with_adapter
    from gradsim_assets.core.models.quantised_base import dequantised

    trained, in_one = revision.seed is None, components == "merged"
    held = "float32" if in_one else dtype  # a sum that is rounded more than once loses what the adapter says
    with _seeded(revision.seed):
        made = _base(model_id, revision, config, held, device, quantisation)
        if in_one:  # there are no tensors of the whole in few bits
            made = dequantised(made)
        model = (merged if in_one else with_adapter)(made, model_id, revision, trained)
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(getattr(torch, dtype))
    return model


def _base(
    model_id: str, revision: Revision, config: Any, dtype: str, device: str, quantisation: Quantisation | None
) -> Any:
    """The base of an adapter, its weights stored or drawn, and in few bits where it is quantised."""
    from gradsim_assets.core.models.quantised_base import quantised

    base = revision.base
    assert base is not None
    if revision.seed is None:
        return _stored(base.source, base, config, dtype, device, quantisation)
    drawn = _drawn(config, base, dtype)
    return quantised(drawn, quantisation) if quantisation else drawn


def untrained_adapter(
    model_id: str, revision: Revision, device: str = "cpu", quantize: Quantize = "", part: Part = ""
) -> Any:
    """An adapter as PEFT draws it before any training, over its base as that is stored, in float32: what training begins with. It
    is drawn by the random numbers of the process."""
    from gradsim_assets.core.models.adapters import with_adapter

    assert revision.base is not None
    config, quantisation = _configured(model_id, revision, quantize, part)
    with _loading(model_id):
        with _seeded(None):  # loading draws some, too
            base = _stored(revision.base.source, revision.base, config, "float32", device, quantisation)
        return with_adapter(base, model_id, revision, trained=False)


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """Random numbers of the CPU by a seed, if there is one; those of the process go on as they would have."""
    import torch

    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        yield


def _drawn(config: Any, revision: Revision, dtype: str) -> Any:
    """The model with weights as its class draws them before any training, by the revision's seed, on the CPU: the same on every
    device.
    """
    import torch
    from transformers import GenerationConfig

    with _seeded(revision.seed):
        model = _made_by(config).from_config(config, dtype=getattr(torch, dtype))
    with suppress(OSError):  # few folders have none; its end tokens are those of the answers
        model.generation_config = GenerationConfig.from_pretrained(revision.source, **_at(revision))
    return model


def freeze_other_modalities(model: Any) -> list[str]:
    """Takes the gradients from parts that read images or sound, which texts never reach; their weights' names."""
    if model.config.get_text_config() is model.config:
        return []
    parts = (model.get_decoder(), model.get_input_embeddings(), model.get_output_embeddings())
    kept = {id(parameter) for part in parts if part is not None for parameter in part.parameters()}
    frozen = {name: parameter for name, parameter in model.named_parameters() if id(parameter) not in kept}
    for parameter in frozen.values():
        parameter.requires_grad_(False)
    return list(frozen)


def load_skeleton(
    model_id: str, revision: Revision, components: "Components" = (), quantize: Quantize = "", part: Part = ""
) -> Any:
    """The model of a revision without weights (all tensors on the meta device); raises as `load_config` and `choose_components`."""
    import torch

    with torch.device("meta"):
        return blank_model(model_id, revision, "float32", components, quantize, part)


def blank_model(
    model_id: str,
    revision: Revision,
    dtype: str,
    components: "Components" = (),
    quantize: Quantize = "",
    part: Part = "",
) -> Any:
    """The model of a revision as its class makes it, on whatever device the caller has set; raises as `load_skeleton`."""
    import torch

    from gradsim_assets.core.models.adapters import with_adapter
    from gradsim_assets.core.models.quantised_base import quantised
    from gradsim_assets.core.sample_gradients.components import choose_components

    _check_view(model_id, revision, components)
    config, quantisation = _configured(model_id, revision, quantize, part)
    model = _made_by(config).from_config(config, dtype=getattr(torch, dtype))
    if revision.base is not None and components != "merged":  # which has the tensors of its base
        with _loading(model_id):
            model = quantised(model, quantisation) if quantisation else model
            model = with_adapter(model, model_id, revision, trained=False)
    freeze_other_modalities(model)
    choose_components(model, components)
    return model


def load_tokenizer(model_id: str, revision: Revision) -> Any:
    """The tokenizer of a revision; raises InputError or ServiceError as `load_model`."""
    from transformers import AutoTokenizer

    with _loading(model_id):
        place = tokenizer_revision(revision)
        tokenizer = AutoTokenizer.from_pretrained(place.source, trust_remote_code=False, **_at(place))
    # Long samples are the context policy's business; the tokenizer need not warn of every one of them.
    tokenizer.model_max_length = NO_LIMIT
    return tokenizer


def load_token_ids(model_id: str, revision: Revision) -> Callable[[str], list[int]]:
    """How the tokenizer of a model cuts a text, without special tokens of its own: needs neither transformers nor torch.

    Raises:
        InputError: the model has no `tokenizer.json`, or it cannot be read.
        ServiceError: the hub does not answer.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    from tokenizers import Tokenizer

    try:
        place = tokenizer_revision(revision)
        if place.commit:
            file = Path(hf_hub_download(place.source, _TOKENIZER, revision=place.commit))
        else:
            file = Path(place.source, _TOKENIZER)
        tokenizer = Tokenizer.from_buffer(file.read_bytes())
    except Exception as error:  # tokenizers raises nothing more specific
        if may_pass(error) or isinstance(error, LocalEntryNotFoundError):
            raise ServiceError(f"{_TOKENIZER} of {model_id} could not be fetched ({first_line(error)}).") from error
        if isinstance(error, EntryNotFoundError | FileNotFoundError):
            raise InputError(
                f"{model_id} has no {_TOKENIZER}, so its tokenizer cannot cut the prompts for BM25; name another model as "
                "data.retriever_model."
            ) from error
        raise InputError(f"{_TOKENIZER} of {model_id} cannot be read: {str(error).splitlines()[0]}.") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def load_config(model_id: str, revision: Revision, part: Part = "") -> Any:
    """The configuration of a revision; raises InputError where it is none of a causal LM, and none of a model whose text `part` is
    one, or ServiceError."""
    from transformers import AutoConfig

    place = revision.base or revision
    with _loading(model_id):
        config = AutoConfig.from_pretrained(place.source, trust_remote_code=False, **_at(place))
    made = config.architectures or []
    if not made or _causal().intersection(made):
        return config
    if not _reading_images().intersection(made):
        raise InputError(f"{model_id} is a {made[0]}, not a causal language model; choose another model.")
    if part != "text":
        raise InputError(
            f'{model_id} is a {made[0]}, which reads images as well as texts; set part = "text" in its entry under [[models]] to study '
            "its text part alone, or choose another model."
        )
    return config


def _made_by(config: Any) -> Any:
    """The class of transformers that makes models of a configuration which `load_config` takes."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    made = config.architectures or []
    causal = not made or bool(_causal().intersection(made))
    return AutoModelForCausalLM if causal else AutoModelForImageTextToText


def _causal() -> set[str]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return set(_names(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()))


def _reading_images() -> set[str]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    return set(_names(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values()))


def _at(revision: Revision) -> dict[str, str]:
    return {"revision": revision.commit} if revision.commit else {}


@contextmanager
def _loading(model_id: str) -> Iterator[None]:
    from gradsim_assets.core.memory import ran_out

    try:
        yield
    except (InputError, ServiceError):
        raise
    except Exception as error:  # transformers, safetensors, tokenizers and pickle have no common kind of error
        if ran_out(error):
            raise
        if may_pass(error):
            raise ServiceError(f"{model_id} could not be fetched from the hub ({first_line(error)}).") from error
        raise InputError(
            f"{model_id} cannot be loaded by transformers ({first_line(error).rstrip('.')}); correct its configuration, or copy or "
            "save it anew."
        ) from error


def _names(values: Any) -> Iterator[str]:
    for value in values:
        yield from ([value] if isinstance(value, str) else value)
