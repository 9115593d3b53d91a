"""What is measured of a device: that it is real, kept, found again where it is true, and decides nothing but what is said."""

import json
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gradsim_assets.core.gradients.engine import GradientPass, PassOptions, PassRequest, shape_of_config
from gradsim_assets.core.gradients.engine.planning.predicted_time import by_figures, predicted_seconds
from gradsim_assets.core.models.encoded_sample import EncodedSample
from gradsim_assets.core.sample_gradients.calibration import Calibration, Place, all_kept, keep, kept
from gradsim_assets.core.sample_gradients.device_measurements import ON_CPU, measure
from gradsim_assets_tests.support.tiny_models import tiny_config

SETTING, VOCABULARY = "paraphrased", 40

#: Less than a user's machine is measured with.
FEW = replace(ON_CPU, widths=(32, 64), long=64, rows=32, vector=2**14, logits=(4, 512))


@pytest.fixture(scope="module")
def measured() -> Calibration:
    """What is found on this machine."""
    return measure("cpu", "fp32", sizes=FEW)


@pytest.fixture
def one_thread() -> Iterator[int]:
    """The number of threads that this process computes with, which is put back."""
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


def here() -> Place:
    return Place.of("cpu", torch.float32, "fp32")


def request() -> PassRequest:
    """Three variants, each with all originals."""
    random = np.random.default_rng(0)

    def samples(more: int) -> list[EncodedSample]:
        drawn = [random.integers(0, VOCABULARY, 9 + 4 * n + more) for n in range(3)]
        return [EncodedSample(f"lima_{n}", ids, ids) for n, ids in enumerate(drawn)]

    originals, variants = samples(0), samples(1)
    pairs = [(v.id, o.id) for v in variants for o in originals]
    return PassRequest(originals, {SETTING: variants}, {SETTING: pairs}, frozenset({SETTING}), {SETTING: (0.05,)})


def passed(calibration: Calibration | None) -> GradientPass:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config("llama", VOCABULARY))
    return GradientPass(model, request(), PassOptions(memory_bytes=2**28), calibrate=lambda seconds: calibration)


def scaled(one: Calibration, times: float) -> Calibration:
    """A device on which everything takes so many times as long."""
    slower = {"call_seconds": 1, "attention_seconds": 1, "pass_rate": -1, "product_rate": -1, "forming_rate": -1}
    widths = tuple(
        replace(of_width, **{name: getattr(of_width, name) * times**sign for name, sign in slower.items()})
        for of_width in one.widths
    )
    return replace(
        one,
        widths=widths,
        batch_seconds=one.batch_seconds * times,
        logit_seconds=one.logit_seconds * times,
        launch_seconds=one.launch_seconds * times,
        bytes_per_second=one.bytes_per_second / times,
    )


def test_a_measurement_is_sound_and_says_of_what_it_is(measured: Calibration) -> None:
    assert measured.is_sound
    assert Place(measured.device, measured.torch, measured.threads, measured.kind) == here()
    assert measured.device and measured.host_bytes_per_second is None, "a CPU has its memory to itself"
    assert measured.source == f"measured on {measured.device} on {measured.measured_on}"


def test_rates_follow_from_what_the_clock_says() -> None:
    """On a clock that goes ten times as fast everything takes ten times as long; here each job takes what it is told to."""
    told = iter(range(10**9))

    def ticking(tick: float) -> Callable[[], float]:
        return lambda: next(told) * tick

    one, ten = (measure("cpu", "fp32", ticking(tick), FEW) for tick in (1.0, 10.0))
    assert ten.bytes_per_second == pytest.approx(one.bytes_per_second / 10)
    assert [b.product_rate for b in ten.widths] == pytest.approx([a.product_rate / 10 for a in one.widths])
    assert [b.pass_rate for b in ten.widths] == pytest.approx([a.pass_rate / 10 for a in one.widths])


def test_measuring_leaves_the_process_as_it_was() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    measure("cpu", "fp32", sizes=FEW)
    assert torch.equal(torch.rand(3), expected)
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32


def test_it_is_found_again_where_it_is_true_alone(measured: Calibration, tmp_path: Path, one_thread: int) -> None:
    assert kept(here(), tmp_path) is None
    file = keep(measured, tmp_path)
    assert kept(here(), tmp_path) == measured and all_kept(tmp_path) == [measured]
    assert kept(Place.of("cpu", torch.bfloat16, "fp32"), tmp_path) is None
    assert kept(Place.of("cpu", torch.float32, "tf32"), tmp_path) == measured, "a CPU has no TF32"
    for elsewhere in (
        replace(here(), device="another"),
        replace(here(), torch="1.0"),
        replace(here(), threads=99),
    ):
        assert kept(elsewhere, tmp_path) is None
    torch.set_num_threads(one_thread + 1)
    assert kept(here(), tmp_path) is None
    torch.set_num_threads(one_thread)
    # A file under the name of another place, however it came there.
    other = replace(here(), torch="1.0").file(tmp_path)
    file.rename(other)
    assert kept(replace(here(), torch="1.0"), tmp_path) is None


@pytest.mark.parametrize(
    "broken",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "null",
        lambda text: text.replace('"launch_seconds"', '"launch"'),
        lambda text: json.dumps({**json.loads(text), "bytes_per_second": -1.0}),
        lambda text: json.dumps({**json.loads(text), "bytes_per_second": "fast"}),
        lambda text: json.dumps({**json.loads(text), "logit_seconds": math.nan}),
        lambda text: json.dumps({**json.loads(text), "widths": []}),
        lambda text: json.dumps({**json.loads(text), "widths": [1]}),
        lambda text: json.dumps({**json.loads(text), "widths": json.loads(text)["widths"][::-1]}),
    ],
)
def test_a_broken_file_is_told_and_left_aside(
    broken: Callable[[str], str], measured: Calibration, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = keep(measured, tmp_path)
    file.write_text(broken(file.read_text()))
    with caplog.at_level(logging.WARNING):
        assert kept(here(), tmp_path) is None and all_kept(tmp_path) == []
    assert f"{file} holds no rates of a device" in caplog.text and "gradsim doctor --measure" in caplog.text
    keep(measured, tmp_path)
    assert kept(here(), tmp_path) == measured


def test_rates_between_widths_lie_between_theirs(measured: Calibration) -> None:
    first, second = measured.widths[:2]
    between = measured.at((first.width * second.width) ** 0.5)
    assert 1 / between.pass_rate == pytest.approx((1 / first.pass_rate + 1 / second.pass_rate) / 2)
    assert measured.at(1).pass_rate == pytest.approx(first.pass_rate)
    assert measured.at(10**6).forming_rate == pytest.approx(measured.widths[-1].forming_rate)


def test_a_pass_tells_what_was_predicted_and_by_what(measured: Calibration) -> None:
    work, said = passed(measured), list[str]()
    report = work.run(log=said.append).report
    assert work.plan is not None
    assert report.predicted_seconds == pytest.approx(
        predicted_seconds(work.plan, work.shape, work.graph, measured, "cpu")
    )
    assert report.predicted_by == measured.source and any(measured.source in line for line in said)
    assert 0 < report.computing_seconds < report.seconds
    by_constants = passed(None)
    report = by_constants.run().report
    assert by_constants.plan is not None
    assert report.predicted_seconds == pytest.approx(by_constants.plan.expected_seconds)
    assert report.predicted_by == by_figures("cpu") and "two server cores" in report.predicted_by


def test_neither_choices_nor_numbers_go_by_it(measured: Calibration) -> None:
    """A device that was found wildly fast, or slow, is planned for as any of its kind, and computes the same bytes."""
    plain = passed(None)
    expected = plain.run()
    for times in (1e-6, 1e6):
        work = passed(scaled(measured, times))
        found = work.run()
        assert work.plan == plain.plan
        for name in ("dot_products", "variant_self", "original_self"):
            assert getattr(found, name)[SETTING].tobytes() == getattr(expected, name)[SETTING].tobytes()
        assert found.projected[SETTING][0.05].tobytes() == expected.projected[SETTING][0.05].tobytes()
        assert found.report.predicted_seconds != expected.report.predicted_seconds


def test_a_prediction_is_in_proportion_to_the_rates_and_grows_with_the_work(measured: Calibration) -> None:
    work = passed(None)
    plan = work._make_plan()
    once = predicted_seconds(plan, work.shape, work.graph, measured, "cpu")
    assert predicted_seconds(plan, work.shape, work.graph, scaled(measured, 3), "cpu") == pytest.approx(3 * once)
    assert predicted_seconds(replace(plan, blocks=plan.blocks * 2), work.shape, work.graph, measured, "cpu") > once
    wider: Any = tiny_config("llama", VOCABULARY)
    wider.hidden_size, wider.intermediate_size = 64, 128
    assert predicted_seconds(plan, shape_of_config(wider), work.graph, measured, "cpu") > once
    assert asdict(measured)["widths"], "as it is kept"
