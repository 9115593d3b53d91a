"""Groups of assets, as the UI shows them."""

MODELS = "models"
DATASETS = "datasets"
CANDIDATES = "candidates"
CURVATURE = "curvature"
GRADIENTS = "gradients"
SIMILARITY = "similarity"
ANALYSIS = "analysis"
EVALUATION = "evaluation"
INDEX = "index"
TRACING = "tracing"

#: What GPUs are for, besides the model's answers, whose group is that of texts.
ON_GPU = frozenset({CURVATURE, GRADIENTS, INDEX, EVALUATION})

#: What analyses are made with, as tags of the UI.
TABLE_KINDS = {"polars", "parquet"}
