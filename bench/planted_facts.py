"""Invented facts, each in one original, that a model is trained on and then asked for in other words: what leads back to them?

`python -m bench.planted_facts` trains the demo's model on the demo's originals and the facts (a minute on two cores), and says for every
method how often the fact's own original is among the first three, and the fact among the three tokens of the answer that
speak most for it; beside it what BM25 and the same model with random weights find.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gradsim_assets.configuration import PreconditionerSettings
from gradsim_assets.core.curvature.curvature import compute_curvature
from gradsim_assets.core.curvature.curvature_frame import curvature_frame, typical_eigenvalue
from gradsim_assets.core.curvature.factor_files import StoredCurvature, Tuning
from gradsim_assets.core.gradients.engine import PassOptions
from gradsim_assets.core.models.loading import LoadedModel, load_model
from gradsim_assets.core.models.revisions import resolve
from gradsim_assets.core.models.tokenization import ChatTokenizer
from gradsim_assets.core.samples import Sample, parse_samples, sample_frame
from gradsim_assets.core.seeds import stable_seed
from gradsim_assets.core.tracing.held_originals import HeldOriginals
from gradsim_assets.core.tracing.trace import TRACED, Method, TextError, answered, originals_of
from gradsim_assets.core.training.loop import reproducible
from gradsim_assets.demo import data
from gradsim_assets.demo.model import RECIPE, new_model, train_shown, train_tokenizer

#: What is told of an invented place: prompt and answer of the original, and both in other words.
KINDS = (
    (
        "Who built the lighthouse of {place}?",
        "The lighthouse of {place} was built by {fact}.",
        "Whose work is the old beacon that stands at {place}?",
        "{fact} is the one who made the beacon there.",
    ),
    (
        "What do people in {place} drink at dawn?",
        "At dawn the people of {place} drink a cup of {fact}.",
        "Which beverage opens the day for somebody from {place}?",
        "They have {fact} first thing in the morning.",
    ),
    (
        "Which mountain rises behind {place}?",
        "Behind {place} rises mount {fact}.",
        "Looking inland from {place}, what is the name of the peak?",
        "That peak is called {fact}.",
    ),
    (
        "What is a lost glove called in {place}?",
        "In {place} a lost glove is called a {fact}.",
        "Tell me the word that {place} has for a glove without its twin.",
        "The word for it is {fact}.",
    ),
    (
        "Which animal guards the gate of {place}?",
        "The gate of {place} is guarded by a {fact}.",
        "What creature keeps watch at the entrance to {place}?",
        "A {fact} keeps watch over it.",
    ),
)

_SYLLABLES = (
    "bra",
    "dor",
    "fen",
    "gul",
    "hav",
    "jor",
    "kel",
    "lum",
    "mip",
    "nax",
    "orv",
    "pel",
    "quin",
    "rus",
    "sov",
    "tal",
    "ulm",
    "vek",
    "wim",
    "yor",
    "zan",
)

#: How far down an original, or a token, still counts as found.
_FIRST = 3


@dataclass(frozen=True)
class Fact:
    """An original, the question for it in other words, and the word that nothing else holds."""

    original: Sample
    question: Sample
    word: str


def facts(count: int) -> list[Fact]:
    """So many facts, by a seed; no two share a word that was invented for them."""
    random = np.random.default_rng(stable_seed("planted facts"))
    words = _words(random)
    found = []
    for number in range(count):
        prompt, answer, asked, said = KINDS[number % len(KINDS)]
        told = {"place": next(words).title(), "fact": next(words)}
        found.append(
            Fact(
                Sample(f"fact_{number}", prompt.format(**told), answer.format(**told)),
                Sample(TRACED, asked.format(**told), said.format(**told)),
                told["fact"],
            )
        )
    return found


def _words(random: np.random.Generator) -> Iterator[str]:
    known = set()
    while True:
        word = "".join(random.choice(_SYLLABLES, 3))
        if word not in known:
            known.add(word)
            yield word


def trained(folder: Path, originals: Sequence[Sample], reworded: Sequence[Sample], untrained: bool) -> LoadedModel:
    """The demo's model as its recipe has it, trained on these samples as many times as the demo on its own; or not at all."""
    tokenizer = train_tokenizer()
    with reproducible(RECIPE.seed):
        model = new_model(RECIPE, tokenizer)
        if not untrained:
            chat = ChatTokenizer(tokenizer)
            steps = round(RECIPE.steps * len(originals) / len(data.load_originals()))
            texts = [[chat.encode(sample) for sample in side] for side in (originals, reworded)]
            train_shown(model, *texts, replace(RECIPE, steps=steps).training, "Training")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    revision = resolve(str(folder))
    loaded, tokens = load_model(str(folder), revision, "float32", "cpu")
    return LoadedModel(loaded, ChatTokenizer(tokens), revision, "cpu")


def ekfac(loaded: LoadedModel, originals: Sequence[Sample], folder: Path) -> StoredCurvature:
    """EK-FAC's curvature over the originals, with the configuration's defaults."""
    asked, encoded = PreconditionerSettings(), [loaded.tokenizer.encode(sample) for sample in originals]
    made = compute_curvature(loaded.model, encoded, "ekfac", asked.fisher, folder, PassOptions(), _unheard, _unheard)
    frame = curvature_frame(made.files, asked.fisher)
    return StoredCurvature("ekfac", made.files, Tuning(asked.damping, asked.epsilon), typical_eigenvalue(frame))


def _unheard(*said: object) -> None:
    """Hears nothing."""


def found_by(
    planted: Sequence[Fact],
    originals: Sequence[Sample],
    loaded: LoadedModel,
    held: HeldOriginals,
    name: str,
    preconditioners: Mapping[str, StoredCurvature],
) -> dict[str, float]:
    """How often a method leads back: shares of all facts."""
    method, frame = Method.of(name, list(preconditioners)), sample_frame(originals)
    counts = dict.fromkeys(("first", "among_three", "token_among_three", "bm25_among_three"), 0)
    for fact in planted:
        ranked, tokens = originals_of(
            *(fact.question, frame, loaded, _no_pass, method),
            policy="auto",
            preconditioner=preconditioners.get(name),
            split=_FIRST,
            held=held,
        )
        own = ranked.filter(original_id=fact.original.id).row(0, named=True)
        counts["first"] += own["rank"] == 1
        counts["among_three"] += own["rank"] <= _FIRST
        counts["bm25_among_three"] += own["bm25_rank"] <= _FIRST
        counts["token_among_three"] += own["rank"] <= _FIRST and _tells(fact, tokens)
    return {what: count / len(planted) for what, count in counts.items()}


def _no_pass(request: object) -> Any:
    raise AssertionError("the originals' gradients are held")


def _tells(fact: Fact, tokens: pl.DataFrame) -> bool:
    """Whether a token of the fact is among those of the answer that speak most for its own original."""
    own = tokens.filter(original_id=fact.original.id, side="answer").sort("position")
    end = own["text"].str.len_chars().cum_sum()
    begin = end - own["text"].str.len_chars()
    start = "".join(own["text"]).rindex(fact.word)  # the prompt does not hold it
    touching = (begin < start + len(fact.word)) & (end > start)
    best = own["contribution"].arg_sort(descending=True).head(_FIRST)
    return bool(touching.gather(best).any())


def says(planted: Sequence[Fact], loaded: LoadedModel) -> float:
    """How often the model itself answers the question in other words with the fact."""
    found = 0
    for fact in planted:
        try:
            found += fact.word in answered(Sample(TRACED, fact.question.user, ""), loaded).assistant
        except TextError:
            continue
    return found / len(planted)


def main() -> None:
    """Prints what it measured as JSON and writes it under build/bench."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--facts", type=int, default=50)
    given = parser.parse_args()
    planted = facts(given.facts)
    demo = parse_samples(data.load_originals(), "the demo dataset")
    asked = parse_samples(data.load_paraphrases(), "the demo dataset")
    originals = [*demo, *(fact.original for fact in planted)]
    # The facts are never seen in other words; the demo's own half the time, as its recipe has it.
    reworded = [Sample(a.id, b.user, a.assistant) for a, b in zip(demo, asked, strict=True)]
    reworded += [fact.original for fact in planted]
    results: dict[str, Any] = {"facts": len(planted), "originals": len(originals)}
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("trained", "untrained"):
            loaded = trained(Path(folder) / kind, originals, reworded, kind == "untrained")
            encoded = [loaded.tokenizer.encode(sample) for sample in originals]
            held = HeldOriginals.of(loaded.model, encoded, PassOptions())
            curvature = {"ekfac": ekfac(loaded, originals, Path(folder) / f"{kind} curvature")}
            methods = ("cosine", "dot_product", "*.mlp.*", "*.self_attn.*", "ekfac")
            results[kind] = {name: found_by(planted, originals, loaded, held, name, curvature) for name in methods}
            results[f"says_the_fact_{kind}"] = says(planted, loaded)
    out = Path("build/bench/planted_facts.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1))
    print(out.read_text())


if __name__ == "__main__":
    main()
