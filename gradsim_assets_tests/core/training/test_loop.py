"""The training loop: what it computes, what it depends on, and what leaving samples out changes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GraniteConfig

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.models.encoded_sample import IGNORED, EncodedSample
from gradsim_assets.core.sample_gradients.reference import sample_loss
from gradsim_assets.core.training.loop import mean_loss, reproducible, train
from gradsim_assets.core.training.recipe import TrainingRecipe
from gradsim_assets_tests.support.tiny_models import tiny_config

VOCABULARY = 60


def samples(count: int, seed: int = 0) -> list[EncodedSample]:
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        ids = rng.integers(3, VOCABULARY, int(rng.integers(5, 14)))
        labels = np.where(np.arange(len(ids)) < 3, IGNORED, ids)
        found.append(EncodedSample(f"s{number}", ids, labels))
    return found


def fresh(kind: str = "olmo"):
    if kind == "granite":  # whose logits are scaled behind the head
        config = GraniteConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            logits_scaling=4.0,
        )
    else:
        config = tiny_config(kind, VOCABULARY)
    return AutoModelForCausalLM.from_config(config)


def trained(originals, recipe=None, **arguments) -> list[torch.Tensor]:
    recipe = recipe or TrainingRecipe(epochs=3, batch_size=3, learning_rate=1e-2, label_smoothing=0.1)
    with reproducible(recipe.seed):
        model = fresh()
        train(model, originals, recipe, **arguments)
    return [parameter.detach().clone() for parameter in model.parameters()]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", ["olmo", "llama", "gpt2", "granite"])
def test_the_loss_of_a_batch_is_the_mean_of_its_samples_own_losses(kind):
    torch.manual_seed(0)
    model, batch = fresh(kind).eval(), samples(5)
    alone = torch.stack([sample_loss(model, sample, "cpu") for sample in batch]).mean()
    # Sums of fp32 in another order.
    assert mean_loss(model, batch).item() == pytest.approx(alone.item(), rel=1e-5)


def test_the_same_call_gives_the_same_bits_whatever_the_process_is_set_to():
    first = trained(samples(10))
    torch.manual_seed(99)
    torch.set_num_threads(2)
    try:
        assert same(first, trained(samples(10)))
    finally:
        torch.set_num_threads(1)
    assert not same(first, trained(samples(10), TrainingRecipe(epochs=3, batch_size=3, learning_rate=1e-2, seed=7)))


def test_what_is_left_out_has_no_say_and_the_order_in_which_it_is_named_neither():
    originals = samples(10)
    out = ["s3", "s7", "s8"]
    found = trained(originals, left_out=out)
    assert same(found, trained(originals, left_out=frozenset(reversed(out))))
    assert not same(found, trained(originals))
    other = [  # other tokens of the same length
        replace(one, input_ids=one.input_ids[::-1].copy(), labels=one.input_ids[::-1].copy()) if one.id in out else one
        for one in originals
    ]
    assert same(found, trained(other, left_out=out))
    assert not same(trained(originals), trained(other))


def test_reworded_prompts_are_visited_as_often_as_the_recipe_says():
    originals, reworded = samples(8), [replace(one, input_ids=one.input_ids - 1) for one in samples(8)]
    never = TrainingRecipe(epochs=2, batch_size=4, learning_rate=1e-2)
    sometimes = never.model_copy(update={"reworded_prompts": 0.5})
    assert same(trained(originals, never, reworded=reworded), trained(originals, never))
    mixed = trained(originals, sometimes, reworded=reworded)
    assert not same(mixed, trained(originals, never))
    assert same(trained(originals, sometimes, reworded=[None] * 8), trained(originals, never))


def test_bfloat16_is_mixed_precision():
    weights = trained(samples(6), TrainingRecipe(epochs=1, learning_rate=1e-2, precision="bfloat16"))
    assert {weight.dtype for weight in weights} == {torch.float32}
    assert not same(weights, trained(samples(6), TrainingRecipe(epochs=1, learning_rate=1e-2)))


def test_plain_sgd_without_clipping_is_one_step_along_the_gradient():
    (only,) = samples(1)
    recipe = TrainingRecipe(steps=1, batch_size=1, optimizer="sgd", learning_rate=0.5, clip=0)
    with reproducible(recipe.seed):
        model = fresh()
    sample_loss(model, only, "cpu").backward()
    wanted = [(weight - 0.5 * weight.grad).detach() for weight in model.parameters()]
    for one, other in zip(trained([only], recipe), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)  # fp32, summed in another order


def test_nothing_left_to_train_on_is_refused():
    originals = samples(3)
    with pytest.raises(InputError, match="no original is left to train on"):
        trained(originals, left_out=[one.id for one in originals])


def test_the_learning_rate_rises_stays_and_falls():
    recipe = TrainingRecipe(warmup_steps=4, plateau=0.5, lowest=0.1)
    factors = [recipe.learning_rate_factor(step, 20) for step in range(20)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4:11] == [1.0] * 7
    assert factors[15] == pytest.approx(0.5) and factors[19] == pytest.approx(0.1)
    plain = [TrainingRecipe().learning_rate_factor(step, 4) for step in range(4)]
    assert plain == [1.0, 0.75, 0.5, 0.25]
    assert TrainingRecipe(plateau=1).learning_rate_factor(3, 4) == 1.0


def test_a_models_own_recipe_goes_before_the_general_one():
    general = TrainingRecipe(epochs=5, learning_rate=1e-4)
    own = TrainingRecipe.model_validate({"epochs": 3.0, "seed": 1})
    assert general.with_those_of(own) == TrainingRecipe(epochs=3, learning_rate=1e-4, seed=1)
    assert general.with_those_of(None) == general
