"""Meetings of held variants with streamed originals, and the rows of the output that come of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from gradsim_assets.core.gradients.engine.request import PairBlock, PassRequest
from gradsim_assets.core.sample_gradients.held_gradients import HeldGradients
from gradsim_assets.core.sample_gradients.preconditioned_products import PreconditionedProducts


@dataclass(frozen=True)
class Meeting:
    """One held variant and one streamed original that are compared."""

    #: The variant's.
    setting: str
    #: Slot of the variant among the held gradients.
    held: int
    #: Slot of the original among the streamed gradients.
    streamed: int
    #: Rows of the setting's output that ask for this comparison.
    rows: list[int]


def pair_blocks(
    held: HeldGradients,
    streamed: HeldGradients,
    meetings: Sequence[Meeting],
    request: PassRequest,
    preconditioned: Mapping[str, PreconditionedProducts],
) -> Iterator[PairBlock]:
    """The rows of these meetings, a block for each setting.

    Products of all meetings are taken at once, since settings share the originals.
    """
    components = len(held.layout.shapes)
    wanted = [meeting.setting in request.products for meeting in meetings]
    products = _of_wanted(meetings, wanted, (components,), partial(held.products, streamed))
    under_projections = {}
    for proportion in held.layout.projectors:
        wanted = [proportion in request.projections.get(meeting.setting, ()) for meeting in meetings]
        take_products = partial(held.projected_products, proportion, streamed)
        under_projections[proportion] = _of_wanted(meetings, wanted, (3,), take_products)
    products_under = {}
    for name, under in preconditioned.items():
        wanted = [name in request.preconditioned.get(meeting.setting, ()) for meeting in meetings]
        products_under[name] = _of_wanted(meetings, wanted, (3, components), partial(under.of_pairs, streamed))
    for setting in sorted({meeting.setting for meeting in meetings}):
        # A meeting that several rows ask for is taken several times.
        take = [place for place, m in enumerate(meetings) if m.setting == setting for _ in m.rows]
        rows = [row for m in meetings if m.setting == setting for row in m.rows]
        exact = setting in request.products
        yield PairBlock(
            setting=setting,
            rows=np.asarray(rows),
            dot_products=products[take] if exact else None,
            variant_self=held.self_products([meetings[place].held for place in take]) if exact else None,
            original_self=streamed.self_products([meetings[place].streamed for place in take]) if exact else None,
            projected={p: under_projections[p][take] for p in request.projections.get(setting, ())},
            preconditioned={name: products_under[name][take] for name in request.preconditioned.get(setting, ())},
        )


def _of_wanted(
    meetings: Sequence[Meeting],
    wanted: Sequence[bool],
    shape: tuple[int, ...],
    compute: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> np.ndarray:
    """Float64 [meetings, *shape]: what `compute` makes of the slots of the wanted meetings, NaN for the others."""
    out = np.full((len(meetings), *shape), np.nan)
    chosen = [meeting for meeting, one in zip(meetings, wanted, strict=True) if one]
    if chosen:
        slots = np.asarray([meeting.held for meeting in chosen]), np.asarray([meeting.streamed for meeting in chosen])
        out[np.asarray(wanted)] = compute(*slots)
    return out
