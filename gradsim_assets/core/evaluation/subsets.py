"""Halves of the originals that models are retrained on."""

from collections.abc import Collection

from gradsim_assets.core.seeds import stable_seed


def half(ids: Collection[str], subset: str) -> frozenset[str]:
    """The half of the originals (the smaller one, of an odd number) that a subset key stands for.

    Drawn by a seed from the ids alone, and so the same in whatever order they come.
    """
    return frozenset(sorted(ids, key=lambda one: (stable_seed("subset", subset, one), one))[: len(ids) // 2])
