"""Models, tokenizers and configurations of exactly one revision, through transformers and tokenizers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from gradsim_assets.core.errors import InputError, ServiceError
from gradsim_assets.core.models.revisions import Revision, first_line, may_pass
from gradsim_assets.core.models.tokenization import ChatTokenizer

#: How transformers writes that a tokenizer has no longest text.
_NO_LIMIT = int(1e30)

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

    @property
    def max_positions(self) -> int | None:
        """The model's context in tokens; None where its configuration names none."""
        config = self.model.config.get_text_config()
        return getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)

    @property
    def generation_positions(self) -> int:
        """Where prompt and answer must end; a stand-in for models without a context of their own (ALiBi)."""
        return self.max_positions or _UNBOUNDED_CONTEXT

    @property
    def learned_positions(self) -> bool:
        """Whether positions are looked up in a table of embeddings, so that none exist beyond the context."""
        import torch

        tokens = self.model.get_input_embeddings()
        return self.max_positions is not None and any(
            isinstance(module, torch.nn.Embedding)
            and module is not tokens
            and module.num_embeddings >= self.max_positions
            for module in self.model.modules()
        )


@lru_cache(maxsize=1)  # steps of one process share the model; a second one would not fit on a GPU
def load_model(model_id: str, revision: Revision, dtype: str, device: str) -> tuple[Any, Any]:
    """The model of a revision on a device, in evaluation mode, and its tokenizer.

    Raises:
        InputError: it is no causal LM, or transformers cannot load it.
        ServiceError: the hub does not hand it out now.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    load_config(model_id, revision)
    # A log line of ours says more than a bar in a step's log; downloads keep theirs.
    logging.disable_progress_bar()
    with _loading(model_id):
        model = AutoModelForCausalLM.from_pretrained(revision.source, dtype=getattr(torch, dtype), **_at(revision))
    return model.to(device).eval(), load_tokenizer(model_id, revision)


def load_skeleton(model_id: str, revision: Revision) -> Any:
    """The model of a revision without weights (all tensors on the meta device); raises as `load_config`."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(load_config(model_id, revision))


def load_tokenizer(model_id: str, revision: Revision) -> Any:
    """The tokenizer of a revision; raises InputError or ServiceError as `load_model`."""
    from transformers import AutoTokenizer

    with _loading(model_id):
        tokenizer = AutoTokenizer.from_pretrained(revision.source, **_at(revision))
    # Long samples are the context policy's business; the tokenizer need not warn of every one of them.
    tokenizer.model_max_length = _NO_LIMIT
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
        if revision.commit:
            file = Path(hf_hub_download(revision.source, _TOKENIZER, revision=revision.commit))
        else:
            file = Path(revision.source, _TOKENIZER)
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


def load_config(model_id: str, revision: Revision) -> Any:
    """The configuration of a revision; raises InputError where it is none of a causal LM, or ServiceError."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    with _loading(model_id):
        config = AutoConfig.from_pretrained(revision.source, **_at(revision))
    causal = set(_names(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()))
    if config.architectures and not causal & set(config.architectures):
        raise InputError(
            f"{model_id} is a {config.architectures[0]}, not a causal language model; choose another model."
        )
    return config


def _at(revision: Revision) -> dict[str, str]:
    return {"revision": revision.commit} if revision.commit else {}


@contextmanager
def _loading(model_id: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError) as error:  # what transformers raises for missing and unknown things
        if may_pass(error):
            raise ServiceError(f"{model_id} could not be fetched from the hub ({first_line(error)}).") from error
        raise InputError(f"{model_id} cannot be loaded by transformers: {str(error).splitlines()[0]}") from error


def _names(values: Any) -> Iterator[str]:
    for value in values:
        yield from ([value] if isinstance(value, str) else value)
