"""Models: their settings, the revision in force, and loading exactly that revision."""

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from gradsim_assets.core.errors import InputError, ServiceError
from gradsim_assets.core.tokenization import ChatTokenizer
from gradsim_assets.resources.devices import own_device
from gradsim_assets.settings import DEMO, DataSettings, ModelSettings

_log = logging.getLogger(__name__)

_NO_LIMIT = int(1e30)

#: Context of generation for models whose configuration names none.
_UNBOUNDED_CONTEXT = 2048

#: Files of a folder that make a model what it is; anything else (logs, optimizer states) leaves its revision alone.
_MODEL_FILES = ("*.safetensors", "*.bin", "*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken")


@dataclass(frozen=True)
class Revision:
    """One exact version of a model: `name` identifies it; `source` and `commit` say where transformers finds it."""

    name: str
    source: str
    commit: str | None = None


@dataclass(frozen=True)
class LoadedModel:
    """A model on its device with its tokenizer, ready for gradients and generation."""

    model: Any
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


class ModelHub(dg.ConfigurableResource):
    """Resolves model ids to revisions and loads them through transformers."""

    home: str
    device: str
    models: list[dict[str, Any]]
    #: Settings of models that name none themselves.
    defaults: dict[str, Any] = Field(default={"candidates": DataSettings().candidates})

    def settings(self, model_id: str) -> ModelSettings:
        """The settings of one model; defaults for what it does not name, and for a model without an entry under [[models]]."""
        entry = next((entry for entry in self.models if entry["id"] == model_id), {})
        return ModelSettings.model_validate({**self.defaults, "id": model_id, **entry})

    def differing(self, model_id: str) -> str:
        """Those settings of a model that decide values and are not the defaults, as text; "" where all are."""
        return self.settings(model_id).differing(ModelSettings.model_validate({**self.defaults, "id": model_id}))

    def version(self, model_id: str, revision: Revision) -> str:
        """What a model's tables are made from: its revision, with the settings that are not the defaults."""
        return f"{revision.name} {self.differing(model_id)}".strip()

    def resolve(self, model_id: str, fallback: bool = True) -> Revision:
        """The revision that a model id stands for now: hub commit, or content hash of a folder.

        With `fallback`, the revision that was downloaded last where the hub cannot be reached.

        Raises:
            InputError: there is no such model.
            ServiceError: the hub does not answer.
        """
        if model_id == DEMO:
            from gradsim_assets.demo.model import build_demo_model

            folder = build_demo_model(Path(self.home) / "models" / DEMO)
            return Revision(folder_revision(folder), str(folder))
        if is_folder(model_id):
            folder = Path(model_id).expanduser()
            if not (folder / "config.json").is_file():
                raise InputError(
                    f"{model_id} is no model folder (it holds no config.json); give the folder of a saved model."
                )
            return Revision(folder_revision(folder), str(folder))
        return _hub_revision(model_id, fallback)

    def version_now(self, model_id: str, fallback: bool = True) -> str:
        """The version that a model stands at now; arguments and errors are those of `resolve`."""
        return self.version(model_id, self.resolve(model_id, fallback))

    def at(self, model_id: str, name: str) -> Revision:
        """The revision of that name again, as an earlier step of the same run resolved it.

        Raises:
            InputError: a local folder has changed since, so that its old content is gone.
        """
        if model_id != DEMO and not is_folder(model_id):
            return Revision(name, split_revision(model_id)[0], name)
        revision = self.resolve(model_id)
        if revision.name != name:
            raise InputError(
                f"{model_id} changed while this run worked on it ({name} became {revision.name}); start a new run."
            )
        return revision

    def config(self, model_id: str, revision: Revision) -> Any:
        """The Hugging Face configuration of that revision; raises InputError for what is no causal LM."""
        return _config(model_id, revision)

    def tokenizer(self, model_id: str, revision: Revision) -> ChatTokenizer:
        """The tokenizer of that revision with the model's chat template, without the model."""
        return ChatTokenizer(_tokenizer(model_id, revision), self.settings(model_id).chat_template)

    def skeleton(self, model_id: str, revision: Revision) -> Any:
        """The model of that revision without weights (all tensors on the meta device): names and shapes alone."""
        import torch
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(_config(model_id, revision))

    def load(self, model_id: str, revision: Revision, log: Callable[[str], None] = _log.info) -> LoadedModel:
        """The model of exactly this revision, in evaluation mode on the configured device.

        Raises:
            InputError: the model is no causal LM, cannot be loaded, or its tokenizer has no EOS token.
        """
        settings = self.settings(model_id)
        device = own_device(self.device, Path(self.home))
        model, tokenizer = _load(model_id, revision, settings.dtype, device)
        self.at(model_id, revision.name)  # a folder may have changed while it was read
        if tokenizer.pad_token_id is None:
            log(f"{model_id} has no pad token; its EOS token fills up batches instead, under the attention mask.")
            tokenizer.pad_token = tokenizer.eos_token
        return LoadedModel(model, ChatTokenizer(tokenizer, settings.chat_template), revision, device)


def is_folder(model_id: str) -> bool:
    """Whether an id names a local folder rather than a model of the hub."""
    return model_id.startswith(("/", "./", "../", "~")) or Path(model_id).is_dir()


def split_revision(model_id: str) -> tuple[str, str | None]:
    """A hub id and the branch, tag or commit behind its `@`."""
    repo, _, revision = model_id.partition("@")
    return repo, revision or None


def folder_revision(folder: Path) -> str:
    """Content hash of a model folder (16 hex digits): names and bytes of its weights, tokenizer and configuration."""
    digest = hashlib.sha256()
    for file in sorted({path for pattern in _MODEL_FILES for path in folder.glob(pattern)}):
        stat = file.stat()
        digest.update(file.name.encode())
        digest.update(_file_hash(str(file.resolve()), stat.st_size, stat.st_mtime_ns))
    return digest.hexdigest()[:16]


@lru_cache(maxsize=1024)  # sensors ask again and again; size and time tell whether a file is still the same
def _file_hash(path: str, size: int, mtime_ns: int) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _hub_revision(model_id: str, fallback: bool) -> Revision:
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    repo, wanted = split_revision(model_id)
    if constants.HF_HUB_OFFLINE:
        return _cached_revision(repo, wanted)
    try:
        sha = HfApi().model_info(repo, revision=wanted, timeout=30).sha
    except GatedRepoError as error:
        raise InputError(f"{repo} is gated on the hub; accept its terms there and set HF_TOKEN.") from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"there is no model {repo} on the hub (or HF_TOKEN may not see it); correct its id."
        ) from error
    except RevisionNotFoundError as error:
        raise InputError(f"{repo} has no revision {wanted} on the hub; correct what stands behind the @.") from error
    except Exception as error:
        if not _may_pass(error):
            raise InputError(f"the hub refuses {repo} ({_first_line(error)}); correct its id or HF_TOKEN.") from error
        answered = isinstance(error, HfHubHTTPError)
        if fallback and not answered:  # what was downloaded before is still good
            with suppress(InputError):
                return _cached_revision(repo, wanted)
        raise ServiceError(
            f"the hub cannot be asked for {repo} ({_first_line(error)}); try again later, check the network, or give the "
            "folder of a saved model."
        ) from error
    return Revision(str(sha), repo, str(sha))


def _may_pass(error: BaseException | None) -> bool:
    """Whether an error of the hub's client, or what led to it, is one of the network or of a busy server."""
    from huggingface_hub.errors import HfHubHTTPError

    while error is not None:
        if isinstance(error, HfHubHTTPError):
            return error.response.status_code in (408, 425, 429) or error.response.status_code >= 500
        # By name: releases of the hub's client are built on different HTTP packages.
        transport = any(kind.__name__ == "TransportError" for kind in type(error).__mro__)
        if transport or isinstance(error, ConnectionError | TimeoutError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _first_line(error: BaseException) -> str:
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])


def _cached_revision(repo: str, wanted: str | None) -> Revision:
    from huggingface_hub import constants, try_to_load_from_cache

    config = try_to_load_from_cache(repo, "config.json", revision=wanted)
    if not isinstance(config, str) and wanted is None:  # models are loaded by commit, which leaves no name in the cache
        snapshots = Path(constants.HF_HUB_CACHE, f"models--{repo.replace('/', '--')}", "snapshots")
        found = sorted(snapshots.glob("*/config.json"), key=lambda path: path.parent.stat().st_mtime)
        config = str(found[-1]) if found else None
    if not isinstance(config, str):
        raise InputError(
            f"{repo} is not in the local cache and HF_HUB_OFFLINE is set; download it first or unset the variable."
        )
    sha = Path(config).parent.name  # .../snapshots/<commit>/config.json
    return Revision(sha, repo, sha)


@lru_cache(maxsize=1)  # steps of one process share the model; a second one would not fit on a GPU
def _load(model_id: str, revision: Revision, dtype: str, device: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    _config(model_id, revision)
    # A log line of ours says more than a bar in a step's log; downloads keep theirs.
    logging.disable_progress_bar()
    with _loading(model_id):
        model = AutoModelForCausalLM.from_pretrained(revision.source, dtype=getattr(torch, dtype), **_at(revision))
    return model.to(device).eval(), _tokenizer(model_id, revision)


def _tokenizer(model_id: str, revision: Revision) -> Any:
    from transformers import AutoTokenizer

    with _loading(model_id):
        tokenizer = AutoTokenizer.from_pretrained(revision.source, **_at(revision))
    # Long samples are the context policy's business; the tokenizer need not warn of every one of them.
    tokenizer.model_max_length = _NO_LIMIT
    return tokenizer


def _config(model_id: str, revision: Revision) -> Any:
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
        if _may_pass(error):
            raise ServiceError(f"{model_id} could not be fetched from the hub ({_first_line(error)}).") from error
        raise InputError(f"{model_id} cannot be loaded by transformers: {str(error).splitlines()[0]}") from error


def _names(values: Any) -> Iterator[str]:
    for value in values:
        yield from ([value] if isinstance(value, str) else value)
