"""Fetch models into HF_HOME before a step on a dear GPU has to wait for them. Arguments: hub ids, optionally @revision."""

import sys

from huggingface_hub import snapshot_download

for model in sys.argv[1:]:
    name, _, revision = model.partition("@")
    print(f"{model}: {snapshot_download(name, revision=revision or None)}", flush=True)
