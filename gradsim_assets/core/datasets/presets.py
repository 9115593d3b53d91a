"""Datasets of the hub that are called by a short name in `[data]`."""

#: The predecessor's own data: single-turn LIMA as its scripts read it, and their paraphrases by gpt-4o-mini, by the same ids. The
#: answers of models that it also published are no source: every model answers here itself.
PREDECESSOR = "predecessor"

ORIGINALS = {PREDECESSOR: "lukashinterleitner/LIMA-original:train"}
PARAPHRASES = {PREDECESSOR: "lukashinterleitner/LIMA-paraphrased-GPT-4o-mini:train"}
