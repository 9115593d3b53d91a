"""Greedy answers of the model under study, in batches that give the very tokens that one-by-one decoding gives.

The loop is our own rather than `generate` for three reasons. Every row has its own limit (context - prompt), and
`generate` keeps computing rows that have reached theirs, which runs learned positions out of their table. Rows that
have ended leave the batch here, KV cache and all, so a long answer does not make its neighbours cost as much. And
nothing of a model's `generation_config` (temperature, repetition penalty, ...) can leak in, except its end tokens.

Identity: products of differently shaped batches round differently, so where the two best logits lie closer together
than rounding, the batch may pick the other one. Such rows are noticed (the margin is compared with a deviation that is
measured on the spot) and decoded again alone, where the shapes are those of one-by-one decoding.
"""

import hashlib
import inspect
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.samples import Sample
from gradsim_assets.core.tokenization import ChatTokenizer

#: Called with (samples done, samples in all, a note with the tokens per second).
Progress = Callable[[int, int, str], None]

_log = logging.getLogger(__name__)

#: Largest batch chosen by itself: beyond it decoding gains little, and padding and stragglers cost more.
_MAX_BATCH = {"cpu": 32, "cuda": 64}

#: A margin between the two best logits below this share of the largest logit counts as a tie. fp32 rounds at 6e-8, and
#: batches of different shapes deviate by about 1e-6 of the largest logit; ten times that is still rare in real text.
_TIE = 1e-5

#: Measured deviations count this many times, since they are measured on few logits.
_SAFETY = 8.0

_REPORT_EVERY_SECONDS = 1.0


@dataclass(frozen=True)
class Generated:
    """One answer: its text without end token, and its lengths in tokens.

    `truncated`: the context was full before the model ended its answer. `completion_tokens` excludes the end token.
    """

    id: str
    answer: str
    prompt_tokens: int
    completion_tokens: int
    truncated: bool


@dataclass
class _Row:
    """One prompt (int64 token ids, length P) on its way to an answer of at most `limit` tokens."""

    index: int
    id: str
    prompt: np.ndarray
    limit: int
    key: str
    tokens: list[int] = field(default_factory=list)


def generate_answers(
    model: Any,
    tokenizer: ChatTokenizer,
    samples: Sequence[Sample],
    *,
    max_positions: int,
    device: str | torch.device,
    batch_size: int | None = None,
    progress: Progress | None = None,
    store: Path | None = None,
    identity: str = "",
    log: Callable[[str], None] = _log.info,
) -> list[Generated]:
    """Greedy answers to the samples' user texts, in the order of the samples.

    An answer ends at an end token (the tokenizer's EOS, or one of the model's `generation_config.eos_token_id`), or
    where prompt and answer fill `max_positions` tokens (then it is kept whole and flagged). In fp32 and fp64 the tokens
    are those of decoding each prompt alone; in half precision ties are too common to be told apart, and an answer may
    depend on the batch.

    Args:
        model: A causal LM that is on `device` already.
        batch_size: Rows at a time; None chooses by free memory. Halved when memory runs out, and `log` says so.
        store: A file to which every finished answer is appended at once (JSON lines, fsynced). A later call with the
            same store takes answers from it whose prompt, context, end tokens and `identity` are the same.
        identity: What the answers depend on besides the prompt: the model's revision and dtype.

    Raises:
        InputError: a prompt leaves no room for an answer, the model keeps no KV cache, or one row exceeds the memory.
    """
    ends = _end_tokens(model, tokenizer)
    rows = [_row(i, sample, tokenizer, max_positions, ends, identity) for i, sample in enumerate(samples)]
    answers = _AnswerStore(store)
    done = {row.index: found for row in rows if (found := answers.get(row)) is not None}
    if done:
        log(f"{len(done)} of {len(rows)} answers were finished before and are taken from {store}.")
    pending = [row for row in rows if row.index not in done]
    decoder = _Decoder(model, ends, torch.device(device), log)
    meter = _Meter(progress, len(rows), len(done))
    with _evaluation(model):
        for row in decoder.run(pending, batch_size or _batch_size(model, device, max_positions), meter):
            done[row.index] = _finished(row, tokenizer, ends)
            answers.put(row, done[row.index])
            meter.finished()
    return [done[row.index] for row in rows]


def _row(
    index: int, sample: Sample, tokenizer: ChatTokenizer, max_positions: int, ends: Sequence[int], identity: str
) -> _Row:
    prompt = tokenizer.prompt_ids(sample)
    limit = max_positions - len(prompt)
    if limit < 1:
        raise InputError(
            f"sample {sample.id}: its prompt has {len(prompt)} tokens and fills the model's context of {max_positions}, "
            "so there is no room for an answer; shorten its user text or remove the sample."
        )
    key = hashlib.sha256(json.dumps([identity, max_positions, list(ends), prompt.tolist()]).encode()).hexdigest()
    return _Row(index, sample.id, prompt, limit, key)


def _end_tokens(model: Any, tokenizer: ChatTokenizer) -> list[int]:
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    more = configured if isinstance(configured, list | tuple) else [configured]
    return sorted({int(token) for token in (tokenizer.tokenizer.eos_token_id, *more) if token is not None})


def _finished(row: _Row, tokenizer: ChatTokenizer, ends: Sequence[int]) -> Generated:
    ended = row.tokens[-1] in ends
    tokens = row.tokens[:-1] if ended else row.tokens
    text = tokenizer.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Generated(row.id, text, len(row.prompt), len(tokens), truncated=not ended)


class _Decoder:
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

    def run(self, rows: Sequence[_Row], batch_size: int, meter: "_Meter") -> Iterator[_Row]:
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

    def _halved(self, error: Exception, batch_size: int, rows: int, longest: _Row) -> int:
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

    def _decode(self, rows: Sequence[_Row], meter: "_Meter") -> Iterator[tuple[_Row, bool]]:
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

    def _left_padded(self, rows: Sequence[_Row]) -> tuple[torch.Tensor, torch.Tensor]:
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

    def _calibrate(self, row: _Row, batched: torch.Tensor) -> None:
        """Widens the tolerance to what this device and model show: one row's logits (fp32, [V]) in the batch and alone."""
        input_ids, mask = self._left_padded([row])
        alone, _ = self._forward(input_ids, mask, (mask.cumsum(dim=1) - 1), None)
        deviation = (batched - alone[0]).abs().max() / alone.abs().max().clamp(min=torch.finfo(alone.dtype).tiny)
        self.tolerance = max(self.tolerance, _SAFETY * float(deviation))


class _evaluation:  # noqa: N801 - a context manager
    """Evaluation and inference mode inside; the model's own mode afterwards."""

    def __init__(self, model: Any) -> None:
        self.model, self.training, self.inference = model, model.training, torch.inference_mode()

    def __enter__(self) -> None:
        self.model.eval()
        self.inference.__enter__()

    def __exit__(self, *exception: Any) -> None:
        self.inference.__exit__(*exception)
        self.model.train(self.training)


class _AnswerStore:
    """Finished answers in a file of JSON lines: what a killed run had finished is not computed again."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.found: dict[tuple[str, str], Generated] = {}
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes() if path.exists() else b""
        for line in content.splitlines():
            try:
                entry = json.loads(line)
                key = entry.pop("key")
                self.found[key, entry["id"]] = Generated(**entry)
            except (ValueError, KeyError, TypeError):
                continue  # the line that a kill cut off: that answer is computed again
        if content and not content.endswith(b"\n"):
            self._append(b"\n")

    def get(self, row: _Row) -> Generated | None:
        return self.found.get((row.key, row.id))

    def put(self, row: _Row, answer: Generated) -> None:
        if self.path is not None:
            self._append(json.dumps({"key": row.key, **asdict(answer)}).encode() + b"\n")

    def _append(self, line: bytes) -> None:
        assert self.path is not None
        # One write in append mode is whole or torn, never mingled with that of another process.
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, line)
            os.fsync(handle)
        finally:
            os.close(handle)


class _Meter:
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


def _batch_size(model: Any, device: str | torch.device, max_positions: int) -> int:
    """Rows whose KV caches, grown to the whole context, fill at most half of the free memory."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    size = next(model.parameters()).element_size()
    cache = 2 * config.num_hidden_layers * heads * width * size * max_positions
    # Appending to a layer's cache copies it, and logits are held in the model's dtype, in fp32 and as magnitudes.
    row = cache + 2 * cache // config.num_hidden_layers + config.vocab_size * (size + 8)
    most = _MAX_BATCH.get(torch.device(device).type, 16)
    return int(max(1, min(most, _free_memory(torch.device(device)) // 2 // row)))


def _free_memory(device: torch.device) -> int:
    """Bytes that can still be taken on the device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    try:  # in a container the machine's memory is not ours
        limit, used = (Path("/sys/fs/cgroup", name).read_text() for name in ("memory.max", "memory.current"))
        return min(free, int(limit) - int(used))
    except (OSError, ValueError):
        return free
