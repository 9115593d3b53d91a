"""Samples of one text: the first of them stands for all, so that they tie in every product."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from gradsim_assets.core.gradients.engine.request import ORIGINAL, Losses, PassRequest
from gradsim_assets.core.models.encoded_sample import EncodedSample


@dataclass(frozen=True)
class DistinctSamples:
    """A request in which no two originals, and no two variants of a setting, have the same tokens and labels."""

    #: With a row for every row that was asked for.
    request: PassRequest
    #: By ORIGINAL or a setting, then by id: the id of the sample that stands for it.
    standing: dict[str, dict[str, str]]

    @classmethod
    def of(cls, request: PassRequest) -> "DistinctSamples":
        """The distinct samples of a request."""
        standing = {ORIGINAL: _first_of_kind(request.originals)}
        standing |= {setting: _first_of_kind(samples) for setting, samples in request.variants.items()}
        return cls(
            replace(
                request,
                originals=_kept(request.originals, standing[ORIGINAL]),
                variants={s: _kept(samples, standing[s]) for s, samples in request.variants.items()},
                pairs={
                    s: [(standing[s][variant], standing[ORIGINAL][original]) for variant, original in pairs]
                    for s, pairs in request.pairs.items()
                },
            ),
            standing,
        )

    def losses(self, found: Losses) -> Losses:
        """Losses of all samples that were asked for, out of those of the distinct ones."""
        return {
            setting: {name: losses[first] for name, first in self.standing[setting].items() if first in losses}
            for setting, losses in found.items()
        }


def _first_of_kind(samples: Iterable[EncodedSample]) -> dict[str, str]:
    """By id: the id of the first sample with the same tokens and labels."""
    first: dict[bytes, str] = {}
    return {
        sample.id: first.setdefault(sample.input_ids.tobytes() + sample.labels.tobytes(), sample.id)
        for sample in samples
    }


def _kept(samples: Iterable[EncodedSample], standing: dict[str, str]) -> list[EncodedSample]:
    return [sample for sample in samples if standing[sample.id] == sample.id]
