"""Words on plots: names of families, methods and axes, and how each plot is called and read."""

from typing import NamedTuple

from gradsim_assets.core.models.controls import BASE, UNTRAINED
from gradsim_assets.core.tables import schemas

FAMILY_NAMES = {"attention": "attention", "mlp": "MLP", "norm": "norms", "embedding": "embeddings", "other": "other"}

DEPTH = "depth (block number)"
ACCURACY = "accuracy (share of variants)"
AGREEMENT = "agreement ρ (cosine)"
SIMILARITY = "similarity (cosine)"
MARGIN_FULL, MARGIN_CHOSEN = "margin, full gradient", "margin, component"
OUTSIDE = "outside the blocks"
SIZE = "parameters of a component"
SHARE = "share of the parameters (%, log scale)"
ROUNDS = "number of components (parameter counts are unknown)"

PREDICTED, MEASURED = "predicted change of the loss (nats per token)", "measured change of the loss (nats per token)"
CHANGE = "change of the log-probability (nats per token)"
LDS = "linear datamodelling score (rank correlation)"
INCREASE = "increase of the loss over random removal (nats per token)"
AS_PREDICTED = "measured = predicted"
OWN, OTHER = "own original", "another original"

FULL_GRADIENT = "full gradient"
BEST_COMPONENT = "best component"
SAME_IDS, HELD_OUT, HELD_OUT_RANGE = "same ids", "held out, mean", "held out, range"

#: The axis of each figure of a component.
LABELS = {"accuracy": ACCURACY, "agreement": AGREEMENT, "lds": "LDS (rank correlation)", "mrr": "mean reciprocal rank"}

STEP = "step of the training"

#: Rows and columns of a matrix of all pairs, up to which every pair has a cell of its own.
MOST_CELLS = 128

HIGHEST = "highest similarity of a cell (cosine)"
PAIRS = "pairs (%)"


class Words(NamedTuple):
    """What a plot is called, and a sentence that helps to read it."""

    title: str
    help: str


_ACCURACY = (
    "How often a single component's gradient finds the own original; above the full gradient's line a component alone "
    "does better than all together, at the line of chance it knows nothing. Whiskers are Wilson's 95 % interval of each "
    "component by itself: of many components a few stand high by luck."
)
_AGREEMENT = (
    "How closely a single component's similarities follow the full gradient's over all pairs; at 1 the component could "
    "stand in for the whole gradient. Whiskers are 95 % bootstrap intervals over the variants."
)
_BAND = "Mean over the components of a block; the band spans the lowest and the highest of them."
_BOX = (
    "Each point is a component; where at least {least} share a size, a box spans their middle half, its line is their "
    "median and its whiskers reach the last point within 1.5 times its length. Values that rise from top to bottom mean "
    "that larger components do better."
)

#: Fewest components that a box is drawn of: quartiles of fewer are next to no information.
LEAST_IN_BOX = 5

#: By name, which is also that of a plot's files.
PLOTS = {
    "parameters": Words(
        "Where the parameters are",
        "How the parameters are shared out; large component types dominate the full gradient's similarity.",
    ),
    "retrieval": Words(
        "Finding the own original",
        "Share of variants whose own original has the strictly highest similarity among its candidates, with Wilson's "
        "95 % interval; the best component is chosen on the same variants: its interval allows for that, its bar is optimistic.",
    ),
    "controls": Words(
        "Beside its controls",
        "The full gradient's accuracy of the model and of models that cannot know the originals, on the same variants, each with "
        "Wilson's 95 % interval. Where the bars are alike, what the model finds says nothing of what it has learned; the paired "
        "interval of the difference is in the summary.",
    ),
    "model_comparison": Words(
        "Models compared", "Accuracy of every method for every model, with Wilson's 95 % intervals over the variants."
    ),
    "over_steps": Words(
        "When it was learned",
        "Every figure of the checkpoints of a run over their steps, with its 95 % interval as an area. Text methods do not "
        "look at the model: BM25 compares prompts and stays where it is, as does the overlap of paraphrased answers; that of the "
        "model's own answers grows as it learns them by heart.",
    ),
    "pair_matrix": Words(
        "Every variant with every original",
        "Similarity of the full gradients of all pairs. The own pairs lie on the diagonal from the top left; originals without a "
        f"variant stand behind it. Of more than {MOST_CELLS} samples several share a row or a column, as the axes say: such a cell has "
        "the highest similarity of its pairs. At most one cell in 200 lies above the scale of the colours and has its last one. Columns "
        "that are bright all the way are originals that resemble every variant. The histograms have the own pairs and all others, each "
        "as shares of their own number: the less they overlap, the surer the own original is found.",
    ),
    "accuracy_over_depth": Words("Accuracy over depth", _ACCURACY),
    "accuracy_bars": Words("Accuracy of every component", _ACCURACY),
    "accuracy_attention_mlp": Words("Accuracy: attention against MLP", _BAND),
    "accuracy_by_parameters": Words("Accuracy by number of parameters", _BOX.format(least=LEAST_IN_BOX)),
    "agreement_over_depth": Words("Agreement with the full gradient over depth", _AGREEMENT),
    "agreement_bars": Words("Agreement of every component", _AGREEMENT),
    "agreement_attention_mlp": Words("Agreement: attention against MLP", _BAND),
    "agreement_by_parameters": Words("Agreement by number of parameters", _BOX.format(least=LEAST_IN_BOX)),
    "greedy_selection": Words(
        "Greedy selection of components",
        "Each point adds the component that raises the criterion most. Where the curve meets the full gradient's line, that "
        "share of the parameters does the work of all; the held-out curve is selected on one half of the samples and "
        "scored on the other, so only it is free of selection bias.",
    ),
    "first_order": Words(
        "Products predict what a step does",
        "Each point is a variant and an original: the change of the variant's loss by one small step of plain SGD on the "
        "original, against -learning rate x product of their gradients. On the line the product is an exact prediction.",
    ),
    "tail_patch": Words(
        "What a step on a method's top originals does",
        "Mean change of the variants' log-probability by one optimizer step on an original that the method puts on top, with "
        "95 % bootstrap intervals over variants; a method no longer than random originals finds nothing that the model "
        "learns from.",
    ),
    "linear_datamodeling_score": Words(
        "Which scores predict what retraining does",
        "Rank correlation, over models retrained on halves of the originals, between the summed scores of a half and the "
        "variant's negative loss: mean over variants, with 95 % bootstrap intervals over variants and halves. At 0 a score says "
        'nothing of what the model learned from whom; "all" takes the components of one type together.',
    ),
    "lds_over_depth": Words(
        "Prediction of retraining over depth",
        "The linear datamodelling score of each component's cosine alone. Whiskers are 95 % bootstrap intervals of each component "
        "by itself: of many components a few stand high by luck.",
    ),
    "removal": Words(
        "What a variant loses without a method's top originals",
        "Mean over variants: how much the loss rises when the model is made again without the originals that the method puts on "
        "top, more than without as many random ones; with 95 % bootstrap intervals over variants.",
    ),
    "single_samples": Words(
        "Where best component and full gradient diverge most",
        "Each point is one component's similarity between a variant and its own original; samples whose points spread far "
        "around the full gradient's line are those where single components see what the whole gradient drowns.",
    ),
}

#: What only the page can do, by the plot.
CLICKS = {
    **dict.fromkeys(("accuracy_bars", "agreement_bars"), "Click a cell to open that component in the sample explorer."),
    "pair_matrix": "Click a cell to read its pair in the sample explorer (its variant beside the own original, where the other is left out).",
}


def number(count: float) -> str:
    """A number of parameters as people say it: 512, 4.2 k, 103 M, 1.18 B."""
    for size, unit in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:.0f}"


def short_name(text: str, length: int = 44) -> str:
    """A name, or a list of names, that fits beside a plot."""
    return text if len(text) <= length else text[: length - 1].rsplit(",", 1)[0] + ", …"


def end_of(text: str, length: int = 44) -> str:
    """The end of an id that is too long, such as the folder of a run."""
    return text if len(text) <= length else f"…{text[1 - length :]}"


def setting_name(setting: str) -> str:
    """A setting as it stands in titles."""
    return setting.replace("_", "-")


def interval(low: float, high: float, digits: int = 3) -> str:
    """An interval in words."""
    return f"95\u00a0% interval {low:.{digits}f} to {high:.{digits}f}"


def p_value(p: float) -> str:
    """A p-value in words."""
    return "p\u00a0<\u00a00.001" if p < 0.001 else f"p\u00a0=\u00a0{p:.3f}"


def share_of(parameters: float) -> str:
    """The axis of shares of all parameters."""
    return f"share of the {number(parameters)} parameters (%)"


def pair_axis(kind: str, samples: int, share: int, cell: str) -> str:
    """The axis of a matrix of pairs: of what (`variants`) how many, and how many share a row or column where they do."""
    return f"{samples} {kind}" if share == 1 else f"{samples} {kind}, {share} a {cell}"


def by_criterion(criterion: str) -> str:
    """What a greedy selection goes by."""
    return f"by {criterion}"


def mean_of(family: str) -> str:
    """The line through the means of a family's components."""
    return f"{FAMILY_NAMES[family]}, mean"


def range_of(family: str) -> str:
    """The area between the extremes of a family's components."""
    return f"{FAMILY_NAMES[family]}, range"


def method_name(method: str) -> str:
    """A method of the tables `retrieval`, `tail_patch`, ... as it stands in plots and sentences."""
    if method.startswith("projection_"):
        size = method.removeprefix("projection_")
        return f"projection, {size[:-1]} dims" if size.endswith("d") else f"projection, {100 * float(size):.3g} %"
    if method.endswith("_dot_product"):
        return f"{method_name(method.removesuffix('_dot_product'))}, dot product"
    names = {
        schemas.FULL_GRADIENT: FULL_GRADIENT,
        "bm25": "BM25",
        "best_component": BEST_COMPONENT,
        schemas.TEXT_OVERLAP: "text overlap",
        "representation": "representation similarity",
        UNTRAINED: "untrained control",
        BASE: "base before fine-tuning",
        "tracin": "TracIn",
        "tracin_normalised": "TracIn, normalised",
        "adam": "full gradient, Adam's moments",
        "ekfac": "full gradient, EK-FAC",
    }
    return names.get(method, method)
