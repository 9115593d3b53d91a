"""Paraphrasing against a real compatible server: `transformers serve` with the demo model."""

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from gradsim_assets.core.tables.storage import Partition, Tables
from gradsim_assets_tests.conftest import gradsim

PORT = 18765


pytestmark = pytest.mark.slow  # a model on CPU writes thousands of tokens


@pytest.fixture(scope="module")
def served(demo: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The folder of the demo model, which is the model's name at the server too."""
    folder = str(next((demo[0] / "models/demo").glob("*/config.json")).parent)
    log = (tmp_path_factory.mktemp("serve") / "log").open("w")
    command = [Path(sys.executable).parent / "transformers", "serve", folder, "--port", str(PORT), "--device", "cpu"]
    server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        for _ in range(120):
            if server.poll() is not None:
                raise RuntimeError(Path(log.name).read_text())
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
        yield folder
    finally:
        server.terminate()
        server.wait(30)
        log.close()


def test_a_model_served_by_transformers_paraphrases(served: str, tmp_path: Path) -> None:
    config = (
        '[data]\nsamples = 2\nshards = 1\nparaphrases = "openai"\n'
        f'[paraphraser]\nmodel = "{served}"\nconcurrency = 2\nprices = {{ "{served}" = [0.0, 0.0] }}\n'
    )
    service = {"OPENAI_BASE_URL": f"http://127.0.0.1:{PORT}/v1", "OPENAI_API_KEY": "none"}
    run = gradsim(tmp_path, "run", "demo", "--only", "datasets", config=config, **service)
    assert run.returncode == 0, run.stdout + run.stderr
    frame = Tables(str(tmp_path / "tables")).read(["paraphrased"], Partition(shard="00"))
    assert frame.height == 2
    assert frame["completion_tokens"].min() > 0 and frame["prompt_tokens"].min() > 0
    # Half a million parameters cannot follow an instruction; the checks must say so, and nothing may be kept silently.
    assert frame["flag"].null_count() == 0
