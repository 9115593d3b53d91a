"""The whole platform on the cluster of the current kubectl context: install, compute, break, upgrade, roll back, remove.

    GRADSIM_E2E_CONTROL_IMAGE=registry/gradsim-control:tag GRADSIM_E2E_COMPUTE_IMAGE=registry/gradsim-compute:tag \
        make e2e-k8s

Where the node cannot pull the chart's Postgres, docker, podman or buildah builds deploy/postgres-dev and pushes it beside the
control image; GRADSIM_E2E_POSTGRES_IMAGE names another one. Optional: GRADSIM_E2E_GPU=0 where the cluster offers no
nvidia.com/gpu, GRADSIM_E2E_KEEP=1 to leave the namespace for a look. GRADSIM_E2E_TABLES=s3://bucket/prefix keeps the tables
there (images built with EXTRAS=s3; AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY hold for the pods and for
the test). The tests build on each other, in this order.
"""

import contextlib
import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from upath import UPath

from gradsim_assets_tests.conftest import COMMAND
from gradsim_assets_tests.support.running_platform import free_port

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        "GRADSIM_E2E_CONTROL_IMAGE" not in os.environ or "GRADSIM_E2E_COMPUTE_IMAGE" not in os.environ,
        reason="GRADSIM_E2E_CONTROL_IMAGE and GRADSIM_E2E_COMPUTE_IMAGE name no images",
    ),
    pytest.mark.skipif(
        not (shutil.which("kubectl") and shutil.which("helm")), reason="kubectl and helm are not both on PATH"
    ),
]

ROOT = Path(__file__).parents[2]
CHART, VALUES = ROOT / "deploy/helm/gradsim", ROOT / "deploy/helm/values/one-node-test.yaml"
RELEASE = "gradsim"
STORAGE_SECRET = "storage-keys"
MODEL = "demo"
GPU = os.environ.get("GRADSIM_E2E_GPU", "1") != "0"
#: Samples of the demo that are used: enough for steps that live long enough to be killed.
CONFIG = """\
[data]
shards = 2
samples = 24

[compute]
executor = "{executor}"
device = "cpu"
projections = [0.01]
"""

#: More of it: a model whose heavy steps ask for no device.
OTHER_PROFILE = """
[[models]]
id = "demo"
profile = "cpu"
"""

GRADIENT_TABLES = [
    [f"{t}_{s}"] for t in ("dot_products", "projected_similarity") for s in ("paraphrased", "model_generated")
]
HEAVY = [["model_generated"], *GRADIENT_TABLES]

#: The answer of a cluster may take long: nodes pull images of gigabytes, and this machine may be small.
PATIENCE = float(os.environ.get("GRADSIM_E2E_PATIENCE", "600"))


def sh(*command: str, check: bool = True, data: str | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, input=data, check=False, timeout=PATIENCE + 120)
    assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def wait(what: str, question: Callable[[], Any], seconds: float = PATIENCE, every: float = 1.0) -> Any:
    """The first true answer. Connections may be refused meanwhile: a Service follows its pods a little late."""
    end = time.monotonic() + seconds
    last: Any = None
    while time.monotonic() < end:
        try:
            if last := question():
                return last
        except (OSError, urllib.error.URLError) as error:
            last = error
        time.sleep(every)
    raise AssertionError(f"{what}: not within {seconds:.0f} s; last answer {last!r}")


def read(address: str, document: object = None) -> str:
    """What a page says, or what the call with a JSON document answers."""
    body = None if document is None else json.dumps(document).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as response:
        return str(response.read().decode())


class Release:
    """A namespace with the chart in it, and its webserver's GraphQL."""

    def __init__(self) -> None:
        self.namespace = f"gradsim-e2e-{uuid.uuid4().hex[:6]}"
        self.forward: subprocess.Popen[bytes] | None = None
        self.port = 0
        place = os.environ.get("GRADSIM_E2E_TABLES", "").rstrip("/")
        #: Address of the tables; "" on the volume.
        self.tables = f"{place}/{self.namespace}" if place else ""
        self.postgres = ""

    def kubectl(self, *arguments: str, check: bool = True) -> str:
        return sh("kubectl", "-n", self.namespace, *arguments, check=check)

    def get(self, kind: str, selector: str = "") -> list[dict[str, Any]]:
        return json.loads(self.kubectl("get", kind, "-o", "json", *(["-l", selector] if selector else [])))["items"]

    def pods(self, component: str, phase: str | None = None) -> list[dict[str, Any]]:
        """Pods of the release by component; dagster-k8s calls its own run_worker and step_worker."""
        found = self.get("pods", f"gradsim/release={RELEASE},app.kubernetes.io/component={component}")
        alive = [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]
        return [pod for pod in alive if phase in (None, pod["status"]["phase"])]

    def step_container(self, run: str, step: str) -> dict[str, Any]:
        """What ran a step."""
        wanted = {"dagster/run-id": run, "dagster/op": step}
        (pod,) = [p for p in self.pods("step_worker") if wanted.items() <= p["metadata"]["labels"].items()]
        return pod["spec"]["containers"][0]

    def deploy(self, verb: str, *more: str, config: str = CONFIG) -> None:
        images = {
            "image.control": os.environ["GRADSIM_E2E_CONTROL_IMAGE"],
            "image.compute": os.environ["GRADSIM_E2E_COMPUTE_IMAGE"],
        }
        settings = [f"{k}.repository={v.rpartition(':')[0]},{k}.tag={v.rpartition(':')[2]}" for k, v in images.items()]
        settings.append(f"postgres.development.image={self.postgres}")
        if not GPU:
            settings.append(r"profiles.gpu.resources.limits.nvidia\.com/gpu=null")
        if self.tables:
            settings.append(f"storage.tables={self.tables},storage.s3.existingSecret={STORAGE_SECRET}")
            settings.append(f"storage.s3.endpointUrl={os.environ.get('AWS_ENDPOINT_URL', '')}")
        flags = [part for setting in settings for part in ("--set", setting)]
        values = ["-f", str(VALUES), "--set-string", "config=" + config.format(executor="k8s").replace(",", r"\,")]
        sh(
            "helm",
            verb,
            RELEASE,
            str(CHART),
            "-n",
            self.namespace,
            *values,
            *flags,
            *more,
            "--wait",
            "--timeout",
            "15m",
        )

    def graphql(self, query: str, **variables: Any) -> Any:
        """The answer of the webserver, asked again while it cannot be reached."""
        body = json.dumps({"query": query, "variables": variables}).encode()

        def ask() -> Any:
            try:
                self._connect()
                request = urllib.request.Request(
                    f"http://127.0.0.1:{self.port}/graphql", body, {"Content-Type": "application/json"}
                )
                with urllib.request.urlopen(request, timeout=60) as response:
                    return json.load(response)
            except OSError:
                self.disconnect()
                raise

        answer = wait("the webserver's answer", ask)
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    def _connect(self) -> None:
        if self.forward and self.forward.poll() is None:
            return
        self.forward, self.port = self._forwarded("webserver")

    def _forwarded(self, service: str) -> tuple[subprocess.Popen[bytes], int]:
        """A forward to a service of the release that listens, and its port on this machine."""
        port = free_port()
        forward = subprocess.Popen(
            ["kubectl", "-n", self.namespace, "port-forward", f"svc/{RELEASE}-{service}", f"{port}:80"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

        def listening() -> bool:
            with contextlib.closing(socket.create_connection(("127.0.0.1", port), timeout=2)):
                return True

        wait("port-forward", listening, seconds=30, every=0.2)
        return forward, port

    @contextlib.contextmanager
    def pages(self, service: str) -> Iterator[str]:
        """The address of our own pages as a service of the release has them."""
        forward, port = self._forwarded(service)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            forward.terminate()
            forward.wait()

    def disconnect(self) -> None:
        if self.forward:
            self.forward.terminate()
            self.forward.wait()
            self.forward = None

    # Dagster

    def launch(self, job: str) -> str:
        selector = {"repositoryName": "__repository__", "repositoryLocationName": "gradsim", "jobName": job}
        data = self.graphql(
            """mutation($p: ExecutionParams!) { launchRun(executionParams: $p) {
                 __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }""",
            p={"selector": selector, "runConfigData": {}, "mode": "default"},
        )["launchRun"]
        assert data["__typename"] == "LaunchRunSuccess", data
        return data["run"]["runId"]

    def backfill(self, assets: list[list[str]], partitions: list[str]) -> str:
        keys = [{"path": path} for path in assets]
        return self._backfill({"assetSelection": keys, "partitionNames": partitions})

    def backfill_job(self, job: str, partitions: list[str]) -> str:
        repository = {"repositoryName": "__repository__", "repositoryLocationName": "gradsim"}
        selector = {"partitionSetName": f"{job}_partition_set", "repositorySelector": repository}
        return self._backfill({"selector": selector, "partitionNames": partitions})

    def _backfill(self, parameters: dict[str, Any]) -> str:
        data = self.graphql(
            """mutation($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) {
                 __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message stack } } }""",
            p=parameters,
        )["launchPartitionBackfill"]
        assert data["__typename"] == "LaunchBackfillSuccess", data
        return data["backfillId"]

    def wait_backfill(self, backfill: str) -> None:
        def ended() -> str | None:
            data = self.graphql(
                """query($id: String!) { partitionBackfillOrError(backfillId: $id) {
                     __typename ... on PartitionBackfill { status error { message } } } }""",
                id=backfill,
            )["partitionBackfillOrError"]
            return data["status"] if data["status"] not in ("REQUESTED", "CANCELING", "FAILING") else None

        status = wait(f"backfill {backfill}", ended, every=2)
        assert status in ("COMPLETED_SUCCESS", "COMPLETED"), f"{status}\n{self.log_of_failures()}"
        runs = self.runs(backfill)
        assert all(run["status"] == "SUCCESS" for run in runs), f"{runs}\n{self.log_of_failures()}"

    def wait_run(self, run: str) -> None:
        def ended() -> str | None:
            (found,) = [r for r in self.runs() if r["runId"] == run]
            return found["status"] if found["status"] in ("SUCCESS", "FAILURE", "CANCELED") else None

        assert wait(f"run {run}", ended, every=2) == "SUCCESS", self.log_of_failures()

    def runs(self, backfill: str | None = None) -> list[dict[str, Any]]:
        filters = {"tags": [{"key": "dagster/backfill", "value": backfill}]} if backfill else {}
        data = self.graphql(
            """query($f: RunsFilter) { runsOrError(filter: $f) { ... on Runs { results { runId status jobName } } } }""",
            f=filters,
        )
        return data["runsOrError"]["results"]

    def events(self, run: str) -> list[dict[str, Any]]:
        data = self.graphql(
            """query($id: ID!) { logsForRun(runId: $id, limit: 1000) { ... on EventConnection { events {
                 __typename ... on MessageEvent { message stepKey eventType }
                 ... on ExecutionStepFailureEvent { error { message } } } } } }""",
            id=run,
        )
        return data["logsForRun"]["events"]

    def log_of_failures(self) -> str:
        lines = []
        for run in self.runs():
            if run["status"] not in ("SUCCESS",):
                for event in self.events(run["runId"])[-25:]:
                    lines.append(
                        f"{run['runId'][:8]} {event.get('stepKey')} {event.get('message')} {event.get('error')}"
                    )
        return "\n".join(lines)[-6000:]

    def materializations(self, path: list[str]) -> dict[str | None, int]:
        """How often each partition of an asset was materialised."""
        data = self.graphql(
            """query($k: AssetKeyInput!) { assetOrError(assetKey: $k) { ... on Asset {
                 assetMaterializations(limit: 1000) { partition } } } }""",
            k={"path": path},
        )["assetOrError"]
        counts: dict[str | None, int] = {}
        for event in data.get("assetMaterializations", []):
            counts[event["partition"]] = counts.get(event["partition"], 0) + 1
        return counts


def by_run(pods: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """In the order of their runs' ids."""
    return sorted(pods, key=lambda pod: pod["metadata"]["labels"]["dagster/run-id"])


def postgres_image(release: Release) -> str:
    """The chart's own image of Postgres, or a stand-in that is built here where the node cannot pull it."""
    image = yaml.safe_load((CHART / "values.yaml").read_text())["postgres"]["development"]["image"]
    release.kubectl("run", "pull", f"--image={image}", "--restart=Never", "--command", "--", "true")

    def outcome() -> str | None:
        for status in release.get("pods")[0]["status"].get("containerStatuses", []):
            (state,) = status["state"].items()
            reason = state[1].get("reason", "")
            if state[0] != "waiting" or reason in ("ErrImagePull", "ImagePullBackOff"):
                return reason or "Running"
        return None

    pulled = wait(f"the pull of {image}", outcome)
    release.kubectl("delete", "pod", "pull", "--wait=false")
    return build_postgres() if "Pull" in pulled else image


def build_postgres() -> str:
    """Builds deploy/postgres-dev on the control image, which the builder can pull, and pushes it beside that one."""
    control = os.environ["GRADSIM_E2E_CONTROL_IMAGE"]
    image = f"{control.rpartition('/')[0]}/gradsim-postgres-dev:e2e"
    builder = next(filter(_works, ("docker", "podman", "buildah")), None)
    assert builder, f"the node cannot pull Postgres and no docker, podman or buildah is here to build {image}"
    insecure = ["--tls-verify=false"] if builder != "docker" and image.startswith("localhost") else []
    # Without a daemon of its own, and perhaps in a container itself, buildah cannot make namespaces or bridges.
    plain = ["--isolation", "chroot", "--network", "host"] if builder == "buildah" else []
    base = ["--build-arg", f"BASE_IMAGE={control}"]
    sh(builder, "build", *plain, *insecure, *base, "-t", image, str(ROOT / "deploy/postgres-dev"))
    sh(builder, "push", *insecure, image)
    return image


def _works(builder: str) -> bool:
    """Whether a builder of images is here; docker's command may be without its daemon."""
    return (
        bool(shutil.which(builder))
        and not subprocess.run([builder, "info"], capture_output=True, check=False).returncode
    )


@pytest.fixture(scope="module")
def release() -> Iterator[Release]:
    release = Release()
    sh("kubectl", "create", "namespace", release.namespace)
    release.postgres = os.environ.get("GRADSIM_E2E_POSTGRES_IMAGE") or postgres_image(release)
    if release.tables:
        keys = [f"--from-literal={name}={os.environ[name]}" for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]
        release.kubectl("create", "secret", "generic", STORAGE_SECRET, *keys)
    try:
        yield release
    finally:
        release.disconnect()
        if "GRADSIM_E2E_KEEP" not in os.environ:
            sh("kubectl", "delete", "namespace", release.namespace, "--wait=false", check=False)
            if release.tables and (root := UPath(release.tables)).exists():
                root.fs.rm(root.path, recursive=True)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables of the same configuration, computed on this machine without Kubernetes."""
    home = tmp_path_factory.mktemp("local")
    (home / "gradsim.toml").write_text(CONFIG.format(executor="in_process"))
    # What decides about threads in the pods decides here: sums depend on how they are split.
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("GRADSIM_", "DAGSTER_"))},
        "GRADSIM_HOME": str(home),
        "GRADSIM_CONFIG": str(home / "gradsim.toml"),
        "PYTHONPATH": str(ROOT),
    }
    command = [*COMMAND, "run", MODEL]
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    return home / "tables"


def test_installs_and_loads_the_definitions_without_torch(release: Release) -> None:
    release.deploy("install")
    data = release.graphql("{ workspaceOrError { ... on Workspace { locationEntries { name loadStatus } } } }")
    assert data["workspaceOrError"]["locationEntries"] == [{"name": "gradsim", "loadStatus": "LOADED"}]
    (code,) = release.pods("code-location")
    find = "import importlib.util as u; print(u.find_spec('torch'))"
    assert release.kubectl("exec", code["metadata"]["name"], "--", "python3", "-c", find).strip() == "None"


def test_datasets(release: Release) -> None:
    release.wait_run(release.launch("originals"))
    release.wait_backfill(release.backfill_job("variants", ["00", "01"]))
    assert release.materializations(["bm25_candidates"]) == {"00": 1, "01": 1}
    # Light stages need no step pods.
    assert release.pods("step_worker") == []


def test_gradients_survive_the_death_of_step_run_and_daemon(release: Release) -> None:
    (code,) = release.pods("code-location")
    release.kubectl("exec", code["metadata"]["name"], "--", "gradsim", "models", "add", MODEL)
    partitions = [f"{MODEL}|00", f"{MODEL}|01"]
    backfill = release.backfill(HEAVY, partitions)

    def both_at_work() -> list[tuple[dict[str, Any], dict[str, Any]]] | None:
        """(run pod, step pod) of both runs, as soon as all four are up."""
        pairs = list(zip(*(by_run(release.pods(c, "Running")) for c in ("run_worker", "step_worker")), strict=False))
        return pairs if len(pairs) == 2 else None

    # One run loses its step; the other one its run pod, and the daemon goes with it, so that nobody watches for a while.
    # (Losing both in one run is more than resuming can heal: Dagster then retries the run from where it failed.)
    (_, step), (run, _) = wait("two runs at work", both_at_work, every=0.3)
    (container,) = step["spec"]["containers"]
    assert container["image"] == os.environ["GRADSIM_E2E_COMPUTE_IMAGE"]
    assert container["resources"]["limits"].get("nvidia.com/gpu") == ("1" if GPU else None)
    account = f"system:serviceaccount:{release.namespace}:{step['spec']['serviceAccountName']}"
    assert release.kubectl("auth", "can-i", "create", "jobs", "--as", account, check=False).strip() == "no"
    (daemon,) = release.pods("daemon")
    for pod in (step, run, daemon):
        release.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false")

    release.wait_backfill(backfill)
    runs_of_backfill = release.runs(backfill)
    assert len(runs_of_backfill) == 2, "a run was started again as a whole"
    messages = [e.get("message") or "" for run in runs_of_backfill for e in release.events(run["runId"])]
    assert any("resume" in message.lower() for message in messages), "no run was resumed"
    types = [e.get("eventType") for run in runs_of_backfill for e in release.events(run["runId"])]
    assert "STEP_RESTARTED" in types, "no step was retried"
    for path in HEAVY:
        assert release.materializations(path) == dict.fromkeys(partitions, 1), path


def test_analyses_share_one_pod(release: Release) -> None:
    before = {pod["metadata"]["name"] for pod in release.pods("step_worker")}
    release.wait_backfill(release.backfill_job("analyses", [MODEL]))
    assert {pod["metadata"]["name"] for pod in release.pods("step_worker")} == before
    assert release.materializations(["retrieval_paraphrased"]) == {MODEL: 1}


def test_the_front_page_has_the_model_and_serves_its_report(release: Release) -> None:
    (pod,) = release.pods("pages", "Running")
    assert pod["spec"]["containers"][0]["image"] == os.environ["GRADSIM_E2E_CONTROL_IMAGE"]

    with release.pages("pages") as site:
        front = read(f"{site}/")
        assert MODEL in front and f"/reports/{MODEL}/" in front
        assert 'class="headline"' in read(f"{site}/reports/{MODEL}/")
        found = json.loads(read(f"{site}/api/reports/{MODEL}/paraphrased?find=demo_"))
        assert len(found["texts"]["variants"]["paraphrased"]) == 20, "which a report of very many samples asks for"
        with pytest.raises(urllib.error.HTTPError) as refused:
            read(f"{site}/api/trace", {})
        assert refused.value.code == 403, "it only shows what there is"


def test_the_trace_server_traces_a_text_that_the_front_page_shows(release: Release) -> None:
    (pod,) = release.pods("trace", "Running")
    assert pod["spec"]["containers"][0]["image"] == os.environ["GRADSIM_E2E_COMPUTE_IMAGE"]
    asked = {"model": MODEL, "prompt": "How do I boil an egg?", "answer": "Put it into water.", "wait": 280}
    with release.pages("trace") as site:
        told = json.loads(read(f"{site}/api/trace", asked))
        assert told["state"] == "done" and len(told["trace"]["originals"]) == 20, told
        with pytest.raises(urllib.error.HTTPError) as unknown:
            read(f"{site}/api/trace", {**asked, "model": "org/none"})
        assert unknown.value.code == 404, "never a model that is not registered"
    with release.pages("pages") as site:
        assert "Put it into water." in read(f"{site}{told['trace']['page']}")


def test_tables_equal_those_of_a_local_run(release: Release, local: Path, tmp_path: Path) -> None:
    assert differences(release, local, tmp_path) == {}


def differences(release: Release, local: Path, folder: Path) -> dict[Path, str]:
    """What differs between the tables of the cluster, brought to `folder`, and the local ones."""
    tables = folder / "tables"
    if release.tables:
        root = UPath(release.tables)
        root.fs.get(root.path, str(tables), recursive=True)
    else:
        (code,) = release.pods("code-location")
        command = ["kubectl", "-n", release.namespace, "exec", code["metadata"]["name"], "--"]
        archive = subprocess.run(
            [*command, "tar", "-C", "/var/lib/gradsim", "-cf", "-", "tables"], capture_output=True, check=True
        ).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(folder, filter="data")
    there = {p.relative_to(tables): p for p in tables.rglob("*.parquet")}
    # `model_comparison` spans all models and was not asked for on the cluster.
    here = {p.relative_to(local): p for p in local.rglob("*.parquet") if "model_comparison" not in p.parts}
    assert set(there) == set(here)
    return {name: found for name, path in there.items() if (found := difference(path, here[name]))}


#: What follows from gradients, whose sums are rounded in another order where memory or threads are others: cosines, and
#: correlations and means of cosines. All other figures are of ranks and counts, and equal.
ROUNDED = {
    *("similarity", "full_gradient", "best_component", "divergence", "mean_best_similarity", "median_best_similarity"),
    *("agreement", "agreement_low", "agreement_high", "value", "selection_value"),
}
PRODUCTS = ("dot_product", "variant_self", "original_self")

#: Of the lengths of both gradients. fp32 has 6e-8, and thousands of summands are added up.
TOLERANCE = 1e-6


def difference(one: Path, other: Path) -> str | None:
    """What differs between two tables, beyond the rounding of gradients."""
    left, right = pl.read_parquet(one), pl.read_parquet(other)
    rounded = [name for name in left.columns if name in ROUNDED or name in PRODUCTS]
    if left.schema != right.schema or not left.drop(rounded).equals(right.drop(rounded)):
        return f"other rows:\n{left}\n{right}"
    if not rounded:
        return None
    off = left.select(((pl.col(name) - right[name]).abs() / _length(left, name)).alias(name) for name in rounded)
    same_nulls = all(left[name].is_null().equals(right[name].is_null()) for name in rounded)
    worst = {name: float(off[name].max() or 0) for name in rounded}  # type: ignore[arg-type]
    return None if same_nulls and max(worst.values()) <= TOLERANCE else f"{worst}"


def _length(table: pl.DataFrame, name: str) -> pl.Expr:
    """What an error of a column is compared with: the product of the lengths of two full gradients, or 1 for a cosine."""
    if name not in PRODUCTS:
        return pl.lit(1.0)
    of_pair = ("variant_id", "original_id")
    variant, original = (pl.col(f"{one}_self").sum().over(of_pair) for one in ("variant", "original"))
    squared = {"dot_product": variant * original, "variant_self": variant**2, "original_self": original**2}
    length: pl.Expr = squared[name].sqrt()
    return length


def test_upgrade_and_rollback_keep_the_history(release: Release, local: Path, tmp_path: Path) -> None:
    secret = release.get("secret", "app.kubernetes.io/part-of=gradsim")[0]["data"]
    before = {c: release.pods(c)[0]["metadata"]["uid"] for c in ("code-location", "daemon", "webserver", "postgres")}
    more = ["--set", "instance.maxConcurrentRuns=5", "--set", "profiles.gpu.sharedMemory=128Mi"]
    release.deploy("upgrade", *more, config=CONFIG + OTHER_PROFILE)

    def settled(component: str) -> str:
        return wait(component, lambda: len(found := release.pods(component)) == 1 and found[0]["metadata"]["uid"])

    after = {component: settled(component) for component in before}
    assert {c for c in before if before[c] != after[c]} == {"code-location", "daemon", "webserver"}
    assert release.get("secret", "app.kubernetes.io/part-of=gradsim")[0]["data"] == secret
    assert release.materializations(["bm25_candidates"]) == {"00": 1, "01": 1}

    def profile() -> str:
        (config,) = [c for c in release.get("configmap") if c["metadata"]["name"] == f"{RELEASE}-config"]
        return yaml.safe_load(config["data"]["profiles.yaml"])["gpu"]["sharedMemory"]

    def gradients_again() -> dict[str, Any]:
        """Computes one shard again, and returns the container that did."""
        backfill = release.backfill(HEAVY, [f"{MODEL}|00"])  # of all tables: fewer would be rounded in another order
        release.wait_backfill(backfill)
        (run,) = release.runs(backfill)
        return release.step_container(run["runId"], "gradient_pass")

    assert profile() == "128Mi"
    container = gradients_again()  # the model now chooses another profile
    assert "nvidia.com/gpu" not in {**container["resources"]["limits"], **container["resources"]["requests"]}
    assert "/dev/shm" not in [mount["mountPath"] for mount in container["volumeMounts"]]
    sh("helm", "rollback", RELEASE, "1", "-n", release.namespace, "--wait", "--timeout", f"{PATIENCE:.0f}s")
    assert profile() == "64Mi"
    # And it still works: one shard again, by the pods of the first revision.
    container = gradients_again()
    assert container["resources"]["limits"].get("nvidia.com/gpu") == ("1" if GPU else None)
    assert "/dev/shm" in [mount["mountPath"] for mount in container["volumeMounts"]]
    for path in HEAVY:
        assert release.materializations(path) == {f"{MODEL}|00": 3, f"{MODEL}|01": 1}, path
    assert differences(release, local, tmp_path) == {}


def test_uninstall_leaves_nothing(release: Release) -> None:
    assert release.get("jobs"), "there should be Jobs of runs to remove"
    release.disconnect()
    sh("helm", "uninstall", RELEASE, "-n", release.namespace, "--wait", "--timeout", f"{PATIENCE:.0f}s")

    def left() -> list[str]:
        kinds = "all,configmap,secret,pvc,serviceaccount,role,rolebinding,networkpolicy,ingress,job"
        names = release.kubectl("get", kinds, "-o", "name").split()
        given = ("configmap/kube-root-ca.crt", "serviceaccount/default", f"secret/{STORAGE_SECRET}")
        return [name for name in names if name not in given]

    wait("everything to go", lambda: not left(), seconds=120)
