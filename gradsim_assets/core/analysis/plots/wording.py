"""Words on plots: names of families, methods and axes, numbers, and how each plot is read."""

from gradsim_assets.core.tables import schemas

FAMILY_NAMES = {"attention": "attention", "mlp": "MLP", "norm": "norms", "embedding": "embeddings", "other": "other"}

DEPTH = "depth (block number)"
ACCURACY = "accuracy (share of variants)"
AGREEMENT = "agreement ρ (cosine)"
SIMILARITY = "similarity (cosine)"
OUTSIDE = "outside the blocks"


def number(count: float) -> str:
    """A number of parameters as people say it: 512, 4.2 k, 103 M, 1.18 B."""
    for size, unit in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:.0f}"


def setting_name(setting: str) -> str:
    """A setting as it stands in titles."""
    return setting.replace("_", "-")


def method_name(method: str) -> str:
    """A method of the retrieval table as it stands in plots and sentences."""
    if method.startswith("projection_"):
        size = method.removeprefix("projection_")
        return f"projection, {size[:-1]} dims" if size.endswith("d") else f"projection, {100 * float(size):.3g} %"
    names = {schemas.FULL_GRADIENT: "full gradient", "bm25": "BM25", "best_component": "best component"}
    return names.get(method, method)


GREEDY_HELP = (
    "Each point adds the component that raises the criterion most. Where the curve meets the full gradient's line, that "
    "share of the parameters does the work of all; the held-out curve is selected on one half of the samples and scored "
    "on the other, so only it is free of selection bias."
)
SAMPLES_HELP = (
    "Each point is one component's similarity between a variant and its own original; samples whose points spread far "
    "around the full gradient's line are those where single components see what the whole gradient drowns."
)
RETRIEVAL_HELP = (
    "Share of variants whose own original has the strictly highest similarity among its candidates, with the 95 % "
    "bootstrap interval; the best component is chosen on the same variants, so its bar is optimistic."
)
PARAMETERS_HELP = "How the parameters are shared out; large component types dominate the full gradient's similarity."
COMPARISON_HELP = "Accuracy of every method for every model; intervals are 95 % bootstrap intervals over the variants."
ACCURACY_HELP = (
    "How often a single component's gradient finds the own original; above the full gradient's line a component alone "
    "does better than all together, at the line of chance it knows nothing."
)
BAND_HELP = "Mean over the components of a block; the band spans the lowest and the highest of them."
BOX_HELP = (
    "Each point is a component; a box spans the middle half of a size's components, its line is their median. Values that "
    "rise from top to bottom mean that larger components do better."
)
AGREEMENT_HELP = (
    "How closely a single component's similarities follow the full gradient's over all pairs; at 1 the component could "
    "stand in for the whole gradient."
)
