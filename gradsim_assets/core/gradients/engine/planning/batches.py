"""Samples of a pass, cut up into padded batches, and batches into tiles."""

from collections.abc import Sequence


def padded_batches(lengths: Sequence[int], most: int, overhead: int) -> list[slice]:
    """Runs of samples of these lengths (falling) that go through together, for the least cost.

    A batch costs its padded tokens and `overhead` tokens besides. It has at most `most` padded tokens, or one sample.
    """
    # cheapest[n] is the cost of the first n samples; the batch that ends there starts at begin[n].
    cheapest, begin = [0.0], [0]
    for end in range(1, len(lengths) + 1):
        found = (cheapest[end - 1] + lengths[end - 1] + overhead, end - 1)
        start = end - 2
        while start >= 0 and lengths[start] * (end - start) <= most:
            found = min(found, (cheapest[start] + lengths[start] * (end - start) + overhead, start))
            start -= 1
        cheapest.append(found[0])
        begin.append(found[1])
    batches, end = [], len(lengths)
    while end:
        batches.append(slice(begin[end], end))
        end = begin[end]
    return batches[::-1]


def tiles(batches: Sequence[slice], lengths: Sequence[int], samples: int, tokens: int) -> list[list[slice]]:
    """Batches that are held together: at most so many samples with so many padded tokens, or one batch.

    A batch of more samples is cut into several.
    """
    found: list[list[slice]] = []
    left_samples = left_tokens = 0
    for whole in batches:
        for start in range(whole.start, whole.stop, samples):
            batch = slice(start, min(start + samples, whole.stop))
            count = batch.stop - batch.start
            padded = lengths[batch.start] * count
            if not found or count > left_samples or padded > left_tokens:
                found.append([])
                left_samples, left_tokens = samples, tokens
            found[-1].append(batch)
            left_samples, left_tokens = left_samples - count, left_tokens - padded
    return found
