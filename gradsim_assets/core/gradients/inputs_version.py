"""The version of a gradient table's content: what it follows from, never what came out to the last bit."""

import hashlib
import json
from collections.abc import Iterable

from gradsim_assets.core.gradients.engine import PassRequest
from gradsim_assets.core.models.encoded_sample import EncodedSample


def inputs_version(request: PassRequest, setting: str, *stated: object) -> str:
    """A hash (16 hex digits) of one setting's pairs with the tokens and labels of their samples, and of what is `stated`.

    Another machine, number of threads or plan rounds otherwise, and its numbers are as good: they count as the same content.
    What else a request asks for does not count, so that a table has one version whatever came out of the same pass.
    """
    pairs = request.pairs[setting]
    variants, originals = {variant for variant, _ in pairs}, {original for _, original in pairs}
    digest = hashlib.sha256(json.dumps([setting, *stated, pairs], default=str).encode())
    _add(digest, (sample for sample in request.variants[setting] if sample.id in variants))
    _add(digest, (sample for sample in request.originals if sample.id in originals))
    return digest.hexdigest()[:16]


def samples_version(samples: Iterable[EncodedSample], *stated: object) -> str:
    """A hash (16 hex digits) of the tokens and labels of samples, and of what is `stated`."""
    digest = hashlib.sha256(json.dumps(stated, default=str).encode())
    _add(digest, samples)
    return digest.hexdigest()[:16]


def _add(digest: "hashlib._Hash", samples: Iterable[EncodedSample]) -> None:
    """Adds samples in the order of their ids: that of the tables decides no number."""
    for sample in sorted(samples, key=lambda sample: sample.id):
        digest.update(json.dumps([sample.id, sample.input_ids.tolist(), sample.labels.tolist()]).encode())
