"""`originals_source`: what the source of originals holds now, as a version: equal where the samples are, whatever file they lie in."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from gradsim_assets.core.datasets.lima import Originals, hub_repo, read_originals
from gradsim_assets.core.datasets.sample_files import Source
from gradsim_assets.core.errors import ServiceError
from gradsim_assets.core.samples import Missing, Sample
from gradsim_assets.core.tables.storage import fingerprint

#: A file as it is now: its path, size and time of the last write; None where it is not there.
Stamp = tuple[str, int, int] | None


def content_version(samples: Sequence[Sample | Missing]) -> str:
    """A hash (16 hex digits) of samples in their order."""
    known = [{name: value for name, value in asdict(sample).items() if value is not None} for sample in samples]
    document = json.dumps(known, ensure_ascii=False)
    return hashlib.sha256(document.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def version_read(originals: Originals) -> str:
    """A hash (16 hex digits) of originals as they were read, with their other columns where they have any."""
    content = content_version(originals.samples)
    if originals.columns.width == 1:
        return content
    return hashlib.sha256(f"{content} {fingerprint(originals.columns)}".encode()).hexdigest()[:16]


def originals_version(source: Source | str, count: int) -> str:
    """The version of the first `count` originals of a source (0: all): the commit on the hub, or the hash of what a file holds.

    Raises:
        InputError: as `load_originals`.
        ServiceError: the hub cannot be asked.
    """
    source = Source(source) if isinstance(source, str) else source
    if repo := hub_repo(source):
        return f"{_hub_commit(repo)} {count or 'all'} {source.options}".strip()
    return _originals_version(source, count, stamp_of(source.location))


@lru_cache(maxsize=8)  # sensors ask again and again; size and time tell whether a file is still the same
def _originals_version(source: Source, count: int, stamp: Stamp) -> str:
    return version_read(read_originals(source, count))


def stamp_of(location: str) -> Stamp:
    """The stamp of a file, or of a folder: all bytes of its files, and the last time that one was written."""
    path = Path(location).expanduser()
    if path.is_dir():
        stats = [file.stat() for file in path.iterdir() if file.is_file()]
        return str(path.resolve()), sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0)
    if not path.is_file():
        return None
    stat = path.stat()
    return str(path.resolve()), stat.st_size, stat.st_mtime_ns


def _hub_commit(repo: str) -> str:
    """The commit at which a dataset stands on the hub.

    Raises:
        ServiceError: the hub cannot be asked.
    """
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(repo, timeout=30).sha)
    except Exception as error:  # the hub client has no common base for its errors
        raise ServiceError(f"the hub cannot be asked for {repo} ({str(error).splitlines()[0]}).") from error
