"""The gradients of one block: its variants are held, and the originals that they meet are streamed past them."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence

from gradsim_assets.core.gradients.engine.meetings import Meeting, pair_blocks
from gradsim_assets.core.gradients.engine.pair_index import PairIndex
from gradsim_assets.core.gradients.engine.planning.batches import padded_batches
from gradsim_assets.core.gradients.engine.planning.pass_graph import VariantKey
from gradsim_assets.core.gradients.engine.planning.plan import Plan
from gradsim_assets.core.gradients.engine.request import ORIGINAL, Losses, PairBlock, PassRequest
from gradsim_assets.core.gradients.engine.values.gradient_hooks import UnprovenError
from gradsim_assets.core.gradients.engine.values.held_gradients import HeldGradients
from gradsim_assets.core.gradients.engine.values.layers import UnbatchableError
from gradsim_assets.core.gradients.engine.values.layout import Layout
from gradsim_assets.core.gradients.engine.verification import Verification
from gradsim_assets.core.gradients.projections import Projector
from gradsim_assets.core.models.encoded_sample import EncodedSample


class HooksChangedError(Exception):
    """How gradients are collected has changed on the way, so that what is held does not fit what is to come."""


#: Called with the number of samples whose gradients a batch has brought, and the setting or "original".
Counted = Callable[[int, str], None]


class BlockGradients:
    """Computes the blocks of a pass over a request, one at a time."""

    def __init__(
        self,
        verification: Verification,
        index: PairIndex,
        request: PassRequest,
        projectors: Mapping[float, list[Projector]],
        counted: Counted,
    ) -> None:
        #: Of every sample that has gone through.
        self.losses: Losses = {ORIGINAL: {}, **{setting: {} for setting in request.settings}}
        #: Padded tokens beside a sample in its batch, by (setting or ORIGINAL, id), of the block at hand.
        self.padding: dict[VariantKey, int] = {}
        self._verification, self._hooks = verification, verification.hooks
        self._index, self._request = index, request
        self._projectors, self._counted = dict(projectors), counted

    def compute(self, block: list[VariantKey], plan: Plan) -> Iterator[PairBlock]:
        """The rows of all pairs of a block's variants, tile by tile.

        Raises:
            HooksChangedError: the block is to be begun anew.
        """
        self.padding.clear()
        layout = self._layout(plan)
        variants = self._index.longest_first(block)
        held = HeldGradients(layout, len(variants))
        self._fill(held, [(key[0], self._index.variants[key]) for key in variants], plan)
        users = self._index.originals_met_by(variants)
        originals = list(users)
        streamed = HeldGradients(layout, min(plan.tile, len(originals)))
        for start in range(0, len(originals), plan.tile):
            tile = originals[start : start + plan.tile]
            streamed.clear()
            self._fill(streamed, [(ORIGINAL, self._index.originals[name]) for name in tile], plan)
            meetings = self._meetings(variants, {name: users[name] for name in tile})
            yield from pair_blocks(held, streamed, meetings, self._request)

    def _layout(self, plan: Plan) -> Layout:
        return Layout(
            shapes=self._hooks.shapes,
            factored=plan.factored & self._hooks.factorable,
            projectors=self._projectors,
            dtype=self._hooks.dtype,
            device=self._hooks.device,
            products=bool(self._request.products),
        )

    def _meetings(self, variants: list[VariantKey], users: dict[str, list[int]]) -> list[Meeting]:
        """The meetings of a tile: `users` holds its originals, and the slots of the variants that meet them."""
        return [
            Meeting(variants[held][0], held, streamed, self._index.rows[variants[held]][original])
            for streamed, (original, slots) in enumerate(users.items())
            for held in slots
        ]

    def _fill(self, held: HeldGradients, samples: Sequence[tuple[str, EncodedSample]], plan: Plan) -> None:
        """Collects the gradients of samples (of falling length, with their setting) into the next slots."""
        left = deque(padded_batches(samples, plan.batch_tokens if self._hooks.batchable else 0))
        while left:
            try:
                with self._hooks.open():
                    while left:
                        self._collect(left[0], held)
                        left.popleft()
            except UnprovenError as error:
                unproven = error
            except UnbatchableError as error:
                self._verification.forbid_batches()
                raise HooksChangedError from error
            else:
                continue
            if not self._verification.cover(unproven.samples, unproven.components):
                raise HooksChangedError
        held.project()

    def _collect(self, batch: Sequence[tuple[str, EncodedSample]], held: HeldGradients) -> None:
        """One batch; slots that an interrupted one has begun to fill are filled anew."""
        held.begin(len(batch))
        losses = self._hooks.backward([sample for _, sample in batch], held)
        held.finish(len(batch))
        longest = max(sample.length for _, sample in batch)
        for (setting, sample), loss in zip(batch, losses, strict=True):
            self.losses[setting][sample.id] = loss
            self.padding[setting, sample.id] = longest - sample.length
        self._counted(len(batch), batch[0][0])

    def losses_of(self, block: list[VariantKey]) -> Losses:
        """The losses of a block that was computed."""
        found: Losses = {ORIGINAL: {name: self.losses[ORIGINAL][name] for name in self._index.originals_met_by(block)}}
        for setting, variant in block:
            found.setdefault(setting, {})[variant] = self.losses[setting][variant]
        return found

    def restore(self, losses: Losses) -> None:
        """Takes over the losses of a block that was computed before."""
        for setting, values in losses.items():
            self.losses[setting].update(values)
