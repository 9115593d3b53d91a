"""The numbers that the engine computes are those of the declared version: an edit that changes them must raise it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gradsim_assets.core.gradients.inputs_version import inputs_version
from gradsim_assets.core.models.encoded_sample import IGNORED
from gradsim_assets_tests.support import golden_numbers
from gradsim_assets_tests.support.golden_numbers import (
    CASES,
    DECLARED,
    Case,
    differences,
    numbers_of,
    record,
    recorded,
    request_of,
)

LLAMA = "llama, grouped queries, biases"
PLACE = "gradsim_assets/core/gradients/numerics_version.py"


def test_the_numbers_were_recorded_under_the_declared_versions() -> None:
    assert recorded()["declared"] == DECLARED, "a version was raised: record its numbers by `make golden-numbers`"
    assert set(recorded()["cases"]) == set(CASES), "the cases are others: record their numbers by `make golden-numbers`"


@pytest.mark.parametrize("name", CASES)
def test_the_engine_computes_the_numbers_of_the_declared_versions(name: str) -> None:
    found = differences(CASES[name], recorded()["cases"][name], *numbers_of(CASES[name]))
    if found and recorded()["declared"] == DECLARED:
        said = "; ".join(f"{what}, so raise {version}" for version, what in found.items())
        pytest.fail(
            f"{name}: {said} in {PLACE} if that is meant (tables computed before are then stale, and every model's pass is "
            "made again), and record the numbers by `make golden-numbers`."
        )
    assert not found, "a version was raised: record its numbers by `make golden-numbers`"


def test_another_loss_is_noticed_as_another_numerics() -> None:
    case = replace(CASES[LLAMA], projections=())
    request = request_of(())
    first = request.originals[0]
    labels = np.where(np.arange(first.length) == first.length - 1, IGNORED, first.labels)
    changed = replace(request, originals=[replace(first, labels=labels), *request.originals[1:]])
    then = recorded()["cases"][LLAMA]
    products = {"components": then["components"], "numbers": {s: _products(n) for s, n in then["numbers"].items()}}
    assert differences(case, products, *numbers_of(case)) == {}
    assert list(differences(case, products, *numbers_of(case, changed))) == ["NUMERICS_VERSION"]


def _products(numbers: dict[str, list]) -> dict[str, list]:
    return {name: values for name, values in numbers.items() if not name.startswith("projected")}


def test_another_projection_is_noticed_and_leaves_the_products() -> None:
    found = differences(CASES[LLAMA], recorded()["cases"][LLAMA], *numbers_of(CASES[LLAMA], projection_seed=1))
    assert list(found) == ["PROJECTIONS_VERSION"]


def test_other_numbers_are_recorded_under_a_raised_version_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = recorded()
    document["cases"][LLAMA]["numbers"]["paraphrased"]["dot_product"][0][0] *= 1.01
    file = tmp_path / "numbers.json"
    file.write_text(json.dumps(document))
    monkeypatch.setattr(golden_numbers, "FILE", file)
    monkeypatch.setattr(golden_numbers, "CASES", {LLAMA: CASES[LLAMA]})
    refused = record()
    assert refused and "raise NUMERICS_VERSION in gradsim_assets/core/gradients/numerics_version.py first" in refused
    assert json.loads(file.read_text()) == document
    monkeypatch.setattr(golden_numbers, "DECLARED", {**DECLARED, "NUMERICS_VERSION": 999})
    assert record() is None and recorded()["declared"]["NUMERICS_VERSION"] == 999
    assert differences(CASES[LLAMA], recorded()["cases"][LLAMA], *numbers_of(CASES[LLAMA])) == {}


def test_a_version_follows_from_what_a_table_is_made_of_and_from_nothing_else() -> None:
    request = request_of(Case(CASES[LLAMA].config).projections)
    version = inputs_version(request, "paraphrased", "code", "revision")
    without = replace(
        request,
        variants={"paraphrased": request.variants["paraphrased"]},
        pairs={"paraphrased": request.pairs["paraphrased"]},
        products=frozenset({"paraphrased"}),
        projections={},
    )
    turned = replace(request, originals=request.originals[::-1])
    assert {inputs_version(one, "paraphrased", "code", "revision") for one in (without, turned)} == {version}
    first, *others = request.variants["paraphrased"]
    unlike = [
        replace(
            request,
            variants={**request.variants, "paraphrased": [replace(first, input_ids=first.input_ids + 1), *others]},
        ),
        replace(
            request, variants={**request.variants, "paraphrased": [replace(first, labels=first.labels * 0), *others]}
        ),
        replace(request, pairs={**request.pairs, "paraphrased": request.pairs["paraphrased"][1:]}),
        replace(request, pairs={**request.pairs, "paraphrased": request.pairs["paraphrased"][::-1]}),
    ]
    found = [inputs_version(one, "paraphrased", "code", "revision") for one in unlike]
    found += [inputs_version(request, "paraphrased", *stated) for stated in (("code", "other"), ("other", "revision"))]
    assert len({version, *found}) == len(found) + 1
