"""The table `token_attribution` of a small model, held against products of plain gradients."""

from pathlib import Path

import pytest
import torch

from gradsim_assets.core.gradients.engine import PassOptions
from gradsim_assets.core.models.loading import LoadedModel
from gradsim_assets.core.sample_gradients.components import trainable_components
from gradsim_assets.core.sample_gradients.reference import plain_gradient
from gradsim_assets.core.samples import Sample
from gradsim_assets.core.tracing.attributed_pairs import AttributedPair
from gradsim_assets.core.tracing.token_attribution import TOLERANCE, TokenAttribution
from gradsim_assets_tests.support.tiny_models import load_tiny_model

ORIGINALS = {
    "eggs": Sample("eggs", "How long does an egg take?", "Seven minutes in boiling water 🥚, then rinse it."),
    "tea": Sample("tea", "How do I brew tea?", "Pour on hot water and wait for two minutes."),
    "moon": Sample("moon", "What is a new moon?", "🌑 The moon stands between the Earth and the sun."),
}
VARIANTS = {
    "eggs": Sample("eggs", "An egg, how long?", "Seven minutes in hot water."),
    "tea": Sample("tea", "Tea, how?", "With hot water, two minutes 🍵."),
    "moon": Sample("moon", "A new moon is what?", "The moon before the sun."),
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def pairs(loaded: LoadedModel) -> list[AttributedPair]:
    """Every variant with its own original and with the next one, with products of plain gradients."""

    def gradient(sample: Sample) -> torch.Tensor:
        parameters = [parameter for _, parameter in trainable_components(loaded.model)]
        found = plain_gradient(loaded.model, loaded.tokenizer.encode(sample), parameters)[1]
        return torch.cat([one.flatten() for one in found]).double()

    variants, originals = ({name: gradient(one) for name, one in side.items()} for side in (VARIANTS, ORIGINALS))
    names = list(ORIGINALS)
    return [
        AttributedPair(v, o, float(variants[v] @ originals[o]), float(variants[v].norm() * originals[o].norm()))
        for place, v in enumerate(names)
        for o in (v, names[(place + 1) % len(names)])
    ]


def attribution(loaded: LoadedModel, **options: object) -> TokenAttribution:
    encoded = [{name: loaded.tokenizer.encode(one) for name, one in side.items()} for side in (VARIANTS, ORIGINALS)]
    return TokenAttribution(loaded.model, loaded.tokenizer, *encoded, PassOptions(**options))


def test_tokens_of_either_text_make_up_the_product_and_are_the_text(loaded, pairs):
    made = attribution(loaded).of(pairs)
    assert made.gradients_computed == 6, "every sample once"
    assert made.largest_error < TOLERANCE
    for pair in pairs:
        rows = made.frame.filter(variant_id=pair.variant_id, original_id=pair.original_id)
        for side, samples in (("variant", VARIANTS), ("original", ORIGINALS)):
            own = rows.filter(side=side)
            encoded = loaded.tokenizer.encode(samples[pair.variant_id if side == "variant" else pair.original_id])
            assert own["contribution"].sum() == pytest.approx(pair.dot_product, abs=TOLERANCE * pair.lengths)
            assert own["position"].to_list() == list(range(encoded.length))
            assert "".join(own["token"]) == loaded.tokenizer.decode(encoded.input_ids.tolist(), special_tokens=True)
            other = rows.filter(side="original" if side == "variant" else "variant")
            assert own["linked"].is_between(0, other.height - 1).all()
    assert made.frame.select("variant_id", "original_id").unique(maintain_order=True).rows() == [
        (pair.variant_id, pair.original_id) for pair in pairs
    ]


def test_how_much_is_done_at_a_time_changes_nothing(loaded, pairs):
    whole = attribution(loaded).of(pairs)
    parts = attribution(loaded, memory_bytes=1, batch_tokens=0).of(pairs)
    assert parts.gradients_computed == 12, "pair by pair"
    assert parts.frame.drop("contribution", "linked").equals(whole.frame.drop("contribution", "linked"))
    # fp32: batches of another shape round otherwise.
    size = float(whole.frame["contribution"].abs().max())
    assert parts.frame["contribution"].to_numpy() == pytest.approx(
        whole.frame["contribution"].to_numpy(), abs=1e-5 * size
    )


def test_a_killed_attribution_goes_on_behind_its_last_block(loaded, pairs, tmp_path: Path):
    first = attribution(loaded, memory_bytes=1, batch_tokens=0, scratch=tmp_path)

    class KilledError(Exception):
        pass

    def kill(done: int, total: int) -> None:
        if done >= 4:
            raise KilledError

    with pytest.raises(KilledError):
        first.of(pairs, kill)
    assert len(list(tmp_path.glob("*.parquet"))) == 2
    second = attribution(loaded, scratch=tmp_path).of(pairs)
    assert second.gradients_computed < 6
    whole = attribution(loaded).of(pairs).frame
    assert second.frame["contribution"].to_numpy() == pytest.approx(whole["contribution"].to_numpy(), abs=1e-5)
    third = attribution(loaded, scratch=tmp_path).of(pairs)
    assert third.gradients_computed == 0 and third.frame.equals(second.frame)


def test_tokens_that_do_not_make_up_the_stored_product_are_an_error(loaded, pairs):
    one = pairs[0]
    wrong = AttributedPair(one.variant_id, one.original_id, one.dot_product + 1e-3 * one.lengths, one.lengths)
    with pytest.raises(ArithmeticError, match="eggs and eggs: the product is .* which is 1.0e-03 of both lengths off"):
        attribution(loaded).of([wrong])


def test_pairs_of_samples_that_are_not_there_are_left_out(loaded, pairs):
    made = attribution(loaded).of([AttributedPair("nobody", "eggs", 1.0, 1.0), *pairs[:1]])
    assert made.frame["variant_id"].unique().to_list() == ["eggs"]
    assert attribution(loaded).of([]).frame.is_empty()
