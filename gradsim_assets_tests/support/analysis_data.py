"""Random dot products as they come from real gradients, with the accidents that analyses must survive."""

import random

import numpy as np
import polars as pl

from gradsim_assets.core.analysis.parameters_per_component import parameters_per_component
from gradsim_assets.core.analysis.retrieval import order_as_bm25
from gradsim_assets.core.components import component_type
from gradsim_assets.core.similarity.pair_products import PairProducts
from gradsim_assets.core.tables import schemas


def block_names(blocks: int) -> list[str]:
    """Component names of an OLMo-like model."""
    kinds = [f"self_attn.{x}_proj" for x in "qkvo"] + [f"mlp.{x}_proj" for x in ("gate", "up", "down")]
    return ["model.embed_tokens.weight", *(f"model.layers.{b}.{kind}.weight" for b in range(blocks) for kind in kinds)]


def products(
    variants: int, candidates: int, components: list[str], seed: int = 0, accidents: bool = False
) -> pl.DataFrame:
    """A `dot_products` table from random 6-dimensional gradients of small whole numbers, so ties happen by themselves.

    With accidents some gradients are zero, some rows, pairs and own originals are missing, and one variant stands alone.
    """
    rng, draw = np.random.default_rng(seed), random.Random(seed)
    ids = [f"lima_{i * 3 % 17}_{i}" for i in range(variants)]
    shape = (variants, len(components), 6)
    originals = rng.integers(-2, 3, shape).astype(float)
    variant = np.where(rng.random(shape) < 0.7, originals, rng.integers(-2, 3, shape))
    if accidents:
        originals[rng.random(shape[:2]) < 0.05] = 0
        variant[rng.random(shape[:2]) < 0.05] = 0
        originals[0] = 0  # a whole gradient without length
    else:
        originals[..., 0] += 0.5
        variant[..., 0] += 0.5
    rows = []
    for v, variant_id in enumerate(ids):
        others = draw.sample([o for o in range(variants) if o != v], min(candidates, variants) - 1)
        place = draw.randrange(len(others) + 1)
        for o in [*others[:place], v, *others[place:]]:
            if accidents and (draw.random() < 0.05 or (v == 1 and o != v) or (v == 2 and o == v)):
                continue
            for c, component in enumerate(components):
                if accidents and draw.random() < 0.01:
                    continue
                a, b = variant[v, c], originals[o, c]
                rows.append((variant_id, ids[o], component, float(a @ b), float(a @ a), float(b @ b)))
    return pl.DataFrame(rows, schema=list(schemas.DOT_PRODUCTS.columns), orient="row")


def sizes(components: list[str], seed: int = 0) -> pl.DataFrame:
    """A `parameters_per_component` table in which many components share a size."""
    draw = random.Random(seed)
    return parameters_per_component({name: draw.choice([64, 128, 4096]) for name in components})


def realistic(variants: int, candidates: int, components: list[str], seed: int = 0) -> pl.DataFrame:
    """A large `dot_products` table quickly: own originals are more similar, later blocks more so, ids as in LIMA."""
    rng = np.random.default_rng(seed)
    count = len(components)
    v = np.repeat(np.arange(variants), candidates * count)
    place = np.tile(np.repeat(np.arange(candidates), count), variants)
    c = np.tile(np.arange(count), variants * candidates)
    own_place = np.where(rng.random(variants) < 0.85, 0, rng.integers(0, candidates, variants))
    # The own original stands at its place, the others follow their variant in the circle of ids.
    o = np.where(place == own_place[v], v, (v + 1 + place - (place > own_place[v])) % variants)
    lengths = rng.lognormal(0, 0.7, (2, variants, 1)) * rng.lognormal(-3, 1, (2, 1, count))
    strength = 0.15 + 0.45 * np.linspace(0, 1, count) ** 0.5 + rng.normal(0, 0.05, count)
    mean = np.where(v == o, (strength * rng.normal(1, 0.25, (variants, 1)))[v, c], 0.12)
    similarity = np.clip(mean + rng.normal(0, 0.12, len(v)), -0.99, 0.99)
    a, b = lengths[0][v, c], lengths[1][o, c]
    ids = np.array([f"lima_{i + i // 80}" for i in range(variants)], dtype=object)
    return pl.DataFrame(
        {
            "variant_id": ids[v].tolist(),
            "original_id": ids[o].tolist(),
            "component": np.array(components, dtype=object)[c].tolist(),
            "dot_product": (similarity * np.sqrt(a * b)).astype(np.float32).astype(float),
            "variant_self": a.astype(np.float32).astype(float),
            "original_self": b.astype(np.float32).astype(float),
        }
    )


def projected(dot_products: pl.DataFrame, proportions: tuple[float, ...] = (0.01, 0.05)) -> pl.DataFrame:
    """A `projected_similarity` table: the full gradients' similarity with noise that falls with the dimension."""
    pairs = PairProducts.from_frame(dot_products)
    rng = np.random.default_rng(1)
    frames = [
        pairs.candidates.frame.with_columns(
            pl.lit(p).alias("proportion"),
            pl.lit(int(512 * round(p * 2000)), dtype=pl.Int64).alias("dimension"),
            pl.Series("similarity", pairs.full_similarity + rng.normal(0, 0.004 / p, len(pairs.full_similarity))),
        )
        for p in proportions
    ]
    return schemas.PROJECTED_SIMILARITY.enforce(pl.concat(frames))


def bm25(dot_products: pl.DataFrame) -> pl.DataFrame:
    """A `bm25_candidates` table whose scores fall with the rank."""
    table = order_as_bm25(PairProducts.from_frame(dot_products))
    return table.with_columns(score=30.0 / pl.col("rank"))


def documents(count: int, seed: int) -> list[str]:
    """Random texts of 1 to 25 words out of 30, so that words are shared."""
    words, rng = [f"w{n}" for n in range(30)], random.Random(seed)
    return [" ".join(rng.choices(words, k=rng.randint(1, 25))) for _ in range(count)]


def sparse_documents(count: int, seed: int) -> list[str]:
    """Texts that have next to nothing in common, so that most scores are 0."""
    rng = random.Random(seed)
    return [" ".join(f"w{rng.randrange(300)}" for _ in range(rng.randint(1, 4))) for _ in range(count)]


#: Prompts and paraphrases without spaces: to whitespace each is a word of its own.
JAPANESE = (
    ("富士山の高さを教えてください。", "富士山はどのくらいの高さですか。"),
    ("おいしい味噌汁の作り方は？", "味噌汁をおいしく作るにはどうすればいいですか。"),
    ("東京から京都まで新幹線で何時間かかりますか。", "新幹線に乗ると東京から京都へは何時間ですか。"),
    ("俳句とは何ですか。例を挙げてください。", "例を挙げて、俳句が何かを説明してください。"),
    ("猫が夜に鳴くのはなぜですか。", "なぜ猫は夜になると鳴くのですか。"),
    ("確定申告の期限はいつですか。", "いつまでに確定申告をすればいいですか。"),
    ("桜の花はいつ咲きますか。", "桜が咲く時期を教えてください。"),
    ("地震のときはどこに逃げればいいですか。", "地震が来たら、どこへ逃げるべきですか。"),
)


def evaluation(variants: int, seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Tables `first_order` and `tail_patch`: nearly exact predictions, and methods of which the later do more."""
    rng, ids = np.random.default_rng(seed), [f"lima_{number}" for number in range(variants)]
    predicted = rng.normal(-1e-4, 1e-4, 2 * variants)
    first = pl.DataFrame(
        {
            "variant_id": ids * 2,
            "original_id": [*ids, *ids[1:], ids[0]],
            "learning_rate": [1e-4] * 2 * variants,
            "predicted": predicted,
            "measured": predicted * rng.normal(1, 0.002, 2 * variants),
        }
    )
    methods = ("random", "bm25", "text_overlap", schemas.FULL_GRADIENT, f"{schemas.FULL_GRADIENT}_dot_product")
    rows = [
        (method, name, [name], float(rng.normal(1e-3 * place, 1e-4)), None)
        for place, method in enumerate(methods)
        for name in ids
    ]
    tail = pl.DataFrame(rows, schema=schemas.TAIL_PATCH.empty().schema, orient="row")
    return schemas.FIRST_ORDER.enforce(first), schemas.TAIL_PATCH.enforce(tail)


def counterfactuals(blocks: int = 2, seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Tables `linear_datamodeling_score` and `removal`: methods of which the later predict more, and components at random."""
    rng, names = np.random.default_rng(seed), block_names(blocks)
    whole = ("random", "bm25", "text_overlap", "representation", schemas.FULL_GRADIENT)
    kinds = list(dict.fromkeys(component_type(name) for name in names))
    named = [
        *((method, None, 0.1 * place) for place, method in enumerate(whole)),
        *(("component_type", kind, float(rng.uniform(0, 0.4))) for kind in kinds),
        *(("component", name, float(rng.uniform(-0.1, 0.3))) for name in names),
    ]
    rows = [(method, component, value, value - 0.05, value + 0.04, 40, 30) for method, component, value in named]
    scores = pl.DataFrame(rows, schema=schemas.LINEAR_DATAMODELING_SCORE.empty().schema, orient="row")
    increases = [
        (method, 1, 0.02 * place, 0.02 * place - 0.03, 0.02 * place + 0.03, 0.01, 8, 3)
        for place, method in enumerate(whole)
        if method != "random"
    ]
    removed = pl.DataFrame(increases, schema=schemas.REMOVAL.empty().schema, orient="row")
    return schemas.LINEAR_DATAMODELING_SCORE.enforce(scores), schemas.REMOVAL.enforce(removed)
