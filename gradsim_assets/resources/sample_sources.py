"""Originals and paraphrases by configuration: the embedded demo, a file, or the hub."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from gradsim_assets.core.datasets.hub_dataset import hub_dataset
from gradsim_assets.core.datasets.lima import LIMA_HUB, Originals, read_originals
from gradsim_assets.core.datasets.originals_source import originals_version
from gradsim_assets.core.datasets.paraphrased import load_paraphrases
from gradsim_assets.core.datasets.paraphrases_source import paraphrase_versions
from gradsim_assets.core.datasets.presets import ORIGINALS, PARAPHRASES
from gradsim_assets.core.datasets.sample_files import Source
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.samples import Missing, Sample
from gradsim_assets.demo import DEMO
from gradsim_assets.demo.data import SAMPLES


class SampleSources(dg.ConfigurableResource):
    """Where originals and paraphrases come from, as in `[data]` of gradsim.toml; relative paths begin at its `folder`."""

    originals: str
    paraphrases: str
    samples: int
    folder: str = "."
    #: By our name of a column the one of the files; and the values that columns must have, of which rows are samples.
    columns: dict[str, str] = Field(default={})
    where: dict[str, Any] = Field(default={})

    def load_originals(self) -> list[Sample]:
        """The originals in force, in order; raises InputError as `core.datasets.lima.load_originals`."""
        return self.read_originals().samples

    def read_originals(self) -> Originals:
        """As `load_originals`, with what else their source has of them."""
        return read_originals(self.source(self.originals), self.samples)

    def load_paraphrases(self) -> list[Sample | Missing]:
        """The given paraphrases of the originals in force, in the order of the originals; missing where a row holds none.

        Raises:
            InputError: as `core.datasets.paraphrased.load_paraphrases`; or the demo's are asked for of other originals.
        """
        self._check()
        return load_paraphrases(
            self.source(self.paraphrases, is_filtered=False), self.source(self.originals), self.samples
        )

    def originals_version(self) -> str:
        """The version at which the originals stand; raises as `core.datasets.originals_source.originals_version`."""
        return originals_version(self.source(self.originals), self.samples)

    def paraphrase_versions(self, shards: int, known: Sequence[str] | None) -> dict[str, str]:
        """The version of the given paraphrases of every shard; arguments and errors as those of
        `core.datasets.paraphrases_source.paraphrase_versions`, and the errors of `load_paraphrases`."""
        self._check()
        return paraphrase_versions(
            self.source(self.paraphrases, is_filtered=False), self.source(self.originals), self.samples, shards, known
        )

    def _check(self) -> None:
        if self.paraphrases == DEMO and self.originals != DEMO:
            raise InputError(
                'data.paraphrases = "demo" fits data.originals = "demo" only; '
                'name a file with id and messages, or set it to "openai".'
            )

    def source(self, named: str, is_filtered: bool = True) -> Source:
        """A source of originals with the columns and values of `[data]`, or of paraphrases, which are not filtered; what has its
        own columns takes none."""
        presets = ORIGINALS if is_filtered else PARAPHRASES
        location = presets.get(named) or self._location(named)
        if named in (DEMO, LIMA_HUB, *presets):
            if self.columns or (self.where and is_filtered):
                raise InputError(
                    f'data.columns and data.filter are for files and datasets of your own; leave them out with "{named}".'
                )
            return Source(location)
        where = (
            {name: tuple(v if isinstance(v, list | tuple) else [v]) for name, v in self.where.items()}
            if is_filtered
            else {}
        )
        return Source(location, tuple(sorted(self.columns.items())), tuple(sorted(where.items())))

    def _location(self, source: str) -> str:
        """The file behind a source; of the demo, the one that holds both originals and paraphrases."""
        if source == DEMO:
            return str(SAMPLES)
        if source == LIMA_HUB or source.startswith("~") or "://" in source:
            return source
        path = Path(self.folder, source)
        return source if hub_dataset(source) and not path.exists() else str(path)
