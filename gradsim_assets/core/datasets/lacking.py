"""How many variants there should be and are not, for those who read figures that are made without them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from gradsim_assets.core.samples import present


@dataclass(frozen=True)
class Lacking:
    """What is missing from or doubtful in `variants` rows of the table `paraphrased`.

    `missing` counts missing variants by why they are; `unwritten` originals have no row at all.
    """

    variants: int
    missing: Mapping[str, int]
    doubtful: int
    unwritten: int = 0

    @property
    def count(self) -> int:
        """Number of missing variants."""
        return sum(self.missing.values())

    @property
    def sentences(self) -> list[str]:
        """What to tell a reader; nothing where nothing is lacking."""
        said = []
        if self.count:
            reasons = ", ".join(f"{why} ({count})" for why, count in self.missing.items())
            said.append(f"{self.count} of {self.variants} variants are missing, and in no figure: {reasons}.")
        if self.doubtful:
            said.append(
                f"{self.doubtful} of {self.variants} paraphrases are doubtful: see the column flag of paraphrased."
            )
        if self.unwritten:
            said.append(f"{self.unwritten} originals have no paraphrase: they are candidates only.")
        return said


def lacking(paraphrased: pl.DataFrame, originals: pl.DataFrame | None = None) -> Lacking:
    """What the table `paraphrased` (or a shard of it) lacks; `originals` is the table `lima`."""
    there = present(paraphrased)
    flags = paraphrased.filter(pl.col("messages").is_null())["flag"].fill_null("of unknown cause")
    # What a service said of one text is not what others are counted with.
    missing = Counter("; ".join(part.partition(" (")[0] for part in flag.split("; ")) for flag in flags)
    unwritten = 0 if originals is None else len(set(originals["id"]) - set(paraphrased["id"]))
    return Lacking(paraphrased.height, dict(missing.most_common()), int(there["flag"].is_not_null().sum()), unwritten)
