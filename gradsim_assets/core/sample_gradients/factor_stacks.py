"""How the factors of a model's layers are stacked, so that one operation serves all layers that are alike.

A matrix's factors are its input (I features a token) and the gradient of its output (O features), or the other way
round where the parameter is stored as [I, O]. Inputs that are alike in width, and in what reads them, stand in one
stack; so do the output gradients of what reads them. An input that several matrices read (q, k and v do) is in its
stack once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from gradsim_assets.core.sample_gradients.gradient_hooks import GradientHooks
from gradsim_assets.core.sample_gradients.layers import EmbeddingUse, MatrixUse, ParameterUse

#: Tokens of the pass that a model is looked at in.
LOOKED_AT_TOKENS = 10


@dataclass(frozen=True)
class Call:
    """One call of a module that uses a matrix: a summand of the matrix's gradient."""

    use: ParameterUse
    component: int
    #: Width of the left factor: 0 for token ids.
    left: int
    right: int
    #: The same number for calls that share their right factor.
    shared: int
    #: Whether its rows are the labelled tokens alone.
    labelled: bool


@dataclass(frozen=True)
class LeftStack:
    """Left factors [G * r, rows, O] of matrices that read the G right factors of a stack, r of them each."""

    #: O; 0 for token ids.
    width: int
    #: r
    per_right: int
    #: Of each of the G * r.
    components: tuple[int, ...]


@dataclass(frozen=True)
class RightStack:
    """Right factors [G, rows, I], and the left factors that go with them."""

    #: I
    width: int
    #: G
    count: int
    labelled: bool
    lefts: tuple[LeftStack, ...]


@dataclass(frozen=True)
class Place:
    """Where a call's factors stand."""

    stack: int
    #: Among the stack's right factors.
    right: int
    #: Which of the stack's left stacks, and where in it.
    left_stack: int
    left: int


@dataclass(frozen=True)
class FactorStacks:
    """The stacks of some components, and every call's place in them."""

    stacks: tuple[RightStack, ...]
    #: By use: its calls' places, in the order of the calls.
    places: Mapping[ParameterUse, tuple[Place, ...]]
    #: Pairs of different places that hold summands of one component: (component, one place, another).
    crossing: tuple[tuple[int, Place, Place], ...]

    @classmethod
    def of(cls, calls: Sequence[Call]) -> "FactorStacks":
        """Stacks of these calls; all calls of a component must be among them."""
        readers: dict[int, list[Call]] = {}
        for call in calls:
            readers.setdefault(call.shared, []).append(call)
        alike: dict[tuple[Any, ...], list[list[Call]]] = {}
        for own in readers.values():
            own.sort(key=lambda call: call.left)  # stable: in the order of calls within a width
            alike.setdefault((own[0].right, own[0].labelled, *(call.left for call in own)), []).append(own)
        stacks = tuple(_stack(groups) for groups in alike.values())
        places = _places(alike.values())
        by_component: dict[int, list[Place]] = {}
        for call, place in places:
            by_component.setdefault(call.component, []).append(place)
        return cls(
            stacks,
            {use: tuple(place for call, place in places if call.use is use) for use in {c.use: 0 for c in calls}},
            tuple((c, a, b) for c, own in by_component.items() for a in own for b in own if a is not b),
        )

    @property
    def components(self) -> list[int]:
        """The components that are stacked, ascending."""
        return sorted({c for stack in self.stacks for left in stack.lefts for c in left.components})


def _stack(groups: list[list[Call]]) -> RightStack:
    """The stack of right factors that are read alike: each group holds the calls that read one."""
    first = groups[0]
    lefts = []
    for width in dict.fromkeys(call.left for call in first):
        components = tuple(call.component for group in groups for call in group if call.left == width)
        lefts.append(LeftStack(width, len(components) // len(groups), components))
    return RightStack(first[0].right, len(groups), first[0].labelled, tuple(lefts))


def _places(alike: Any) -> list[tuple[Call, Place]]:
    places = []
    for stack, groups in enumerate(alike):
        widths = list(dict.fromkeys(call.left for call in groups[0]))
        taken = [0] * len(widths)
        for right, group in enumerate(groups):
            for call in group:
                left_stack = widths.index(call.left)
                places.append((call, Place(stack, right, left_stack, taken[left_stack])))
                taken[left_stack] += 1
    return places


def stackable_calls(hooks: GradientHooks) -> list[Call]:
    """Calls of the factorable components whose modules were seen to take one row for every token.

    Others (experts that see some tokens only, projections of heads one by one) have as many rows as they like, and
    their gradients are formed as they come.
    """
    seen = _seen(hooks)
    calls, left_out = [], set()
    for use in hooks.uses:
        component = use.components.get("weight")
        if component is None or component not in hooks.factorable:
            continue
        inputs = seen.get(use, [])
        if not inputs or any(one is None for one in inputs):
            left_out.add(component)
        rows, columns = hooks.parameters[component].shape
        for shared in inputs:
            left = 0 if isinstance(use, EmbeddingUse) else rows
            calls.append(Call(use, component, left, columns, shared or 0, use.labelled))
    return [call for call in calls if call.component not in left_out]


def _seen(hooks: GradientHooks) -> dict[ParameterUse, list[int | None]]:
    """The calls of every use in a forward pass: a number for each right factor, None where rows are not tokens."""
    inputs: list[torch.Tensor] = []
    seen: dict[ParameterUse, list[int | None]] = {}

    def remember(use: ParameterUse, given: torch.Tensor) -> None:
        calls = seen.setdefault(use, [])
        rows = given.numel() if isinstance(use, EmbeddingUse) else given.numel() // given.shape[-1]
        if rows != LOOKED_AT_TOKENS and not use.labelled:
            calls.append(None)
        elif calls or not isinstance(use, MatrixUse) or use.transposed or use.labelled:
            # The right factor of an embedding, and of a parameter stored as [I, O], is its own output's gradient.
            calls.append(-1 - sum(map(len, seen.values())))
        else:
            known = next((number for number, tensor in enumerate(inputs) if tensor is given), len(inputs))
            inputs.append(given)
            calls.append(known)

    try:
        with hooks.open(), _watched(hooks, remember):
            hooks.forward_only(torch.zeros(1, LOOKED_AT_TOKENS, dtype=torch.int64, device=hooks.device))
    except Exception:
        if not any(type(buffer).__name__ == "FakeTensor" for buffer in hooks.model.buffers()):
            raise
        # Routing by value and some kernels have no fake form (experts): nothing is taken to be shared.
        return {use: [number] for number, use in enumerate(hooks.uses)}
    return seen


@contextmanager
def _watched(hooks: GradientHooks, remember: Callable[[ParameterUse, torch.Tensor], None]) -> Iterator[None]:
    """`remember` hears of every call of a use, and of its input."""

    def watch(use: ParameterUse) -> Callable[[], None]:
        def seen(given: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
            remember(use, given)
            return output

        return use.watch(seen)

    ends = [watch(use) for use in hooks.uses]
    try:
        yield
    finally:
        for end in reversed(ends):
            end()
