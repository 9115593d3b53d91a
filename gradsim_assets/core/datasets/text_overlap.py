"""How much of its original's answer a variant's answer repeats: what a figure may owe to copying."""

import unicodedata
from collections.abc import Iterable

import polars as pl

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.samples import samples_of


def is_verbatim(answer: str, original: str) -> bool:
    """Whether an answer is a copy: equal in Unicode's NFC with every run of white space as one space, none at the ends.

    Case, punctuation and mark-up count.
    """
    first, second = (" ".join(unicodedata.normalize("NFC", text).split()) for text in (answer, original))
    return first == second


def with_text_overlap(variants: pl.DataFrame, originals: pl.DataFrame, source: str) -> pl.DataFrame:
    """The variants (a dataset table, called `source`) with the columns `text_overlap` and `verbatim` of their answers.

    `text_overlap` is sacrebleu's chrF2 (Popović 2015, "chrF: character n-gram F-score for automatic MT evaluation") of the
    answer against the own original's: n-grams of 1 to 6 characters without white space, recall twice as heavy as
    precision, from 0 to 100; 0 for an empty answer. Both are null for a variant that is missing.

    Raises:
        InputError: a variant has no original of its id.
    """
    from sacrebleu.metrics.chrf import CHRF

    answers = {original.id: original.assistant for original in samples_of(originals)}
    chrf = CHRF()
    measured: dict[str, tuple[float, bool]] = {}
    for variant in samples_of(variants):
        if variant.id not in answers:
            raise InputError(f"{source}: variant {variant.id} has no original of the same id; materialise lima again.")
        original = answers[variant.id]
        overlap = chrf.sentence_score(variant.assistant, [original]).score
        measured[variant.id] = overlap, is_verbatim(variant.assistant, original)
    found = [measured.get(sample_id, (None, None)) for sample_id in variants["id"]]
    return variants.with_columns(
        text_overlap=pl.Series([overlap for overlap, _ in found], dtype=pl.Float64),
        verbatim=pl.Series([verbatim for _, verbatim in found], dtype=pl.Boolean),
    )


def overlaps(answers: Iterable[tuple[str, str]]) -> list[float]:
    """chrF2, as `with_text_overlap` has it, of each answer against an original's answer."""
    from sacrebleu.metrics.chrf import CHRF

    chrf = CHRF()
    return [chrf.sentence_score(answer, [original]).score for answer, original in answers]
