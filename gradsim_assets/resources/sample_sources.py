"""Originals and paraphrases by configuration."""

import dagster as dg

from gradsim_assets.core.datasets.lima import load_originals
from gradsim_assets.core.datasets.paraphrased import load_paraphrases
from gradsim_assets.core.samples import Sample


class SampleSources(dg.ConfigurableResource):
    """Where originals and paraphrases come from, as in `[data]` of gradsim.toml."""

    originals: str
    paraphrases: str
    samples: int

    def load_originals(self) -> list[Sample]:
        """The originals in force, in order; raises InputError as `core.datasets.lima.load_originals`."""
        return load_originals(self.originals, self.samples)

    def load_paraphrases(self) -> list[Sample]:
        """The given paraphrases of the originals in force; raises as `core.datasets.paraphrased.load_paraphrases`."""
        return load_paraphrases(self.paraphrases, self.originals, self.samples)
