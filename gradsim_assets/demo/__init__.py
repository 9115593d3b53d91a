"""The embedded default: a small dataset with paraphrases, and the recipe of a small model trained on it."""

#: Stands for the embedded dataset, its paraphrases and its model wherever one of them is named.
DEMO = "demo"
