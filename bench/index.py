"""The gradient index at scale: generated originals for the demo model, its recall against exact products, and what it costs.

    python -m bench.index --originals 2000 --dimensions 256 512 1024 2048     recall over dimension
    python -m bench.index --originals 100000                                  the size of a large fine-tuning set

Prints a line for each dimension and writes build/bench/index.json.
"""

import argparse
import json
import random
import re
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gradsim_assets.core.gradients.engine import PassOptions, PassRequest, PassResult, run_pass
from gradsim_assets.core.index.gradient_index import index_frame, sketches_of
from gradsim_assets.core.index.index_recall import (
    RERANKED,
    exact_cosines,
    recall_by_reranked,
    recall_frame,
    recall_sentence,
)
from gradsim_assets.core.index.search import Search
from gradsim_assets.core.index.sketching import SketchReport, sketch
from gradsim_assets.core.models.encoded_sample import EncodedSample
from gradsim_assets.core.models.loading import LoadedModel, load_model
from gradsim_assets.core.models.revisions import resolve
from gradsim_assets.core.models.tokenization import ChatTokenizer
from gradsim_assets.core.samples import Sample
from gradsim_assets.demo.data import load_originals, load_paraphrases
from gradsim_assets.demo.model import build_demo_model

OUTPUT = Path("build/bench/index.json")

#: Shares of a generated text that come from elsewhere: sentences of other answers, and single words.
OTHER_SENTENCES, OTHER_WORDS = 0.4, 0.15


class Generator:
    """Originals that are made of the demo's: their sentences and words, mixed, so that each has many near relatives.

    Every text is a function of (kind, number) alone.
    """

    def __init__(self) -> None:
        self._texts = [tuple(m["content"] for m in row["messages"]) for row in load_originals()]
        self._prompts = [row["messages"][0]["content"] for row in load_paraphrases()]
        self._sentences = [re.split(r"(?<=[.!?])\s+", answer) for _, answer in self._texts]
        self._words = sorted({word for pair in self._texts for text in pair for word in re.findall(r"[a-z]{3,}", text)})

    def original(self, number: int) -> Sample:
        """An original whose prompt and answer are a demo sample's, with sentences and words of others in it."""
        dice = random.Random(f"original {number}")
        own = number % len(self._texts)
        sentences = [
            one if dice.random() > OTHER_SENTENCES else dice.choice(dice.choice(self._sentences))
            for one in self._sentences[own]
        ]
        answer = self._reworded(" ".join(sentences), OTHER_WORDS, dice)
        return Sample(f"generated_{number}", self._reworded(self._texts[own][0], OTHER_WORDS, dice), answer)

    def query(self, number: int) -> Sample:
        """A variant of that original: asked in other words, its answer shortened and reworded."""
        dice = random.Random(f"query {number}")
        original = self.original(number)
        kept = [one for one in re.split(r"(?<=[.!?])\s+", original.assistant) if dice.random() > 1 / 4]
        answer = self._reworded(" ".join(kept) or original.assistant, OTHER_WORDS, dice)
        return Sample(original.id, self._prompts[number % len(self._prompts)], answer)

    def _reworded(self, text: str, share: float, dice: random.Random) -> str:
        return re.sub(r"[a-z]{3,}", lambda word: dice.choice(self._words) if dice.random() < share else word[0], text)


def generated(originals: int, queries: int) -> tuple[list[Sample], list[Sample]]:
    """So many originals, and variants of some of them."""
    generator = Generator()
    asked: Sequence[int] = random.Random(0).sample(range(originals), queries)
    return [generator.original(number) for number in range(originals)], [generator.query(number) for number in asked]


def _argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--originals", type=int, default=2000)
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--dimensions", type=int, nargs="+", default=[4096])
    parser.add_argument("--model", type=Path, help="folder of the demo model; without it, it is trained first")
    parser.add_argument("--work", type=Path, default=Path("build/bench/index"), help="where finished parts are kept")
    return parser


def _demo_model(folder: Path | None) -> LoadedModel:
    place = folder or build_demo_model(Path("build/bench/demo"))
    revision = resolve(str(place))
    model, tokenizer = load_model(str(place), revision, "float32", "cpu")
    return LoadedModel(model, ChatTokenizer(tokenizer), revision, "cpu")


class Bench:
    """Exact cosines once, then an index of each dimension against them."""

    def __init__(self, originals: int, queries: int, model: Path | None, work: Path) -> None:
        self.loaded = _demo_model(model)
        texts, asked = generated(originals, queries)
        self.originals, self.queries = ([self.loaded.tokenizer.encode(one) for one in some] for some in (texts, asked))
        self.work = work / f"{originals}_{queries}"

    def exact(self) -> tuple[np.ndarray, float]:
        """Cosines [queries, originals], and the seconds that they took (of what was not there)."""
        started = time.perf_counter()

        @contextmanager
        def run(number: int, request: PassRequest) -> Iterator[PassResult]:
            yield run_pass(self.loaded.model, request)
            print(f"exact: part {number} at {time.perf_counter() - started:.0f} s", flush=True)

        found = exact_cosines(run, self.queries, self.originals, self.work / "exact")
        return found, time.perf_counter() - started

    def measured(self, dimension: int, exact: np.ndarray) -> dict[str, Any]:
        """What an index of this dimension costs and finds."""
        started, used = time.perf_counter(), time.process_time()
        made = self._sketch(self.originals, dimension, self.work / f"sketches_{dimension}")
        seconds, processor = time.perf_counter() - started, time.process_time() - used
        frame, table = index_frame(made.ids, made.sketches), self.work / f"index_{dimension}.parquet"
        frame.write_parquet(table, compression="zstd")
        asked = sketches_of(index_frame(*self._of_queries(dimension)))
        started = time.perf_counter()
        search = Search(frame["id"].to_list(), lambda: map(sketches_of, frame.iter_slices(8192)), dimension)
        opened, started = time.perf_counter() - started, time.perf_counter()
        best = [[name for name, _ in search.best(one[None], max(RERANKED))[0]] for one in asked]
        searched = time.perf_counter() - started
        found = recall_frame([one.id for one in self.queries], made.ids, exact, best)
        recalls = {str(row["reranked"]): row for row in recall_by_reranked(found).to_dicts()}
        print(f"d = {dimension}: {recall_sentence(found, 200)}", flush=True)
        return {
            "dimension": dimension,
            "bytes_an_original": table.stat().st_size / len(made.ids),
            "gradients_computed": made.gradients_computed,
            "seconds": seconds,
            "processor_seconds": processor,
            "opening_seconds": opened,
            "queries_a_second": len(asked) / searched,
            "recall": recalls,
        }

    def _of_queries(self, dimension: int) -> tuple[list[str], np.ndarray]:
        made = self._sketch(self.queries, dimension, None)
        return made.ids, made.sketches

    def _sketch(self, samples: Sequence[EncodedSample], dimension: int, folder: Path | None) -> SketchReport:
        return sketch(self.loaded.model, samples, dimension, folder, PassOptions(), _unheard, _unheard)


def _unheard(*said: object) -> None: ...


def main() -> None:
    """Measures and prints."""
    asked = _argument_parser().parse_args()
    bench = Bench(asked.originals, asked.queries, asked.model, asked.work)
    results = [bench.measured(dimension, exact) for exact, _ in [bench.exact()] for dimension in asked.dimensions]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    tokens = sum(one.length for one in bench.originals)
    document = {"originals": asked.originals, "tokens": tokens, "peak_memory_bytes": peak, "indexes": results}
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(document, indent=1))
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
