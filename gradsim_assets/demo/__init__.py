"""The embedded default: a small dataset with paraphrases, and the recipe of a small model trained on it."""
