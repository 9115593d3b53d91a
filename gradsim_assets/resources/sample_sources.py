"""Originals and paraphrases by configuration: the embedded demo, a file, or the hub."""

from pathlib import Path

import dagster as dg

from gradsim_assets.core.datasets.lima import LIMA_HUB, load_originals
from gradsim_assets.core.datasets.paraphrased import load_paraphrases
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

    def load_originals(self) -> list[Sample]:
        """The originals in force, in order; raises InputError as `core.datasets.lima.load_originals`."""
        return load_originals(self._location(self.originals), self.samples)

    def load_paraphrases(self) -> list[Sample | Missing]:
        """The given paraphrases of the originals in force, in the order of the originals; missing where a row holds none.

        Raises:
            InputError: as `core.datasets.paraphrased.load_paraphrases`; or the demo's are asked for of other originals.
        """
        if self.paraphrases == DEMO and self.originals != DEMO:
            raise InputError(
                'data.paraphrases = "demo" fits data.originals = "demo" only; '
                'name a file with id and messages, or set it to "openai".'
            )
        return load_paraphrases(self._location(self.paraphrases), self._location(self.originals), self.samples)

    def _location(self, source: str) -> str:
        """The file behind a source; of the demo, the one that holds both originals and paraphrases."""
        if source == DEMO:
            return str(SAMPLES)
        if source == LIMA_HUB or source.startswith("~") or "://" in source:
            return source
        return str(Path(self.folder, source))
