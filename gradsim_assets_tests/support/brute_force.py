"""Every analysis again in plain Python, straight from the definitions of the figures: slow, obvious, and sharing no code.

Input is a list of rows of `dot_products` as tuples. An undefined similarity is None.
"""

import math

import pytest


def table(rows):
    """{variant: {original: {component: (dot, variant_self, original_self)}}} in order of first appearance."""
    result = {}
    for variant, original, component, *terms in rows:
        result.setdefault(variant, {}).setdefault(original, {})[component] = tuple(terms)
    return result


def components(rows):
    return list(dict.fromkeys(row[2] for row in rows))


def similarity(terms, chosen):
    """Cosine of a set of components; None where a row is missing or a gradient has no length."""
    if any(component not in terms for component in chosen):
        return None
    dot = sum(terms[c][0] for c in chosen)
    length = sum(terms[c][1] for c in chosen) * sum(terms[c][2] for c in chosen)
    return dot / math.sqrt(length) if length > 0 else None


def rank(similarities, own):
    """Rank of the own original, ties against it; None where it is missing or undefined."""
    mine = similarities.get(own)
    if mine is None:
        return None
    return 1 + sum(1 for o, s in similarities.items() if o != own and s is not None and s >= mine)


def ranks(rows, chosen):
    return [
        rank({o: similarity(terms, chosen) for o, terms in candidates.items()}, variant)
        for variant, candidates in table(rows).items()
    ]


def accuracy(values):
    return sum(1 for r in values if r == 1) / len(values)


def mrr(values):
    return sum(1 / r for r in values if r is not None) / len(values)


def recall(values, k):
    return sum(1 for r in values if r is not None and r <= k) / len(values)


def rho(rows, chosen):
    """Agreement: pairs that the full gradient says nothing of are left out; one undefined under `chosen` counts 0."""
    everything = components(rows)
    dot = first = second = 0.0
    for candidates in table(rows).values():
        for terms in candidates.values():
            full, mine = similarity(terms, everything), similarity(terms, chosen)
            if full is None:
                continue
            mine = 0.0 if mine is None else mine
            dot, first, second = dot + mine * full, first + mine * mine, second + full * full
    return dot / math.sqrt(first * second) if first * second > 0 else None


def greedy(rows, criterion, sizes):
    """[(component, value)]: each round's best by criterion(rows, chosen), ties to the smaller, then in model order."""
    left, chosen, curve = components(rows), [], []
    while left:
        values = {c: criterion(rows, [*chosen, c]) for c in left}
        best = max(-math.inf if v is None else v for v in values.values())
        # Sums of floats in another order differ in the last digits: what is equal to 12 digits is a tie.
        tied = [c for c in left if math.isclose(-math.inf if values[c] is None else values[c], best, rel_tol=1e-12)]
        winner = min(tied, key=lambda c: sizes[c])
        left.remove(winner)
        chosen.append(winner)
        curve.append((winner, values[winner]))
    return curve


def chance(rows):
    """Expected accuracy, mrr and recall_at_2 by walking through every place that the own original can have."""
    tops, reciprocals, seconds = [], [], []
    for variant, candidates in table(rows).items():
        places = range(1, len(candidates) + 1) if variant in candidates else []
        count = len(candidates)
        tops.append(sum(1 for p in places if p == 1) / count)
        reciprocals.append(sum(1 / p for p in places) / count)
        seconds.append(sum(1 for p in places if p <= 2) / count)
    return tuple(sum(values) / len(values) for values in (tops, reciprocals, seconds))


def mcnemar(first, second):
    """Two-sided exact binomial p-value by summing all outcomes that are as unlikely or more."""
    b = sum(1 for x, y in zip(first, second, strict=True) if x and not y)
    c = sum(1 for x, y in zip(first, second, strict=True) if y and not x)
    n = b + c
    tail = sum(math.comb(n, k) for k in range(n + 1) if math.comb(n, k) <= math.comb(n, b))
    return tail / 2**n


def same(first, second):
    """Whether two similarities are equal but for the order of their sums, or both undefined."""
    return first is second is None or (
        first is not None and second is not None and math.isclose(first, second, rel_tol=1e-12, abs_tol=1e-15)
    )


def wilson(right, count, z=1.959963984540054):
    """Ends of the interval of a share, by halving: where |share - p| = z sqrt(p (1 - p) / n)."""
    share, ends = right / count, []
    for end in (0.0, 1.0):
        inside = share
        for _ in range(60):
            middle = (inside + end) / 2
            far = abs(share - middle) > z * math.sqrt(middle * (1 - middle) / count)
            inside, end = (inside, middle) if far else (middle, end)
        ends.append(inside)
    return ends


def check_share(row, name, right, count, *z):
    """Asserts that a figure of a row is that share, with Wilson's interval."""
    assert row[name] == pytest.approx(right / count, abs=1e-12)
    assert [row[f"{name}_low"], row[f"{name}_high"]] == pytest.approx(wilson(right, count, *z), abs=1e-9)


def check_figures(row, ranks, reach=lambda k: ()):
    """Asserts that a row's accuracy, MRR and recall are those of the ranks, with intervals that hold them.

    `reach` says by k how many standard errors the interval of recall at k has, where it is not that of one share by itself.
    """
    check_share(row, "accuracy", sum(1 for r in ranks if r == 1), len(ranks), *reach(1))
    for k in (2, 3, 4, 5):
        check_share(row, f"recall_at_{k}", sum(1 for r in ranks if r is not None and r <= k), len(ranks), *reach(k))
    assert row["mrr"] == pytest.approx(mrr(ranks), abs=1e-12)
    if len(set(ranks)) > 1:
        assert row["mrr_low"] <= row["mrr"] <= row["mrr_high"]
    else:
        assert row["mrr_low"] is row["mrr_high"] is None
