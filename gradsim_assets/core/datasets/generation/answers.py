"""Greedy answers of the model under study, in batches that give the very tokens that one-by-one decoding gives.

Identity: a batch is padded, products of differently shaped batches round differently, and some models do other things to
the rows of a batch than to a row alone (rotary frequencies that follow the longest row, masks that are ignored). So every
answer out of a batch is held against one forward pass over that row by itself; where the two best logits lie closer
together than rounding, or the tokens are others, the prompt is decoded again alone, by transformers' `generate` itself.
Nothing of a model's `generation_config` (temperature, repetition penalty, ...) can leak in, except its end tokens.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gradsim_assets.core.datasets.generation.batch_size import fitting_batch_size
from gradsim_assets.core.datasets.generation.decoder import Decoder, Row, evaluation
from gradsim_assets.core.datasets.generation.meter import Meter, Progress
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.models.tokenization import ChatTokenizer
from gradsim_assets.core.room import room_in
from gradsim_assets.core.sample_gradients.precision import matmul_precision
from gradsim_assets.core.samples import Sample

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Generated:
    """One answer: its text without end token, and its lengths in tokens.

    `truncated`: the context was full before the model ended its answer. `completion_tokens` excludes the end token.
    `alone`: it was decoded by itself, since it was the only one or a batch would not have given it for sure.
    """

    id: str
    answer: str
    prompt_tokens: int
    completion_tokens: int
    truncated: bool
    alone: bool = field(default=False, compare=False)


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
    where prompt, answer and what the template puts behind it fill `max_positions` tokens (then it is kept whole and
    flagged). In fp32 and fp64 the tokens are those of decoding each prompt alone; in half precision ties are too common to
    be told apart, and an answer may depend on the batch.

    Args:
        model: A causal LM that is on `device` already.
        batch_size: Rows at a time; None chooses by free memory. Halved when memory runs out, and `log` says so.
        store: A file to which every finished answer is appended at once (JSON lines, fsynced). A later call with the
            same store takes answers from it whose prompt, context, end tokens and `identity` are the same.
        identity: What the answers depend on besides the prompt: the model's revision and dtype.

    Raises:
        InputError: a prompt leaves no room for an answer, one row exceeds the memory, or `generate` fails.
    """
    ends = _end_tokens(model, tokenizer)
    rows = [_row(i, sample, tokenizer, max_positions, ends, identity) for i, sample in enumerate(samples)]
    answers = _AnswerStore(store)
    done = {row.index: found for row in rows if (found := answers.get(row)) is not None}
    if done:
        log(f"{len(done)} of {len(rows)} answers were finished before and are taken from {store}.")
    pending = [row for row in rows if row.index not in done]
    decoder = Decoder(model, ends, torch.device(device), log)
    meter = Meter(progress, len(rows), len(done))
    with evaluation(model), matmul_precision("fp32", torch.device(device)):
        for row in decoder.run(pending, batch_size or fitting_batch_size(model, device, max_positions), meter):
            done[row.index] = _finished(row, tokenizer, ends)
            answers.put(row, done[row.index])
            meter.finished()
    return [done[row.index] for row in rows]


def _row(
    index: int, sample: Sample, tokenizer: ChatTokenizer, max_positions: int, ends: Sequence[int], identity: str
) -> Row:
    prompt = tokenizer.prompt_ids(sample)
    limit = room_for_answer(prompt, tokenizer, max_positions)
    if limit < 1:
        raise InputError(
            f"sample {sample.id}: its prompt has {len(prompt)} tokens and fills the model's context of {max_positions}, "
            "so there is no room for an answer; shorten its user text or remove the sample."
        )
    key = hashlib.sha256(json.dumps([identity, limit, list(ends), prompt.tolist()]).encode()).hexdigest()
    return Row(index, sample.id, prompt, limit, key)


def room_for_answer(prompt: np.ndarray, tokenizer: ChatTokenizer, max_positions: int) -> int:
    """Tokens that an answer may have, so that the sample with what the template puts behind the answer fits the context."""
    return max_positions - len(prompt) - tokenizer.tokens_behind_answer


def _end_tokens(model: Any, tokenizer: ChatTokenizer) -> list[int]:
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    more = configured if isinstance(configured, list | tuple) else [configured]
    return sorted({int(token) for token in (tokenizer.tokenizer.eos_token_id, *more) if token is not None})


def _finished(row: Row, tokenizer: ChatTokenizer, ends: Sequence[int]) -> Generated:
    ended = row.tokens[-1] in ends
    tokens = row.tokens[:-1] if ended else row.tokens
    text = tokenizer.answer_text(row.prompt.tolist(), tokens)
    return Generated(row.id, text, len(row.prompt), len(tokens), truncated=not ended, alone=row.alone)


class _AnswerStore:
    """Finished answers in a file of JSON lines: what a killed run had finished is not computed again."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.found: dict[tuple[str, str], Generated] = {}
        if path is None:
            return
        with room_in(path.parent):
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

    def get(self, row: Row) -> Generated | None:
        return self.found.get((row.key, row.id))

    def put(self, row: Row, answer: Generated) -> None:
        if self.path is not None:
            self._append(json.dumps({"key": row.key, **asdict(answer)}).encode() + b"\n")

    def _append(self, line: bytes) -> None:
        assert self.path is not None
        # One write in append mode is whole or torn, never mingled with that of another process.
        with room_in(self.path.parent), self.path.open("ab", buffering=0) as file:
            written = file.write(line)
            if written != len(line):  # the disk filled up in the middle of the line
                file.write(line[written:])
            os.fsync(file.fileno())
