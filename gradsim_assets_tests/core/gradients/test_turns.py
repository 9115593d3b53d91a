"""Components in turn: what does not fit at a time is computed all the same, and gives the same numbers."""

import numpy as np
import pytest
import torch
from transformers import Gemma2Config, LlamaConfig

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.gradients.engine import (
    GradientPass,
    PassOptions,
    plan_turns,
    run_pass,
    shape_of_config,
)
from gradsim_assets.core.gradients.engine.planning.plan import TooLittleMemoryError, plan_pass
from gradsim_assets_tests.core.gradients.test_plan import lima_graph
from gradsim_assets_tests.support.engine_cases import SETTINGS, small_request, tiny, too_little

#: Rounding of fp32, of products relative to the lengths of both gradients; tiles and batches are others in turns.
ROUNDING = 2e-6

WANTED = {"projections": {SETTINGS[0]: (0.05,), SETTINGS[1]: (0.01, 0.05)}}


def assert_same(one, other):
    assert one.components == other.components
    assert one.parameters == other.parameters
    assert one.dimensions == other.dimensions
    for setting in SETTINGS:
        lengths = np.sqrt(other.variant_self[setting] * other.original_self[setting])
        for term in ("dot_products", "variant_self", "original_self"):
            found, expected = getattr(one, term)[setting], getattr(other, term)[setting]
            assert np.abs(found - expected).max() <= ROUNDING * lengths.max()
            assert (np.abs(found - expected) <= ROUNDING * np.maximum(lengths, expected)).all()
        for proportion, cosines in other.projected.get(setting, {}).items():
            np.testing.assert_allclose(one.projected[setting][proportion], cosines, atol=ROUNDING)
        for sample, loss in other.losses[setting].items():
            assert one.losses[setting][sample] == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("name", ["olmo", "gpt2"])  # tied weights, of which both uses are in one turn
def test_turns_give_the_numbers_of_all_components_at_a_time(name):
    request = small_request(**WANTED)
    whole = run_pass(tiny(name), request)
    memory = too_little(tiny(name), request)
    model, heard = tiny(name), []
    trainable = {n: p.requires_grad for n, p in model.named_parameters()}
    result = run_pass(
        model,
        request,
        PassOptions(memory_bytes=memory),
        progress=lambda done, expected, what: heard.append(done / expected),
    )
    assert_same(result, whole)
    assert any("turns" in note for note in result.report.notes)
    assert result.report.gradients_computed >= 2 * result.report.samples
    assert result.report.checked_pairs >= 2  # of every turn
    assert heard == sorted(heard)
    assert heard[-1] == 1
    assert {n: p.requires_grad for n, p in model.named_parameters()} == trainable


def test_frozen_components_stay_out_of_every_turn():
    def build():
        model = tiny("llama")
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("mlp" in name or "embed" in name)
        return model

    request = small_request()
    result = run_pass(build(), request, PassOptions(memory_bytes=too_little(build(), request)))
    assert_same(result, run_pass(build(), request))
    assert all("mlp" in name or "embed" in name for name in result.components)


def test_a_killed_turn_goes_on_with_what_is_finished(tmp_path):
    request = small_request(**WANTED)
    memory = too_little(tiny("olmo"), request)
    options = PassOptions(memory_bytes=memory, scratch=tmp_path)

    class KilledError(Exception):
        pass

    def kill(done, expected, what):
        if done > 0.7 * expected:
            raise KilledError

    with pytest.raises(KilledError):
        run_pass(tiny("olmo"), request, options, progress=kill)
    result = run_pass(tiny("olmo"), request, options)
    assert result.report.blocks_restored > 0
    assert_same(result, run_pass(tiny("olmo"), request))


def test_what_does_not_fit_component_by_component_is_refused():
    with pytest.raises(InputError, match="at least"):
        run_pass(tiny("olmo"), small_request(), PassOptions(memory_bytes=1000))


def test_what_runs_out_of_memory_sample_by_sample_is_done_in_turns(monkeypatch):
    # A device that has less than it says: whoever collects more than a third of the components runs out of it.
    request = small_request()
    whole = run_pass(tiny("olmo"), request)
    add = GradientPass._compute

    def compute(self, number, results, scratch):
        if len(self.names) > len(whole.components) / 3:
            raise TooLittleMemoryError("the device ran out of memory with one sample at a time")
        add(self, number, results, scratch)

    monkeypatch.setattr(GradientPass, "_compute", compute)
    result = run_pass(tiny("olmo"), request)
    assert_same(result, whole)


#: Beside the weights on a GPU of 80 GB, of what is free a run takes 0.85.
LARGE = {
    "llama2-7b": (LlamaConfig(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32), torch.float32),
    "gemma2-9b": (
        Gemma2Config(
            vocab_size=256000,
            hidden_size=3584,
            intermediate_size=14336,
            num_hidden_layers=42,
            num_attention_heads=16,
            num_key_value_heads=8,
            head_dim=256,
        ),
        torch.bfloat16,
    ),
}


@pytest.mark.parametrize("name", LARGE)
def test_what_an_h100_has_no_room_for_at_a_time_fits_in_turns(name):
    config, dtype = LARGE[name]
    shape = shape_of_config(config, dtype)
    graph = lima_graph()
    free = int(0.85 * (79.1 * 2**30 - shape.model_bytes))
    options = PassOptions(device="cuda")
    with pytest.raises(TooLittleMemoryError):
        plan_pass(shape, graph, free, options)
    turns = plan_turns(shape, graph, free, options)
    assert len(turns) > 1
    assert [number for turn in turns for number in turn.components] == list(range(len(shape.components)))
    assert all(turn.plan.memory_bytes <= free for turn in turns)
