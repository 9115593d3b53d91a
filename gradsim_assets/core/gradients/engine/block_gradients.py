"""The gradients of one block: its variants are held, and the originals that they meet are streamed past them."""

from collections.abc import Callable, Iterator, Mapping, Sequence, Set

import numpy as np
import torch

from gradsim_assets.core.gradients.engine.collecting import collect_batches
from gradsim_assets.core.gradients.engine.meetings import Meeting, pair_blocks
from gradsim_assets.core.gradients.engine.pair_index import PairIndex
from gradsim_assets.core.gradients.engine.planning.pass_graph import VariantKey
from gradsim_assets.core.gradients.engine.planning.plan import Plan
from gradsim_assets.core.gradients.engine.request import ORIGINAL, Losses, PairBlock, PassRequest
from gradsim_assets.core.gradients.engine.results import Results
from gradsim_assets.core.gradients.engine.verification import Verification
from gradsim_assets.core.models.encoded_sample import EncodedSample
from gradsim_assets.core.sample_gradients.device_profile import DeviceProfile
from gradsim_assets.core.sample_gradients.held_gradients import HeldGradients
from gradsim_assets.core.sample_gradients.kept_gradient import KeptGradient
from gradsim_assets.core.sample_gradients.layout import Layout, Room
from gradsim_assets.core.sample_gradients.padded_batch import PaddedBatch, batch_shape
from gradsim_assets.core.sample_gradients.preconditioned_products import PlacedPreconditioner, PreconditionedProducts
from gradsim_assets.core.sample_gradients.preconditioning import Preconditioners
from gradsim_assets.core.sample_gradients.projections import Projector

#: Called with the number of samples whose gradients a batch has brought, and the setting or "original".
Counted = Callable[[int, str], None]

#: Samples that go through together, each with its setting or "original".
Batch = Sequence[tuple[str, EncodedSample]]


class BlockGradients:
    """Computes the blocks of a pass over a request, one at a time."""

    def __init__(
        self,
        verification: Verification,
        index: PairIndex,
        request: PassRequest,
        projectors: Mapping[float, list[Projector]],
        preconditioners: Preconditioners,
        profile: DeviceProfile,
        counted: Counted,
    ) -> None:
        #: Of every sample that has gone through.
        self.losses: Losses = {ORIGINAL: {}, **{setting: {} for setting in request.settings}}
        #: Padded tokens beside a sample in its batch, by (setting or ORIGINAL, id), of the block at hand.
        self.padding: dict[VariantKey, int] = {}
        #: Float64 [components] of originals that later blocks meet again.
        self._original_selves: dict[str, np.ndarray] = {}
        #: Gradients of originals that wait in the host's memory for later blocks, and the layout that they are of.
        self._kept: dict[str, KeptGradient] = {}
        self._kept_layout: Layout | None = None
        #: Originals of the block at hand that came from there.
        self.fetched: set[str] = set()
        #: By what is held as factors.
        self._layouts: dict[frozenset[int], Layout] = {}
        self._verification, self._hooks = verification, verification.hooks
        #: Changes of the hooks that layouts and self products know of.
        self._changes = self._hooks.changes
        self._index, self._request = index, request
        self._projectors, self._profile, self._counted = dict(projectors), profile, counted
        self._preconditioners, self._placed = preconditioners, dict[str, PlacedPreconditioner]()

    def compute(self, block: list[VariantKey], plan: Plan) -> Iterator[PairBlock]:
        """The rows of all pairs of a block's variants, tile by tile.

        Raises:
            HooksChangedError: the block is to be begun anew.
        """
        self._forget_if_changed()
        self.padding.clear()
        self.fetched.clear()
        self._hooks.plain.checkpointing.beyond = plan.checkpoint_beyond
        layout = self._layout(plan)
        self._forget_kept_but(plan.kept if layout is self._kept_layout else frozenset())
        self._kept_layout = layout
        variants = self._index.longest_first(block)
        own = [(key[0], self._index.variants[key]) for key in variants]
        batches = [own[part] for part in plan.batches([sample.length for _, sample in own])]
        held = HeldGradients(layout, self._room(layout, batches))
        self._fill(held, batches)
        yield from self._stream(held, variants, layout, plan)

    def _stream(
        self, held: HeldGradients, variants: list[VariantKey], layout: Layout, plan: Plan
    ) -> Iterator[PairBlock]:
        """The rows of the held variants' pairs: the originals that they meet come by tile by tile."""
        users = self._index.originals_met_by(variants)
        originals = [(ORIGINAL, self._index.originals[name]) for name in users]
        new = [one for one in originals if one[1].id not in self._kept]
        waiting = [one for one in originals if one[1].id in self._kept]
        tiles = [[new[part] for part in tile] for tile in plan.tiles([sample.length for _, sample in new])]
        fetched = [
            [waiting[part] for part in tile] for tile in plan.tiles_of_fetched([sample.length for _, sample in waiting])
        ]
        streamed = HeldGradients(layout, Room.most([self._room(layout, tile) for tile in [*tiles, *fetched]]))
        preconditioned = {
            name: PreconditionedProducts(held, self._place(name, plan)) for name in self._request.preconditioners
        }
        for tile in [*fetched, *tiles]:
            streamed.clear()
            names = [sample.id for batch in tile for _, sample in batch]
            if names[0] in self._kept:
                self._fetch(streamed, names)
            else:
                self._fill(streamed, tile)
            meetings = self._meetings(variants, {n: users[n] for n in names})
            yield from pair_blocks(held, streamed, meetings, self._request, preconditioned)
            if self._request.products and len(plan.blocks) > 1:
                self._original_selves |= zip(names, streamed.self_products(range(len(names))), strict=True)
            self._keep(streamed, [sample for batch in tile for _, sample in batch], plan)

    def _keep(self, streamed: HeldGradients, tile: Sequence[EncodedSample], plan: Plan) -> None:
        """Copies those of a tile's gradients that later blocks fetch into the host's memory."""
        for slot, sample in enumerate(tile):
            if sample.id in plan.kept and sample.id not in self._kept:
                self._kept[sample.id] = streamed.taken_out(slot, batch_shape([sample]))

    def _fetch(self, streamed: HeldGradients, names: Sequence[str]) -> None:
        """Fills the next slots with gradients from the host's memory."""
        for name in names:
            streamed.put_back(self._kept[name])
        self.fetched.update(names)

    @property
    def on_host(self) -> set[str]:
        """Originals whose gradients wait in the host's memory."""
        return set(self._kept)

    def _forget_kept_but(self, names: Set[str]) -> None:
        for name in self._kept.keys() - names:
            del self._kept[name]

    def distrust(self) -> None:
        """Forgets gradients that are held for later blocks: something was wrong with one."""
        self._kept.clear()
        self._original_selves.clear()

    def _place(self, name: str, plan: Plan) -> PlacedPreconditioner:
        keep = plan.preconditioners_kept
        if name not in self._placed or self._placed[name].keep != keep:
            self._placed[name] = PlacedPreconditioner(self._preconditioners[name], self._hooks.names, keep)
        return self._placed[name]

    def _room(self, layout: Layout, batches: Sequence[Batch]) -> Room:
        shapes = [batch_shape([sample for _, sample in batch]) for batch in batches]
        return Room.of(shapes, layout.profile.row_multiple)

    def _layout(self, plan: Plan) -> Layout:
        if plan.factored not in self._layouts:
            wanted = self._projectors, bool(self._request.products)
            self._layouts[plan.factored] = Layout.of(self._hooks, plan.factored, *wanted, self._profile)
        return self._layouts[plan.factored]

    def _forget_if_changed(self) -> None:
        """Forgets what was made of gradients that are collected otherwise by now."""
        if self._changes != self._hooks.changes:
            self._changes = self._hooks.changes
            self._layouts.clear()
            self.distrust()

    def _meetings(self, variants: list[VariantKey], users: dict[str, list[int]]) -> list[Meeting]:
        """The meetings of a tile: `users` holds its originals, and the slots of the variants that meet them."""
        return [
            Meeting(variants[held][0], held, streamed, self._index.rows[variants[held]][original])
            for streamed, (original, slots) in enumerate(users.items())
            for held in slots
        ]

    def _fill(self, held: HeldGradients, batches: Sequence[Batch]) -> None:
        """Collects the gradients of samples (with their setting) into the next slots."""
        prepared = PaddedBatch.of([[sample for _, sample in batch] for batch in batches], self._hooks.device)
        losses = collect_batches(
            self._verification,
            [[sample for _, sample in batch] for batch in batches],
            lambda number: self._collect(batches[number], prepared[number], held),
        )
        held.project()
        samples = [one for batch in batches for one in batch]
        for (setting, sample), loss in zip(samples, torch.cat(losses).tolist(), strict=True):
            self.losses[setting][sample.id] = loss

    def _collect(self, batch: Batch, padded: PaddedBatch, held: HeldGradients) -> torch.Tensor:
        """Losses [B] of one batch, on the device; slots that an interrupted one has begun to fill are filled anew."""
        held.begin(padded.shape)
        losses = self._hooks.backward(padded, held)
        held.finish([self._original_selves.get(s.id) if setting == ORIGINAL else None for setting, s in batch])
        for setting, sample in batch:
            self.padding[setting, sample.id] = padded.shape.tokens - sample.length
        self._counted(len(batch), batch[0][0])
        return losses

    def losses_of(self, block: list[VariantKey]) -> Losses:
        """The losses of a block that was computed."""
        found: Losses = {ORIGINAL: {name: self.losses[ORIGINAL][name] for name in self._index.originals_met_by(block)}}
        for setting, variant in block:
            found.setdefault(setting, {})[variant] = self.losses[setting][variant]
        return found

    def restore(self, block: list[VariantKey], losses: Losses, results: Results) -> None:
        """Takes over the losses, and the originals' self products, of a block that was computed before."""
        for setting, values in losses.items():
            self.losses[setting].update(values)
        for key in block:
            if key[0] in self._request.products:
                selves = results.of("original_self")[key[0]]
                for original, rows in self._index.rows[key].items():
                    self._original_selves[original] = np.array(selves[rows[0]])
