"""Which originals' gradients are kept in the host's memory, since several blocks meet them and fetching is faster."""

from collections import Counter
from collections.abc import Mapping, Sequence, Set

from gradsim_assets.core.gradients.engine.planning.cost_model import computing_seconds
from gradsim_assets.core.gradients.engine.planning.memory_model import MemoryModel
from gradsim_assets.core.gradients.engine.planning.pass_graph import VariantKey


def kept_originals(
    memory: MemoryModel,
    blocks: Sequence[Sequence[VariantKey]],
    partners: Mapping[VariantKey, Set[str]],
    host_bytes: int,
) -> frozenset[str]:
    """Ids of the originals to keep in up to `host_bytes` of the host's memory: those that save most time for their bytes.

    A kept original is computed for the first block that meets it, goes to the host once, and comes back for every other.
    """
    rate = memory.profile.host_bytes_per_second
    if rate is None or len(blocks) < 2:
        return frozenset()
    times = Counter(original for block in blocks for original in {one for key in block for one in partners[key]})
    worth = []
    for original, blocks_meeting in times.items():
        lengths = memory.graph.originals[original]
        size = memory.stored_bytes(lengths)
        fetching = size / rate
        saved = (blocks_meeting - 1) * (computing_seconds(memory, lengths) - fetching) - fetching
        if saved > 0:
            worth.append((-saved / max(1, size), original, size))
    kept, left = set(), host_bytes
    for _, original, size in sorted(worth):
        if size <= left:
            kept.add(original)
            left -= size
    return frozenset(kept)
