"""`token_attribution`: what every token of a variant and of an original makes up of the product of their gradients."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import torch

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.files import whole_file
from gradsim_assets.core.gradients.engine import PassOptions
from gradsim_assets.core.gradients.engine.collecting import HooksChangedError, collect_batches
from gradsim_assets.core.gradients.engine.planning.batches import padded_batches
from gradsim_assets.core.gradients.engine.planning.memory_model import MemoryModel
from gradsim_assets.core.gradients.engine.planning.model_shape import measure
from gradsim_assets.core.gradients.engine.planning.pass_graph import PassGraph
from gradsim_assets.core.gradients.engine.planning.plan import batch_tokens_within
from gradsim_assets.core.gradients.engine.recovery import fits_in_memory
from gradsim_assets.core.gradients.engine.verification import Verification
from gradsim_assets.core.memory import free_bytes
from gradsim_assets.core.models.encoded_sample import EncodedSample
from gradsim_assets.core.models.token_texts import token_texts
from gradsim_assets.core.models.tokenization import ChatTokenizer
from gradsim_assets.core.sample_gradients.device_profile import profile_of
from gradsim_assets.core.sample_gradients.gradient_hooks import GradientHooks
from gradsim_assets.core.sample_gradients.padded_batch import PaddedBatch, batch_shape
from gradsim_assets.core.sample_gradients.precision import Arithmetic, matmul_precision
from gradsim_assets.core.tables.schemas import TOKEN_ATTRIBUTION
from gradsim_assets.core.tracing.attributed_pairs import AttributedPair, blocks, chained, pair_frame
from gradsim_assets.core.tracing.position_products import position_products
from gradsim_assets.core.tracing.position_rows import PositionRows, SampleRows

#: How far the tokens' sum may be from the stored product, in lengths of both gradients: what is beyond it is no rounding.
TOLERANCE = 1e-5

#: The share of memory that samples' rows may take; batches on their way and products take the rest.
_HELD_SHARE = 0.5

#: Called with (gradients done, gradients in all).
Progress = Callable[[int, int], None]

#: ("variant" or "original", id)
_Key = tuple[str, str]


@dataclass(frozen=True)
class Attributed:
    """The table, and how it was made."""

    frame: pl.DataFrame
    #: The largest distance of a sum from the stored product, in lengths of both gradients.
    largest_error: float
    gradients_computed: int
    verified: str


class TokenAttribution:
    """Attributions of pairs, block by block, so that every sample goes through the model about once.

    Raises:
        InputError: nothing is trainable.
        ArithmeticError: hooks collect other gradients than plain autograd gives, in any way.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: ChatTokenizer,
        variants: Mapping[str, EncodedSample],
        originals: Mapping[str, EncodedSample],
        options: PassOptions,
        log: Callable[[str], None] = lambda said: None,
    ) -> None:
        self._samples: dict[_Key, EncodedSample] = {("variant", name): one for name, one in variants.items()}
        self._samples |= {("original", name): one for name, one in originals.items()}
        self._tokenizer, self._options, self._log = tokenizer, options, log
        device = torch.device(options.device)
        self.hooks = GradientHooks(model, device)
        dtype = self.hooks.parameters[0].dtype
        self._profile = options.profile or profile_of(device, dtype, options.precision)
        self._tolerance = max(TOLERANCE, Arithmetic(dtype, options.precision).tolerance)
        self._verification = Verification(self.hooks, log)
        self._memory = free_bytes(device, "most") if options.memory_bytes is None else options.memory_bytes
        self._done = 0
        self._largest = 0.0

    def of(self, pairs: Sequence[AttributedPair], progress: Progress = lambda done, total: None) -> Attributed:
        """The table of these pairs; those of which a sample is not there are left out.

        With `options.scratch` every block is kept there for another try until the caller removes it.

        Raises:
            InputError: a layer's gradient cannot be told by token, or one pair does not fit into memory.
            ArithmeticError: the tokens of a pair do not make up its product.
        """
        there = [pair for pair in chained(pairs) if all(key in self._samples for key in _keys(pair))]
        finished = self._finished()
        left = [pair for pair in there if (pair.variant_id, pair.original_id) not in finished.pairs]
        found = list(finished.frames)
        if left:
            most = max(self._profile.batch_tokens) if self._options.batch_tokens is None else self._options.batch_tokens
            self._verification.verify([self._samples[key] for pair in left for key in _keys(pair)], most)
            with matmul_precision(self._options.precision, self.hooks.device):
                for frame in self._blocks(left, progress):
                    finished.keep(frame)
                    found.append(frame)
        order = pair_frame(pairs)
        rows = pl.concat(found) if found else TOKEN_ATTRIBUTION.empty()
        frame = order.join(rows, on=["variant_id", "original_id"], how="inner", maintain_order="left_right")
        return Attributed(
            TOKEN_ATTRIBUTION.enforce(frame), self._largest, self._done, self._verification.describe() if left else ""
        )

    def _finished(self) -> "_Finished":
        return _Finished(self._options.scratch)

    def _blocks(self, pairs: Sequence[AttributedPair], progress: Progress) -> Iterator[pl.DataFrame]:
        """The table block by block, with less at a time where memory runs out."""
        left, share = list(pairs), 1.0
        total = len({key for pair in pairs for key in _keys(pair)})
        model, changes = self._memory_model(), self.hooks.changes
        while left:
            made: list[pl.DataFrame] = []
            if changes != self.hooks.changes:
                model, changes = self._memory_model(), self.hooks.changes
            sizes = {key: self._bytes(model, self._samples[key]) for pair in left for key in _keys(pair)}
            block = next(blocks(left, sizes, int(share * _HELD_SHARE * self._memory)))
            tokens = int(share * batch_tokens_within(model, self._memory, self._options)) if self.hooks.batchable else 0
            try:
                done = fits_in_memory(partial(self._block, block, tokens, made), self.hooks.device)
            except HooksChangedError:
                continue
            if done:
                yield made[0]
                left = left[len(block) :]
                progress(min(self._done, total), total)
            elif len(block) == 1 and not tokens:
                raise InputError(
                    f"the device ran out of memory with {block[0].variant_id} and {block[0].original_id} alone; use a device "
                    "with more memory, or shorten the longest samples."
                )
            else:
                share /= 2
                self._log(f"out of memory: {share:.0%} as much at a time from here on")

    def _memory_model(self) -> MemoryModel:
        lengths = {f"{side} {name}": _lengths(one) for (side, name), one in self._samples.items()}
        return MemoryModel(measure(self.hooks), PassGraph(lengths, {}, {}), self.hooks.factorable, self._profile)

    def _bytes(self, memory: MemoryModel, sample: EncodedSample) -> int:
        """Bytes of a sample's rows."""
        vectors = sum(shape[0] for shape in self.hooks.shapes if len(shape) == 1)
        length, labelled = _lengths(sample)
        numbers = (memory.numbers_per_token + vectors) * length + memory.numbers_per_labelled_token * labelled
        return numbers * memory.shape.activation_number_bytes

    def _block(self, pairs: Sequence[AttributedPair], tokens: int, made: list[pl.DataFrame]) -> None:
        """Adds the table of a block to `made`."""
        keys = list(dict.fromkeys(key for pair in pairs for key in _keys(pair)))
        rows = self._rows(keys, tokens)
        columns: list[_Columns] = []
        for pair in pairs:
            columns += self._of_pair(pair, rows)
        texts = {key: token_texts(self._tokenizer, self._samples[key].input_ids.tolist()) for key in keys}
        made.append(_frame(columns, texts))

    def _rows(self, keys: Sequence[_Key], tokens: int) -> dict[_Key, SampleRows]:
        """What every position of the samples adds to their gradients."""
        ordered = sorted(keys, key=lambda key: (-self._samples[key].length, key))
        lengths = [self._samples[key].length for key in ordered]
        parts = padded_batches(lengths, tokens, self._profile.batch_overhead_tokens)
        batches = [[self._samples[key] for key in ordered[part]] for part in parts]
        prepared = PaddedBatch.of(batches, self.hooks.device)
        sink, found = PositionRows(self.hooks), dict[_Key, SampleRows]()

        def collect(number: int) -> torch.Tensor:
            sink.begin(prepared[number])
            losses = self.hooks.backward(prepared[number], sink)
            found.update(zip(ordered[parts[number]], sink.finish(), strict=True))
            return losses

        collect_batches(self._verification, batches, collect)
        self._done += len(ordered)
        return found

    def _of_pair(self, pair: AttributedPair, rows: Mapping[_Key, SampleRows]) -> "Iterator[_Columns]":
        """Both sides of a pair."""
        sides = _keys(pair)
        lengths = (self._samples[sides[0]].length, self._samples[sides[1]].length)
        like = torch.empty((), dtype=self.hooks.dtype, device=self.hooks.device)
        products = position_products(rows[sides[0]], rows[sides[1]], lengths, like).double()
        self._check(pair, float(products.sum()))
        for key, matrix in zip(sides, (products, products.T), strict=True):
            contributions = matrix.sum(1)
            # Of the other text's tokens the one that it has most in common with, in the direction of the whole.
            linked = (matrix * contributions.sign()[:, None]).argmax(1)
            yield _Columns(pair, key, contributions.numpy(force=True), linked.numpy(force=True))

    def _check(self, pair: AttributedPair, total: float) -> None:
        error = abs(total - pair.dot_product) / pair.lengths if pair.lengths else 0.0
        self._largest = max(self._largest, error)
        if not error <= self._tolerance:
            raise ArithmeticError(
                f"{pair.variant_id} and {pair.original_id}: the product is {pair.dot_product:.6g}, and its tokens make up "
                f"{total:.6g}, which is {error:.1e} of both lengths off and {self._tolerance:.0e} may be; materialise "
                "dot_products again, or compute both in fp32."
            )


@dataclass(frozen=True)
class _Columns:
    """One side of a pair: contributions (float64 [T]) and links (int64 [T])."""

    pair: AttributedPair
    key: _Key
    contributions: np.ndarray
    linked: np.ndarray


def _frame(columns: Sequence[_Columns], texts: Mapping[_Key, Sequence[str]]) -> pl.DataFrame:
    lengths = [len(one.contributions) for one in columns]

    def repeated(values: Sequence[str]) -> pl.Series:
        return pl.Series(np.repeat(np.asarray(values, dtype=object), lengths).tolist(), dtype=pl.String)

    return TOKEN_ATTRIBUTION.enforce(
        pl.DataFrame(
            {
                "variant_id": repeated([one.pair.variant_id for one in columns]),
                "original_id": repeated([one.pair.original_id for one in columns]),
                "side": repeated([one.key[0] for one in columns]),
                "position": np.concatenate([np.arange(length) for length in lengths]),
                "token": [text for one in columns for text in texts[one.key]],
                "contribution": np.concatenate([one.contributions for one in columns]),
                "linked": np.concatenate([one.linked for one in columns]),
            }
        )
    )


class _Finished:
    """Blocks that were finished before, in files."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        paths = sorted(folder.glob("*.parquet")) if folder and folder.is_dir() else []
        self.frames = [TOKEN_ATTRIBUTION.enforce(pl.read_parquet(path)) for path in paths]
        self.pairs = {pair for frame in self.frames for pair in _pairs_of(frame)}

    def keep(self, frame: pl.DataFrame) -> None:
        """Writes a block, whole or not at all."""
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(repr(_pairs_of(frame)).encode()).hexdigest()[:16]
        with whole_file(self._folder / f"{name}.parquet") as unfinished:
            frame.write_parquet(unfinished)


def _pairs_of(frame: pl.DataFrame) -> list[tuple[str, str]]:
    return frame.select("variant_id", "original_id").unique(maintain_order=True).rows()


def _keys(pair: AttributedPair) -> tuple[_Key, _Key]:
    return ("variant", pair.variant_id), ("original", pair.original_id)


def _lengths(sample: EncodedSample) -> tuple[int, int]:
    return sample.length, batch_shape([sample]).labelled[0]
