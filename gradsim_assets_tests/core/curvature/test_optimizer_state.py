"""Second moments out of the states that PyTorch, transformers' Trainer and consolidated sharded training save."""

import pytest
import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict
from transformers import Trainer, TrainingArguments

from gradsim_assets.core.curvature.optimizer_states import second_moments
from gradsim_assets.core.errors import InputError
from gradsim_assets_tests.support.curvature_cases import VOCABULARY, model_of

STEPS, BETA, EPSILON = 3, 0.95, 1e-6

#: GPT-2 has biases, norms that are LayerNorms and a tied head; Llama has RMSNorms, which other rules let decay.
MODELS = ["Conv1D", "untied with biases"]


def trained(model, optimizer):
    """Some steps; by name v as the definition has it, out of gradients that were written down."""
    expected = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in model.named_parameters()}
    random = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        ids = torch.randint(0, VOCABULARY, (2, 9), generator=random)
        model(ids, labels=ids).loss.backward()
        for name, p in model.named_parameters():
            expected[name] = BETA * expected[name] + (1 - BETA) * p.grad.double() ** 2
        optimizer.step()
        optimizer.zero_grad()
    return {name: v / (1 - BETA**STEPS) for name, v in expected.items()}


def assert_moments(found, expected):
    assert found.keys() == expected.keys()
    for name, one in found.items():
        # The optimizer keeps them in fp32: 1e-7 of the largest summand each.
        torch.testing.assert_close(one.moments.double(), expected[name], rtol=1e-4, atol=1e-12)
        assert one.epsilon == EPSILON


@pytest.mark.parametrize("name", MODELS)
def test_the_state_of_a_torch_optimizer(name, tmp_path):
    model = model_of(name)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, BETA), eps=EPSILON)
    expected = trained(model, optimizer)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    assert_moments(second_moments(tmp_path / "state.pt", model_of(name)), expected)
    torch.save({"optimizer": optimizer.state_dict(), "epoch": 3}, tmp_path / "checkpoint.pt")
    assert_moments(second_moments(tmp_path / "checkpoint.pt", model_of(name)), expected)


def test_a_state_that_names_its_parameters_in_another_order(tmp_path):
    model = model_of("Conv1D")
    named = sorted(model.named_parameters(), reverse=True)
    optimizer = torch.optim.Adam(named, betas=(0.9, BETA), eps=EPSILON)
    expected = trained(model, optimizer)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    assert_moments(second_moments(tmp_path / "state.pt", model_of("Conv1D")), expected)


@pytest.mark.parametrize("name", MODELS)
def test_the_state_of_transformers_trainer(name, tmp_path):
    model, arguments = (
        model_of(name),
        TrainingArguments(
            output_dir=str(tmp_path),
            adam_beta2=BETA,
            adam_epsilon=EPSILON,
            weight_decay=0.1,
            max_steps=STEPS,
            use_cpu=True,
            max_grad_norm=0,
            per_device_train_batch_size=2,
            save_strategy="steps",
            save_steps=STEPS,
            report_to=[],
        ),
    )
    expected = {n: torch.zeros_like(p, dtype=torch.float64) for n, p in model.named_parameters()}
    ids = torch.randint(0, VOCABULARY, (2 * STEPS, 9), generator=torch.Generator().manual_seed(0))
    trainer = Trainer(model, arguments, train_dataset=[{"input_ids": one, "labels": one} for one in ids])
    trainer.create_optimizer()

    def seen(*called):
        for n, p in model.named_parameters():
            expected[n] = BETA * expected[n] + (1 - BETA) * p.grad.double() ** 2

    trainer.optimizer.register_step_pre_hook(seen)
    trainer.train()
    state = tmp_path / f"checkpoint-{STEPS}" / "optimizer.pt"
    assert len(torch.load(state)["param_groups"]) == 2
    assert_moments(second_moments(state, model_of(name)), {n: v / (1 - BETA**STEPS) for n, v in expected.items()})


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_a_consolidated_state_is_keyed_by_names(prefix, tmp_path):
    model = model_of("tied")
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, BETA), eps=EPSILON)
    expected = trained(model, optimizer)
    state = get_optimizer_state_dict(model, optimizer, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    assert all(isinstance(key, str) for key in state["state"])
    state["state"] = {prefix + key: entry for key, entry in state["state"].items()}
    for group in state["param_groups"]:
        group["params"] = [prefix + key for key in group["params"]]
    torch.save(state, tmp_path / "optimizer.bin")
    assert_moments(second_moments(tmp_path / "optimizer.bin", model_of("tied")), expected)


def test_amsgrad_divides_by_the_largest_moments(tmp_path):
    model = model_of("tied")
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, BETA), eps=EPSILON, amsgrad=True)
    trained(model, optimizer)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    found = second_moments(tmp_path / "state.pt", model)
    for (name, parameter), (_, one) in zip(model.named_parameters(), found.items(), strict=True):
        largest = optimizer.state[parameter]["max_exp_avg_sq"].double() / (1 - BETA**STEPS)
        torch.testing.assert_close(one.moments.double(), largest, msg=name)


def test_the_state_of_another_model_is_refused(tmp_path):
    model = model_of("Conv1D")
    optimizer = torch.optim.AdamW(model.parameters())
    trained(model, optimizer)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    with pytest.raises(InputError, match="does not fit the model"):
        second_moments(tmp_path / "state.pt", model_of("tied"))


def test_a_state_that_lacks_a_parameter_is_refused(tmp_path):
    model = model_of("tied")
    model.model.embed_tokens.weight.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    ids = torch.arange(9)[None]
    model(ids, labels=ids).loss.backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    with pytest.raises(InputError, match="does not fit the model"):
        second_moments(tmp_path / "state.pt", model_of("tied"))


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.RMSprop])
def test_the_state_of_no_adam_is_refused(optimizer, tmp_path):
    model = model_of("tied")
    steps = optimizer(model.parameters(), lr=1e-3, momentum=0.9)
    ids = torch.arange(9)[None]
    model(ids, labels=ids).loss.backward()
    steps.step()
    torch.save(steps.state_dict(), tmp_path / "state.pt")
    with pytest.raises(InputError, match=r"no second moments|does not fit"):
        second_moments(tmp_path / "state.pt", model)


@pytest.mark.parametrize("content", [b"", b"moments", b"PK\x03\x04"])
def test_a_file_that_is_no_state_is_refused_by_its_name(content, tmp_path):
    path = tmp_path / "optimizer.pt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"optimizer\.pt"):
        second_moments(path, model_of("tied"))


def test_a_state_without_steps_is_refused(tmp_path):
    model = model_of("tied")
    torch.save(torch.optim.AdamW(model.parameters()).state_dict(), tmp_path / "state.pt")
    with pytest.raises(InputError, match="holds no state"):
        second_moments(tmp_path / "state.pt", model)
