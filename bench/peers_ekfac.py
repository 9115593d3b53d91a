"""EK-FAC beside kronfluence: scores of the linear layers of two untied models, from factors that both have.

`make bench-peers` runs it in the environment of its own. Kronfluence computes factors (of the labels that are given) and scores;
the engine takes the same factors, and computes them itself, too. Prints Pearson correlations over all pairs of a variant and
an original, and writes build/bench/peers_ekfac.json.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.peer_tools import Scores, kronfluence_analyzer
from bench.workload import demo_model, make_samples
from gradsim_assets.core.curvature.component_curvature import ComponentCurvature
from gradsim_assets.core.curvature.curvature import compute_curvature
from gradsim_assets.core.curvature.factor_files import StoredCurvature, Tuning, load, save, stated
from gradsim_assets.core.gradients.engine import PassOptions, PassRequest, run_pass

VOCABULARY = 1024

#: Over all pairs, of every linear layer.
LEAST_AGREEMENT = 0.999


def llama() -> torch.nn.Module:
    """An untied Llama with random weights and two queries a key."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return AutoModelForCausalLM.from_config(config).eval()


MODELS = {"OLMo": lambda: demo_model(64, 2, VOCABULARY, tied=False), "Llama": llama}


def kronfluence_scores(model: torch.nn.Module, request: PassRequest) -> tuple[Scores, dict[str, Any]]:
    """Scores [variants, originals] by weight under EK-FAC, and the factors that they come of."""
    from kronfluence.arguments import FactorArguments, ScoreArguments

    with tempfile.TemporaryDirectory() as folder:
        analyzer = kronfluence_analyzer(model)(folder)
        analyzer.fit_all_factors(
            "factors",
            request.originals,
            1,
            factor_args=FactorArguments(strategy="ekfac", use_empirical_fisher=True),
        )
        analyzer.compute_pairwise_scores(
            "scores",
            "factors",
            query_dataset=request.variants["x"],
            train_dataset=request.originals,
            per_device_query_batch_size=1,
            per_device_train_batch_size=1,
            score_args=ScoreArguments(compute_per_module_scores=True, damping_factor=None),  # 0.1 x mean eigenvalue
        )
        found = analyzer.load_pairwise_scores("scores")
        factors = analyzer.load_all_factors("factors")
    return {f"{name}.weight": values.numpy() for name, values in found.items()}, factors


def with_factors(own: Mapping[str, ComponentCurvature], factors: Mapping[str, Any]) -> dict[str, ComponentCurvature]:
    """Curvature with kronfluence's factors in the linear layers that it has any of."""
    replaced = dict(own)
    for module, summed in factors["lambda_matrix"].items():
        replaced[f"{module}.weight"] = replace(
            own[f"{module}.weight"],
            moments=(summed / factors["num_lambda_processed"][module]).float(),
            left=factors["gradient_eigenvectors"][module].float(),
            right=factors["activation_eigenvectors"][module].float(),
        )
    return replaced


def our_scores(model: torch.nn.Module, request: PassRequest, path: Path) -> Scores:
    """The engine's products by component under the curvature in a file."""
    stored = StoredCurvature("ekfac", [path], Tuning(), typical=0.0)
    result = run_pass(model, request, PassOptions(check_pairs=1), preconditioners={"ekfac": stored})
    products = result.preconditioned["x"]["ekfac"]["dot_product"]
    grid = products.reshape(len(request.variants["x"]), len(request.originals), -1)
    return {name: grid[..., number] for number, name in enumerate(result.components)}


def agreement(name: str, count: int) -> dict[str, float]:
    """Pearson correlations of one model: the least of all linear layers, and that of their sum; from shared and own factors."""
    random = np.random.default_rng(0)
    originals, variants = (make_samples(random.integers(20, 80, count), VOCABULARY, seed) for seed in (0, 1))
    pairs = [(v.id, o.id) for v in variants for o in originals]
    request = PassRequest(originals, {"x": variants}, {"x": pairs}, preconditioned={"x": ("ekfac",)})
    theirs, factors = kronfluence_scores(MODELS[name](), request)
    model = MODELS[name]()
    with tempfile.TemporaryDirectory() as folder:
        report = compute_curvature(
            model, originals, "ekfac", "empirical", Path(folder), PassOptions(), lambda *done: None, lambda said: None
        )
        own = {one: load(path, one) for path in report.files for one in stated(path)}
        figures: dict[str, float] = {"layers": len(theirs), "pairs": len(pairs)}
        for which, curvature in {"shared": with_factors(own, factors), "own": own}.items():
            save(Path(folder, f"{which}.safetensors"), curvature)
            ours = our_scores(model, request, Path(folder, f"{which}.safetensors"))
            by_layer = [pearson(ours[one], theirs[one]) for one in theirs]
            figures[f"least_{which}"] = min(by_layer)
            figures[f"sum_{which}"] = pearson(sum(ours[one] for one in theirs), sum(theirs.values()))
    return figures


def pearson(one: Any, other: Any) -> float:
    """Correlation over all pairs."""
    return float(np.corrcoef(np.ravel(one), np.ravel(other))[0, 1])


def main() -> None:
    """Runs both models; fails where the same factors give other scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=12, help="originals, and as many variants")
    parser.add_argument("--output", type=Path, default=Path("build/bench/peers_ekfac.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    table = {name: agreement(name, arguments.samples) for name in MODELS}
    for name, row in table.items():
        print(f"{name:8}" + "  ".join(f"{key} {value:.6g}" for key, value in row.items()))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(table, indent=2) + "\n")
    low = {name: row["least_shared"] for name, row in table.items() if not row["least_shared"] >= LEAST_AGREEMENT}
    if low:
        raise SystemExit(f"scores from the same factors differ: {low}")


if __name__ == "__main__":
    main()
