"""Who is compared with whom in a request, and in which rows of the output that goes."""

from gradsim_assets.core.gradients.engine.planning.pass_graph import VariantKey
from gradsim_assets.core.gradients.engine.request import PassRequest
from gradsim_assets.core.models.encoded_sample import EncodedSample


class PairIndex:
    """The samples of a request by name, and its pairs by what they compare."""

    def __init__(self, request: PassRequest) -> None:
        self._pairs = request.pairs
        self.originals = {sample.id: sample for sample in request.originals}
        #: By (setting, id).
        self.variants = {(s, variant.id): variant for s in request.settings for variant in request.variants[s]}
        #: By variant, then original: rows of the setting's output; a pair that is repeated has several.
        self.rows: dict[VariantKey, dict[str, list[int]]] = {}
        for setting in request.settings:
            for row, (variant, original) in enumerate(request.pairs[setting]):
                self.rows.setdefault((setting, variant), {}).setdefault(original, []).append(row)

    @property
    def samples(self) -> list[EncodedSample]:
        """All samples, originals and variants."""
        return [*self.originals.values(), *self.variants.values()]

    def longest_first(self, variants: list[VariantKey]) -> list[VariantKey]:
        """Variants by falling length."""
        return sorted(variants, key=lambda key: (-self.variants[key].length, key))

    def originals_met_by(self, variants: list[VariantKey]) -> dict[str, list[int]]:
        """The originals that any of the variants is compared with, longest first, each with the variants' places."""
        found: dict[str, list[int]] = {}
        for place, key in enumerate(variants):
            for original in self.rows[key]:
                found.setdefault(original, []).append(place)
        return {name: found[name] for name in sorted(found, key=lambda name: (-self.originals[name].length, name))}

    def pair(self, setting: str, row: int) -> tuple[EncodedSample, EncodedSample]:
        """The variant and the original of a row."""
        variant, original = self._pairs[setting][row]
        return self.variants[setting, variant], self.originals[original]
