"""Originals and paraphrases by configuration: the demo, a local file, or the hub."""

from typing import Any

import dagster as dg

from gradsim_assets.configuration import DEMO
from gradsim_assets.core.datasets.sample_files import LIMA_REPO, lima_from_hub, read_rows
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.samples import Sample, check_variants, parse_samples

LIMA_HUB = "lima"
OPENAI = "openai"


class SampleSources(dg.ConfigurableResource):
    """Where originals and paraphrases come from, as in `[data]` of gradsim.toml."""

    originals: str
    paraphrases: str
    samples: int

    def load_originals(self) -> list[Sample]:
        """The originals, in order, the first `samples` of them (0: all).

        Raises:
            InputError: the source is missing or malformed, or a sample is unsound.
        """
        originals = self._all_originals()
        return originals[: self.samples] if self.samples else originals

    def load_paraphrases(self) -> list[Sample]:
        """The given paraphrases of the originals in force, in the order of the originals.

        Raises:
            InputError: as `load_originals`; or a variant has no original.
        """
        name = "the demo dataset" if self.paraphrases == DEMO else self.paraphrases
        variants = parse_samples(self._paraphrase_rows(), name)
        originals = self._all_originals()
        check_variants(variants, originals, name)
        by_id = {variant.id: variant for variant in variants}
        kept = [by_id[original.id] for original in self.load_originals() if original.id in by_id]
        if not kept:
            raise InputError(f"{name} holds no paraphrase of the first {self.samples} originals; raise data.samples.")
        return kept

    def _all_originals(self) -> list[Sample]:
        if self.originals == DEMO:
            from gradsim_assets.demo.data import load_originals

            return parse_samples(load_originals(), "the demo dataset")
        if self.originals == LIMA_HUB:
            return parse_samples(lima_from_hub(), LIMA_REPO)
        return parse_samples(read_rows(self.originals, ("messages",)), self.originals)

    def _paraphrase_rows(self) -> list[dict[str, Any]]:
        if self.paraphrases == DEMO:
            if self.originals != DEMO:
                raise InputError(
                    'data.paraphrases = "demo" fits data.originals = "demo" only; '
                    'name a file with id and messages, or set it to "openai".'
                )
            from gradsim_assets.demo.data import load_paraphrases

            return load_paraphrases()
        return read_rows(self.paraphrases, ("paraphrased_messages", "messages"))
