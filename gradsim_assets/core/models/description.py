"""What the files of a model say about it before anything of it is loaded: sizes, precision, context. Needs no torch.

Only the configuration and the headers of safetensors files are looked at, never a weight. What they do not say for certain
is left out.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from gradsim_assets.core.models.revisions import ADAPTER, Revision

#: Names under which configurations give a context in tokens.
CONTEXTS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "max_target_positions",
    "max_sequence_length",
    "context_length",
    "seq_length",
)

_CONFIG, _WHOLE, _INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"

_ADAPTER = "adapter_model.safetensors"

#: Tensors of an adapter that there are beside those of its base.
_ADDED = re.compile(r"\.(lora_|ia3_|hada_|lokr_|trainable_tokens_delta)")

#: Longest header that safetensors itself accepts, in bytes.
_LONGEST_HEADER = 100_000_000

_FLOATING = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}

#: What old checkpoints hold beside parameters: rotary frequencies, and what masks are filled with.
_BUFFER = re.compile(r"(^|\.)(inv_freq|masked_bias)$")

#: Names that are parameters in every architecture that has them. Others are buffers in some: what a router has counted, scales.
_PARAMETER = re.compile(
    r"\.(weight|A_log|D|dt_bias|sinks|gate_up_proj|gate_up_proj_bias|down_proj|down_proj_bias)$|(?<!\.gate)\.bias$"
)


@dataclass(frozen=True)
class Tensor:
    """One entry of a safetensors header: the format's name of its dtype (`BF16`), and its shape."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ModelDescription:
    """A model by its files; None for what they do not say for certain.

    Attributes:
        parameters: numbers in all of its weights, tied ones once.
        trainable: those that gradients are taken of; None where a part of the model reads images or sound.
        dtype: how weights are stored (`bfloat16`), the most frequent type first where there are several.
        context: the tokens that its configuration names.
    """

    parameters: int | None = None
    trainable: int | None = None
    dtype: str | None = None
    context: int | None = None


def describe(revision: Revision) -> ModelDescription:
    """The description of one revision: from its folder or the hub's cache, else from what the hub tells without a download.

    Nothing is raised where files are missing, damaged or cannot be had: what they would have said is left out.
    """
    if revision.base is not None:
        return _over(describe(revision.base), revision)
    folder = _folder(revision)
    config = _read_json(folder / _CONFIG) if folder else _hub_config(revision)
    tensors = stored_tensors(folder) if folder else None
    if tensors is None and revision.commit:
        tensors = _hub_tensors(revision)
    found = description(config, tensors)
    return found if revision.seed is None else replace(found, dtype=None)  # no stored weight is read


def _over(base: ModelDescription, adapter: Revision) -> ModelDescription:
    """An adapter over a base that is described; one on the hub is counted where it was downloaded before."""
    folder = _folder(adapter, ADAPTER)
    try:
        tensors = _header(folder / _ADAPTER) if folder else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        tensors = {}
    # What was saved whole may stand in the place of a weight of the base, trained or not.
    known = bool(tensors) and all(_ADDED.search(name) for name in tensors)
    added = sum(prod(tensor.shape) for tensor in tensors.values()) if known else None
    parameters = None if added is None or base.parameters is None else base.parameters + added
    return replace(base, parameters=parameters, trainable=added)


def description(config: Mapping[str, Any], tensors: Mapping[str, Tensor] | None) -> ModelDescription:
    """What a configuration and the tensors of the files say together."""
    inner = config.get("text_config")
    text: Mapping[str, Any] = inner if isinstance(inner, dict) else config
    named = [text.get(name) for name in CONTEXTS]
    context = next((value for value in named if isinstance(value, int) and value > 0), None)
    if tensors is None or _quantised(config, tensors):
        return ModelDescription(context=context)
    weights = _weights(tensors)
    stored = Counter[str]()
    for tensor in weights.values():
        stored[_FLOATING[tensor.dtype]] += prod(tensor.shape)
    parameters = _parameters(text, weights)
    return ModelDescription(
        parameters,
        None if _has_other_parts(config) else parameters,
        ", ".join(name for name, _ in stored.most_common()) or None,
        context,
    )


def stored_tensors(folder: Path) -> dict[str, Tensor] | None:
    """The tensors of a model's safetensors files by name, from their headers; None without such files or with damaged ones."""
    files = [folder / _WHOLE]
    if not files[0].is_file():
        named = _read_json(folder / _INDEX).get("weight_map")
        files = [folder / str(name) for name in sorted(set(named.values()))] if isinstance(named, dict) else []
    try:
        headers = [_header(file) for file in files]
        return {name: tensor for header in headers for name, tensor in header.items()} if headers else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _header(file: Path) -> dict[str, Tensor]:
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > _LONGEST_HEADER:
            raise ValueError(f"{file} has no header of safetensors")
        document = json.loads(opened.read(length))
    return {
        name: Tensor(str(entry["dtype"]), tuple(map(int, entry["shape"])))
        for name, entry in document.items()
        if name != "__metadata__"
    }


def _weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a floating type that are not known to be buffers."""
    return {
        name: tensor
        for name, tensor in tensors.items()
        if tensor.dtype in _FLOATING and not _BUFFER.search(name) and not _is_mask(tensor.shape)
    }


def _is_mask(shape: tuple[int, ...]) -> bool:
    """Whether that is the shape of a causal mask, which some files hold in floating numbers: [1, 1, T, T]."""
    return len(shape) == 4 and shape[:2] == (1, 1) and shape[2] == shape[3] > 1


def _parameters(text: Mapping[str, Any], weights: Mapping[str, Tensor]) -> int | None:
    """How many numbers are parameters; None where a tensor may be none, or may be there twice."""
    if not weights or not all(_PARAMETER.search(name) for name in weights):
        return None
    of_tokens = [tensor.shape for tensor in weights.values() if tensor.shape[:1] == (text.get("vocab_size"),)]
    if len(set(of_tokens)) < len(of_tokens) and text.get("tie_word_embeddings") is not False:
        return None  # the output may be tied to the embedding, or not although the configuration says so
    return sum(prod(tensor.shape) for tensor in weights.values())


def _quantised(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bool:
    return bool(config.get("quantization_config")) or any(tensor.dtype.startswith("F8") for tensor in tensors.values())


def _has_other_parts(config: Mapping[str, Any]) -> bool:
    """Whether a configuration holds those of parts, as that of a model does which reads images or sound, too."""
    return any(isinstance(part, dict) and "model_type" in part for part in config.values())


def _folder(revision: Revision, file: str = _CONFIG) -> Path | None:
    """The folder that holds the files of a revision; None for a model of the hub whose `file` is not in its cache."""
    if not revision.commit:
        return Path(revision.source)
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(revision.source, file, revision=revision.commit)
    return Path(config).parent if isinstance(config, str) else None


def _read_json(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _hub_config(revision: Revision) -> dict[str, Any]:
    from huggingface_hub import hf_hub_download

    try:
        return _read_json(Path(hf_hub_download(revision.source, _CONFIG, revision=revision.commit)))
    except Exception:  # the client's errors have no common kind, and a description is worth no failure
        return {}


def _hub_tensors(revision: Revision) -> dict[str, Tensor] | None:
    """The tensors of a commit, from the headers of its files alone (about 100 kB of each)."""
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return None
    try:
        found = HfApi().get_safetensors_metadata(revision.source, revision=revision.commit)
    except Exception:  # the client's errors have no common kind, and a description is worth no failure
        return None
    return {
        name: Tensor(str(tensor.dtype), tuple(tensor.shape))
        for file in found.files_metadata.values()
        for name, tensor in file.tensors.items()
    }
