"""The demo's adapter twin: a LoRA that was trained on the demo's originals over a base that has read them in other words.

The base is what a pre-trained model is to a fine-tune: it knows the language and what is asked about, and has seen none of the
originals. It learns the paraphrases; the adapter then learns the originals, its base frozen.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from gradsim_assets.core.models.revisions import ADAPTER
from gradsim_assets.core.models.tokenization import ChatTokenizer
from gradsim_assets.core.samples import parse_samples
from gradsim_assets.core.training.recipe import TrainingRecipe
from gradsim_assets.demo import data
from gradsim_assets.demo.model import (
    RECIPE,
    Recipe,
    built_once,
    encoded,
    hash_of_build,
    new_model,
    train_shown,
    train_tokenizer,
)
from gradsim_assets.demo.trained import put_weights, weights_of

#: The folder of the base, in that of the adapter, and how the adapter names it.
BASE = "base"


@dataclass(frozen=True)
class AdapterRecipe:
    """Everything that the adapter depends on besides the dataset; `version` stands for the code of this module."""

    version: int = 1
    base: Recipe = field(default_factory=lambda: replace(RECIPE, reworded_prompts=0.0))
    rank: int = 16
    alpha: int = 32
    # Few, as fine-tunes have them: in a model this small every one of them costs about as much as what it is put beside.
    targets: tuple[str, ...] = ("q_proj", "v_proj", "down_proj")
    steps: int = 200
    learning_rate: float = 1e-2

    @property
    def training(self) -> TrainingRecipe:
        """How the adapter is trained: as the demo's model is, but for what an adapter needs more of."""
        as_model = replace(RECIPE, steps=self.steps, learning_rate=self.learning_rate, weight_decay=0.0)
        return as_model.training


ADAPTER_RECIPE = AdapterRecipe()


def build_demo_adapter(folder_root: Path, recipe: AdapterRecipe = ADAPTER_RECIPE) -> Path:
    """The folder of the demo's adapter, with its base in it, built on first use; as `build_demo_model` in all else."""
    return built_once(Path(folder_root) / adapter_hash(recipe), partial(_build, recipe=recipe))


def adapter_hash(recipe: AdapterRecipe = ADAPTER_RECIPE) -> str:
    """The name of the folder of an adapter and its base."""
    return hash_of_build(recipe=asdict(recipe))


def _build(folder: Path, recipe: AdapterRecipe) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers.utils import logging

    from gradsim_assets.core.training.loop import reproducible

    tokenizer, weights = train_tokenizer(recipe.base), weights_of(adapter_hash(recipe))
    chat = ChatTokenizer(tokenizer)
    logging.disable_progress_bar()  # of writing small files
    with reproducible(recipe.base.seed):
        base = new_model(recipe.base, tokenizer)
        if not weights:
            train_shown(base, _paraphrases(chat), (), recipe.base.training, "Training the base of the demo's adapter")
        base.save_pretrained(folder / BASE)
        tokenizer.save_pretrained(folder / BASE)
    base.name_or_path = BASE  # where it lies, seen from the adapter
    config = LoraConfig(
        r=recipe.rank, lora_alpha=recipe.alpha, target_modules=list(recipe.targets), task_type="CAUSAL_LM"
    )
    with reproducible(recipe.training.seed):  # by itself, so that the adapter alone can be made again
        model = get_peft_model(base, config)
        if not weights:
            train_shown(model.get_base_model(), *encoded(chat), recipe.training, "Training the demo's adapter")
    model.save_pretrained(folder, save_embedding_layers=False)  # else the hub would be asked about the base
    put_weights(weights, folder)
    file = folder / ADAPTER
    document = json.loads(file.read_text(encoding="utf-8"))
    document["target_modules"].sort()  # PEFT keeps them in a set, whose order is another one in every process
    file.write_text(json.dumps(document, indent=2, sort_keys=True), encoding="utf-8")


def _paraphrases(chat: ChatTokenizer) -> list[Any]:
    return [chat.encode(sample) for sample in parse_samples(data.load_paraphrases(), "the demo dataset")]
