"""How much faster batched answers are than one-by-one ones, on the demo model, and whether they are the same.

Run as `python -m bench.generation`.
"""

import json
import tempfile
import time
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from gradsim_assets.core.datasets.generation.answers import generate_answers
from gradsim_assets.core.models.tokenization import ChatTokenizer
from gradsim_assets.core.samples import parse_samples
from gradsim_assets.demo.data import load_paraphrases
from gradsim_assets.demo.model import RECIPE, build_demo_model


def main() -> None:
    """Prints the measurement as JSON."""
    samples = parse_samples(load_paraphrases(), "the demo dataset")
    with tempfile.TemporaryDirectory() as root:
        folder = build_demo_model(Path(root))
        model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    found, answers = {}, {}
    for name, batch_size in (("one_by_one", 1), ("batched", None)):
        started = time.perf_counter()
        answers[name] = generate_answers(
            model, ChatTokenizer(tokenizer), samples, max_positions=RECIPE.context, device="cpu", batch_size=batch_size
        )
        seconds = time.perf_counter() - started
        tokens = sum(answer.completion_tokens for answer in answers[name])
        found[name] = {"seconds": round(seconds, 2), "tokens": tokens, "tokens_per_second": round(tokens / seconds)}
    found["speed_up"] = round(found["one_by_one"]["seconds"] / found["batched"]["seconds"], 2)
    found["identical"] = answers["one_by_one"] == answers["batched"]
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
