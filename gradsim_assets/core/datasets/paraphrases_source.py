"""`paraphrases_source`: what the source of given paraphrases holds now, as versions of its shards."""

from collections.abc import Sequence
from functools import lru_cache

from gradsim_assets.core.datasets.lima import hub_repo
from gradsim_assets.core.datasets.originals_source import Stamp, content_version, stamp_of
from gradsim_assets.core.datasets.paraphrased import load_paraphrases, sorted_paraphrases
from gradsim_assets.core.datasets.sample_files import Source
from gradsim_assets.core.partition_keys import shard_keys, shard_slice
from gradsim_assets.core.samples import Missing, Sample


def paraphrase_versions(
    location: Source | str, originals_source: Source | str, count: int, shards: int, known: Sequence[str] | None
) -> dict[str, str]:
    """The version of the given paraphrases of every shard, by its key: the hash of what the file holds of them.

    `known` are the ids of the originals in force, in order, where they come from the hub; as long as nobody knows them, every
    shard has the hash of the whole file.

    Raises:
        InputError: as `load_paraphrases`.
    """
    stamp, keys = stamp_of(str(location)), shard_keys(shards)
    if hub_repo(originals_source):
        return dict(zip(keys, _versions_by_id(location, known and tuple(known), shards, stamp), strict=True))
    return dict(
        zip(
            keys,
            _versions(location, originals_source, count, shards, (stamp, stamp_of(str(originals_source)))),
            strict=True,
        )
    )


@lru_cache(maxsize=8)
def _versions(
    location: Source | str, originals_source: Source | str, count: int, shards: int, stamps: tuple[Stamp, Stamp]
) -> list[str]:
    return _by_shard(load_paraphrases(location, originals_source, count), shards)


@lru_cache(maxsize=8)
def _versions_by_id(location: Source | str, known: tuple[str, ...] | None, shards: int, stamp: Stamp) -> list[str]:
    variants = sorted_paraphrases(location, known)
    return _by_shard(variants, shards) if known else [content_version(variants)] * shards


def _by_shard(variants: Sequence[Sample | Missing], shards: int) -> list[str]:
    return [content_version(shard_slice(variants, key, shards)) for key in shard_keys(shards)]
