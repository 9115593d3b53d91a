"""Which columns of its upstream tables every column of a table is made from."""

from collections.abc import Iterable, Mapping, Sequence

from gradsim_assets.core.models.controls import BASE, UNTRAINED
from gradsim_assets.core.tables.schemas import (
    ACCURACY_PER_COMPONENT,
    AGREEMENT,
    ALL_PAIRS,
    ALL_PAIRS_PRECONDITIONED,
    ALL_PAIRS_PROJECTED,
    BM25_CANDIDATES,
    CONTROL_COMPARISON,
    CURVATURE,
    DOT_PRODUCTS,
    FIRST_ORDER,
    GRADIENT_INDEX,
    GRADIENT_SIMILARITY,
    GREEDY_SELECTION,
    INDEX_CANDIDATES,
    INDEX_RECALL,
    LIMA,
    LINEAR_DATAMODELING_SCORE,
    MODEL_COMPARISON,
    MODEL_GENERATED,
    PARAMETERS_PER_COMPONENT,
    PARAPHRASED,
    PRECONDITIONED_PRODUCTS,
    PROJECTED_SIMILARITY,
    REMOVAL,
    RETRIEVAL,
    RETRIEVAL_BY_GROUP,
    SAMPLE_COLUMNS,
    SELF_SIMILARITY,
    SETTINGS,
    SUBSET_LOSSES,
    TABLES,
    TAIL_PATCH,
    TOKEN_ATTRIBUTION,
    TRACIN,
)

#: Stands for the dataset of a table's own setting, paraphrased or model_generated. Shown as it is (the UI takes <...> for a tag).
VARIANTS = "variants"

#: A column of an upstream table: (name of the table or VARIANTS, column).
Source = tuple[str, str]

_ORIGINALS_AND_VARIANTS: tuple[Source, ...] = ((LIMA.name, "messages"), (VARIANTS, "messages"))
_SELVES: tuple[Source, ...] = ((DOT_PRODUCTS.name, "variant_self"), (DOT_PRODUCTS.name, "original_self"))
_COSINES: tuple[Source, ...] = ((DOT_PRODUCTS.name, "dot_product"), *_SELVES)
_TERMS = ("dot_product", "variant_self", "original_self")
_UNDER: tuple[Source, ...] = tuple((PRECONDITIONED_PRODUCTS.name, term) for term in _TERMS)
_METHODS: tuple[Source, ...] = (*_COSINES, *_UNDER, (PROJECTED_SIMILARITY.name, "similarity"))
_BM25: tuple[Source, ...] = ((BM25_CANDIDATES.name, "score"), (INDEX_CANDIDATES.name, "bm25_score"))
_TEXTS: tuple[Source, ...] = (*_BM25, *_ORIGINALS_AND_VARIANTS)
_PRODUCTS: Mapping[str, tuple[Source, ...]] = {
    "dot_product": _ORIGINALS_AND_VARIANTS,
    "variant_self": ((VARIANTS, "messages"),),
    "original_self": ((LIMA.name, "messages"),),
}
_OF_ALL_PAIRS: Mapping[str, tuple[Source, ...]] = {
    "variant_id": ((VARIANTS, "id"),),
    "original_id": ((LIMA.name, "id"),),
}
_SCORES: tuple[Source, ...] = (
    *((ALL_PAIRS.name, term) for term in _TERMS),
    *((ALL_PAIRS_PRECONDITIONED.name, term) for term in _TERMS),
    (ALL_PAIRS_PROJECTED.name, "similarity"),
    *_ORIGINALS_AND_VARIANTS,
)
_SAMPLES: tuple[str, ...] = (LIMA.name, PARAPHRASED.name, MODEL_GENERATED.name)
_BY_COPY = [f"accuracy_{which}{end}" for which in ("verbatim", "not_verbatim") for end in ("", "_low", "_high")]
_PAIRS: Mapping[str, tuple[Source, ...]] = {
    name: ((BM25_CANDIDATES.name, name), (INDEX_CANDIDATES.name, name)) for name in ("variant_id", "original_id")
}
_COMPONENTS = {
    name: ((PARAMETERS_PER_COMPONENT.name, name),) for name in ("component", "component_type", "depth", "parameters")
}

#: By table and column; "*" for all other columns. What a table alone decides (its own numbering, say) has no sources.
_SOURCES: Mapping[str, Mapping[str, tuple[Source, ...]]] = {
    SAMPLE_COLUMNS.name: {"id": ((LIMA.name, "id"),)},
    PARAPHRASED.name: {
        "id": ((LIMA.name, "id"),),
        **dict.fromkeys(("messages", "text_overlap", "verbatim"), ((LIMA.name, "messages"),)),
    },
    MODEL_GENERATED.name: {
        "id": ((PARAPHRASED.name, "id"),),
        **dict.fromkeys(("text_overlap", "verbatim"), ((LIMA.name, "messages"), (PARAPHRASED.name, "messages"))),
        "*": ((PARAPHRASED.name, "messages"),),
    },
    BM25_CANDIDATES.name: {
        "variant_id": ((PARAPHRASED.name, "id"),),
        "original_id": ((LIMA.name, "id"),),
        "*": ((LIMA.name, "messages"), (PARAPHRASED.name, "messages")),
    },
    CURVATURE.name: {
        **dict.fromkeys(
            ("component", "component_type", "depth", "parameters", "kind", "shape", "epsilon", "source"), ()
        ),
        "*": ((LIMA.name, "messages"),),
    },
    PRECONDITIONED_PRODUCTS.name: {**_PAIRS, **dict.fromkeys(("preconditioner", "component"), ()), **_PRODUCTS},
    DOT_PRODUCTS.name: {**_PAIRS, **_PRODUCTS},
    PROJECTED_SIMILARITY.name: {**_PAIRS, "similarity": _ORIGINALS_AND_VARIANTS},
    GRADIENT_SIMILARITY.name: {
        **{name: ((DOT_PRODUCTS.name, name),) for name in ("variant_id", "original_id", "component")},
        "similarity": _COSINES,
    },
    ACCURACY_PER_COMPONENT.name: {**_COMPONENTS, "*": _COSINES},
    AGREEMENT.name: {**_COMPONENTS, "*": _COSINES},
    GREEDY_SELECTION.name: {
        "component": ((DOT_PRODUCTS.name, "component"),),
        **dict.fromkeys(("round", "value", "selection_value"), _COSINES),
        "parameter_share": ((PARAMETERS_PER_COMPONENT.name, "parameters"),),
    },
    SELF_SIMILARITY.name: {**_COMPONENTS, "variant_id": ((DOT_PRODUCTS.name, "variant_id"),), "*": _COSINES},
    TRACIN.name: {
        **{name: ((GRADIENT_SIMILARITY.name, name),) for name in ("variant_id", "original_id")},
        "*": (
            (GRADIENT_SIMILARITY.name, "similarity"),
        ),  # made of the same products, which stand behind it in the graph
    },
    RETRIEVAL.name: {
        "component": ((DOT_PRODUCTS.name, "component"),),
        "variants": ((DOT_PRODUCTS.name, "variant_id"),),
        **dict.fromkeys(("variants_verbatim", "variants_not_verbatim"), ((VARIANTS, "verbatim"),)),
        **dict.fromkeys(_BY_COPY, (*_METHODS, *_TEXTS, (VARIANTS, "verbatim"))),
        "method": ((PROJECTED_SIMILARITY.name, "proportion"),),
        **dict.fromkeys(("mean_best_similarity", "median_best_similarity", "agreement"), _METHODS),
        "*": (*_METHODS, *_TEXTS),
    },
    RETRIEVAL_BY_GROUP.name: {
        **dict.fromkeys(("column", "group"), ((SAMPLE_COLUMNS.name, "id"),)),
        "component": ((DOT_PRODUCTS.name, "component"),),
        "method": ((PROJECTED_SIMILARITY.name, "proportion"),),
        **dict.fromkeys(("variants", "small"), ((DOT_PRODUCTS.name, "variant_id"), (SAMPLE_COLUMNS.name, "id"))),
        "*": (*_METHODS, *_TEXTS, (SAMPLE_COLUMNS.name, "id")),
    },
    CONTROL_COMPARISON.name: {
        **dict.fromkeys(("component", "component_type", "depth"), ((GRADIENT_SIMILARITY.name, "component"),)),
        "variants": ((GRADIENT_SIMILARITY.name, "variant_id"), (GRADIENT_SIMILARITY.name, "original_id")),
        **dict.fromkeys(("control", "control_model"), ()),
        "*": ((GRADIENT_SIMILARITY.name, "similarity"),),
    },
    FIRST_ORDER.name: {
        **{name: ((DOT_PRODUCTS.name, name),) for name in ("variant_id", "original_id")},
        "learning_rate": ((DOT_PRODUCTS.name, "original_self"),),
        "predicted": ((DOT_PRODUCTS.name, "dot_product"), (DOT_PRODUCTS.name, "original_self")),
        "measured": (*_ORIGINALS_AND_VARIANTS, (DOT_PRODUCTS.name, "original_self")),
    },
    TAIL_PATCH.name: {
        "variant_id": ((DOT_PRODUCTS.name, "variant_id"),),
        "component": _COSINES,
        "originals": (*_COSINES, *_UNDER, *_BM25, (LIMA.name, "id"), *_ORIGINALS_AND_VARIANTS),
        "log_probability_change": _ORIGINALS_AND_VARIANTS,
    },
    TOKEN_ATTRIBUTION.name: {
        **{name: ((DOT_PRODUCTS.name, name),) for name in ("variant_id", "original_id")},
        **dict.fromkeys(("position", "token", "contribution", "linked"), _ORIGINALS_AND_VARIANTS),
    },
    ALL_PAIRS.name: {**_OF_ALL_PAIRS, **_PRODUCTS},
    ALL_PAIRS_PRECONDITIONED.name: {**_OF_ALL_PAIRS, **_PRODUCTS},
    ALL_PAIRS_PROJECTED.name: {**_OF_ALL_PAIRS, "similarity": _ORIGINALS_AND_VARIANTS},
    SUBSET_LOSSES.name: {
        "id": tuple((table, "id") for table in _SAMPLES),
        "loss": tuple((table, "messages") for table in _SAMPLES),
        "in_subset": ((LIMA.name, "id"),),
    },
    LINEAR_DATAMODELING_SCORE.name: {
        "component": ((ALL_PAIRS.name, "component"),),
        **dict.fromkeys(("lds", "lds_low", "lds_high"), (*_SCORES, (SUBSET_LOSSES.name, "loss"))),
        "subsets": ((SUBSET_LOSSES.name, "subset"),),
        "variants": ((SUBSET_LOSSES.name, "id"),),
    },
    REMOVAL.name: {
        "removed": ((LIMA.name, "id"),),
        **dict.fromkeys(("loss_increase", "loss_increase_low", "loss_increase_high"), _SCORES),
        "random_increase": _ORIGINALS_AND_VARIANTS,
        "variants": ((VARIANTS, "id"),),
    },
    GRADIENT_INDEX.name: {"id": ((LIMA.name, "id"),), "*": ((LIMA.name, "messages"),)},
    INDEX_CANDIDATES.name: {
        "variant_id": ((VARIANTS, "id"),),
        "original_id": ((GRADIENT_INDEX.name, "id"),),
        **dict.fromkeys(("rank", "score"), ((GRADIENT_INDEX.name, "sketch"), (VARIANTS, "messages"))),
        "forced": ((GRADIENT_INDEX.name, "sketch"), (VARIANTS, "messages"), (VARIANTS, "id")),
        **dict.fromkeys(("bm25_score", "bm25_rank"), _ORIGINALS_AND_VARIANTS),
    },
    INDEX_RECALL.name: {
        "variant_id": ((PARAPHRASED.name, "id"),),
        **dict.fromkeys(("k", "reranked"), ()),
        "found": ((GRADIENT_INDEX.name, "sketch"), (LIMA.name, "messages"), (PARAPHRASED.name, "messages")),
    },
}


def sources(
    path: Sequence[str], columns: Iterable[str], preconditioned: bool = True, looked_up: bool = False
) -> dict[str, list[tuple[list[str], str]]]:
    """By column of a table (of those given) the (path of a table, column) pairs that it is made from; others are left out.

    Without `preconditioned` there are no products under preconditioners, and without `looked_up` no candidates by an index.
    """
    name, setting = path[0], path[-1]
    if name == MODEL_COMPARISON.name:
        return {
            column: [_compared(column, setting) for setting in SETTINGS]
            for column in columns
            if column not in ("model", "run", "step", "setting")
        }
    rules = _SOURCES.get(name, {})
    lacking: tuple[str, ...] = () if preconditioned else (PRECONDITIONED_PRODUCTS.name, ALL_PAIRS_PRECONDITIONED.name)
    lacking += () if looked_up else (INDEX_CANDIDATES.name,)
    return {
        column: [(_path(table, setting), of) for table, of in found if table not in lacking]
        for column in columns
        if (found := rules.get(column, rules.get("*", ())))
    }


def _compared(column: str, setting: str) -> tuple[list[str], str]:
    """What a column of `model_comparison` is made from in one setting."""
    kind, _, figure = column.partition("_")
    if kind == "lds":
        return [LINEAR_DATAMODELING_SCORE.name, setting], column
    if kind not in (UNTRAINED, BASE):
        return [RETRIEVAL.name, setting], column
    return [CONTROL_COMPARISON.name, setting], f"control_{figure}" if figure == "accuracy" else figure


def _path(table: str, setting: str) -> list[str]:
    if table == VARIANTS:
        return [setting]
    return [table, setting] if TABLES[table].parts else [table]
