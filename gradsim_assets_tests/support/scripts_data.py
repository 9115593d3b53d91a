"""Files in the scripts' layout, as real runs leave them."""

import json
import random
from pathlib import Path

import numpy as np

MODEL = "amd/AMD-OLMo-1B-SFT"


def float32(value: float) -> float:
    return float(np.float32(value))


class ScriptsRun:
    """One run's results in memory, and their files in any division into parts.

    Ids have gaps (row 7 is lima_8, and so on), every variant has five candidates in an order that is not sorted.
    """

    def __init__(self, samples: int, components: list[str], seed: int = 0):
        draw = random.Random(seed)
        self.components = components
        self.ids = [f"lima_{row + row // 7}" for row in range(samples)]
        self.selfs = {
            kind: {i: {c: float32(draw.lognormvariate(0, 1)) for c in components} for i in self.ids}
            for kind in ("variant", "original")
        }
        self.products: dict = {}
        for variant in self.ids:
            others = draw.sample([i for i in self.ids if i != variant], 4)
            others.insert(draw.choice([0, 0, 0, 1, 4]), variant)
            self.products[variant] = {}
            for original in others:
                strength = 0.5 if original == variant else 0.2
                self.products[variant][original] = {
                    c: float32(
                        draw.gauss(strength, 0.2)
                        * (self.selfs["variant"][variant][c] * self.selfs["original"][original][c]) ** 0.5
                    )
                    for c in components
                }
        self.similarity = {
            v: {o: float32(draw.random()) for o in candidates} for v, candidates in self.products.items()
        }
        self.projected = {
            key: {v: {o: float32(draw.random()) for o in c} for v, c in self.products.items()}
            for key in ("11767808", "58838016")
        }

    def write(self, folder: Path, setting: str, part_size: int | None = None, merged: bool = True, size: str = "full"):
        """Writes the files; with `part_size` in parts, and the merged files beside them only where asked for."""
        dots = folder / "dot_products" / setting / MODEL / "sample_size" / size
        full = folder / "gradient_similarity" / setting / MODEL
        random_projection = folder / "gradient_similarity" / "random_projection" / setting / MODEL
        count = len(self.ids)
        divisions = [(None, 0, count)] if merged or not part_size else []
        if part_size:
            divisions += [(s, s, min(s + part_size, count)) for s in range(0, count, part_size)]
        for start, low, high in divisions:
            end = None if start is None else (start + part_size if high < count else count)
            suffix = "" if start is None else f"_part_{start}_{end}"
            rows = self.ids[low:high]
            # A part repeats the originals that it needs, computed anew: the last digits differ, but for the last part
            # that needs an original, which therefore agrees with the whole.
            needed = {o for v in rows for o in self.products[v]}
            dump(dots / f"dot_products{suffix}.json", {v: self.products[v] for v in rows})
            dump(dots / f"paraphrased_dot_products{suffix}.json", {v: self.selfs["variant"][v] for v in rows})
            originals = {o: self._recomputed(o, high) for o in self.ids if o in needed}
            dump(dots / f"original_dot_products{suffix}.json", originals)
            dump(full / f"sample_size_{size}{suffix}.json", {v: self.similarity[v] for v in rows})
            projected = {key: {v: table[v] for v in rows} for key, table in self.projected.items()}
            dump(random_projection / f"sample_size_{size}{suffix}.json", projected)

    def _recomputed(self, original: str, high: int) -> dict:
        again = any(original in self.products[v] for v in self.ids[high:])
        values = self.selfs["original"][original]
        return {c: v + 3e-6 for c, v in values.items()} if again else values

    def expected_rows(self) -> list[tuple]:
        """The rows of dot_products."""
        return [
            (v, o, c, value, self.selfs["variant"][v][c], self.selfs["original"][o][c])
            for v, candidates in self.products.items()
            for o, values in candidates.items()
            for c, value in values.items()
        ]


def dump(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
