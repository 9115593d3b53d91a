"""`gradsim spent` on the home of a whole demo run."""

import json
from pathlib import Path

import dagster as dg

from gradsim_assets.demo import DEMO
from gradsim_assets.orchestration.spent import CPU, DEVICE_TAG
from gradsim_assets_tests.conftest import gradsim


def test_the_demos_steps_are_told_with_their_sum(demo: tuple[Path, str]) -> None:
    home, _ = demo
    steps = json.loads(gradsim(home, "spent", "--json").stdout)
    assert {one["model"] for one in steps} == {None, DEMO, f"{DEMO}+untrained"}
    passes = next(one for one in steps if (one["model"], one["step"]) == (DEMO, "gradient_pass"))
    assert passes["times"] == 4 and passes["seconds"] > 0 and passes["gpu_hours"] == 0
    assert {"dot_products_paraphrased", "projected_similarity_model_generated"} <= set(passes["assets"])
    lines = gradsim(home, "spent").stdout.splitlines()
    stages = [line.split() for line in lines if line.startswith(f"{DEMO} ")]
    assert [stage[1] for stage in stages] == ["gradients", "evaluation", "tokens", "analyses"]
    whole = sum(one["seconds"] for one in steps)
    assert float(lines[-1].split()[3]) == round(whole, 1)
    own = gradsim(home, "spent", DEMO, "--steps").stdout
    assert "gradient_pass" in own and "untrained" not in own


def test_every_step_that_loads_a_model_says_on_what_device(demo: tuple[Path, str]) -> None:
    home, _ = demo
    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        runs = [run for run in instance.get_runs() if run.job_name in ("gradients", "evaluation")]
        loading = {
            (run.run_id, step.step_key)
            for run in runs
            for step in instance.get_run_step_stats(run.run_id)
            if not step.step_key.endswith("_sound")
        }
        told = {
            (run.run_id, tag.removeprefix(DEVICE_TAG))
            for run in runs
            for tag, device in run.tags.items()
            if tag.startswith(DEVICE_TAG) and device == CPU
        }
    assert loading == told != set()
