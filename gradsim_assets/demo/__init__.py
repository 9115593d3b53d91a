"""The embedded default: a small dataset with paraphrases, and the recipe of a small model trained on it."""

#: Stands for the embedded dataset, its paraphrases and its model wherever one of them is named.
DEMO = "demo"

#: Stands for the demo's adapter twin wherever a model is named.
DEMO_LORA = "demo-lora"

#: Ids of the models that are built on first use.
EMBEDDED = (DEMO, DEMO_LORA)
