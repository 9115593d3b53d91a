"""One model's results in both settings, computed from generated products, and the report of them."""

import copy

import polars as pl

from gradsim_assets.core.analysis.accuracy_per_component import accuracy_per_component
from gradsim_assets.core.analysis.agreement import agreement
from gradsim_assets.core.analysis.greedy_selection import greedy_selection
from gradsim_assets.core.analysis.parameters_per_component import parameters_per_component
from gradsim_assets.core.analysis.report import SettingResults, render_report
from gradsim_assets.core.analysis.retrieval import retrieval
from gradsim_assets.core.analysis.self_similarity import self_similarity
from gradsim_assets.core.similarity.gradient_similarity import gradient_similarity
from gradsim_assets.core.similarity.pair_products import PairProducts
from gradsim_assets.core.tables import schemas
from gradsim_assets_tests.support.analysis_data import block_names, bm25, products, projected, realistic

NAMES = block_names(3)
EVIL = (
    "</script><script>document.body.dataset.broken='yes'</script><img src=x onerror=\"document.body.dataset.broken=1\">"
)


def samples(ids, word, copies=0):
    """Texts that name their sample and try to break out of the page; the first `copies` answers are marked as such."""
    rows = [
        {
            "id": i,
            "messages": [
                {"role": "user", "content": f"{word} question {i} {EVIL}"},
                {"role": "assistant", "content": f"{word} answer {i}"},
            ],
        }
        for i in ids
    ]
    frame = pl.DataFrame(rows, schema={"id": pl.String, "messages": schemas.MESSAGES})
    copied = [number < copies for number in range(len(rows))]
    return frame.with_columns(
        text_overlap=pl.Series([100.0 if one else 41.7 for one in copied]), verbatim=pl.Series(copied)
    )


class Case:
    """One model's results in both settings."""

    def __init__(self, variants=24, candidates=5, sizes=True, texts=True, accidents=False, copies=9):
        numbers = {name: 100 + place for place, name in enumerate(NAMES)} if sizes else dict.fromkeys(NAMES)
        self.parameters = parameters_per_component(numbers)
        self.pairs, self.settings = {}, {}
        for seed, setting in enumerate(schemas.SETTINGS):
            make = (lambda *a: products(*a, accidents=True)) if accidents else realistic
            table = make(variants, candidates, NAMES, seed)
            pairs = PairProducts.from_frame(table, NAMES)
            scores = bm25(table) if texts else None
            made = samples(pairs.candidates.variants, setting, copies if setting == "model_generated" else 0)
            verbatim = dict(made.select("id", "verbatim").iter_rows()) if texts else None
            self.pairs[setting] = pairs
            self.settings[setting] = SettingResults(
                gradient_similarity(pairs),
                accuracy_per_component(pairs, self.parameters),
                agreement(pairs, self.parameters),
                greedy_selection(pairs, self.parameters, splits=2),
                self_similarity(pairs, self.parameters),
                retrieval(pairs, projected(table) if texts else None, scores, self.parameters, verbatim),
                scores,
                made if texts else None,
            )
        self.originals = samples(pairs.candidates.variants, "original") if texts else None

    def copy(self) -> "Case":
        """The same results, to change some of: they take a second to compute."""
        copied = copy.copy(self)
        copied.settings = dict(self.settings)
        return copied

    def html(self, settings=schemas.SETTINGS, **more):
        chosen = {setting: self.settings[setting] for setting in settings}
        provenance = {"dataset": EVIL, "configuration": {"shards": 4}, "run ids": ["r1", "r2"]}
        return render_report("org/model", "abc123", self.parameters, chosen, self.originals, provenance, **more)
