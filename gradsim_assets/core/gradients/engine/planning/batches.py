"""Samples of a pass, cut up into padded batches."""

from collections.abc import Iterator, Sequence

from gradsim_assets.core.models.encoded_sample import EncodedSample


def padded_batches(
    samples: Sequence[tuple[str, EncodedSample]], tokens: int
) -> Iterator[Sequence[tuple[str, EncodedSample]]]:
    """Runs of samples whose padded size is at most `tokens`, or one sample."""
    start = 0
    while start < len(samples):
        end, longest = start + 1, samples[start][1].length
        while end < len(samples):
            longest = max(longest, samples[end][1].length)
            if longest * (end + 1 - start) > tokens:
                break
            end += 1
        yield samples[start:end]
        start = end
