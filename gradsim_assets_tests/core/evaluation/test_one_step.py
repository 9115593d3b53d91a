"""One optimizer step on a model: what it does to losses, against torch's own optimizers, and that nothing is left of it."""

import copy
from pathlib import Path

import pytest
import torch

from gradsim_assets.core.evaluation.finished import Finished
from gradsim_assets.core.evaluation.one_step import LossChanges, after_step, precise_loss, weight_bits
from gradsim_assets.core.evaluation.step import Step
from gradsim_assets.core.sample_gradients.components import trainable_components
from gradsim_assets.core.sample_gradients.reference import PlainAutograd, sample_loss
from gradsim_assets_tests.support.engine_cases import SETTINGS, small_request, tiny

REQUEST = small_request()
ORIGINALS = {sample.id: sample for sample in REQUEST.originals}
VARIANTS = {sample.id: sample for sample in REQUEST.variants[SETTINGS[0]]}
PAIRS = REQUEST.pairs[SETTINGS[0]]
STEPS = [Step("sgd", 0.05), Step("adam", 1e-3)]


def changes(model, finished=None, **more):
    plain = PlainAutograd(model, [parameter for _, parameter in trainable_components(model)], "cpu")
    return LossChanges(plain, ORIGINALS, VARIANTS, finished, **more)


def by_torch(model, pair, step):
    """The change by torch's own optimizer, on a copy of the model in float64."""
    model, (variant, original) = copy.deepcopy(model).double(), pair
    kind = torch.optim.SGD if step.optimizer == "sgd" else torch.optim.Adam
    optimizer = kind(model.parameters(), lr=step.learning_rate)
    before = sample_loss(model, VARIANTS[variant], "cpu").item()
    sample_loss(model, ORIGINALS[original], "cpu").backward()
    optimizer.step()
    return sample_loss(model, VARIANTS[variant], "cpu").item() - before


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.optimizer)
@pytest.mark.parametrize("kind", ["olmo", "gpt2"])
def test_a_change_is_that_of_torchs_optimizer(kind, step):
    model = tiny(kind).double()
    found = changes(model)(PAIRS, step)
    assert list(found) == PAIRS
    for pair in PAIRS[:4]:
        # float64 on both sides; Adam's quotient of two roundings is what differs.
        assert found[pair] == pytest.approx(by_torch(model, pair, step), rel=1e-7, abs=1e-12)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.optimizer)
def test_a_weight_without_a_gradient_stays(step):
    weight, gradient = torch.tensor([1.0, -2.0]), torch.zeros(2)
    assert torch.equal(after_step(weight, gradient, step), weight)


def test_the_loss_is_that_of_the_gradients():
    model = tiny("llama")
    plain = PlainAutograd(model, list(model.parameters()), "cpu")
    for sample in VARIANTS.values():
        # The gradients' loss is summed in float32: six digits of it.
        assert precise_loss(plain, sample) == pytest.approx(sample_loss(model, sample, "cpu").item(), rel=1e-6)
        with plain.widened(torch.float64):
            assert precise_loss(plain, sample) == pytest.approx(sample_loss(model, sample, "cpu").item(), rel=1e-14)


@pytest.mark.parametrize("kind", ["olmo", "llama", "gpt2"])  # olmo's embeddings are tied
@pytest.mark.parametrize("widened", [False, True])
def test_every_bit_of_the_weights_is_as_it_was(kind, widened):
    model = tiny(kind)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    places = [parameter.data_ptr() for parameter in model.parameters()]
    measure = changes(model)
    with measure.plain.widened(torch.float64 if widened else torch.float32):
        measure(PAIRS, STEPS[1])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert widened or [parameter.data_ptr() for parameter in model.parameters()] == places
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_weights_are_put_back_where_a_loss_is_no_number():
    model = tiny("gpt2")
    before = weight_bits(list(model.parameters()))
    with pytest.raises(ArithmeticError, match="take a smaller learning rate"):
        changes(model)(PAIRS, Step("sgd", 1e38))
    assert weight_bits(list(model.parameters())) == before


def test_a_weight_that_somebody_changed_meanwhile_is_noticed():
    model = tiny("gpt2")

    def meddle(done, total):
        with torch.no_grad():
            next(model.parameters()).view(-1)[3] += 1e-3

    with pytest.raises(ArithmeticError, match="the weights are not what they were"):
        changes(model, progress=meddle)(PAIRS, STEPS[0])


def test_a_number_depends_on_its_pair_alone():
    model = tiny("olmo")
    whole = changes(model)(PAIRS, STEPS[0])
    assert changes(model)(PAIRS[::-1], STEPS[0]) == whole
    for pair in PAIRS[2:5]:
        assert changes(model)([pair], STEPS[0]) == {pair: whole[pair]}


def test_pairs_whose_sample_was_dropped_are_left_out():
    found = changes(tiny("gpt2"))([*PAIRS[:2], ("lima_0", "dropped"), ("dropped", "lima_0")], STEPS[0])
    assert list(found) == PAIRS[:2]


class KilledError(Exception):
    """Stands for the end of a process."""


def test_what_a_killed_step_has_done_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gradsim_assets.core.evaluation.finished._SECONDS", -1.0)
    model, path = tiny("olmo"), tmp_path / "numbers.json"
    whole = changes(model)(PAIRS, STEPS[0])

    def die(done, total):
        if done == 2:
            raise KilledError

    with pytest.raises(KilledError):
        changes(model, Finished(path), progress=die)(PAIRS, STEPS[0])
    goes_on = changes(model, Finished(path))
    taken, each = [], goes_on.plain.each

    def counted(sample, *arguments):
        taken.append(sample.id)
        return each(sample, *arguments)

    monkeypatch.setattr(goes_on.plain, "each", counted)
    assert goes_on(PAIRS, STEPS[0]) == whole  # every bit
    assert len(taken) == len({original for _, original in PAIRS}) - 2
    assert goes_on(PAIRS, STEPS[1]) != whole  # another step is another number
