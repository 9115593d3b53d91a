"""Products and projections of a few small models as they came out under the declared versions of the numerics.

After one of these versions was raised, `make golden-numbers` (this module, run as a program) records what comes out now.
"""

import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MixtralConfig, OlmoConfig, PretrainedConfig

from gradsim_assets.core.curvature.curvature import compute_curvature
from gradsim_assets.core.curvature.curvature_frame import curvature_frame, typical_eigenvalue
from gradsim_assets.core.curvature.factor_files import StoredCurvature, Tuning
from gradsim_assets.core.gradients.engine import PassOptions, PassRequest, run_pass
from gradsim_assets.core.gradients.engine.results import TERMS
from gradsim_assets.core.gradients.numerics_version import (
    NUMERICS_VERSION,
    PRECONDITIONERS_VERSION,
    PROJECTIONS_VERSION,
)
from gradsim_assets.core.models.encoded_sample import IGNORED, EncodedSample
from gradsim_assets.core.sample_gradients.preconditioning import Preconditioner
from gradsim_assets.core.tables.schemas import PRECONDITIONERS
from gradsim_assets_tests.support.engine_cases import relative_error

FILE = Path(__file__).parents[1] / "core" / "gradients" / "golden_numbers.json"
DECLARED = {
    "NUMERICS_VERSION": NUMERICS_VERSION,
    "PROJECTIONS_VERSION": PROJECTIONS_VERSION,
    "PRECONDITIONERS_VERSION": PRECONDITIONERS_VERSION,
}

VOCABULARY, WIDTH, SETTINGS = 97, 16, ("paraphrased", "model_generated")
_LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}
_ENDS = {"bos_token_id": 0, "eos_token_id": 0}
_SIZES = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": 24, **_LAYERS, **_ENDS}


@dataclass(frozen=True)
class Case:
    """A model and how its gradients are taken; `tolerance` is of the lengths of both gradients, and of a cosine."""

    config: PretrainedConfig
    dtype: torch.dtype = torch.float32
    options: Mapping[str, Any] = field(default_factory=dict)
    projections: tuple[float, ...] = (0.01, 1.0)  # with less, and with as many dimensions as large components have
    #: Another order of sums moves products of these models by up to 2.4e-6 of the lengths: without vector instructions, one
    #: sample at a time, factored, in float64 (4e-8 with another number of threads). A GPU in strict fp32 does no worse, and
    #: 1e-5 is what the engine itself promises; a wrong label, scale or tensor is off by more than 1e-3.
    tolerance: float = 1e-5
    #: Whose products are taken, too. Eigenvectors that lie next to each other are turned by rounding, so that there is more of it.
    preconditioners: tuple[str, ...] = ()


#: Of the preconditioned lengths: a thousandth is lost by no rounding, and missed by no other definition.
PRECONDITIONED_TOLERANCE = 1e-3

CASES: Mapping[str, Case] = {
    "llama, grouped queries, biases": Case(LlamaConfig(**_SIZES, num_key_value_heads=2, attention_bias=True)),
    "gpt2, tied embeddings, script weighting": Case(
        GPT2Config(vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=2, n_head=4, n_positions=64, **_ENDS),
        options={"weighting": "script"},
        preconditioners=PRECONDITIONERS,
    ),
    "mixtral, experts, no projections": Case(
        MixtralConfig(**_SIZES, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2),
        projections=(),
        preconditioners=PRECONDITIONERS,
    ),
    "olmo, projections by trak": Case(
        OlmoConfig(**_SIZES, tie_word_embeddings=True), options={"projection_kind": "trak"}, projections=(0.01,)
    ),
    # A number of bfloat16 is rounded to 2^-9 = 2e-3 of itself, in every layer and by every kernel in its own way: without
    # vector instructions products move by 8.5e-3.
    "olmo in bfloat16": Case(OlmoConfig(**_SIZES), torch.bfloat16, tolerance=3e-2),
}

#: By setting, then name: products [pairs, components], or cosines of projections [pairs] by "projected <proportion>".
Numbers = dict[str, dict[str, np.ndarray]]


def numbers_of(case: Case, request: PassRequest | None = None, **options: Any) -> tuple[list[str], Numbers]:
    """The components of a case's model, and its products and projections now; `options` are set otherwise."""
    asked = dict.fromkeys(SETTINGS, case.preconditioners)
    request = replace(request or request_of(case.projections), preconditioned=asked)
    model, how = model_of(case), PassOptions(**{**case.options, **options})
    result = run_pass(model, request, how, preconditioners=curvature_of(case, model, request))
    return result.components, {
        setting: {
            "dot_product": result.dot_products[setting],
            "variant_self": result.variant_self[setting],
            "original_self": result.original_self[setting],
            **{f"projected {p}": cosines for p, cosines in result.projected.get(setting, {}).items()},
            **{
                f"{kind} {term}": values
                for kind, products in result.preconditioned.get(setting, {}).items()
                for term, values in products.items()
            },
        }
        for setting in SETTINGS
    }


def curvature_of(case: Case, model: torch.nn.Module, request: PassRequest) -> dict[str, Preconditioner]:
    """The preconditioners of a case, of all originals, with labels that the model draws."""

    def unheard(*said: object) -> None: ...

    found: dict[str, Preconditioner] = {}
    for kind in case.preconditioners:
        folder = Path(tempfile.mkdtemp())
        files = compute_curvature(
            model, request.originals, kind, "sampled", folder, PassOptions(), unheard, unheard
        ).files
        found[kind] = StoredCurvature(kind, files, Tuning(), typical_eigenvalue(curvature_frame(files, "sampled")))
    return found


def model_of(case: Case) -> torch.nn.Module:
    """The model with weights that follow from the names of its parameters, whatever torch's generators draw."""
    model = AutoModelForCausalLM.from_config(case.config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = uniform(name, parameter.numel()).reshape(parameter.shape)
            scales = parameter.dim() == 1 and bool((parameter == 1).all())  # those of norms
            parameter.copy_(torch.from_numpy(1 + spread / 5 if scales else spread / 2))
    return model.to(case.dtype)


def request_of(projections: Sequence[float]) -> PassRequest:
    """Three originals, three variants of which one is its original again, and two answers; of 6 to 24 tokens."""
    originals = [_sample(f"original {n}", f"lima_{n}") for n in range(3)]
    variants = {
        "paraphrased": [*(_sample(f"paraphrase {n}", f"lima_{n}") for n in range(2)), originals[2]],
        "model_generated": [_sample(f"answer {n}", f"lima_{n}") for n in range(2)],
    }
    pairs = {
        "paraphrased": [("lima_0", "lima_0"), ("lima_0", "lima_1"), ("lima_1", "lima_2"), ("lima_2", "lima_2")],
        "model_generated": [("lima_0", "lima_2"), ("lima_1", "lima_1")],
    }
    wanted = {setting: tuple(projections) for setting in SETTINGS} if projections else {}
    return PassRequest(originals, variants, pairs, frozenset(SETTINGS), wanted)


def _sample(text: str, name: str) -> EncodedSample:
    length = 6 + int(9 * (1 + uniform(f"length of {text}", 1)[0]))
    ids = (VOCABULARY * (1 + uniform(text, length)) / 2).astype(np.int64)
    return EncodedSample(name, ids, np.where(np.arange(length) < length // 3, IGNORED, ids))


def uniform(name: str, count: int) -> np.ndarray:
    """Float64 [count] in [-1, 1): made of raw bits, which numpy promises to leave as they are, unlike its distributions."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return (np.random.PCG64(seed).random_raw(count) >> np.uint64(11)) / 2.0**52 - 1


def recorded() -> dict[str, Any]:
    """The file: the declared versions that it was recorded under, and the numbers of every case."""
    document: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return document


def differences(case: Case, then: Mapping[str, Any], components: Sequence[str], now: Numbers) -> dict[str, str]:
    """By the version that stands for it: what differs from the record by more than rounding, in words."""
    if list(components) != then["components"]:
        return {"NUMERICS_VERSION": "the components are others"}
    found: dict[str, str] = {}
    for setting, numbers in now.items():
        before = {name: np.array(values) for name, values in then["numbers"][setting].items()}
        lengths = before["variant_self"], before["original_self"]
        errors = {
            name: relative_error(numbers[name], before[name], *_lengths_of(name, *lengths))
            for name in ("dot_product", "variant_self", "original_self")
        }
        if (error := max(errors.values())) > case.tolerance:
            found.setdefault(
                "NUMERICS_VERSION", f"products of {setting} differ by {error:.1e} of the gradients' lengths"
            )
        for kind in {name.partition(" ")[0] for name in numbers} & set(PRECONDITIONERS):
            if error := _preconditioned_error(kind, before, numbers):
                found.setdefault("PRECONDITIONERS_VERSION", f"products of {setting} under {kind} {error}")
        projected = [name for name in numbers if name.startswith("projected")]
        if set(projected) != {name for name in before if name.startswith("projected")}:
            found["PROJECTIONS_VERSION"] = "the projections are others"
        elif projected and (error := max(np.abs(numbers[n] - before[n]).max() for n in projected)) > case.tolerance:
            found.setdefault("PROJECTIONS_VERSION", f"cosines of projections of {setting} differ by {error:.1e}")
    return found


def _preconditioned_error(kind: str, before: Mapping[str, np.ndarray], now: Mapping[str, np.ndarray]) -> str | None:
    if f"{kind} dot_product" not in before:
        return "are new"
    lengths = before[f"{kind} variant_self"], before[f"{kind} original_self"]
    error = max(
        relative_error(now[f"{kind} {term}"], before[f"{kind} {term}"], *_lengths_of(term, *lengths)) for term in TERMS
    )
    return f"differ by {error:.1e} of the preconditioned lengths" if error > PRECONDITIONED_TOLERANCE else None


def _lengths_of(name: str, variant: np.ndarray, original: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The squared lengths of both gradients that a product is one of."""
    return {"variant_self": (variant, variant), "original_self": (original, original)}.get(name, (variant, original))


def record() -> str | None:
    """Writes what comes out now under the declared versions; says in one sentence why not, where it does not."""
    before = recorded() if FILE.exists() else {"declared": {}, "cases": {}}
    document: dict[str, Any] = {"declared": DECLARED, "cases": {}}
    for name, case in CASES.items():
        components, numbers = numbers_of(case)
        then = before["cases"].get(name)
        for version, what in (differences(case, then, components, numbers) if then else {}).items():
            if before["declared"].get(version) == DECLARED[version]:
                return f"{name}: {what}; raise {version} in gradsim_assets/core/gradients/numerics_version.py first."
        document["cases"][name] = {
            "components": components,
            "numbers": {s: {key: _digits(value) for key, value in one.items()} for s, one in numbers.items()},
        }
    rows = re.compile(r"\[[^\[\]]+\]")  # innermost lists, one a line
    text = rows.sub(lambda row: " ".join(row[0].split()), json.dumps(document, indent=1))
    FILE.write_text(text + "\n", encoding="utf-8")
    return None


def _digits(values: np.ndarray) -> Any:
    """As nested lists, to the digits that rounding leaves."""
    return [_digits(row) for row in values] if values.ndim > 1 else [float(f"{value:.7e}") for value in values]


if __name__ == "__main__":
    sys.exit(record())
