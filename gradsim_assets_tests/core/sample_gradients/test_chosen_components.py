"""Components chosen by patterns: the same gradients as in a pass over all, and nothing spent on the others."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.gradients.engine import GradientPass, PassGraph, PassOptions, plan_pass, run_pass
from gradsim_assets.core.gradients.engine.planning.model_shape import measure
from gradsim_assets.core.sample_gradients.components import choose_components, trainable_components
from gradsim_assets.core.sample_gradients.gradient_hooks import GradientHooks
from gradsim_assets_tests.support.engine_cases import SETTINGS, small_request, tiny


def chosen(kind: str, *patterns: str) -> torch.nn.Module:
    model = tiny(kind)
    choose_components(model, patterns)
    return model


@pytest.mark.parametrize(
    ("kind", "patterns", "count"),
    [
        ("llama", ("*.mlp.*",), 6),
        ("llama", ("*.layers.1.self_attn.q_proj.*", "model.norm.weight"), 3),
        ("olmo", ("model.embed_tokens.*",), 1),  # tied to the head: both uses count
        ("gpt2", ("*.bias", "*.h.0.*.c_fc.weight"), 14),
    ],
)
@pytest.mark.parametrize("form", ["formed", "factored"])
def test_products_are_those_of_a_pass_over_all_components(
    kind: str, patterns: tuple[str, ...], count: int, form: str
) -> None:
    request = small_request()
    whole = run_pass(tiny(kind), request)
    part = run_pass(chosen(kind, *patterns), request, PassOptions(form=form))  # type: ignore[arg-type]
    places = [whole.components.index(name) for name in part.components]
    assert len(places) == count and places == sorted(places)
    assert part.parameters == [whole.parameters[place] for place in places]
    for setting in SETTINGS:
        lengths = np.sqrt(whole.variant_self[setting] * whole.original_self[setting])[:, places]
        # Summed up in other batches: each is right to 1e-5 of the lengths of both gradients.
        off = np.abs(part.dot_products[setting] - whole.dot_products[setting][:, places])
        assert (off <= 2e-5 * lengths).all()
        assert np.allclose(part.losses[setting]["lima_0"], whole.losses[setting]["lima_0"], rtol=1e-6)


def test_a_pattern_that_matches_nothing_is_named_with_what_there_is() -> None:
    with pytest.raises(InputError) as error:
        chosen("llama", "*.mlp.*", "*.q_proj")
    assert 'the pattern "*.q_proj" matches none of the 29 components (such as model.embed_tokens.weight and ' in str(
        error.value
    )


def test_what_is_left_out_has_no_hooks_no_graph_and_no_memory() -> None:
    request = small_request(projections=dict.fromkeys(SETTINGS, (0.05,)))
    all_of_it, last = GradientHooks(tiny("llama")), GradientHooks(chosen("llama", "*.layers.1.mlp.*"))
    assert (len(last.uses), len(all_of_it.uses)) == (3, 21)
    with last.open():
        seen = []
        first_block = last.model.get_submodule("model.layers.0")
        handle = first_block.register_forward_hook(lambda module, given, output: seen.append(output.requires_grad))
        last.forward_only(torch.zeros(1, 10, dtype=torch.int64))
        handle.remove()
    assert seen == [False], "autograd has nothing to go back for in the first block"
    graph = PassGraph.of(request)
    plans = [plan_pass(measure(hooks), graph, 2**30) for hooks in (last, all_of_it)]
    for what in ("held_bytes", "disk_bytes", "forming_flop", "memory_bytes"):
        assert getattr(plans[0], what) < 0.5 * getattr(plans[1], what), what
    # The way through the whole model stays, and half of the way back.
    assert 0.5 < plans[0].flop / plans[1].flop < 0.85


def test_the_full_gradient_of_projections_is_that_of_the_chosen_components() -> None:
    request = replace(small_request(), products=frozenset(), projections={"paraphrased": (1.0,)})
    model = chosen("llama", "*.mlp.up_proj.*")
    work = GradientPass(model, request)
    result = work.run()
    assert result.dimensions[1.0] == sum(max(512, 512 * round(p.numel() / 512)) for _, p in trainable_components(model))
    assert work.report.checks.projected_pairs and work.report.checks.projected_error < 1e-5
