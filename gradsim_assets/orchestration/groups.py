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

#: What analyses are made with, as tags of the UI.
TABLE_KINDS = {"polars", "parquet"}
