"""Counts operations that a device would be called for."""

from collections import Counter

from torch.utils._python_dispatch import TorchDispatchMode

#: What allocates or renames memory and calls no kernel.
FREE = {
    "aten.empty",
    "aten.empty_like",
    "aten.empty_strided",
    "aten.new_empty",
    "aten.detach",
    "aten._unsafe_view",
    "aten.lift_fresh",
}


class CountedOperations(TorchDispatchMode):
    """Counts the operations that run within it, by name; views and allocations are free."""

    def __init__(self) -> None:
        super().__init__()
        self.by_name: Counter[str] = Counter()

    @property
    def count(self) -> int:
        """All of them."""
        return self.by_name.total()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func).rsplit(".", 1)[0]
        if not func.is_view and name not in FREE:
            self.by_name[name] += 1
        return func(*args, **(kwargs or {}))
