"""Samples that tests of the paraphraser send."""

from gradsim_assets.core.samples import Sample

SENTENCE = "Sample number {} tells about the rivers of the country and the towns that lie on their banks."


def samples(count: int) -> list[Sample]:
    return [
        Sample(f"lima_{i}", f"What does text {i} say about the rivers of the country?", SENTENCE.format(i))
        for i in range(count)
    ]
