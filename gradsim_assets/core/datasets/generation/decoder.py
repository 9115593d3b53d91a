"""Greedy decoding in batches, token for token as transformers does it one by one."""

import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.memory import free_bytes

#: Largest batch chosen by itself: beyond it decoding gains little, and padding and stragglers cost more.
#: Called with (samples done, samples in all, a note with the tokens per second).
Progress = Callable[[int, int, str], None]

_REPORT_EVERY_SECONDS = 1.0

_MAX_BATCH = {"cpu": 32, "cuda": 64}

#: A margin between the two best logits below this share of the largest logit counts as a tie. fp32 rounds at 6e-8, and
#: batches of different shapes deviate by about 1e-6 of the largest logit; ten times that is still rare in real text.
_TIE = 1e-5

#: Measured deviations count this many times, since they are measured on few logits.
_SAFETY = 8.0


@dataclass
class Row:
    """One prompt (int64 token ids, length P) on its way to an answer of at most `limit` tokens."""

    index: int
    id: str
    prompt: np.ndarray
    limit: int
    key: str
    tokens: list[int] = field(default_factory=list)


class Decoder:
    """Decodes rows batch by batch, longest prompts first, and yields each the moment it has ended."""

    def __init__(self, model: Any, ends: Sequence[int], device: torch.device, log: Callable[[str], None]) -> None:
        self.model = model
        self.ends = torch.tensor(list(ends), device=device)
        self.device = device
        self.log = log
        self.accepted = set(inspect.signature(model.forward).parameters)
        # Half precision has ties all the time: decoding those again would be decoding everything alone.
        self.exact = next(model.parameters()).dtype in (torch.float32, torch.float64)
        self.tolerance = _TIE

    def run(self, rows: Sequence[Row], batch_size: int, meter: "Meter") -> Iterator[Row]:
        # Prompts of like length together: little padding. The longest first: memory runs out early or never.
        waiting = sorted(rows, key=lambda row: (-len(row.prompt), row.index))
        while waiting:
            batch = waiting[:batch_size]
            ended: set[int] = set()
            try:
                ties = []
                for row, sure in self._decode(batch, meter):
                    if sure:
                        ended.add(row.index)
                        yield row
                    else:
                        ties.append(row)
                for row in ties:
                    for alone, _ in self._decode([row], meter):
                        ended.add(alone.index)
                        yield alone
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                batch_size = self._halved(error, batch_size, len(batch), batch[0])
            # What had not ended when memory ran out starts anew, in smaller batches.
            waiting = [row for row in waiting if row.index not in ended]

    def _halved(self, error: Exception, batch_size: int, rows: int, longest: Row) -> int:
        if isinstance(error, RuntimeError) and not (
            isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
        ):
            raise error
        if rows == 1:
            raise InputError(
                f"sample {longest.id}: the memory of {self.device} does not suffice to answer this one prompt of "
                f"{len(longest.prompt)} tokens; use a device with more memory or a smaller dtype."
            ) from error
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        halved = max(1, min(batch_size, rows) // 2)
        self.log(f"Out of memory with {rows} answers at a time; going on with {halved}.")
        return halved

    def _decode(self, rows: Sequence[Row], meter: "Meter") -> Iterator[tuple[Row, bool]]:
        """Rows of one batch as they end, with whether their tokens are sure to be those of decoding them alone.

        A row that runs into a tie leaves at once, unsure; in a batch of one every row is sure.
        """
        for row in rows:
            row.tokens = []
        alive = list(rows)
        check = self.exact and len(rows) > 1
        input_ids, mask = self._left_padded(alive)
        # Padding has no position: the first token of every prompt stands at 0.
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        logits, cache = self._forward(input_ids, mask, positions, None)
        if check:
            self._calibrate(alive[-1], logits[-1])
        while True:
            tokens = logits.argmax(dim=-1)
            ended = torch.isin(tokens, self.ends).tolist()
            ties = self._ties(logits).tolist() if check else [False] * len(alive)
            kept = []
            for place, (row, token) in enumerate(zip(alive, tokens.tolist(), strict=True)):
                row.tokens.append(token)
                if ties[place] or ended[place] or len(row.tokens) == row.limit:
                    yield row, not ties[place]
                else:
                    kept.append(place)
            meter.tokens(len(alive))
            if not kept:
                return
            if len(kept) < len(alive):
                select = torch.tensor(kept, device=self.device)
                alive = [alive[place] for place in kept]
                tokens, mask, positions = tokens[select], mask[select], positions[select]
                cache.reorder_cache(select)
            mask = torch.cat([mask, mask.new_ones(len(alive), 1)], dim=1)
            positions = positions[:, -1:] + 1
            logits, cache = self._forward(tokens[:, None], mask, positions, cache)

    def _left_padded(self, rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and mask (int64, [B, longest P]); the mask keeps the padding, whatever its token, out of sight."""
        length = max(len(row.prompt) for row in rows)
        input_ids = np.zeros((len(rows), length), dtype=np.int64)
        mask = np.zeros_like(input_ids)
        for place, row in enumerate(rows):
            input_ids[place, length - len(row.prompt) :] = row.prompt
            mask[place, length - len(row.prompt) :] = 1
        return torch.from_numpy(input_ids).to(self.device), torch.from_numpy(mask).to(self.device)

    def _forward(
        self, input_ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any
    ) -> tuple[torch.Tensor, Any]:
        """Logits of the last position (fp32, [B, V]) and the cache that now holds all positions."""
        more: dict[str, Any] = {"position_ids": positions, "logits_to_keep": 1}
        result = self.model(
            input_ids=input_ids,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            **{name: value for name, value in more.items() if name in self.accepted},
        )
        cache = getattr(result, "past_key_values", None)
        if not hasattr(cache, "reorder_cache"):
            raise InputError(
                f"{type(self.model).__name__} keeps no KV cache that batched generation can use; "
                "take a model whose transformers implementation supports use_cache=True."
            )
        logits = result.logits[:, -1]
        return logits if logits.dtype == torch.float64 else logits.float(), cache

    def _ties(self, logits: torch.Tensor) -> torch.Tensor:
        """Whether the two best logits lie within rounding of each other (bool, [B])."""
        best = logits.topk(min(2, logits.shape[-1]), dim=-1).values
        return best[:, 0] - best[:, -1] <= self.tolerance * logits.abs().amax(dim=-1)

    def _calibrate(self, row: Row, batched: torch.Tensor) -> None:
        """Widens the tolerance to what this device and model show: one row's logits (fp32, [V]) in the batch and alone."""
        input_ids, mask = self._left_padded([row])
        alone, _ = self._forward(input_ids, mask, (mask.cumsum(dim=1) - 1), None)
        deviation = (batched - alone[0]).abs().max() / alone.abs().max().clamp(min=torch.finfo(alone.dtype).tiny)
        self.tolerance = max(self.tolerance, _SAFETY * float(deviation))


class evaluation:  # noqa: N801 - a context manager
    """Evaluation and inference mode inside; the model's own mode afterwards."""

    def __init__(self, model: Any) -> None:
        self.model, self.training, self.inference = model, model.training, torch.inference_mode()

    def __enter__(self) -> None:
        self.model.eval()
        self.inference.__enter__()

    def __exit__(self, *exception: Any) -> None:
        self.inference.__exit__(*exception)
        self.model.train(self.training)


def fitting_batch_size(model: Any, device: str | torch.device, max_positions: int) -> int:
    """Rows whose KV caches, grown to the whole context, fill at most half of the free memory."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    size = next(model.parameters()).element_size()
    cache = 2 * config.num_hidden_layers * heads * width * size * max_positions
    # Appending to a layer's cache copies it, and logits are held in the model's dtype, in fp32 and as magnitudes.
    row = cache + 2 * cache // config.num_hidden_layers + config.vocab_size * (size + 8)
    most = _MAX_BATCH.get(torch.device(device).type, 16)
    return int(max(1, min(most, free_bytes(torch.device(device), "half") // row)))


class Meter:
    """Counts samples and tokens and reports them with the rate, about once a second."""

    def __init__(self, progress: Progress | None, total: int, done: int) -> None:
        self.progress, self.total, self.done, self.count = progress, total, done, 0
        self.started = self.last = time.monotonic()

    def tokens(self, count: int) -> None:
        self.count += count
        if time.monotonic() - self.last >= _REPORT_EVERY_SECONDS:
            self._report()

    def finished(self) -> None:
        self.done += 1
        self._report()

    def _report(self) -> None:
        self.last = time.monotonic()
        if self.progress is not None:
            rate = self.count / max(self.last - self.started, 1e-9)
            self.progress(self.done, self.total, f"{rate:.0f} tokens/s")
