"""How many operations a pass calls a device for: where a call takes longer than its work, they are what it costs.

Counted on CPU, with the sizes and rules of a GPU.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.workload import demo_model, make_request
from gradsim_assets.core.gradients.engine import GradientPass, PassOptions
from gradsim_assets.core.sample_gradients.device_profile import CPU, CUDA
from gradsim_assets.core.sample_gradients.gradient_hooks import GradientHooks
from gradsim_assets.core.sample_gradients.held_gradients import HeldGradients
from gradsim_assets.core.sample_gradients.projections import RolledSketch
from gradsim_assets_tests.support.engine_cases import SETTINGS, relative_error, small_request, tiny
from gradsim_assets_tests.support.operations import CountedOperations

LAYERS = 6


def request_of(lengths, **wanted):
    return make_request(np.asarray(lengths), 512, **wanted)


def counted_pass(monkeypatch, request, **options):
    """Operations of every call of the methods that a pass is made of, by method."""
    counts = {"begin": [], "backward": [], "finish": [], "products": [], "project": []}
    counter = CountedOperations()

    def watch(owner, name):
        method = getattr(owner, name)

        def watched(*arguments, **named):
            before = counter.count
            found = method(*arguments, **named)
            counts[name].append(counter.count - before)
            return found

        monkeypatch.setattr(owner, name, watched)

    watch(GradientHooks, "backward")
    for name in ("begin", "finish", "products", "project"):
        watch(HeldGradients, name)
    work = GradientPass(demo_model(64, LAYERS, 512), request, PassOptions(check_pairs=0, profile=CUDA, **options))
    with counter:
        work.run()
    return counts, work


def plain_operations(sample):
    """Operations of a plain forward and backward pass of one sample."""
    model, ids = demo_model(64, LAYERS, 512), torch.from_numpy(sample.input_ids)[None]
    with CountedOperations() as counter:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    return counter.count


@pytest.mark.parametrize("form", ["factored", "formed"])
@pytest.mark.parametrize("candidates", [2, 5])
def test_products_of_a_tile_of_many_pairs_take_at_most_150_operations(monkeypatch, form, candidates):
    request = request_of(np.random.default_rng(0).integers(40, 120, 16), candidates=candidates)
    counts, work = counted_pass(monkeypatch, request, form=form)
    assert work.plan.pairs == 2 * 16 * candidates
    assert 0 < max(counts["products"]) <= 150


def test_all_else_takes_at_most_1_3_times_the_operations_of_a_plain_pass_a_sample(monkeypatch):
    alone = request_of([100, 120, 140], candidates=2)
    counts, work = counted_pass(monkeypatch, alone, form="factored", batch_tokens=0)
    collected = [sum(counts[name][-work.report.gradients_computed :]) for name in ("begin", "backward", "finish")]
    assert len(counts["backward"]) >= work.report.gradients_computed == 9
    assert sum(collected) <= 1.3 * 9 * plain_operations(alone.originals[0])


def test_a_batch_takes_hardly_more_operations_than_one_sample(monkeypatch):
    batched = request_of(np.full(16, 100))
    counts, work = counted_pass(monkeypatch, batched, form="factored")
    assert work.plan.batch_tokens == 4096
    assert counts["backward"][-1] <= 1.3 * plain_operations(batched.originals[0])
    assert counts["begin"][-1] + counts["finish"][-1] <= 150


def test_projecting_takes_as_many_operations_for_a_batch_as_for_one_sample(monkeypatch):
    counts, _ = counted_pass(monkeypatch, request_of(np.full(8, 50), projections=(0.05,)), form="formed")
    few = counts["project"][-1]
    more, _ = counted_pass(monkeypatch, request_of(np.full(16, 50), projections=(0.05,)), form="formed")
    assert few == more["project"][-1] > 0


def test_rolling_all_rows_at_once_gives_what_row_by_row_gives_in_a_handful_of_operations():
    for size, dimension in ((10_000, 512), (5_120, 512), (300, 512)):
        sketch = RolledSketch("layer", size, dimension, 0)
        gradients = torch.randn(3, size, generator=torch.Generator().manual_seed(0))
        with CountedOperations() as counter:
            found = sketch.all_rows(gradients)
        assert counter.count <= 7
        torch.testing.assert_close(found, sketch.row_by_row(gradients), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["olmo", "llama", "gpt2"])
def test_pairs_gathered_together_have_the_products_of_pairs_taken_alone(name):
    request = small_request()
    gathering = replace(CUDA, row_multiple=8)
    alone = replace(gathering, launch_seconds=0.0)
    together, one_by_one, as_ever = (run(name, request, profile) for profile in (gathering, alone, CPU))
    for setting in SETTINGS:
        selves = together.variant_self[setting], together.original_self[setting]
        for other in (one_by_one, as_ever):
            # Sums of other lengths: some 1e-7 of the gradients' lengths.
            assert relative_error(other.dot_products[setting], together.dot_products[setting], *selves) < 1e-6
            assert relative_error(other.variant_self[setting], selves[0], selves[0], selves[0]) < 1e-6


def run(name, request, profile):
    options = PassOptions(form="factored", batch_tokens=100, check_pairs=2, profile=profile)
    return GradientPass(tiny(name), request, options).run()


def test_work_space_for_one_layer_at_a_time_changes_nothing_beyond_rounding():
    request = small_request()
    roomy, narrow = (run("llama", request, replace(CPU, work_bytes=n)) for n in (2**25, 1))
    for setting in SETTINGS:
        selves = roomy.variant_self[setting], roomy.original_self[setting]
        assert relative_error(narrow.dot_products[setting], roomy.dot_products[setting], *selves) < 1e-6


def test_self_products_by_forming_are_those_of_the_factors():
    request = small_request()
    # Products that take forever make forming worth it; without a store of memory nothing is.
    forming, factors = (
        run("gpt2", request, replace(CPU, product_rate=rate, bytes_per_second=read))
        for rate, read in ((1.0, 1e30), (1e30, 1.0))
    )
    for setting in SETTINGS:
        selves = factors.variant_self[setting]
        assert relative_error(forming.variant_self[setting], selves, selves, selves) < 1e-6
