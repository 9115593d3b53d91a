"""On a bare CUDA machine there is torch, transformers and numpy; the engine and its benchmark need no more."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

BLOCK = textwrap.dedent(
    """
    import sys
    for name in ("polars", "dagster", "pydantic", "pyarrow", "click", "upath", "trak", "datasets", "rank_bm25"):
        sys.modules[name] = None  # an import of it fails
    """
)

PASS = textwrap.dedent(
    """
    import tempfile
    from pathlib import Path

    from bench import gpu
    from bench.workload import demo_model, make_request
    from gradsim_assets.core.gradients.engine import PassOptions, plan_pass, run_pass, shape_of_config

    model, request = demo_model(32, 1, 64), make_request([9, 12, 7], 64, candidates=2, projections=(0.01,))
    with tempfile.TemporaryDirectory() as folder:
        result = run_pass(model, request, PassOptions(scratch=Path(folder), check_pairs=1))
    shape = shape_of_config(model.config)
    print(result.report.gradients_computed, result.report.max_relative_error < 1e-5, len(shape.components))
    """
)

MEASURED = textwrap.dedent(
    """
    from dataclasses import replace

    import torch
    from gradsim_assets.core.sample_gradients.calibration import kinds_of
    from gradsim_assets.core.sample_gradients.device_measurements import ON_CPU, measure

    few = replace(ON_CPU, widths=(32,), long=64, rows=32, vector=2**14, logits=(4, 512))
    print(*(measure("cpu", kind, sizes=few).is_sound for kind in kinds_of(torch.device("cpu"))))
    """
)


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


def test_a_pass_runs_where_nothing_but_torch_numpy_and_transformers_can_be_imported() -> None:
    done = run(BLOCK + PASS)
    assert done.returncode == 0, done.stderr
    passes, right, components = done.stdout.split()
    assert (int(passes), right, int(components)) == (9, "True", 8)


def test_a_device_is_measured_there() -> None:
    done = run(BLOCK + MEASURED)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True"]


def test_a_projection_that_needs_traker_is_refused_where_it_is_not_installed() -> None:
    make = "from gradsim_assets.core.sample_gradients.projections import make_projector as make\n"
    done = run(f'{BLOCK}{make}make("layer", 100, 0.1)\nmake("layer", 100, 0.1, kind="trak")')
    assert done.stderr.splitlines()[-1] == (
        'gradsim_assets.core.errors.InputError: the projection "trak" needs the package traker; install it, or choose "fast".'
    )


@pytest.mark.parametrize("module", ["core.samples", "core.tables.schemas", "defs.gradients.gradient_pass"])
def test_what_needs_more_cannot_be_imported_there(module: str) -> None:
    done = run(f"{BLOCK}import gradsim_assets.{module}")
    assert "ModuleNotFoundError" in done.stderr
