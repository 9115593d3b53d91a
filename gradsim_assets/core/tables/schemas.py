"""Schemas of all tables: names, dtypes, meaning and unit of every column. Enforced whenever a table is written."""

import polars as pl

from gradsim_assets.core.components import FAMILIES
from gradsim_assets.core.models.controls import BASE, UNTRAINED
from gradsim_assets.core.tables.table_schema import Column, TableSchema

#: The two ways of making a variant of a training sample.
SETTINGS = ("paraphrased", "model_generated")

#: What gradients can be multiplied with before the product.
PRECONDITIONERS = ("adam", "ekfac")

#: The name under which the concatenation of all components stands in the column `component`.
FULL_GRADIENT = "full_gradient"

#: The method that compares answers' texts alone.
TEXT_OVERLAP = "text_overlap"

MESSAGES = pl.List(pl.Struct({"role": pl.String(), "content": pl.String()}))


def _pair_columns() -> dict[str, Column]:
    return {
        "variant_id": Column(pl.String(), "id of the variant (the query)"),
        "original_id": Column(pl.String(), "id of the original it is compared with"),
    }


def _component_columns() -> dict[str, Column]:
    return {
        "component": Column(pl.String(), "one named parameter tensor of the model"),
        "component_type": Column(pl.String(), "what the tensor is, without its block: self_attn.q_proj, ..."),
        "depth": Column(pl.Int32(), "number of the block it stands in; null outside the blocks", nullable=True),
        # Null where nobody knows: imported results without the model's config.json.
        "parameters": Column(pl.Int64(), "number of parameters", nullable=True),
    }


def _copied_columns() -> dict[str, Column]:
    """Accuracy on the variants whose answer is a copy, and on the others; null where the texts are not known."""
    columns = {}
    for name, which in (
        ("verbatim", "whose answer is a copy of the own original's"),
        ("not_verbatim", "with other answers"),
    ):
        columns[f"variants_{name}"] = Column(pl.Int64(), f"number of variants {which}", nullable=True)
        columns[f"accuracy_{name}"] = Column(pl.Float64(), f"accuracy on the variants {which}", "share", True)
        columns[f"accuracy_{name}_low"] = Column(pl.Float64(), "lower end of Wilson's 95 % interval", "share", True)
        columns[f"accuracy_{name}_high"] = Column(pl.Float64(), "upper end of Wilson's 95 % interval", "share", True)
    return columns


def _accuracy_columns() -> dict[str, Column]:
    # Null where no variant of the table can be scored.
    return {
        "accuracy": Column(
            pl.Float64(), "share of variants whose own original comes out on top, strictly", "share", True
        ),
        "accuracy_low": Column(pl.Float64(), "lower end of Wilson's 95 % interval", "share", True),
        "accuracy_high": Column(pl.Float64(), "upper end of Wilson's 95 % interval", "share", True),
    }


def _retrieval_columns() -> dict[str, Column]:
    return {
        **_accuracy_columns(),
        "mrr": Column(pl.Float64(), "mean reciprocal rank of the own original", "share", True),
        "mrr_low": Column(
            pl.Float64(), "lower end of the 95 % bootstrap interval; null where all ranks are equal", "share", True
        ),
        "mrr_high": Column(
            pl.Float64(), "upper end of the 95 % bootstrap interval; null where all ranks are equal", "share", True
        ),
    }


def _difference(
    meaning: str, name: str = "difference", interval: str = "paired interval (Newcombe's)"
) -> dict[str, Column]:
    """A difference of two shares with its interval; null where there is nothing to compare."""
    return {
        name: Column(pl.Float64(), meaning, "share", True),
        f"{name}_low": Column(pl.Float64(), f"lower end of its 95 % {interval}", "share", True),
        f"{name}_high": Column(pl.Float64(), f"upper end of its 95 % {interval}", "share", True),
    }


def _of_controls() -> dict[str, Column]:
    """What `control_comparison` says of the full gradient; null for other methods, and where the control was not computed."""
    columns = {}
    for kind in (UNTRAINED, BASE):
        columns[f"{kind}_accuracy"] = Column(pl.Float64(), f"the accuracy of the control {kind}", "share", True)
        columns |= _difference(f"the model's accuracy less that of the control {kind}", f"{kind}_difference")
    return columns


RECALL = {
    r"recall_at_\d+": Column(pl.Float64(), "share of variants whose own original is among the top k", "share", True),
    r"recall_at_\d+_(low|high)": Column(pl.Float64(), "ends of its 95 % interval (Wilson's)", "share", True),
}

#: The column of a dataset table that there is where messages hold more than roles and texts.
CONVERSATION = "conversation"

_SAMPLE = {
    "id": Column(pl.String(), "id of the sample; a variant bears the id of its original"),
    "messages": Column(MESSAGES, "the turns of the conversation in order"),
}

_WHOLE = {
    CONVERSATION: Column(
        pl.String(),
        "the whole conversation as JSON where messages do not say all of it (tools, tool calls, names); else null",
        nullable=True,
    )
}

_COPIED = {
    "text_overlap": Column(
        pl.Float64(),
        "chrF2 (as sacrebleu defines it) of the answer against the own original's answer; null for a missing variant",
        "0 to 100",
        nullable=True,
    ),
    "verbatim": Column(
        pl.Boolean(),
        "the answer equals the own original's: in Unicode NFC, a run of white space as one space, trimmed; null for a "
        "missing variant",
        nullable=True,
    ),
}

LIMA = TableSchema("lima", _SAMPLE, key=("id",), families=_WHOLE, open=True)

#: Beside `lima`, not in it: what these say decides groups in analyses and no gradient.
SAMPLE_COLUMNS = TableSchema(
    "sample_columns",
    {
        "id": Column(
            pl.String(), "id of the original; the other columns are those of the data's source, under its names"
        )
    },
    key=("id",),
    open=True,
)

PARAPHRASED = TableSchema(
    "paraphrased",
    {
        "id": _SAMPLE["id"],
        "messages": Column(
            MESSAGES, "the turns of the conversation in order; null where the variant is missing", None, True
        ),
        "provider": Column(pl.String(), "where the paraphrase came from: demo, file, or the chat service"),
        "paraphrase_model": Column(pl.String(), "chat model that wrote it", nullable=True),
        "prompt_tokens": Column(pl.Int64(), "tokens sent to the chat model", "tokens", True),
        "completion_tokens": Column(pl.Int64(), "tokens received from the chat model", "tokens", True),
        "flag": Column(pl.String(), "why the paraphrase is doubtful or missing; null when it is sound", nullable=True),
        **_COPIED,
    },
    key=("id",),
    families=_WHOLE,
    open=True,
)

MODEL_GENERATED = TableSchema(
    "model_generated",
    {
        **_SAMPLE,
        "prompt_tokens": Column(pl.Int64(), "length of the templated prompt of the (last) answer", "tokens"),
        "completion_tokens": Column(
            pl.Int64(), "length of the answer (of all of them, where every turn is answered), without EOS", "tokens"
        ),
        "truncated": Column(pl.Boolean(), "an answer was cut by the model's context"),
        **_COPIED,
    },
    key=("id",),
    families=_WHOLE,
)

BM25_CANDIDATES = TableSchema(
    "bm25_candidates",
    {
        **_pair_columns(),
        "rank": Column(pl.Int32(), "rank of the original for this variant, from 1"),
        "score": Column(pl.Float64(), "BM25 (Okapi) score of the original's user text"),
        "forced": Column(pl.Boolean(), "the variant's own original, put in place of the last candidate"),
        "zero_score": Column(
            pl.Boolean(),
            "BM25 knows nothing of it (its score is 0), so that its place says nothing: it was drawn at random among all "
            "such originals, or follows the order of the corpus (data.zero_scores); not so if it is forced",
        ),
    },
    key=("variant_id", "original_id"),
)

DOT_PRODUCTS = TableSchema(
    "dot_products",
    {
        **_pair_columns(),
        "component": Column(pl.String(), "one named parameter tensor of the model"),
        "dot_product": Column(
            pl.Float64(), "<gradient of the variant, gradient of the original> in this component", "(nats/parameter)²"
        ),
        # Null only in imported results that lack the self product.
        "variant_self": Column(pl.Float64(), "squared norm of the variant's gradient", "(nats/parameter)²", True),
        "original_self": Column(pl.Float64(), "squared norm of the original's gradient", "(nats/parameter)²", True),
    },
    key=("variant_id", "original_id", "component"),
    parts=SETTINGS,
)

CURVATURE = TableSchema(
    "curvature",
    {
        **_component_columns(),
        "kind": Column(
            pl.String(),
            "what the eigenbasis comes of: diagonal (none), tokens (inputs and output gradients of a linear layer), embedding, "
            "tied (an embedding that is the output layer as well) or gradients (of matrices and experts without such a layer)",
        ),
        "shape": Column(pl.List(pl.Int64()), "shape of the tensor"),
        "mean_eigenvalue": Column(pl.Float64(), "mean second moment of its numbers", "(nats/parameter)²"),
        "epsilon": Column(
            pl.Float64(),
            "what the optimizer adds to the square root of a second moment; null where none says",
            None,
            True,
        ),
        "samples": Column(pl.Int64(), "originals that it is a mean over; null for an optimizer's state", None, True),
        "tokens": Column(
            pl.Int64(), "tokens that the eigenbasis comes of; null where it comes of none", "tokens", True
        ),
        "source": Column(
            pl.String(),
            "optimizer_state, mean_squared_gradient, or the labels of EK-FAC's gradients: sampled or empirical",
        ),
        "file": Column(pl.String(), "safetensors file beside this table that holds the numbers"),
        "file_hash": Column(pl.String(), "SHA-256 of that file, 16 hex digits"),
    },
    key=("component",),
    parts=PRECONDITIONERS,
)

PRECONDITIONED_PRODUCTS = TableSchema(
    "preconditioned_products",
    {
        **_pair_columns(),
        "preconditioner": Column(pl.String(), "what gradients are multiplied with before the product: adam or ekfac"),
        "component": Column(pl.String(), "one named parameter tensor of the model"),
        "dot_product": Column(
            pl.Float64(), "<gradient of the variant, P x gradient of the original> in this component"
        ),
        "variant_self": Column(pl.Float64(), "<g, P g> of the variant's gradient"),
        "original_self": Column(pl.Float64(), "<g, P g> of the original's gradient"),
    },
    key=("variant_id", "original_id", "preconditioner", "component"),
    parts=SETTINGS,
)

PROJECTED_SIMILARITY = TableSchema(
    "projected_similarity",
    {
        **_pair_columns(),
        # Null only in imported results without the model's config.json.
        "proportion": Column(pl.Float64(), "nominal size of the projection", "share of the parameters", True),
        "dimension": Column(
            pl.Int64(), "real total dimension, summed over the components (the nominal one in imported results)"
        ),
        "similarity": Column(pl.Float64(), "cosine of the projected full gradients", "cosine", True),
    },
    key=("variant_id", "original_id", "proportion"),
    parts=SETTINGS,
)

GRADIENT_SIMILARITY = TableSchema(
    "gradient_similarity",
    {
        **_pair_columns(),
        "component": Column(pl.String(), f"one named parameter tensor, or {FULL_GRADIENT}"),
        "similarity": Column(pl.Float64(), "cosine of the two gradients; null where one has no length", "cosine", True),
    },
    key=("variant_id", "original_id", "component"),
    parts=SETTINGS,
)

PARAMETERS_PER_COMPONENT = TableSchema(
    "parameters_per_component",
    {**_component_columns(), "share": Column(pl.Float64(), "share of all parameters", "share", True)},
    key=("component",),
)

ACCURACY_PER_COMPONENT = TableSchema(
    "accuracy_per_component",
    {**_component_columns(), **_retrieval_columns()},
    key=("component",),
    parts=SETTINGS,
    families=RECALL,
)

AGREEMENT = TableSchema(
    "agreement",
    {
        **_component_columns(),
        "agreement": Column(
            pl.Float64(),
            "cosine between all pair similarities under the component and under the full gradient",
            "cosine",
            True,
        ),
        "agreement_low": Column(pl.Float64(), "lower end of the 95 % bootstrap interval over variants", "cosine", True),
        "agreement_high": Column(
            pl.Float64(), "upper end of the 95 % bootstrap interval over variants", "cosine", True
        ),
    },
    key=("component",),
    parts=SETTINGS,
)

GREEDY_SELECTION = TableSchema(
    "greedy_selection",
    {
        "criterion": Column(pl.String(), "what each round maximises: agreement or accuracy"),
        "evaluation": Column(
            pl.String(), "same_ids, or held_out: selected on one half of the ids, scored on the other"
        ),
        "split": Column(pl.Int32(), "number of the random halving of the ids, from 1; 0 for same_ids"),
        "round": Column(pl.Int32(), "round of the selection, from 1"),
        "component": Column(pl.String(), "component added in this round"),
        "value": Column(pl.Float64(), "the criterion after this round, on the scoring ids", nullable=True),
        "selection_value": Column(pl.Float64(), "the criterion after this round, on the selecting ids", nullable=True),
        "parameter_share": Column(pl.Float64(), "cumulated share of the parameters", "share", True),
    },
    key=("criterion", "evaluation", "split", "round"),
    parts=SETTINGS,
    open=True,
)

SELF_SIMILARITY = TableSchema(
    "self_similarity",
    {
        "variant_id": Column(pl.String(), "id of the variant, compared with its own original"),
        **_component_columns(),
        "similarity": Column(pl.Float64(), "cosine of the two gradients in this component", "cosine", True),
        "full_gradient": Column(pl.Float64(), "cosine of the two full gradients", "cosine", True),
        "best_component": Column(pl.Float64(), "cosine of the two gradients in the best component", "cosine", True),
        "divergence": Column(pl.Float64(), "|best component - full gradient|", "cosine", True),
        "divergence_rank": Column(pl.Int32(), "1 for the sample where the two diverge most"),
    },
    key=("variant_id", "component"),
    parts=SETTINGS,
)

RETRIEVAL = TableSchema(
    "retrieval",
    {
        "method": Column(
            pl.String(),
            f"{FULL_GRADIENT}, a preconditioner (of the full gradient), projection_P (P the proportion), bm25, {TEXT_OVERLAP} "
            "(chrF2 of the answers), tracin and tracin_normalised (of the checkpoints of a run up to this one), best_component (its intervals hold for all components at "
            "once, its p-value is multiplied by their number) or chance",
        ),
        **_retrieval_columns(),
        "mean_best_similarity": Column(pl.Float64(), "mean over variants of the highest similarity", "cosine", True),
        "median_best_similarity": Column(
            pl.Float64(), "median over variants of the highest similarity", "cosine", True
        ),
        "wrong": Column(
            pl.Float64(),
            "variants whose own original does not come out on top (expected number for chance)",
            nullable=True,
        ),
        "only_this_right": Column(
            pl.Int64(), "variants that this method gets right and the full gradient wrong", nullable=True
        ),
        "only_full_gradient_right": Column(
            pl.Int64(), "variants that the full gradient gets right and this method wrong", nullable=True
        ),
        "p_value": Column(
            pl.Float64(), "exact McNemar test of the method against the full gradient, two-sided", nullable=True
        ),
        **_difference("the full gradient's accuracy less the method's, on the same variants"),
        "agreement": Column(
            pl.Float64(), "cosine between all pair similarities under the method and the full gradient", "cosine", True
        ),
        "component": Column(pl.String(), "the component, for best_component", nullable=True),
        "variants": Column(pl.Int64(), "number of variants scored"),
        **_copied_columns(),
    },
    key=("method",),
    parts=SETTINGS,
    families=RECALL,
    open=True,
)

RETRIEVAL_BY_GROUP = TableSchema(
    "retrieval_by_group",
    {
        "column": Column(pl.String(), "the column of sample_columns that the originals are grouped by"),
        "group": Column(
            pl.String(), "value of the column, or a range of numbers; null for originals without a value", nullable=True
        ),
        "method": Column(pl.String(), "method of the retrieval table"),
        "variants": Column(pl.Int64(), "number of variants of the group that were scored"),
        "small": Column(pl.Boolean(), "the group has so few variants that its figures say little"),
        **_retrieval_columns(),
        "component": Column(
            pl.String(), "the component, for best_component: the one that is best on all variants", nullable=True
        ),
    },
    key=("column", "group", "method"),
    parts=SETTINGS,
)

TRACIN = TableSchema(
    "tracin",
    {
        **_pair_columns(),
        "score": Column(
            pl.Float64(),
            "sum over the checkpoints of the run up to this one: learning rate x product of the full gradients",
            "(nats/parameter)²",
            True,
        ),
        "normalised": Column(
            pl.Float64(), "mean over them of the cosine, weighted by the learning rates", "cosine", True
        ),
    },
    key=("variant_id", "original_id"),
    parts=SETTINGS[:1],  # answers are another text at every checkpoint
)

CONTROL_COMPARISON = TableSchema(
    "control_comparison",
    {
        "control": Column(pl.String(), "untrained (random weights), or base (the model before its fine-tuning)"),
        "control_model": Column(pl.String(), "model id of the control"),
        "component": Column(pl.String(), f"component of both models, or {FULL_GRADIENT}"),
        "component_type": _component_columns()["component_type"],
        "depth": _component_columns()["depth"],
        "variants": Column(pl.Int64(), "number of variants with the same candidates under both models"),
        **_accuracy_columns(),
        "control_accuracy": Column(pl.Float64(), "the control's accuracy on the same variants", "share", True),
        "control_accuracy_low": Column(pl.Float64(), "lower end of Wilson's 95 % interval", "share", True),
        "control_accuracy_high": Column(pl.Float64(), "upper end of Wilson's 95 % interval", "share", True),
        **_difference("the model's accuracy less the control's"),
        "only_model_right": Column(pl.Int64(), "variants that the model gets right and the control wrong"),
        "only_control_right": Column(pl.Int64(), "variants that the control gets right and the model wrong"),
        "p_value": Column(pl.Float64(), "exact McNemar test of the two, two-sided"),
        "mrr": Column(pl.Float64(), "mean reciprocal rank of the own original", "share"),
        "control_mrr": Column(pl.Float64(), "the control's on the same variants", "share"),
        **_difference(
            "the model's mean reciprocal rank less the control's", "mrr_difference", "paired bootstrap interval"
        ),
    },
    key=("control", "component"),
    parts=SETTINGS,
)

MODEL_COMPARISON = TableSchema(
    "model_comparison",
    {
        "model": Column(pl.String(), "model id"),
        "run": Column(
            pl.String(), "the training run that the model is a checkpoint of; null for other models", None, True
        ),
        "step": Column(pl.Int64(), "the step of the run that it was saved at", "optimizer steps", True),
        "setting": Column(pl.String(), "paraphrased or model_generated"),
        "method": Column(pl.String(), "method of the retrieval table"),
        **_retrieval_columns(),
        "lds": Column(
            pl.Float64(), "the method's linear datamodelling score; null where it was not measured", None, True
        ),
        "lds_low": Column(pl.Float64(), "lower end of its 95 % bootstrap interval", None, True),
        "lds_high": Column(pl.Float64(), "upper end of its 95 % bootstrap interval", None, True),
        **_of_controls(),
    },
    key=("model", "setting", "method"),
    open=True,
)

FIRST_ORDER = TableSchema(
    "first_order",
    {
        **_pair_columns(),
        "learning_rate": Column(pl.Float64(), "of the one step of plain SGD on the original"),
        "predicted": Column(
            pl.Float64(), "-learning rate x product of the full gradients", "nats per response token of the variant"
        ),
        "measured": Column(
            pl.Float64(),
            "the variant's loss behind the step less that before it",
            "nats per response token of the variant",
        ),
    },
    key=("variant_id", "original_id"),
    parts=SETTINGS,
)

TAIL_PATCH = TableSchema(
    "tail_patch",
    {
        "method": Column(pl.String(), "what scored the originals; random for originals drawn by a seed"),
        "variant_id": Column(pl.String(), "id of the variant"),
        "originals": Column(
            pl.List(pl.String()), "the method's top originals, or those drawn, that one step each was on"
        ),
        "log_probability_change": Column(
            pl.Float64(),
            "mean over the originals: change of the variant's log-probability by one optimizer step on one of them",
            "nats per response token",
        ),
        "component": Column(pl.String(), "the component, for best_component: chosen on other variants", nullable=True),
    },
    key=("method", "variant_id"),
    parts=SETTINGS,
)

ALL_PAIRS = TableSchema("all_pairs", DOT_PRODUCTS.columns, key=DOT_PRODUCTS.key, parts=SETTINGS)

ALL_PAIRS_PROJECTED = TableSchema(
    "all_pairs_projected", PROJECTED_SIMILARITY.columns, key=PROJECTED_SIMILARITY.key, parts=SETTINGS
)

ALL_PAIRS_PRECONDITIONED = TableSchema(
    "all_pairs_preconditioned", PRECONDITIONED_PRODUCTS.columns, key=PRECONDITIONED_PRODUCTS.key, parts=SETTINGS
)

SUBSET_LOSSES = TableSchema(
    "subset_losses",
    {
        "subset": Column(pl.String(), "key of the half of the originals that the model was retrained on"),
        "setting": Column(pl.String(), "original, paraphrased or model_generated"),
        "id": Column(pl.String(), "id of the sample"),
        "loss": Column(pl.Float64(), "of the sample under the retrained model", "nats per response token"),
        "in_subset": Column(
            pl.Boolean(), "whether the model was trained on the original; null for variants", nullable=True
        ),
    },
    key=("subset", "setting", "id"),
)

LINEAR_DATAMODELING_SCORE = TableSchema(
    "linear_datamodeling_score",
    {
        "method": Column(
            pl.String(),
            f"what scored the originals: bm25, text_overlap, representation, {FULL_GRADIENT} and its dot product, the same under "
            "preconditioners (adam, ekfac), best_component, projection_P, random, component_type, component",
        ),
        "component": Column(
            pl.String(), "the component, or the type of components, that was taken alone", nullable=True
        ),
        "lds": Column(
            pl.Float64(),
            "mean over variants of Spearman's correlation, over subsets, between the sum of the variant's scores with the "
            "members and its negative loss under the model retrained on them",
        ),
        "lds_low": Column(pl.Float64(), "lower end of the 95 % bootstrap interval over variants and subsets"),
        "lds_high": Column(pl.Float64(), "upper end of the 95 % bootstrap interval over variants and subsets"),
        "subsets": Column(pl.Int64(), "number of retrainings"),
        "variants": Column(pl.Int64(), "number of variants"),
    },
    key=("method", "component"),
    parts=SETTINGS,
)

REMOVAL = TableSchema(
    "removal",
    {
        "method": Column(pl.String(), "what scored the originals"),
        "removed": Column(
            pl.Int64(), "number of the method's top originals that each variant's model was retrained without"
        ),
        "loss_increase": Column(
            pl.Float64(),
            "mean over variants: the variant's loss without its top originals, less that without as many random ones",
            "nats per response token",
        ),
        "loss_increase_low": Column(
            pl.Float64(),
            "lower end of the 95 % bootstrap interval over variants; null where all are equal",
            "nats per response token",
            True,
        ),
        "loss_increase_high": Column(
            pl.Float64(),
            "upper end of the 95 % bootstrap interval over variants; null where all are equal",
            "nats per response token",
            True,
        ),
        "random_increase": Column(
            pl.Float64(),
            "mean over variants: the variant's loss without random originals, less that of the model retrained on all",
            "nats per response token",
        ),
        "variants": Column(pl.Int64(), "number of variants"),
        "draws": Column(pl.Int64(), "number of random sets, the same for all variants"),
    },
    key=("method",),
    parts=SETTINGS,
)

GRADIENT_INDEX = TableSchema(
    "gradient_index",
    {
        "id": Column(pl.String(), "id of the original"),
        "sketch": Column(
            pl.List(pl.Float16()),
            "the sketch of its gradient, of length 1 (all zeros where the gradient is): the product of two estimates their cosine",
            fixed=True,
        ),
        "length": Column(
            pl.Float64(),
            "length of the sketch before, whose square estimates that of the gradient without bias",
            "nats/parameter",
        ),
    },
    key=("id",),
)

INDEX_CANDIDATES = TableSchema(
    "index_candidates",
    {
        **_pair_columns(),
        "rank": Column(pl.Int32(), "rank of the original for this variant by the index, from 1"),
        "score": Column(
            pl.Float64(),
            "product of the two sketches of length 1, which estimates the cosine of the two full gradients",
        ),
        "forced": Column(pl.Boolean(), "the variant's own original, put in place of the last candidate"),
        "bm25_score": Column(pl.Float64(), "BM25 (Okapi) score of the original's user text"),
        "bm25_rank": Column(pl.Int32(), "rank of the original by that score among all originals, ties by their order"),
    },
    key=("variant_id", "original_id"),
    parts=SETTINGS,
)

INDEX_RECALL = TableSchema(
    "index_recall",
    {
        "variant_id": Column(pl.String(), "the paraphrase that was looked up"),
        "k": Column(pl.Int64(), "how many of the exactly most similar originals are looked for"),
        "reranked": Column(pl.Int64(), "so many of the best by the index were looked at"),
        "found": Column(pl.Int64(), "how many of the k are among them"),
    },
    key=("variant_id", "k", "reranked"),
)

TOKEN_ATTRIBUTION = TableSchema(
    "token_attribution",
    {
        **_pair_columns(),
        "side": Column(pl.String(), "whose token it is: that of the `variant` or of the `original`"),
        "position": Column(pl.Int64(), "place of the token, prompt and template included, from 0"),
        "token": Column(pl.String(), "the token as text; a character of several tokens stands with the last of them"),
        "contribution": Column(
            pl.Float64(),
            "what the use of the weights at the token adds to the product of the two full gradients; all of a side make it up",
        ),
        "linked": Column(
            pl.Int64(), "place of the other text's token that adds most to the contribution, in its direction"
        ),
    },
    key=("variant_id", "original_id", "side", "position"),
    parts=SETTINGS,
)

TRACES = TableSchema(
    "traces",
    {
        "original_id": Column(pl.String(), "the original that the text was compared with"),
        "rank": Column(
            pl.Int64(), "its place by similarity, from 1; equal ones in the order of the data, undefined ones last"
        ),
        "similarity": Column(
            pl.Float64(), "what the method ranks by; null where a gradient has no length", nullable=True
        ),
        "dot_product": Column(
            pl.Float64(), "product of the gradients that the method compares, which its tokens make up", nullable=True
        ),
        **{
            name: Column(
                pl.Float64(), f"cosine in the components of the family {name}; null where it has none", nullable=True
            )
            for name in FAMILIES
        },
        "text_overlap": Column(pl.Float64(), "chrF2 of the answer against the original's", "0 to 100"),
        "bm25_score": Column(pl.Float64(), "BM25 of the prompt against the original's"),
        "bm25_rank": Column(pl.Int64(), "1 + number of originals with a higher BM25 score"),
        "answer_share": Column(
            pl.Float64(),
            "share of the answer's tokens that this original explains better than the others whose tokens were split, and at "
            "all; null where they were not",
            "0 to 1",
            True,
        ),
    },
    key=("original_id",),
)

#: What a trace says of itself where those of several texts stand in one table.
_OF_TEXT = {
    "id": Column(pl.String(), "the trace: the same for the same text, method, model and originals"),
    "traced": Column(pl.String(), "when it was made, UTC, ISO 8601"),
    "prompt": Column(pl.String(), "what the model was asked"),
    "answer": Column(pl.String(), "what it said"),
    "generated": Column(pl.Boolean(), "whether the answer is the model's own"),
    "method": Column(pl.String(), "what originals are ranked by"),
    "against": Column(
        pl.String(), "which originals it was compared with: `all`, or those that BM25 or the index found"
    ),
    "revision": Column(pl.String(), "the model's revision, with those of its settings that are not the defaults"),
}
TRACED = tuple(_OF_TEXT)

KEPT_TRACES = TableSchema("traces", {**_OF_TEXT, **TRACES.columns}, key=("id", *TRACES.key))

TRACE_TOKENS = TableSchema(
    "trace_tokens",
    {
        "original_id": Column(pl.String(), "the original that the text was compared with"),
        "side": Column(pl.String(), "`answer`: a token of the text that was traced; `original`: one of the original"),
        "position": Column(pl.Int64(), "place of the token, prompt and template included, from 0"),
        "text": Column(pl.String(), "the token as text; a character of several tokens stands with the last of them"),
        "counted": Column(pl.Boolean(), "whether the loss counts the token"),
        "contribution": Column(
            pl.Float64(), "what the token's loss adds to the product of the two gradients; 0 where it is not counted"
        ),
    },
    key=("original_id", "side", "position"),
)

#: Every table by its name.
TABLES: dict[str, TableSchema] = {
    schema.name: schema
    for schema in (
        LIMA,
        SAMPLE_COLUMNS,
        PARAPHRASED,
        MODEL_GENERATED,
        BM25_CANDIDATES,
        CURVATURE,
        DOT_PRODUCTS,
        PRECONDITIONED_PRODUCTS,
        PROJECTED_SIMILARITY,
        GRADIENT_SIMILARITY,
        PARAMETERS_PER_COMPONENT,
        ACCURACY_PER_COMPONENT,
        AGREEMENT,
        GREEDY_SELECTION,
        SELF_SIMILARITY,
        TRACIN,
        RETRIEVAL,
        RETRIEVAL_BY_GROUP,
        CONTROL_COMPARISON,
        MODEL_COMPARISON,
        FIRST_ORDER,
        TAIL_PATCH,
        ALL_PAIRS,
        ALL_PAIRS_PROJECTED,
        ALL_PAIRS_PRECONDITIONED,
        SUBSET_LOSSES,
        LINEAR_DATAMODELING_SCORE,
        REMOVAL,
        GRADIENT_INDEX,
        INDEX_CANDIDATES,
        INDEX_RECALL,
        TOKEN_ATTRIBUTION,
    )
}
