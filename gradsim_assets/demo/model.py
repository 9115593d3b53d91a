"""The demo model: a small OLMo-architecture causal LM that was trained on the demo's originals.

Its weights come with the package (see `demo.trained`), so that its figures are the same on every machine; any other recipe is
trained on first use. It exists so that the whole path runs on a laptop without a download: large enough that its gradients tell samples
apart, small enough to be trained in seconds.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gradsim_assets.core.files import whole_folder
from gradsim_assets.core.locks import locked
from gradsim_assets.core.models.chat_templates import TULU_TEMPLATE
from gradsim_assets.core.models.encoded_sample import EncodedSample
from gradsim_assets.core.models.tokenization import ChatTokenizer
from gradsim_assets.core.samples import Sample, parse_samples
from gradsim_assets.core.training.recipe import TrainingRecipe
from gradsim_assets.demo import data
from gradsim_assets.demo.trained import put_weights, weights_of

#: Called with (steps done, steps in all).
Progress = Callable[[int, int], None]

EOS = "<|endoftext|>"
PAD = "<|pad|>"
TURNS = ("<|user|>", "<|assistant|>")


@dataclass(frozen=True)
class Recipe:
    """Everything that the weights depend on besides the dataset; `version` stands for the code of this module."""

    version: int = 1
    seed: int = 42
    vocab_size: int = 2048
    hidden_size: int = 96
    intermediate_size: int = 256
    blocks: int = 2
    heads: int = 4
    context: int = 384
    # The usual 0.02 suits wide models and needs more steps here; 0.1 learns by rote and answers no reworded prompt.
    initializer_range: float = 0.04
    # Few, so that most answers are the model's own words: at 340 steps, most are copies of the originals' answers.
    steps: int = 260
    batch_size: int = 12
    learning_rate: float = 3e-3
    warmup: int = 20
    weight_decay: float = 0.1
    # Keeps a residual on every response token. Without it a model this small learns the originals by heart, and their
    # gradients are noise.
    label_smoothing: float = 0.2
    # Share of the visits with the paraphrased prompt (the answer is always the original's): a model that has read
    # nothing but the demo understands no rewording, and its own answers to paraphrased prompts would be gibberish.
    # Half of them, so that it tells by either prompt which of several look-alike answers is meant.
    reworded_prompts: float = 0.5
    threads: int = 1

    @property
    def training(self) -> TrainingRecipe:
        """How the model is trained, as any model's training is told."""
        return TrainingRecipe(
            seed=self.seed,
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            warmup_steps=self.warmup,
            plateau=0.4,
            lowest=0.02,
            betas=(0.9, 0.95),
            weight_decay=self.weight_decay,
            label_smoothing=self.label_smoothing,
            reworded_prompts=self.reworded_prompts,
        )


RECIPE = Recipe()


def content_hash(recipe: Recipe = RECIPE, random_init: bool = False) -> str:
    """The name of a build's folder: 16 hex digits of the SHA-256 of recipe, template and dataset."""
    return hash_of_build(recipe=asdict(recipe), random_init=random_init)


def hash_of_build(**content: Any) -> str:
    """16 hex digits of the SHA-256 of what decides a build, with the template and the dataset."""
    whole = {**content, "template": TULU_TEMPLATE, "data": data.fingerprint()}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]


def built_once(finished: Path, build: Callable[[Path], None]) -> Path:
    """A folder that `build` fills where it is not there yet; it appears whole or not at all.

    Of processes that want it at the same time one builds it, and the others wait for it.
    """
    if finished.is_dir():
        return finished
    with locked(finished.with_name(f".{finished.name}.lock")):
        if not finished.is_dir():
            with whole_folder(finished) as unfinished:
                build(unfinished)
    return finished


def build_demo_model(
    folder_root: Path, progress: Progress | None = None, random_init: bool = False, recipe: Recipe = RECIPE
) -> Path:
    """The folder of the demo model, built on first use: `AutoModelForCausalLM` and `AutoTokenizer` load it.

    The same recipe gives the same bytes on one machine, the demo's own on any. `random_init` leaves the training out: the same architecture,
    tokenizer and initial weights, for comparison. The folder `folder_root/<content hash>` appears whole or not at all;
    of processes that want it at the same time one builds it, and the others wait for it.
    """
    finished = Path(folder_root) / content_hash(recipe, random_init)
    return built_once(finished, lambda folder: _build(folder, recipe, random_init, progress))


def _build(folder: Path, recipe: Recipe, random_init: bool, progress: Progress | None) -> None:
    from transformers.utils import logging

    from gradsim_assets.core.training.loop import reproducible

    tokenizer, weights = train_tokenizer(recipe), weights_of(content_hash(recipe, random_init))
    with reproducible(recipe.seed):
        model = new_model(recipe, tokenizer)
        if not random_init and not weights:
            texts = encoded(ChatTokenizer(tokenizer))
            train_shown(model, *texts, recipe.training, "Training the demo model", progress)
    logging.disable_progress_bar()  # of writing one small file
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    put_weights(weights, folder)


def train_tokenizer(recipe: Recipe = RECIPE) -> Any:
    """A byte-level BPE tokenizer (`PreTrainedTokenizerFast`) trained on the demo text, originals and paraphrases.

    The turn markers of the template are single tokens; EOS and pad are two different tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocab_size,
        special_tokens=[EOS, PAD, *TURNS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rows = [*data.load_originals(), *data.load_paraphrases()]
    bpe.train_from_iterator((message["content"] for row in rows for message in row["messages"]), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=list(TURNS),
        model_max_length=recipe.context,
        clean_up_tokenization_spaces=False,
        chat_template=TULU_TEMPLATE,
    )


def new_model(recipe: Recipe, tokenizer: Any) -> Any:
    """The model before training, by the random numbers of the process."""
    from transformers import OlmoConfig, OlmoForCausalLM

    return OlmoForCausalLM(
        OlmoConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.hidden_size,
            intermediate_size=recipe.intermediate_size,
            num_hidden_layers=recipe.blocks,
            num_attention_heads=recipe.heads,
            max_position_embeddings=recipe.context,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            initializer_range=recipe.initializer_range,
        )
    )


def encoded(chat: ChatTokenizer) -> tuple[list[EncodedSample], list[EncodedSample]]:
    """The originals, and the same answers after the paraphrased prompts."""
    originals = parse_samples(data.load_originals(), "the demo dataset")
    paraphrases = parse_samples(data.load_paraphrases(), "the demo dataset")
    reworded = [
        Sample(original.id, paraphrase.user, original.assistant)
        for original, paraphrase in zip(originals, paraphrases, strict=True)
    ]
    return [chat.encode(sample) for sample in originals], [chat.encode(sample) for sample in reworded]


def train_shown(
    model: Any,
    originals: Sequence[EncodedSample],
    reworded: Sequence[EncodedSample],
    recipe: TrainingRecipe,
    what: str,
    progress: Progress | None = None,
) -> None:
    """Trains a model (see `core.training.loop.train`) with a bar on the terminal that says `what`."""
    from tqdm import tqdm

    from gradsim_assets.core.training.loop import train

    # disable=None: the bar is for terminals, not for log files.
    with tqdm(total=recipe.steps, desc=what, unit="step", disable=None) as bar:

        def tell(done: int, total: int) -> None:
            bar.update()
            if progress is not None:
                progress(done, total)

        train(model, originals, recipe, reworded=reworded, progress=tell)
