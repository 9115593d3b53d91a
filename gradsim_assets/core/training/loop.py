"""The one training loop: it makes the demo's model, and makes models again without some of their originals."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.models.encoded_sample import IGNORED, EncodedSample
from gradsim_assets.core.training.recipe import TrainingRecipe

#: Called with (steps done, steps in all).
Progress = Callable[[int, int], None]

#: One thread: sums are then added up in the same order whatever the number of cores.
_THREADS = 1


def train(
    model: Any,
    originals: Sequence[EncodedSample],
    recipe: TrainingRecipe,
    *,
    reworded: Sequence[EncodedSample | None] = (),
    left_out: Collection[str] = (),
    progress: Progress = lambda done, total: None,
) -> None:
    """Trains a model (in place) on the mean of the samples' losses, epoch after reshuffled epoch.

    `reworded` are the originals after the prompts of their paraphrases, in the same order; None where there is none. Originals
    that are `left_out` (by id) are missing from their batches, and nothing else changes: steps, learning rates and the order
    of the others are those of the whole set. Runs within `reproducible`, where the same call gives the same weights.

    Raises:
        InputError: nothing is left to train on, or the model has no output head that can be looked into.
    """
    absent = set(left_out)
    if all(sample.id in absent for sample in originals):
        raise InputError("no original is left to train on; leave out fewer.")
    generator = torch.Generator().manual_seed(recipe.seed)
    batches = _batches([sample.length for sample in originals], recipe.batch_size, generator)
    steps = recipe.steps or max(1, round(recipe.epochs * _batches_an_epoch(len(originals), recipe.batch_size)))
    optimizer = _optimizer(model, recipe)
    model.train()
    for step in range(steps):
        indices = next(batches)
        swap = (torch.rand(len(indices), generator=generator) < recipe.reworded_prompts).tolist()
        visited = [
            (reworded[index] if other and reworded else None) or originals[index]
            for index, other in zip(indices, swap, strict=True)
        ]
        if batch := [sample for sample in visited if sample.id not in absent]:
            _take_step(model, batch, optimizer, recipe, recipe.learning_rate_factor(step, steps))
        progress(step + 1, steps)
    model.eval()


def _take_step(
    model: Any,
    batch: Sequence[EncodedSample],
    optimizer: torch.optim.Optimizer,
    recipe: TrainingRecipe,
    rate_factor: float,
) -> None:
    device = next(model.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
        loss = mean_loss(model, batch, recipe.label_smoothing)
    for group in optimizer.param_groups:
        group["lr"] = recipe.learning_rate * rate_factor
    optimizer.zero_grad()
    loss.backward()
    if recipe.clip:
        trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        torch.nn.utils.clip_grad_norm_(trained, recipe.clip)  # frozen ones may hold gradients of another training
    optimizer.step()


def _optimizer(model: Any, recipe: TrainingRecipe) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=rate, weight_decay=decay)
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, betas=recipe.betas)


def _pieces(samples: int, batch_size: int) -> int:
    return max(1, -(-samples // batch_size) // 2)


def _batches_an_epoch(samples: int, batch_size: int) -> int:
    return 2 * _pieces(samples, batch_size)


def _batches(lengths: Sequence[int], batch_size: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Endless batches of sample indices; every epoch is a new permutation cut into near-equal batches.

    Batches are cut from stretches of the permutation that are sorted by length, which saves a third of the padding.
    """
    while True:
        permutation = torch.randperm(len(lengths), generator=generator)
        for stretch in permutation.tensor_split(2):
            by_length = sorted(stretch.tolist(), key=lengths.__getitem__)
            batches = torch.tensor(by_length).tensor_split(_pieces(len(lengths), batch_size))
            for index in torch.randperm(len(batches), generator=generator).tolist():
                yield batches[index].tolist()


def mean_loss(model: Any, samples: Sequence[EncodedSample], smoothing: float = 0.0) -> torch.Tensor:
    """Mean over samples of each sample's own loss (its mean negative log-likelihood per response token).

    A mean over all tokens of the batch would weight a sample by its length instead.
    """
    device = next(model.parameters()).device
    input_ids = pad_sequence([torch.from_numpy(sample.input_ids) for sample in samples], batch_first=True)
    targets = pad_sequence(
        [torch.from_numpy(sample.labels[1:]) for sample in samples], batch_first=True, padding_value=IGNORED
    ).to(device)
    scored = targets != IGNORED
    # Padding is on the right and attention causal, so no response token ever sees it: no mask is needed.
    with _head_at(model, scored):
        logits = model(input_ids=input_ids[:, :-1].to(device), use_cache=False).logits
    losses = cross_entropy(logits, targets[scored], reduction="none", label_smoothing=smoothing)
    weights = (1 / scored.sum(dim=1, keepdim=True)).expand_as(scored)[scored]
    return (losses * weights).sum() / len(samples)


@contextmanager
def _head_at(model: Any, scored: torch.Tensor) -> Iterator[None]:
    """Within, the model's logits are [tokens, vocabulary] of the scored places alone: they are the dearest part of a small model."""
    head = model.get_output_embeddings()
    if head is None:
        raise InputError(f"{type(model).__name__} has no output head to train through; it cannot be retrained.")
    handle = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][scored], *inputs[1:]))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def reproducible(seed: int, device: str = "cpu") -> Iterator[None]:
    """Fixed seed, thread count and deterministic kernels inside; the process's own settings afterwards."""
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    dtype = torch.get_default_dtype()
    on_gpu = torch.device(device).type == "cuda"
    with torch.random.fork_rng(devices=[torch.device(device)] if on_gpu else []), torch.device("cpu"):
        torch.manual_seed(seed)
        torch.set_num_threads(_THREADS)
        torch.use_deterministic_algorithms(True, warn_only=on_gpu)  # some kernels of GPUs have no other form
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(deterministic, warn_only=only_warned)
            torch.set_default_dtype(dtype)
