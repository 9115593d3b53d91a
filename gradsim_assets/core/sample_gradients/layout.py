"""How gradients are held: which components as factors, which formed, and the projections that go with them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from gradsim_assets.core.sample_gradients.device_profile import DeviceProfile, profile_of
from gradsim_assets.core.sample_gradients.factor_stacks import Call, FactorStacks, stackable_calls
from gradsim_assets.core.sample_gradients.gradient_hooks import GradientHooks
from gradsim_assets.core.sample_gradients.padded_batch import BatchShape
from gradsim_assets.core.sample_gradients.projections import Projector


@dataclass(frozen=True)
class LayoutPart:
    """What is held on one device: the gradients of the components whose weights are there."""

    device: torch.device
    #: The components that are held as factors, and how.
    stacks: FactorStacks
    #: Components that are formed.
    formed: list[int]

    @property
    def components(self) -> list[int]:
        """All of them, ascending."""
        return sorted([*self.formed, *self.stacks.components])


@dataclass(frozen=True)
class Layout:
    """What all gradients of a block have in common."""

    #: Shapes of the components, in model order.
    shapes: list[torch.Size]
    #: By component: the device of its weight, where all that is held of its gradients is, too.
    devices: list[torch.device]
    #: How they are held, by device: one part, unless the model is spread over several.
    parts: list[LayoutPart]
    #: By proportion: the projector of each component.
    projectors: Mapping[float, list[Projector]]
    #: In which gradients are formed and multiplied.
    dtype: torch.dtype
    #: In which factors are held.
    factor_dtype: torch.dtype
    profile: DeviceProfile
    #: Whether per-component products are wanted, or projections alone.
    products: bool = True

    @classmethod
    def of(
        cls,
        hooks: GradientHooks,
        factored: frozenset[int] | None = None,
        projectors: Mapping[float, list[Projector]] | None = None,
        products: bool = True,
        profile: DeviceProfile | None = None,
    ) -> "Layout":
        """The layout of a model's gradients; what can be is held as factors, or what is among `factored` alone."""
        calls = [call for call in stackable_calls(hooks) if factored is None or call.component in factored]
        return cls(
            shapes=hooks.shapes,
            devices=hooks.devices,
            parts=[_part(calls, hooks.devices, device) for device in dict.fromkeys(hooks.devices)],
            projectors=projectors or {},
            dtype=hooks.dtype,
            factor_dtype=hooks.parameters[0].dtype,
            profile=profile or profile_of(hooks.device),
            products=products,
        )


def _part(calls: Sequence[Call], devices: Sequence[torch.device], device: torch.device) -> LayoutPart:
    """The part of one device, given the device of each component."""
    stacks = FactorStacks.of([call for call in calls if devices[call.component] == device])
    factored = set(stacks.components)
    own = [component for component, where in enumerate(devices) if where == device]
    return LayoutPart(device, stacks, [component for component in own if component not in factored])


@dataclass(frozen=True)
class Room:
    """Samples, and rows of their factors, that are held at a time at most."""

    samples: int
    #: Rows of all tokens, and of labelled tokens.
    rows: int
    labelled_rows: int

    @classmethod
    def of(cls, batches: Sequence[BatchShape], multiple: int) -> "Room":
        """The room that these batches take together, their rows padded to a multiple."""
        return cls(
            sum(batch.samples for batch in batches),
            sum(batch.samples * padded(batch.tokens, multiple) for batch in batches),
            sum(batch.samples * padded(batch.labelled_tokens, multiple) for batch in batches),
        )

    @classmethod
    def most(cls, rooms: Sequence["Room"]) -> "Room":
        """Room for any of these."""
        return cls(
            max(room.samples for room in rooms),
            max(room.rows for room in rooms),
            max(room.labelled_rows for room in rooms),
        )


def padded(rows: int, multiple: int) -> int:
    """The number of rows, filled up to a multiple."""
    return -(-rows // multiple) * multiple


def adjacent(widths: list[int]) -> list[slice]:
    """Columns of blocks of these widths that stand side by side in a row."""
    ends = list(accumulate(widths))
    return [slice(end - width, end) for end, width in zip(ends, widths, strict=True)]
