"""The Helm chart, rendered by the real helm: valid for Kubernetes, for Dagster, and strict about its values."""

import functools
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import dagster as dg
import kubernetes_validate
import pytest
import yaml
from dagster._core.instance.config import dagster_instance_config
from dagster_k8s import K8sRunLauncher
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import DagsterK8sJobConfig, construct_dagster_k8s_job, get_user_defined_k8s_config

from gradsim_assets.runs.compute_profiles import K8S_CONFIG, load_profiles, op_tags

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm/gradsim"
VALUES = sorted(p for p in (ROOT / "deploy/helm/values").glob("*.yaml") if p.name != "official-dagster.yaml")
OLDEST, NEWEST = "1.27", kubernetes_validate.latest_version()

HELM = shutil.which(os.environ.get("HELM", "helm"))
pytestmark = pytest.mark.skipif(HELM is None, reason="helm is not on PATH (HELM=/path/to/helm names another)")


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(HELM), *arguments], capture_output=True, text=True, check=False, timeout=60)


@functools.cache
def render(values: Path | None = None, *more: str, version: str = "1.34") -> list[dict[str, Any]]:
    """Every object of a release `r` in namespace `n`."""
    files = ["-f", str(values)] if values else []
    done = helm("template", "r", str(CHART), "-n", "n", "--kube-version", version, *files, *more)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def refusal(*arguments: str) -> str:
    done = helm("template", "r", str(CHART), "--kube-version", "1.34", *arguments)
    assert done.returncode != 0, "accepted"
    return done.stderr


def find(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = [o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name]
    return found


def config_map(objects: list[dict[str, Any]], name: str) -> dict[str, str]:
    return find(objects, "ConfigMap", name)["data"]


def pods(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Pod specs by the name of what makes them."""
    makers = [o for o in objects if o["kind"] in ("Deployment", "StatefulSet", "Job")]
    return {o["metadata"]["name"]: o["spec"]["template"]["spec"] for o in makers}


def container_context(objects: list[dict[str, Any]]) -> dict[str, Any]:
    environment = find(objects, "Deployment", "r-gradsim-code")["spec"]["template"]["spec"]["containers"][0]["env"]
    return json.loads(next(e["value"] for e in environment if e["name"] == "DAGSTER_CONTAINER_CONTEXT"))


def run_and_step_jobs(objects: list[dict[str, Any]], tmp_path: Path) -> dict[str, dict[str, Any]]:
    """The Jobs that Dagster would create: of a run, and of a step of each profile."""
    from kubernetes.client import ApiClient

    file = tmp_path / "profiles.yaml"
    file.write_text(config_map(objects, "r-gradsim-config")["profiles.yaml"])
    run = K8sContainerContext.create_from_config(container_context(objects))
    contexts = {"run": run}
    for name, profile in load_profiles(str(file)).items():
        tags = {K8S_CONFIG: json.dumps(op_tags(profile)[K8S_CONFIG])}
        contexts[name] = run.merge(K8sContainerContext(run_k8s_config=get_user_defined_k8s_config(tags)))
    config = DagsterK8sJobConfig(job_image="control:1", dagster_home="/opt/dagster/dagster_home")
    return {
        name: ApiClient().sanitize_for_serialization(
            construct_dagster_k8s_job(config, ["x"], "job", user_defined_k8s_config=context.run_k8s_config)
        )
        for name, context in contexts.items()
    }


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("values", [None, *VALUES], ids=lambda v: v.stem if v else "defaults")
def test_objects_are_valid(values: Path | None, version: str, tmp_path: Path) -> None:
    objects = render(values, version=version)
    assert len(objects) > 10
    for document in [*objects, *run_and_step_jobs(objects, tmp_path).values()]:
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("values", [None, *VALUES], ids=lambda v: v.stem if v else "defaults")
def test_lint(values: Path | None) -> None:
    files = ["-f", str(values)] if values else []
    done = helm("lint", "--strict", str(CHART), "--kube-version", "1.34", *files)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("values", [None, *VALUES], ids=lambda v: v.stem if v else "defaults")
def test_every_pod_is_locked_down(values: Path | None, tmp_path: Path) -> None:
    objects = render(values)
    jobs = {k: v["spec"]["template"]["spec"] for k, v in run_and_step_jobs(objects, tmp_path).items()}
    for name, pod in {**pods(objects), **jobs}.items():
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True, name
            assert security["allowPrivilegeEscalation"] is False, name
            assert security["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["limits"]["memory"], name
            assert "cpu" not in container["resources"]["limits"], f"{name}: a CPU limit throttles for nothing"


@pytest.mark.parametrize("values", [v for v in VALUES if v.stem != "code-location-only"], ids=lambda v: v.stem)
def test_dagster_yaml_is_what_dagster_and_its_launcher_accept(values: Path, tmp_path: Path) -> None:
    text = config_map(render(values), "r-gradsim-instance")["dagster.yaml"]
    (tmp_path / "dagster.yaml").write_text(text)
    config, _ = dagster_instance_config(str(tmp_path))  # raises on an unknown key or a wrong type
    from dagster._config import validate_config

    launcher = validate_config(K8sRunLauncher.config_type(), config["run_launcher"]["config"])
    assert launcher.success, launcher.errors
    monitoring = config["run_monitoring"]
    assert monitoring["enabled"] and monitoring["max_resume_run_attempts"] >= 2
    assert monitoring["max_runtime_seconds"] > 0 and monitoring["free_slots_after_run_end_seconds"] > 0
    assert config["run_retries"] == {"enabled": True, "max_retries": 2, "retry_on_asset_or_op_failure": False}
    assert config["concurrency"]["pools"]["granularity"] == "op"
    # Devices and sizes of the launcher would leak into every step.
    assert "resources" not in config["run_launcher"]["config"]


def test_the_instance_opens_with_a_password_from_the_environment(tmp_path: Path) -> None:
    from dagster._core.instance.ref import InstanceRef

    (tmp_path / "dagster.yaml").write_text(config_map(render(), "r-gradsim-instance")["dagster.yaml"])
    ref = InstanceRef.from_dir(str(tmp_path))
    storage = yaml.safe_load(ref.storage_data.config_yaml)  # type: ignore[union-attr]
    assert storage["postgres_db"]["password"] == {"env": "DAGSTER_PG_PASSWORD"}
    assert storage["postgres_db"]["hostname"] == "r-gradsim-postgres"


def test_servers_that_launch_nothing_open_the_same_storage_without_an_account_of_the_cluster(tmp_path: Path) -> None:
    objects = render(None, "--set", "traceServer.enabled=true")
    files = config_map(objects, "r-gradsim-instance")
    whole, reading = (yaml.safe_load(files[name]) for name in ("dagster.yaml", "reading.yaml"))
    assert reading.pop("storage") == whole["storage"]
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(reading))  # the rest opens here, where there is no cluster
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert instance.run_launcher and not instance.run_monitoring_enabled
    for name in ("r-gradsim-pages", "r-gradsim-trace"):
        (container,) = pods(objects)[name]["containers"]
        mounted = {one["mountPath"]: one.get("subPath") for one in container["volumeMounts"]}
        assert mounted["/opt/dagster/dagster_home/dagster.yaml"] == "reading.yaml", name


def test_only_steps_of_a_gpu_profile_hold_a_gpu(tmp_path: Path) -> None:
    jobs = run_and_step_jobs(render(), tmp_path)

    def limits(name: str) -> dict[str, str]:
        return jobs[name]["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]

    assert limits("run") == {"memory": "4Gi"}
    assert limits("cpu") == {"memory": "8Gi"}
    assert limits("gpu") == {"memory": "64Gi", "nvidia.com/gpu": "1"}


def test_mig_steps_ask_for_a_slice_and_no_whole_device(tmp_path: Path) -> None:
    jobs = run_and_step_jobs(render(ROOT / "deploy/helm/values/mig.yaml"), tmp_path)
    limits = jobs["gpu"]["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {"memory": "24Gi", "nvidia.com/mig-1g.10gb": "1"}


def test_steps_get_their_image_secrets_and_volumes(tmp_path: Path) -> None:
    jobs = run_and_step_jobs(render(ROOT / "deploy/helm/values/cloud-autoscaling.yaml"), tmp_path)
    step = jobs["gpu"]["spec"]["template"]
    (container,) = step["spec"]["containers"]
    assert container["image"] == "registry.example.org/gradsim-compute:0.1.0"
    environment = {
        e["name"]: e["valueFrom"]["secretKeyRef"]["name"] if "valueFrom" in e else e.get("value", "")
        for e in container["env"]
    }
    assert environment["GRADSIM_WEB"] == "", "no link may lead to pages that nobody serves"
    assert environment["GRADSIM_TABLES"] == "s3://gradsim-tables/production"
    assert environment["HF_TOKEN"] == environment["OPENAI_API_KEY"] == "gradsim-tokens"
    assert environment["DAGSTER_PG_PASSWORD"] == "gradsim-database"
    assert {m["mountPath"] for m in container["volumeMounts"]} >= {"/etc/gradsim", "/var/cache/huggingface", "/dev/shm"}
    assert step["metadata"]["annotations"]["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
    assert step["metadata"]["labels"]["gradsim/release"] == "r-gradsim"
    assert jobs["gpu"]["spec"]["backoffLimit"] == 0
    # Steps run model code from the internet: an account that nothing is bound to.
    assert step["spec"]["serviceAccountName"] == "r-gradsim-steps"
    assert jobs["run"]["spec"]["template"]["spec"]["serviceAccountName"] == "r-gradsim"


def test_pods_name_priority_classes_that_the_chart_makes(tmp_path: Path) -> None:
    cloud = str(ROOT / "deploy/helm/values/cloud-autoscaling.yaml")
    done = helm("template", "gradsim", str(CHART), "--kube-version", "1.34", "-f", cloud)
    objects = [o for o in yaml.safe_load_all(done.stdout) if o]
    made = {o["metadata"]["name"]: o["value"] for o in objects if o["kind"] == "PriorityClass"}
    assert made == {"gradsim-control": 1000000, "gradsim-step": 1000}
    named = {name: pod.get("priorityClassName") for name, pod in pods(objects).items()}
    assert {named[f"gradsim-{c}"] for c in ("code", "daemon", "pages", "webserver")} == {"gradsim-control"}
    assert "priorityClassName: gradsim-step\n" in config_map(objects, "gradsim-config")["profiles.yaml"]


def test_kueue_label_is_on_the_job(tmp_path: Path) -> None:
    jobs = run_and_step_jobs(render(ROOT / "deploy/helm/values/kueue.yaml"), tmp_path)
    assert jobs["gpu"]["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gradsim-gpu"
    assert "kueue.x-k8s.io/queue-name" not in jobs["cpu"]["metadata"]["labels"]


def test_there_is_no_trace_server_unless_it_is_asked_for() -> None:
    assert not [o for o in render() if o["metadata"]["name"].endswith("-trace")]


def test_the_front_page_is_a_small_pod_that_only_reads() -> None:
    objects = render(
        None, "--set", "modelCache.enabled=true,secrets.huggingFace.existingSecret=t,storage.s3.existingSecret=s"
    )
    for document in objects:
        kubernetes_validate.validate(document, NEWEST, strict=True)
    deployment = find(objects, "Deployment", "r-gradsim-pages")
    assert deployment["spec"]["replicas"] == 1
    pod = deployment["spec"]["template"]["spec"]
    # An account that may do nothing, and no token of it.
    assert pod["serviceAccountName"] == "r-gradsim-steps" and pod["automountServiceAccountToken"] is False
    (container,) = pod["containers"]
    assert container["image"] == "gradsim-control:0.1.0" and "--read-only" in container["command"]
    assert container["resources"]["limits"] == {"memory": "1Gi"}
    mounts = {one["mountPath"]: one.get("readOnly", False) for one in container["volumeMounts"]}
    assert mounts["/var/lib/gradsim"] and mounts["/opt/dagster/dagster_home/dagster.yaml"] and mounts["/etc/gradsim"]
    assert {one["name"] for one in container["volumeMounts"]} == {one["name"] for one in pod["volumes"]}
    assert "/var/cache/huggingface" not in mounts, "it loads no model"
    environment = {one["name"] for one in container["env"]}
    assert {"DAGSTER_PG_PASSWORD", "GRADSIM_HOME"} <= environment and "HF_TOKEN" not in environment
    assert container["envFrom"] == [{"secretRef": {"name": "s"}}], "tables may lie in object storage"
    assert {container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")} == {
        "/health"
    }
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert find(objects, "Service", "r-gradsim-pages")["spec"]["selector"].items() <= labels.items()
    policy = find(objects, "NetworkPolicy", "r-gradsim-pages")
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    assert policy["spec"]["ingress"] == [{"ports": [{"port": "http"}], "from": [{"podSelector": {}}]}]


def test_links_lead_to_the_pages_that_are_served() -> None:
    def web(*more: str) -> str:
        found = {one["name"]: one.get("value") for one in container_context(render(None, *more))["k8s"]["env"]}
        return str(found["GRADSIM_WEB"])

    addresses = "frontPage.url=https://a.example,traceServer.url=https://b.example"
    assert web() == ""
    assert web("--set", addresses) == "https://a.example"
    assert web("--set", f"{addresses},traceServer.enabled=true") == "https://a.example"
    assert web("--set", f"{addresses},traceServer.enabled=true,frontPage.enabled=false") == "https://b.example"
    assert web("--set", f"{addresses},frontPage.enabled=false") == "", "nobody serves them"


def test_there_is_no_front_page_where_it_is_switched_off_or_there_is_no_instance() -> None:
    for more in ("frontPage.enabled=false", "controlPlane.enabled=false"):
        names = {o["metadata"]["name"] for o in render(None, "--set", more)}
        assert "r-gradsim-code" in names and "r-gradsim-pages" not in names


def test_the_trace_server_is_a_pod_of_its_profile_that_finds_home_instance_and_models() -> None:
    more = ("--set", "traceServer.enabled=true,profiles.gpu.runtimeClassName=nvidia,profiles.gpu.env.HF_DEBUG=on")
    objects = render(None, *more)
    for document in objects:
        kubernetes_validate.validate(document, NEWEST, strict=True)
    deployment = find(objects, "Deployment", "r-gradsim-trace")
    assert deployment["spec"]["replicas"] == 1 and deployment["spec"]["strategy"] == {"type": "Recreate"}
    pod = deployment["spec"]["template"]["spec"]
    assert pod["runtimeClassName"] == "nvidia" and pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert pod["serviceAccountName"] == "r-gradsim-steps" and pod["automountServiceAccountToken"] is False
    (container,) = pod["containers"]
    assert container["image"] == "gradsim-compute:0.1.0"
    assert container["resources"]["limits"] == {"memory": "64Gi", "nvidia.com/gpu": "1"}
    assert container["command"][:3] == ["python", "-m", "gradsim_assets.web"]
    assert {"--host=0.0.0.0", "--port=3001", "--dagster=http://localhost:3000", "--warm"} <= set(container["command"])
    assert "--read-only" not in container["command"]
    environment = {one["name"]: one for one in container["env"]}
    assert environment["DAGSTER_PG_PASSWORD"]["valueFrom"] and environment["HF_DEBUG"]["value"] == "on"
    mounts = {one["mountPath"] for one in container["volumeMounts"]}
    assert {"/var/lib/gradsim", "/etc/gradsim", "/dev/shm", "/opt/dagster/dagster_home/dagster.yaml"} <= mounts
    assert {one["name"] for one in container["volumeMounts"]} == {one["name"] for one in pod["volumes"]}
    assert {container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")} == {
        "/health"
    }
    service = find(objects, "Service", "r-gradsim-trace")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    policy = find(objects, "NetworkPolicy", "r-gradsim-trace")
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    assert policy["spec"]["ingress"] == [{"ports": [{"port": "http"}], "from": [{"podSelector": {}}]}]


def test_a_trace_server_may_have_resources_peers_and_an_address_of_its_own() -> None:
    objects = render(ROOT / "deploy/helm/values/trace-server.yaml")
    (container,) = pods(objects)["r-gradsim-trace"]["containers"]
    assert container["resources"]["limits"] == {"memory": "12Gi"}
    (peer,) = find(objects, "NetworkPolicy", "r-gradsim-trace")["spec"]["ingress"][0]["from"]
    assert peer == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "chat"}}}
    of_steps = {one["name"]: one.get("value") for one in container_context(objects)["k8s"]["env"]}
    assert of_steps["GRADSIM_WEB"] == "https://gradsim.example.org/pages", "links to reports lead where they are served"


def test_rbac_has_the_verbs_that_dagster_uses_and_no_more() -> None:
    granted = {
        (group, resource): set(rule["verbs"])
        for rule in find(render(), "Role", "r-gradsim")["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert granted == {
        ("batch", "jobs"): {"create", "delete", "get", "list", "watch"},
        ("batch", "jobs/status"): {"get"},
        ("", "pods"): {"get", "list", "watch"},
        ("", "events"): {"get", "list", "watch"},
        ("", "pods/log"): {"get"},
        ("", "pods/status"): {"get"},
    }


def test_the_account_of_steps_may_do_nothing() -> None:
    bound = [s["name"] for o in render() if o["kind"] == "RoleBinding" for s in o["subjects"]]
    assert sorted(bound) == ["r-gradsim", "r-gradsim-cleanup"]


def test_a_changed_setting_restarts_whom_it_concerns() -> None:
    def checksums(*more: str) -> dict[str, str]:
        found = {}
        for o in render(None, *more):
            if o["kind"] == "Deployment":
                annotations = o["spec"]["template"]["metadata"]["annotations"]
                found[o["metadata"]["name"]] = " ".join(annotations.values())
        return found

    before = checksums()
    assert checksums() == before
    instance = checksums("--set", "instance.maxConcurrentRuns=7")
    assert instance["r-gradsim-code"] == before["r-gradsim-code"]
    assert instance["r-gradsim-daemon"] != before["r-gradsim-daemon"]
    assert instance["r-gradsim-webserver"] != before["r-gradsim-webserver"]
    assert instance["r-gradsim-pages"] != before["r-gradsim-pages"]
    profile = checksums("--set", "profiles.gpu.sharedMemory=3Gi")
    assert profile["r-gradsim-code"] != before["r-gradsim-code"]
    assert profile["r-gradsim-daemon"] == before["r-gradsim-daemon"]


def test_large_numbers_stay_integers() -> None:
    more = ("--set", "instance.maxRuntimeSeconds=1000000", "--set", "runPod.ttlSecondsAfterFinished=1000000")
    more += ("--set", "priorityClasses.create=true", "--set", "profiles.gpu.activeDeadlineSeconds=1000000")
    # As on OpenShift, whose user ids are of this size.
    more += ("--set", "podSecurityContext.runAsUser=1000680000", "--set", "runPod.resources.limits.memory=4294967296")
    more += ("--set", "instance.extra.retention.schedule.purge_after_days=1000000")
    objects = render(None, *more)
    dagster = yaml.safe_load(config_map(objects, "r-gradsim-instance")["dagster.yaml"])
    assert dagster["run_monitoring"]["max_runtime_seconds"] == 1000000
    assert container_context(objects)["k8s"]["run_k8s_config"]["job_spec_config"] == {
        "ttl_seconds_after_finished": 1000000
    }
    profiles = config_map(objects, "r-gradsim-config")["profiles.yaml"]
    assert "activeDeadlineSeconds: 1000000\n" in profiles
    assert dagster["retention"] == {"schedule": {"purge_after_days": 1000000}}
    assert container_context(objects)["k8s"]["resources"]["limits"] == {"memory": 4294967296}
    assert pods(objects)["r-gradsim-daemon"]["securityContext"]["runAsUser"] == 1000680000
    assert not re.search(r"\de\+\d", yaml.safe_dump(objects))


def test_the_official_chart_finds_our_code_location() -> None:
    objects = render(ROOT / "deploy/helm/values/code-location-only.yaml")
    assert not [o for o in objects if o["kind"] == "Deployment" and o["metadata"]["name"] != "r-gradsim-code"]
    official = yaml.safe_load((ROOT / "deploy/helm/values/official-dagster.yaml").read_text())
    (server,) = official["dagsterWebserver"]["workspace"]["servers"]
    # Release `gradsim`, as both files tell to call it.
    done = helm("template", "gradsim", str(CHART), "--kube-version", "1.34", "-f", str(VALUES[1]))
    services = {o["metadata"]["name"]: o for o in yaml.safe_load_all(done.stdout) if o and o["kind"] == "Service"}
    assert services[server["host"]]["spec"]["ports"][0]["port"] == server["port"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "instance.maxResumeRunAttempts=0"], ["instance", "maxResumeRunAttempts", "2"]),
        (["--set", "profiles.gpu.gpus=1"], ["profiles", "gpus"]),
        (["--set", "profile.gpu=1"], ["profile", "not allowed"]),
        (["--set", "controlPlane.webserver.replicas=two"], ["replicas", "integer"]),
        (["--set", "image.pullPolicy=Sometimes"], ["pullPolicy"]),
        (["--set", "storage.tables=http://x"], ["storage", "tables"]),
        (["--set", "profiles.gpu.sharedMemory=2GB"], ["sharedMemory"]),
        (["--set", "postgres.development.enabled=false"], ["postgres.host is empty"]),
        (["--set", "postgres.development.enabled=false,postgres.host=h"], ["postgres.existingSecret is empty"]),
        (["--set", r"runPod.resources.limits.nvidia\.com/gpu=1"], ["runPod.resources.limits", "belong in profiles"]),
        (["--set", r"codeLocation.resources.limits.amd\.com/gpu=1"], ["codeLocation.resources.limits", "profiles"]),
        (["--set", "runPod.resources.limits.cpu=1"], ["profiles.cpu.resources.limits lacks cpu"]),
        (["--set", "traceServer.enabled=true,controlPlane.enabled=false"], ["traceServer.enabled needs controlPlane"]),
        (["--set", "traceServer.enabled=true,traceServer.profile=tpu"], ["traceServer.profile is tpu", "profiles"]),
        (["--set", "traceServer.replicas=2"], ["traceServer", "replicas"]),
        (["--set", "frontPage.profile=gpu"], ["frontPage", "profile"]),
        (["--set", "frontPage.url=gradsim.example.org"], ["frontPage", "url"]),
        (["--set", "modelCache.prefetch={gpt2}"], ["modelCache.enabled is false"]),
        (["--set", "modelCache.enabled=true,modelCache.prefetch={a b}"], ["prefetch"]),
    ],
)
def test_wrong_values_are_refused(arguments: list[str], words: list[str]) -> None:
    message = refusal(*arguments)
    assert all(word in message for word in words), message


def test_too_old_a_cluster_is_refused() -> None:
    done = helm("template", "r", str(CHART), "--kube-version", "1.26")
    assert "incompatible with Kubernetes" in done.stderr


def test_the_schema_needs_no_network() -> None:
    schema = (CHART / "values.schema.json").read_text()
    references = re.findall(r'"\$ref": "([^"]*)"', schema)
    assert references and all(r.startswith("#/definitions/") for r in references)


def test_the_readme_has_every_value_and_no_other() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def leaves(prefix: str, values: dict[str, Any]) -> list[str]:
        found = []
        for key, value in values.items():
            nested = isinstance(value, dict) and value and f"{prefix}{key}" not in ("profiles",)
            found += leaves(f"{prefix}{key}.", value) if nested else [f"{prefix}{key}"]
        return found

    def known(path: str) -> bool:
        place: Any = values
        for part in path.split("."):
            if not isinstance(place, dict) or part not in place:
                return False
            place = place[part]
        return True

    table = (CHART / "README.md").read_text().partition("| value |")[2]
    rows = {path for row in re.findall(r"^\| (`[^|]*) \|", table, re.M) for path in re.findall(r"`([\w.]+)`", row)}
    # A row may stand for all below it: `resources`, `development`.
    covered = {leaf: any(".".join(leaf.split(".")[:n]) in rows for n in range(1, 9)) for leaf in leaves("", values)}
    assert [leaf for leaf, there in covered.items() if not there] == []
    assert [row for row in rows if not known(row)] == []
