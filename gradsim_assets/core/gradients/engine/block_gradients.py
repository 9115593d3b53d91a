"""The gradients of one block: its variants are held, and the originals that they meet are streamed past them."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from gradsim_assets.core.gradients.engine.meetings import Meeting, pair_blocks
from gradsim_assets.core.gradients.engine.pair_index import PairIndex
from gradsim_assets.core.gradients.engine.planning.batches import padded_batches
from gradsim_assets.core.gradients.engine.planning.pass_graph import VariantKey
from gradsim_assets.core.gradients.engine.planning.plan import Plan
from gradsim_assets.core.gradients.engine.request import ORIGINAL, Losses, PairBlock, PassRequest
from gradsim_assets.core.gradients.engine.values.gradient_hooks import GradientHooks
from gradsim_assets.core.gradients.engine.values.held_gradients import HeldGradients
from gradsim_assets.core.gradients.engine.values.layout import Layout
from gradsim_assets.core.gradients.projections import Projector
from gradsim_assets.core.models.encoded_sample import EncodedSample

#: Called with the number of samples whose gradients a batch has brought, and the setting or "original".
Counted = Callable[[int, str], None]


class BlockGradients:
    """Computes the blocks of a pass over a request, one at a time."""

    def __init__(
        self,
        hooks: GradientHooks,
        index: PairIndex,
        request: PassRequest,
        projectors: Mapping[float, list[Projector]],
        counted: Counted,
    ) -> None:
        #: Of every sample that has gone through.
        self.losses: Losses = {ORIGINAL: {}, **{setting: {} for setting in request.settings}}
        self._hooks, self._index, self._request = hooks, index, request
        self._projectors, self._counted = dict(projectors), counted

    def compute(self, block: list[VariantKey], plan: Plan) -> Iterator[PairBlock]:
        """The rows of all pairs of a block's variants, tile by tile."""
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
        with self._hooks.open():
            for batch in padded_batches(samples, plan.batch_tokens if self._hooks.batchable else 0):
                held.begin(len(batch))
                losses = self._hooks.backward([sample for _, sample in batch], held)
                held.finish(len(batch))
                for (setting, sample), loss in zip(batch, losses, strict=True):
                    self.losses[setting][sample.id] = loss
                self._counted(len(batch), batch[0][0])
        held.project()

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
