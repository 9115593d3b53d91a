"""Greedy decoding in batches, token for token as transformers' `generate` does it one prompt at a time."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from gradsim_assets.core.datasets.generation.meter import Meter
from gradsim_assets.core.errors import InputError, first_line
from gradsim_assets.core.memory import ran_out
from gradsim_assets.core.models.positions import logits_of, padding_of, unchanged_state

#: A margin between the two best logits below this share of the largest logit counts as a tie. fp32 rounds at 6e-8, and
#: passes of different shapes deviate by about 1e-6 of the largest logit; ten times that is still rare in real text.
_TIE = 1e-5

#: Measured deviations count this many times, since they are measured on few logits.
_SAFETY = 8.0

#: Deviations above this share of the largest logit are not rounding: another computation took place.
_FAULT = {torch.float64: 1e-6, torch.float32: 1e-3}
_FAULT_OF_HALF_PRECISION = 0.1

#: After so many batches in a row of which more than half had to be decoded again, there are no more batches.
_BAD_BATCHES = 2

#: Tokens of the trial that tells whether a model can be batched.
_TRIAL_TOKENS = 8


@dataclass
class Row:
    """One prompt (int64 token ids, length P) on its way to an answer of at most `limit` tokens.

    `alone`: the answer was decoded by itself from the prompt on.
    """

    index: int
    id: str
    prompt: np.ndarray
    limit: int
    key: str
    tokens: list[int] = field(default_factory=list)
    alone: bool = False

    @property
    def length(self) -> int:
        """Tokens of the prompt and of the answer so far."""
        return len(self.prompt) + len(self.tokens)

    @property
    def room(self) -> int:
        """Tokens that the answer may still take."""
        return self.limit - len(self.tokens)


class Decoder:
    """Decodes rows batch by batch, longest prompts first, and yields each when it has ended.

    Everything is done by transformers' own `generate`: on one prompt, or on a batch padded on the left. What comes out
    of a batch is held against one forward pass over that row by itself; what does not stand it is decoded again alone.
    """

    def __init__(self, model: Any, ends: Sequence[int], device: torch.device, log: Callable[[str], None]) -> None:
        self.model = model
        self.ends = list(ends)
        self.device = device
        self.log = log
        self.accepted = set(inspect.signature(model.forward).parameters)
        dtype = next(model.parameters()).dtype
        # Half precision has ties all the time: decoding those again would be decoding everything alone.
        self.exact = dtype in _FAULT
        self.fault = _FAULT.get(dtype, _FAULT_OF_HALF_PRECISION)
        self.tolerance = _TIE

    def run(self, rows: Sequence[Row], batch_size: int, meter: Meter) -> Iterator[Row]:
        # Prompts of like length together: little padding. The longest first: memory runs out early or never.
        waiting = sorted(rows, key=lambda row: (-len(row.prompt), row.index))
        if batch_size > 1 and len(waiting) > 1 and (why := self._unlike_alone(waiting)):
            self.log(f"{type(self.model).__name__} answers one prompt at a time: {why}.")
            batch_size = 1
        bad = 0
        while waiting:
            batch, ended, again = waiting[:batch_size], set(), 0
            try:
                for row in self._batch(batch, meter):
                    ended.add(row.index)
                    again += row.alone and len(batch) > 1
                    yield row
            except InputError:
                raise
            except Exception as error:
                batch_size = self._smaller(error, batch_size, len(batch), batch[0])
            bad = bad + 1 if 2 * again > len(batch) else 0
            if bad == _BAD_BATCHES:
                self.log(f"{again} of {len(batch)} answers had to be decoded again alone, and so are all others now.")
                batch_size = 1
            # What had not ended when memory ran out starts anew, in smaller batches.
            waiting = [row for row in waiting if row.index not in ended]

    def _smaller(self, error: Exception, batch_size: int, rows: int, longest: Row) -> int:
        if not ran_out(error):
            if rows > 1:  # alone it may go well, or fail with what is wrong
                self.log(f"A batch of {rows} prompts fails ({first_line(error)}); going on with one at a time.")
                return 1
            if isinstance(error, RuntimeError):
                raise error
            raise InputError(
                f"sample {longest.id}: {type(self.model).__name__} does not answer it through transformers' generate "
                f"({first_line(error)}); choose another model."
            ) from error
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

    def _batch(self, rows: Sequence[Row], meter: Meter) -> Iterator[Row]:
        """Rows as they end; each time that half of them have ended, the others go on as a smaller batch."""
        for row in rows:
            row.tokens, row.alone = [], len(rows) == 1
        alive = list(rows)
        while alive:
            self._extend(alive, meter)
            ended = [row for row in alive if self._ended(row)]
            full = any(row.room == 0 for row in alive)
            alive = [row for row in alive if not self._ended(row)]
            if full:  # the padding of the others would run beyond the context
                for row in alive:
                    self._extend([row], meter)
                ended, alive = ended + alive, []
            for row in ended:
                if not row.alone and not self._stands_alone(row):
                    row.tokens, row.alone = [], True
                    self._extend([row], meter)
                yield row

    def _ended(self, row: Row) -> bool:
        return row.room == 0 or row.tokens[-1] in self.ends

    def _extend(self, rows: Sequence[Row], meter: Meter) -> None:
        """Goes on with answers until half of them have ended or one is full."""
        stop = _HalfHasEnded(self.ends, len(rows), meter)
        found, _ = self._generate(rows, stopping_criteria=StoppingCriteriaList([stop]))
        for row, tokens in zip(rows, found, strict=True):
            row.tokens += tokens

    def _generate(
        self, rows: Sequence[Row], output_logits: bool = False, **options: Any
    ) -> tuple[list[list[int]], Any]:
        """New tokens of each row, up to its end token if it has one, with the logits of all steps (each fp32, [B, V]).

        Rows are padded to one length, whatever the model's padding token: a mask hides it.
        """
        length, padding = max(row.length for row in rows), padding_of(self.model) or 0
        input_ids = torch.full((len(rows), length), padding)
        mask = torch.zeros_like(input_ids)
        for place, row in enumerate(rows):
            input_ids[place, length - row.length :] = torch.as_tensor([*row.prompt, *row.tokens])
            mask[place, length - row.length :] = 1
        if "attention_mask" in self.accepted:
            options["attention_mask"] = mask.to(self.device)
        elif not mask.all():
            raise NotImplementedError("its forward pass takes no attention mask")
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=min(row.room for row in rows),
            eos_token_id=self.ends,
            pad_token_id=padding,
            return_dict_in_generate=True,
            output_logits=output_logits,
        )
        with unchanged_state(self.model):  # of a model that keeps its state, each answer is that of a fresh one
            found = self.model.generate(input_ids.to(self.device), generation_config=config, **options)
        tokens = [self._up_to_end(row) for row in found.sequences[:, length:].tolist()]
        return tokens, found.logits

    def _up_to_end(self, tokens: Sequence[int]) -> list[int]:
        end = next((place + 1 for place, token in enumerate(tokens) if token in self.ends), len(tokens))
        return list(tokens[:end])

    def _unlike_alone(self, rows: Sequence[Row]) -> str | None:
        """Why a model cannot be batched; None where two prompts of unlike length give the logits that each gives alone."""
        shortest = rows[-1]
        longer = next((row for row in reversed(rows) if len(row.prompt) > len(shortest.prompt)), rows[-2])
        trial = [Row(row.index, row.id, row.prompt, min(row.limit, _TRIAL_TOKENS), "") for row in (shortest, longer)]
        try:
            alone, together = self._deviation(trial[:1]), self._deviation(trial)
        except Exception as error:
            return f"a batch of two prompts fails ({first_line(error)})"
        if not alone < self.fault:  # nan is a fault, too
            return f"step by step it computes another thing than at once (logits differ by {alone:.0e})"
        if not together < self.fault:
            return f"beside a longer prompt it gives another answer (logits differ by {together:.0e})"
        self.tolerance = max(_TIE, _SAFETY * max(alone, together))
        return None

    def _deviation(self, rows: Sequence[Row]) -> float:
        """Largest difference of the logits of `generate` from those of one pass by each row, as share of the largest."""
        answers, steps = self._generate(rows, output_logits=True)
        worst = 0.0
        for row, tokens, logits in zip(rows, answers, torch.stack(steps, dim=1), strict=True):
            expected = torch.cat(list(self._logits(row.prompt, tokens)))
            deviation = (_finite(logits[: len(tokens)]) - _finite(expected)).abs().max() / _finite(expected).abs().max()
            worst = max(worst, float(deviation)) if deviation == deviation else float("nan")
        return worst

    def _stands_alone(self, row: Row) -> bool:
        """Whether one pass over a row by itself chooses its very tokens, with a margin that rounding does not reach.

        In half precision ties pass: a token need only lie within rounding of the best. The pass must also give the first
        token the logits that the prompt gives alone, else the model does otherwise with the length that the row has now
        than with the one that it had (rotary frequencies that switch).
        """
        (prompt_alone,) = self._logits(row.prompt, row.tokens[:1])
        place = 0
        for logits in self._logits(row.prompt, row.tokens):
            scale = _finite(logits).abs().amax(dim=1)
            if not place and not (_finite(logits[:1]) - _finite(prompt_alone)).abs().max() < self.fault * scale[0]:
                return False
            tokens = torch.tensor(row.tokens[place : place + len(logits)], device=self.device)[:, None]
            chosen = logits.gather(1, tokens)[:, 0]
            others = logits.scatter(1, tokens, -torch.inf).amax(dim=1)
            rounding = self.tolerance * scale
            if not (chosen - others > (rounding if self.exact else -rounding)).all():
                return False
            place += len(logits)
        return True

    def _logits(self, prompt: np.ndarray, tokens: Sequence[int], rows: int = 256) -> Iterator[torch.Tensor]:
        """What one forward pass says of the places of an answer's tokens: logits [up to `rows`, V], in fp32 or better."""
        input_ids = torch.tensor([[*prompt.tolist(), *tokens[:-1]]])
        for part in logits_of(self.model, input_ids, last=len(tokens))[0, -len(tokens) :].split(rows):
            yield part if part.dtype == torch.float64 else part.float()


def _finite(logits: torch.Tensor) -> torch.Tensor:
    """Logits with 0 for tokens that a model rules out (minus infinity), which have no size and differ by nothing."""
    return logits.masked_fill(logits == -torch.inf, 0.0)


class _HalfHasEnded(StoppingCriteria):
    """Stops a batch when at most half of its rows go on, and tells a meter of the tokens."""

    def __init__(self, ends: Sequence[int], rows: int, meter: Meter) -> None:
        self.ends, self.rows, self.meter = ends, rows, meter
        self.ended: torch.Tensor | None = None
        self.alive = rows

    def __call__(self, input_ids: torch.Tensor, scores: Any, **options: Any) -> torch.Tensor:
        self.meter.tokens(self.alive)
        now = torch.isin(input_ids[:, -1], torch.tensor(self.ends, device=input_ids.device))
        if self.rows > 1:
            self.ended = now if self.ended is None else self.ended | now
            self.alive = self.rows - int(self.ended.sum())
        return torch.full_like(now, self.rows > 1 and 2 * self.alive <= self.rows)


@contextmanager
def evaluation(model: Any) -> Iterator[None]:
    """Evaluation mode, no gradients and plain decoding inside; the model's own mode and settings afterwards.

    Not inference mode: buffers that a model changes on the way (rotary frequencies) must stay fit for gradients.
    """
    training, settings = model.training, getattr(model, "generation_config", None)
    model.eval()
    # Whatever `generate` is not told it takes from here: penalties, suppressed tokens, lengths.
    model.generation_config = GenerationConfig()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
        model.generation_config = settings
