"""The retrieval figures of several models in one table."""

from gradsim_assets.core.analysis.model_comparison import model_comparison
from gradsim_assets.core.analysis.retrieval import retrieval
from gradsim_assets.core.similarity.pair_products import PairProducts
from gradsim_assets_tests.support.analysis_data import block_names, products

NAMES = block_names(2)


def test_model_comparison():
    few = retrieval(PairProducts.from_frame(products(12, 3, NAMES)))
    many = retrieval(PairProducts.from_frame(products(12, 12, NAMES)))
    table = model_comparison({("a", "paraphrased"): few, ("b", "paraphrased"): many})
    assert table.select("model", "method").rows() == [(m, k) for m in "ab" for k in few["method"]]
    assert table.filter(model="a")["recall_at_10"].to_list() == [None] * 3
    assert model_comparison({}).is_empty()
