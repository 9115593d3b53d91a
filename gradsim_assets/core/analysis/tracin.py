"""`tracin`: products of gradients summed over the checkpoints of a training."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.similarity.pair_products import PairProducts
from gradsim_assets.core.tables.schemas import TRACIN


def tracin(products: Sequence[PairProducts], learning_rates: Sequence[float]) -> pl.DataFrame:
    """The table `tracin` from the products of T checkpoints' pairs and the learning rate of each, both in the order of steps.

    The score of a pair is TracInCP (Pruthi et al. 2020, section 3.3): sum over t of learning_rate_t <v_t, o_t>, with the full
    gradients at checkpoint t. It is what steps of plain SGD would have changed of the variant's loss, to first order; under Adam it
    stands for that. `normalised` has the cosine in place of the product and weights that sum to 1 (Xia et al. 2024, LESS, without
    Adam's preconditioning), so that originals with long gradients are not ahead of all others.

    Raises:
        InputError: the checkpoints have not the same pairs.
    """
    first = products[0].candidates
    score, normalised = np.zeros(len(first.variant)), np.zeros(len(first.variant))
    for one, rate in zip(products, learning_rates, strict=True):
        frame = one.candidates.frame.with_columns(
            dot=one.dot_product.sum(axis=0), cosine=one.full_similarity, there=pl.lit(1.0)
        )
        if len(frame) != len(score) or np.isnan(first.align(frame, "there")).any():
            raise InputError(
                "the checkpoints were computed on other pairs of variants and originals; compute their gradients again."
            )
        score += rate * first.align(frame, "dot")
        normalised += rate / sum(learning_rates) * first.align(frame, "cosine")
    columns = {"score": score, "normalised": normalised}
    known = [pl.Series(name, values, nan_to_null=True) for name, values in columns.items()]
    return TRACIN.enforce(first.frame.with_columns(known))
