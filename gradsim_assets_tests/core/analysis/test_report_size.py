"""A page is as large as what it shows: originals that no variant is compared with add nothing, however many there are."""

import polars as pl

from gradsim_assets.core.samples import Sample, sample_frame
from gradsim_assets_tests.support.report_case import Case

#: Originals beside those that are candidates.
OTHERS = 100_000


def test_a_hundred_thousand_originals_make_the_page_no_larger() -> None:
    case = Case()
    alone = case.html()
    others = sample_frame([Sample(f"other_{number}", f"What is {number}?", "A number.") for number in range(OTHERS)])
    case.originals = pl.concat([case.originals, others], how="diagonal")
    assert case.html() == alone
