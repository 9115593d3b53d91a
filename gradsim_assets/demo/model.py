"""The demo model: a small OLMo-architecture causal LM, trained on the demo's originals on first use.

It exists so that the whole path runs on a laptop without a download: large enough that its gradients tell samples
apart, small enough to be trained in seconds.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradsim_assets.core.files import whole_folder
from gradsim_assets.core.locks import locked
from gradsim_assets.core.models.chat_templates import TULU_TEMPLATE
from gradsim_assets.core.models.encoded_sample import IGNORED, EncodedSample
from gradsim_assets.core.models.tokenization import ChatTokenizer
from gradsim_assets.core.samples import Sample, parse_samples
from gradsim_assets.demo import data

if TYPE_CHECKING:
    import torch

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
    context: int = 512
    # The usual 0.02 suits wide models and needs more steps here; 0.1 learns by rote and answers no reworded prompt.
    initializer_range: float = 0.04
    steps: int = 340
    batch_size: int = 8
    learning_rate: float = 3e-3
    warmup: int = 20
    weight_decay: float = 0.1
    # Keeps a residual on every response token. Without it a model this small learns the originals by heart, and their
    # gradients are noise: the full gradient then finds 40 % of the originals instead of over 90 %.
    label_smoothing: float = 0.2
    # Share of the visits with the paraphrased prompt (the answer is always the original's): a model that has read
    # nothing but the demo understands no rewording, and its own answers to paraphrased prompts would be gibberish.
    reworded_prompts: float = 0.2
    # One thread: sums are then added up in the same order whatever the number of cores.
    threads: int = 1


RECIPE = Recipe()


def content_hash(recipe: Recipe = RECIPE, random_init: bool = False) -> str:
    """The name of a build's folder: 16 hex digits of the SHA-256 of recipe, template and dataset."""
    content = {
        "recipe": asdict(recipe),
        "template": TULU_TEMPLATE,
        "data": data.fingerprint(),
        "random_init": random_init,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def build_demo_model(
    folder_root: Path, progress: Progress | None = None, random_init: bool = False, recipe: Recipe = RECIPE
) -> Path:
    """The folder of the demo model, built on first use: `AutoModelForCausalLM` and `AutoTokenizer` load it.

    The same recipe gives the same bytes on one machine. `random_init` leaves the training out: the same architecture,
    tokenizer and initial weights, for comparison. The folder `folder_root/<content hash>` appears whole or not at all;
    of processes that want it at the same time one builds it, and the others wait for it.
    """
    finished = Path(folder_root) / content_hash(recipe, random_init)
    if finished.is_dir():
        return finished
    with locked(finished.with_name(f".{finished.name}.lock")):
        if not finished.is_dir():
            with whole_folder(finished) as unfinished:
                _build(unfinished, recipe, random_init, progress)
    return finished


def _build(folder: Path, recipe: Recipe, random_init: bool, progress: Progress | None) -> None:
    from transformers.utils import logging

    tokenizer = train_tokenizer(recipe)
    with _reproducible(recipe):
        model = _new_model(recipe, tokenizer)
        if not random_init:
            _train(model, ChatTokenizer(tokenizer), recipe, progress)
    logging.disable_progress_bar()  # of writing one small file
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


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


def _new_model(recipe: Recipe, tokenizer: Any) -> Any:
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


def _encoded(chat: ChatTokenizer) -> tuple[list[EncodedSample], list[EncodedSample]]:
    """The originals, and the same answers after the paraphrased prompts."""
    originals = parse_samples(data.load_originals(), "the demo dataset")
    paraphrases = parse_samples(data.load_paraphrases(), "the demo dataset")
    reworded = [
        Sample(original.id, paraphrase.user, original.assistant)
        for original, paraphrase in zip(originals, paraphrases, strict=True)
    ]
    return [chat.encode(sample) for sample in originals], [chat.encode(sample) for sample in reworded]


def _train(model: Any, chat: ChatTokenizer, recipe: Recipe, progress: Progress | None) -> None:
    """AdamW on the mean of the samples' losses, epoch after reshuffled epoch."""
    import torch
    from tqdm import tqdm

    originals, reworded = _encoded(chat)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, betas=(0.9, 0.95)
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _learning_rate_factor(step, recipe))
    generator = torch.Generator().manual_seed(recipe.seed)
    batches = _batches([sample.length for sample in originals], recipe, generator)
    model.train()
    # disable=None: the bar is for terminals, not for log files.
    for step in tqdm(range(recipe.steps), desc="Training the demo model", unit="step", disable=None):
        indices = next(batches)
        swap = (torch.rand(len(indices), generator=generator) < recipe.reworded_prompts).tolist()
        batch = [(reworded if other else originals)[index] for index, other in zip(indices, swap, strict=True)]
        loss = _mean_loss(model, batch, recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(step + 1, recipe.steps)
    model.eval()


def _learning_rate_factor(step: int, recipe: Recipe) -> float:
    """Linear warm-up, a plateau until 40 % of the steps, then linear decay."""
    return min(1.0, (step + 1) / recipe.warmup, max(0.02, (recipe.steps - step) / (0.6 * recipe.steps)))


def _batches(lengths: list[int], recipe: Recipe, generator: "torch.Generator") -> Iterator[list[int]]:
    """Endless batches of sample indices; every epoch is a new permutation cut into near-equal batches.

    Batches are cut from stretches of the permutation that are sorted by length, which saves a third of the padding.
    """
    import torch

    pieces = -(-len(lengths) // recipe.batch_size)
    while True:
        permutation = torch.randperm(len(lengths), generator=generator)
        for stretch in permutation.tensor_split(2):
            by_length = sorted(stretch.tolist(), key=lengths.__getitem__)
            batches = torch.tensor(by_length).tensor_split(pieces // 2)
            for index in torch.randperm(len(batches), generator=generator).tolist():
                yield batches[index].tolist()


def _mean_loss(model: Any, samples: list[EncodedSample], smoothing: float) -> "torch.Tensor":
    """Mean over samples of each sample's own loss (its mean negative log-likelihood per response token).

    A mean over all tokens of the batch would weight a sample by its length instead.
    """
    import torch
    from torch.nn.functional import cross_entropy
    from torch.nn.utils.rnn import pad_sequence

    input_ids = pad_sequence([torch.from_numpy(sample.input_ids) for sample in samples], batch_first=True)
    targets = pad_sequence(
        [torch.from_numpy(sample.labels[1:]) for sample in samples], batch_first=True, padding_value=IGNORED
    )
    scored = targets != IGNORED
    # Padding is on the right and attention causal, so no response token ever sees it: no mask is needed.
    hidden = model.model(input_ids=input_ids[:, :-1], use_cache=False).last_hidden_state
    # Logits are the dearest part of so small a model: only where a label is.
    losses = cross_entropy(model.lm_head(hidden[scored]), targets[scored], reduction="none", label_smoothing=smoothing)
    weights = (1 / scored.sum(dim=1, keepdim=True)).expand_as(scored)[scored]
    return (losses * weights).sum() / len(samples)


@contextmanager
def _reproducible(recipe: Recipe) -> Iterator[None]:
    """Fixed seed, thread count and deterministic kernels inside; the process's own settings afterwards."""
    import torch

    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    dtype = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(recipe.seed)
        torch.set_num_threads(recipe.threads)
        torch.use_deterministic_algorithms(True)
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(deterministic)
            torch.set_default_dtype(dtype)
