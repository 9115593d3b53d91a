"""Models by configuration: their settings, the revision in force, and loading exactly that revision."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import dagster as dg
from pydantic import Field

from gradsim_assets.configuration import DataSettings, ModelSettings
from gradsim_assets.core.candidates.bm25 import Tokens
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.home import Home
from gradsim_assets.core.models.answer_spans import LossOn
from gradsim_assets.core.models.controls import trained_id
from gradsim_assets.core.models.description import ModelDescription, describe
from gradsim_assets.core.models.devices import own_devices
from gradsim_assets.core.models.learning_rates import learning_rates
from gradsim_assets.core.models.loading import (
    LoadedModel,
    blank_model,
    freeze_other_modalities,
    load_model,
    load_skeleton,
    load_token_ids,
    load_tokenizer,
)
from gradsim_assets.core.models.revisions import (
    OVER,
    Revision,
    content_hash,
    folder_of,
    is_folder,
    named_revision,
    resolve,
    split_revision,
    untrained_revision,
)
from gradsim_assets.core.models.tokenization import ChatTokenizer
from gradsim_assets.core.models.trajectories import Checkpoint, checkpoint_of, checkpoints
from gradsim_assets.core.partition_keys import checked_slug
from gradsim_assets.demo import DEMO, DEMO_LORA, EMBEDDED

_log = logging.getLogger(__name__)


class ModelHub(dg.ConfigurableResource):
    """What `[[models]]` of gradsim.toml and the hub say of a model id."""

    home: str
    device: str
    #: GPUs that a model is spread over; 0: all of the machine.
    devices: int = 1
    models: list[dict[str, Any]]
    #: Settings of models that name none themselves.
    defaults: dict[str, Any] = Field(default={"candidates": DataSettings().candidates})
    #: Which tokens of a conversation the loss counts (`core.models.answer_spans.LossOn`).
    loss_on: str = DataSettings().loss_on

    def settings(self, model_id: str) -> ModelSettings:
        """The settings of one model; defaults for what it does not name, and for a model without an entry under [[models]].

        A control without an entry has those of the model that it is a control of, and a checkpoint those of its run.
        """
        entry = next((entry for entry in self.models if entry["id"] == model_id), {})
        if not entry and (checkpoint := checkpoint_of(model_id, self.trajectories)):
            entry = self._of_checkpoint(checkpoint)
        elif not entry and (studied := self._studied(model_id)):
            entry = self.settings(studied).shared
            if trained_id(model_id) is None:  # what is an adapter's is not its base's
                entry["quantize"] = ""
                entry["components"] = () if isinstance(entry["components"], str) else entry["components"]
        return ModelSettings.model_validate({**self.defaults, "id": model_id, **entry})

    @property
    def trajectories(self) -> dict[str, str]:
        """As `Settings.trajectories`."""
        return {entry["id"]: entry["checkpoints"] for entry in self.models if entry.get("checkpoints")}

    def checkpoints(self, run: str) -> list[str]:
        """Ids of the checkpoints of a trajectory that there are now, in the order of their steps; raises as `checkpoints`."""
        return [one.model_id for one in checkpoints(run, self.trajectories[run])]

    def _of_checkpoint(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """The settings of a checkpoint without an entry of its own."""
        run = self.settings(checkpoint.run)
        state = run.optimizer_state and str(folder_of(Path(checkpoint.model_id)) / run.optimizer_state)
        return {**run.shared, "base": run.base, "optimizer_state": state}

    def _studied(self, control: str) -> str | None:
        """The model under study that a model is a control of; None where it is none."""
        of_base = (entry["id"] for entry in self.models if entry.get("base") == control)
        return trained_id(control) or next(of_base, None)

    def differing(self, model_id: str) -> str:
        """Those settings of a model, and of what its loss is on, that decide values and are not the defaults; "" where all are."""
        own = self.settings(model_id).differing(ModelSettings.model_validate({**self.defaults, "id": model_id}))
        loss = "" if self.loss_on == DataSettings().loss_on else f"loss_on={self.loss_on}"
        return f"{own} {loss}".strip()

    def optimizer_version(self, model_id: str) -> str:
        """Hash of the content of a model's optimizer state (16 hex digits); "none" where it has none.

        Raises:
            InputError: the file is missing.
        """
        state = self.settings(model_id).optimizer_state
        if not state:
            return "none"
        if not Path(state).is_file():
            raise InputError(
                f"{model_id}: there is no optimizer state {state}; correct optimizer_state under [[models]]."
            )
        return content_hash(Path(state))

    def check_optimizer_version(self, model_id: str, version: str) -> None:
        """Raises InputError where the optimizer state has changed since it had this version."""
        if self.optimizer_version(model_id) != version:
            raise InputError(f"the optimizer state of {model_id} changed while it was read; start a new run.")

    def version(self, model_id: str, revision: Revision) -> str:
        """What a model's tables are made from: its revision, with the settings that are not the defaults."""
        return f"{revision.name} {self.differing(model_id)}".strip()

    def describe(self, revision: Revision) -> ModelDescription:
        """As `core.models.description.describe`."""
        return describe(revision)

    def link(self, revision: Revision) -> str | None:
        """The page of a revision on the hub; None for a folder."""
        if not revision.commit:
            return None
        from huggingface_hub import constants

        return f"{constants.ENDPOINT}/{revision.source}/tree/{revision.commit}"

    def resolve(self, model_id: str, fallback: bool = True) -> Revision:
        """As `core.models.revisions.resolve`; the demo's model is built where it is not there yet.

        The revision of a control with random weights follows that of its model: see `untrained_revision`.
        """
        if trained := trained_id(model_id):
            return untrained_revision(self.resolve(trained, fallback))
        if model_id == DEMO:
            from gradsim_assets.demo.model import build_demo_model

            return resolve(str(build_demo_model(Home(Path(self.home)).models / DEMO)))
        if model_id == DEMO_LORA:
            from gradsim_assets.demo.adapter import build_demo_adapter

            return resolve(str(build_demo_adapter(Home(Path(self.home)).models / DEMO_LORA)))
        if model_id in self.trajectories:
            raise InputError(
                f"{model_id} is a run with checkpoints, not one model; give one of them ({model_id}@NAME), which `gradsim models list` "
                "shows."
            )
        return resolve(model_id, fallback, self.settings(model_id).base)

    def check(self, model_id: str) -> None:
        """Makes sure that a model can be registered; raises as `resolve`, and InputError for an id that is too long."""
        checked_slug(model_id)
        if (trained_id(model_id) or model_id) not in EMBEDDED:  # which is built when it is needed, where torch is
            self.resolve(model_id)

    def version_now(self, model_id: str, fallback: bool = True) -> str:
        """The version that a model stands at now; arguments and errors are those of `resolve`."""
        return self.version(model_id, self.resolve(model_id, fallback))

    def revision_named(self, model_id: str, name: str) -> Revision:
        """The revision of that name again, as an earlier step of the same run resolved it.

        Raises:
            InputError: a local folder (or the configuration of a control) has changed since, so that its old content is gone.
        """
        if model_id not in EMBEDDED and not is_folder(model_id) and trained_id(model_id) is None:
            return named_revision(split_revision(model_id)[0], name, self.settings(model_id).base)
        revision = self.resolve(model_id)
        if revision.name != name:
            raise InputError(
                f"{model_id} changed while this run worked on it ({name} became {revision.name}); start a new run."
            )
        return revision

    def learning_rates(self, model_id: str, name: str) -> dict[int, float]:
        """As `core.models.learning_rates.learning_rates`, of the revision of that name."""
        if is_folder(model_id):
            return learning_rates(Revision(name, str(folder_of(Path(model_id)))))
        commit = name.partition(OVER)[0]
        return learning_rates(Revision(name, split_revision(model_id)[0], commit))

    def tokenizer(self, model_id: str, revision: Revision) -> ChatTokenizer:
        """The tokenizer of that revision with the model's chat template, without the model."""
        template = self.settings(model_id).chat_template
        return ChatTokenizer(load_tokenizer(model_id, revision), template, loss_on=self._loss_on)

    def retriever_tokens(self, model_id: str | None) -> tuple[Tokens, str]:
        """How texts are cut for BM25, and its name: at white space (None), or by the tokenizer that a model has now.

        Raises:
            InputError, ServiceError: as `resolve` and `load_token_ids`.
        """
        if model_id is None:
            return str.split, "whitespace"
        revision = self.resolve(model_id)
        return load_token_ids(model_id, revision), f"{model_id} {revision.name}"

    def skeleton(self, model_id: str, revision: Revision, whole: bool = False) -> Any:
        """The model of that revision without weights (all tensors on the meta device): names and shapes alone.

        Trainable is what the model's settings choose, or all of it if it is to be `whole`.
        """
        settings = self.settings(model_id)
        components = () if whole else settings.components
        return load_skeleton(model_id, revision, components, settings.quantize, settings.part)

    def blank(self, model_id: str, revision: Revision) -> Any:
        """The model of that revision, with its settings, as its class makes it."""
        settings = self.settings(model_id)
        return blank_model(model_id, revision, settings.dtype, settings.components, settings.quantize, settings.part)

    def load(self, model_id: str, revision: Revision, log: Callable[[str], None] = _log.info) -> LoadedModel:
        """The model of exactly this revision, in evaluation mode on the configured device, or its layers spread over several.

        Raises:
            InputError: the model is no causal LM, cannot be loaded or spread, or its tokenizer has no EOS token.
        """
        settings = self.settings(model_id)
        devices = own_devices(self.device, self.devices, Home(Path(self.home)).gpus)
        first = devices[0] if len(devices) == 1 else "cpu"  # from where its layers go to theirs
        model, tokenizer = load_model(
            model_id, revision, settings.dtype, first, settings.components, settings.quantize, settings.part
        )
        if len(devices) > 1:
            from gradsim_assets.core.models.spreading import spread_over

            spread_over(model_id, model, devices)
        self.revision_named(model_id, revision.name)  # a folder may have changed while it was read
        if tokenizer.pad_token_id is None:
            log(f"{model_id} has no pad token; its EOS token fills up batches instead, under the attention mask.")
            tokenizer.pad_token = tokenizer.eos_token
        if other := freeze_other_modalities(model):
            log(
                f"{model_id} has {len(other)} weights for images or sound, which texts do not reach; they are left out."
            )
        if frozen := sum(not parameter.requires_grad for parameter in model.parameters()) - len(other):
            why = settings.choice or "an adapter was trained over them"
            log(f"{model_id}: {frozen} weights are left out ({why}); the full gradient is that of the others.")
        vocabulary = len(model.get_input_embeddings().weight)
        chat = ChatTokenizer(tokenizer, settings.chat_template, vocabulary, self._loss_on)
        return LoadedModel(model, chat, revision, devices[0])

    @property
    def _loss_on(self) -> LossOn:
        return cast(LossOn, self.loss_on)  # Dagster's configuration knows no literals
