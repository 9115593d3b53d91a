"""Compute profiles, and what a step pod gets when dagster-k8s merges them onto the chart's run pod."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._config import validate_config
from dagster._core.execution.api import create_execution_plan
from dagster_k8s import k8s_job_executor
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import DagsterK8sJobConfig, construct_dagster_k8s_job, get_user_defined_k8s_config

from gradsim_assets.configuration import Settings
from gradsim_assets.core.errors import InputError
from gradsim_assets.definitions import build_definitions
from gradsim_assets.orchestration.dagster_internals import CheckStepHealthResult, StepHandler, StepHandlerContext
from gradsim_assets.runs.compute_profiles import K8S_CONFIG, Profile, load_profiles, op_tags, tags_for
from gradsim_assets.runs.k8s_executor import ModelProfiles

FULL = {
    "gpu": {
        "image": "registry.example.org/gradsim-compute:1",
        "imagePullPolicy": "Always",
        "resources": {
            "requests": {"cpu": "2", "memory": "16Gi"},
            "limits": {"memory": "64Gi", "nvidia.com/gpu": "1"},
        },
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "tolerationSeconds": 5}],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchExpressions": [{"key": "gpu", "operator": "Exists"}]}]
                }
            }
        },
        "sharedMemory": "2Gi",
        "priorityClassName": "steps",
        "runtimeClassName": "nvidia",
        "schedulerName": "volcano",
        "serviceAccountName": "steps",
        "env": {"NCCL_DEBUG": "WARN"},
        "labels": {"team": "nlp"},
        "annotations": {"note": "x"},
        "jobLabels": {"kueue.x-k8s.io/queue-name": "q"},
        "ttlSecondsAfterFinished": 60,
        "activeDeadlineSeconds": 7200,
    },
    "cpu": {"resources": {"limits": {"memory": "8Gi"}}},
}

#: What the chart says about run pods, shortened: steps inherit it.
RUN_POD = {
    "namespace": "n",
    "service_account_name": "runs",
    "env": [{"name": "GRADSIM_HOME", "value": "/home"}],
    "volumes": [{"name": "home", "persistentVolumeClaim": {"claimName": "c"}}],
    "volume_mounts": [{"name": "home", "mountPath": "/home"}],
    "resources": {"requests": {"cpu": "250m", "memory": "1Gi"}, "limits": {"memory": "4Gi"}},
    "run_k8s_config": {
        "pod_template_spec_metadata": {"annotations": {"safe": "no"}},
        "pod_spec_config": {"securityContext": {"runAsUser": 10001}, "nodeSelector": {"zone": "a"}},
        "job_spec_config": {"ttl_seconds_after_finished": 86400},
    },
}


@pytest.fixture
def profiles(tmp_path: Path) -> dict[str, Profile]:
    path = tmp_path / "profiles.yaml"
    path.write_text(yaml.safe_dump(FULL))
    return load_profiles(str(path))


def settings_of(tmp_path: Path, models: list[dict], executor: str = "k8s") -> Settings:
    places = {"home": tmp_path, "tables": str(tmp_path)}
    return Settings.model_validate({"compute": {"executor": executor}, "models": models, **places})


def step_job(tags: dict) -> dict:
    """The Job that k8s_job_executor would create for a step with these op tags, as the API server gets it."""
    # Tags are strings by the time the executor reads them.
    written = {key: value if isinstance(value, str) else json.dumps(value) for key, value in tags.items()}
    run = K8sContainerContext.create_from_config({"k8s": copy.deepcopy(RUN_POD)})
    context = run.merge(K8sContainerContext(run_k8s_config=get_user_defined_k8s_config(written)))
    job = construct_dagster_k8s_job(
        DagsterK8sJobConfig(job_image="control:1", dagster_home="/opt/dagster/dagster_home"),
        ["dagster", "api", "execute_step"],
        "step",
        user_defined_k8s_config=context.run_k8s_config,
    )
    from kubernetes.client import ApiClient

    return ApiClient().sanitize_for_serialization(job)


def test_no_file_means_no_profiles_and_no_tags() -> None:
    assert load_profiles(None) == {}
    assert load_profiles("") == {}
    assert tags_for({}, "gpu") == {}


def test_dagster_k8s_accepts_every_field(profiles: dict[str, Profile]) -> None:
    tags = op_tags(profiles["gpu"])
    parsed = get_user_defined_k8s_config({K8S_CONFIG: json.dumps(tags[K8S_CONFIG])})
    assert parsed.container_config["resources"]["limits"] == {"memory": "64Gi", "nvidia.com/gpu": "1"}
    # And so does Dagster itself, as tags of an asset.
    asset = dg.asset(name="a", op_tags=tags)(lambda: None)
    assert json.loads(asset.op.tags[K8S_CONFIG]) == tags[K8S_CONFIG]


def test_step_pod_gets_the_profile_on_top_of_the_run_pod(profiles: dict[str, Profile]) -> None:
    job = step_job(op_tags(profiles["gpu"]))
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == "registry.example.org/gradsim-compute:1"
    assert container["imagePullPolicy"] == "Always"
    assert container["resources"] == {
        "requests": {"cpu": "2", "memory": "16Gi"},
        "limits": {"memory": "64Gi", "nvidia.com/gpu": "1"},
    }
    assert {"name": "GRADSIM_HOME", "value": "/home"} in container["env"]
    assert {"name": "NCCL_DEBUG", "value": "WARN"} in container["env"]
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/home", "/dev/shm"]
    assert [volume["name"] for volume in pod["volumes"]] == ["home", "shared-memory"]
    assert pod["volumes"][1]["emptyDir"] == {"medium": "Memory", "sizeLimit": "2Gi"}
    assert pod["nodeSelector"] == {"zone": "a", "pool": "gpu"}
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "tolerationSeconds": 5}]
    terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert terms == [{"matchExpressions": [{"key": "gpu", "operator": "Exists"}]}]
    assert (pod["priorityClassName"], pod["runtimeClassName"], pod["schedulerName"]) == ("steps", "nvidia", "volcano")
    assert pod["serviceAccountName"] == "steps"
    assert pod["securityContext"] == {"runAsUser": 10001}
    assert pod["shareProcessNamespace"] is True  # process 1 hears no SIGTERM that it has no handler for
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "q"
    assert job["spec"]["template"]["metadata"]["labels"]["team"] == "nlp"
    assert job["spec"]["template"]["metadata"]["annotations"] == {"safe": "no", "note": "x"}
    assert job["spec"]["backoffLimit"] == 0
    assert (job["spec"]["ttlSecondsAfterFinished"], job["spec"]["activeDeadlineSeconds"]) == (60, 7200)
    assert "podFailurePolicy" not in job["spec"]


def test_a_short_profile_inherits_the_rest(profiles: dict[str, Profile]) -> None:
    """The leak that the chart guards against: requests that a profile does not name are the run pod's."""
    job = step_job(op_tags(profiles["cpu"]))
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "control:1"
    assert container["resources"] == {"requests": {"cpu": "250m", "memory": "1Gi"}, "limits": {"memory": "8Gi"}}
    assert job["spec"]["template"]["spec"]["serviceAccountName"] == "runs"
    assert job["spec"]["ttlSecondsAfterFinished"] == 86400


def test_run_pod_without_a_profile_has_no_device() -> None:
    (container,) = step_job({})["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"memory": "4Gi"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gpu: {node_selector: {}, gpus: 1}", ["gpu.gpus", "known are"]),
        ("gpu: {tolerations: gpu}", ["gpu.tolerations", "'gpu'"]),
        ("gpu: {ttlSecondsAfterFinished: -1}", ["gpu.ttlSecondsAfterFinished", "-1"]),
        ("[gpu]", ["list", "map profile names"]),
        ("gpu: {", ["not valid YAML"]),
    ],
)
def test_faults_are_named(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "profiles.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_profiles(str(path))
    assert all(word in str(caught.value) for word in [*words, str(path)]), str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_missing_profile(profiles: dict[str, Profile]) -> None:
    with pytest.raises(InputError, match="GRADSIM_PROFILES names /nowhere"):
        load_profiles("/nowhere")
    with pytest.raises(InputError, match=r"no compute profile 'tpu'.*\['cpu', 'gpu'\]"):
        tags_for(profiles, "tpu")


@pytest.mark.parametrize("executor", ["k8s", "in_process"])
def test_a_model_with_an_unknown_profile_is_refused_at_load(
    tmp_path: Path, profiles: dict[str, Profile], executor: str
) -> None:
    settings = settings_of(tmp_path, [{"id": "demo"}, {"id": "org/big", "profile": "h200"}], executor)
    with pytest.raises(InputError) as caught:
        build_definitions(settings, profiles)
    assert str(caught.value) == (
        "There is no compute profile 'h200', which model org/big asks for; add it to the profiles or choose from ['cpu', 'gpu']."
    )
    build_definitions(settings)  # a laptop has no profiles: the same file works there


class Recorder(StepHandler):
    """In place of dagster-k8s' handler: keeps the Job that it would create."""

    name = "recorder"

    def launch_step(self, context: StepHandlerContext) -> Iterator[dg.DagsterEvent]:
        (self.tags,) = context.step_tags.values()
        self.job = step_job(dict(self.tags))
        return iter(())

    def check_step_health(self, context: StepHandlerContext) -> CheckStepHealthResult:
        self.launch_step(context)
        return CheckStepHealthResult.healthy()

    def terminate_step(self, context: StepHandlerContext) -> Iterator[dg.DagsterEvent]:
        return self.launch_step(context)


def test_a_model_gets_the_pod_of_its_profile_and_nothing_of_the_other_one(
    tmp_path: Path, profiles: dict[str, Profile]
) -> None:
    large = Profile.model_validate({"resources": {"limits": {"memory": "512Gi", "amd.com/gpu": "2"}}})
    profiles = {**profiles, "large": large}
    models = [{"id": "demo"}, {"id": "org/big", "profile": "large"}]
    repository = build_definitions(settings_of(tmp_path, models), profiles).get_repository_def()
    plan = create_execution_plan(repository.get_job("gradients"))
    steps = {step.key: step for step in plan.get_all_steps_in_topo_order()}
    executor = repository.get_job("gradients").executor_def
    assert executor.name == "k8s" and executor is not k8s_job_executor
    assert validate_config(executor.config_schema.config_type, {"job_image": "x", "max_concurrent": 2}).success

    recorder = Recorder()
    by_model = {"org--big": {key: json.dumps(value) for key, value in tags_for(profiles, "large").items()}}
    handler = ModelProfiles(recorder, "gpu", by_model)

    def pod_of(model: str, step: str, ask: str = "launch_step") -> dict:
        run = dg.DagsterRun(job_name="gradients", tags={"dagster/partition/model": model})
        with dg.DagsterInstance.ephemeral() as instance:
            getattr(handler, ask)(StepHandlerContext(instance, None, [steps[step]], None, run))  # type: ignore[arg-type]
        return recorder.job["spec"]["template"]["spec"]

    for step in ("model_generated", "gradient_pass"):
        for ask in ("launch_step", "check_step_health", "terminate_step"):
            pod = pod_of("org--big", step, ask)
            (container,) = pod["containers"]
            assert container["resources"] == {
                "requests": {"cpu": "250m", "memory": "1Gi"},
                "limits": {"memory": "512Gi", "amd.com/gpu": "2"},
            }
            assert container["image"] == "control:1"
            assert not {"tolerations", "affinity", "priorityClassName", "runtimeClassName"} & set(pod)
            assert pod["nodeSelector"] == {"zone": "a"}
            assert [volume["name"] for volume in pod["volumes"]] == ["home"]
        (container,) = pod_of("demo", step)["containers"]
        assert container["resources"]["limits"] == {"memory": "64Gi", "nvidia.com/gpu": "1"}


def test_a_step_whose_only_partition_is_the_model_gets_the_pod_of_its_profile_too(
    tmp_path: Path, profiles: dict[str, Profile]
) -> None:
    profiles = {**profiles, "large": Profile.model_validate({"resources": {"limits": {"memory": "512Gi"}}})}
    repository = build_definitions(settings_of(tmp_path, [{"id": "demo"}]), profiles).get_repository_def()
    config = {"ops": {"trace_texts": {"config": {"texts": [{"prompt": "Why?"}]}}}}
    (step,) = create_execution_plan(repository.get_job("trace"), run_config=config).get_all_steps_in_topo_order()
    recorder = Recorder()
    by_model = {"org--big": {key: json.dumps(value) for key, value in tags_for(profiles, "large").items()}}
    for model, limits in (
        ("org--big", {"memory": "512Gi"}),
        ("demo", {"memory": "64Gi", "nvidia.com/gpu": "1"}),
    ):
        run = dg.DagsterRun(job_name="trace", tags={"dagster/partition": model})
        with dg.DagsterInstance.ephemeral() as instance:
            context = StepHandlerContext(instance, None, [step], None, run)  # type: ignore[arg-type]
            ModelProfiles(recorder, "gpu", by_model).launch_step(context)
        (container,) = recorder.job["spec"]["template"]["spec"]["containers"]
        assert container["resources"]["limits"] == limits


def test_without_a_choice_the_executor_is_dagsters_own(tmp_path: Path, profiles: dict[str, Profile]) -> None:
    repository = build_definitions(settings_of(tmp_path, [{"id": "demo"}]), profiles).get_repository_def()
    assert repository.get_job("gradients").executor_def is k8s_job_executor


def test_heavy_assets_get_the_gpu_profile_and_light_ones_stay_in_the_run_pod(
    tmp_path: Path, profiles: dict[str, Profile]
) -> None:
    settings = settings_of(tmp_path, [{"id": "demo"}])
    repository = build_definitions(settings, profiles).get_repository_def()
    repository.load_all_definitions()  # what a code server does, and a plain import does not
    tags = {
        key.to_user_string(): json.loads(asset.op.tags.get(K8S_CONFIG, "{}"))
        for key, asset in repository.assets_defs_by_key.items()
        if asset.is_executable
    }
    assert tags.pop("parameters_per_component") == op_tags(profiles["cpu"])[K8S_CONFIG]
    heavy = {name for name, config in tags.items() if config}
    on_a_gpu = (
        *("dot_products", "projected_similarity", "first_order", "tail_patch", "token_attribution"),
        *("all_pairs", "all_pairs_projected", "linear_datamodeling_score", "removal"),
    )
    assert heavy == {
        "model_generated",
        "subset_losses",
        *(f"{table}_{setting}" for table in on_a_gpu for setting in ("paraphrased", "model_generated")),
    }
    assert tags["model_generated"] == op_tags(profiles["gpu"])[K8S_CONFIG]
    assert repository.get_job("gradients").executor_def.name == "k8s"
    # The analyses share one run pod, which reads the job's tags; one of them needs torch.
    analyses = repository.get_job("analyses")
    assert analyses.executor_def.name == "in_process"
    assert json.loads(analyses.tags[K8S_CONFIG]) == op_tags(profiles["cpu"])[K8S_CONFIG]
    # Without profiles (a laptop) nothing carries a tag.
    bare = build_definitions(settings).get_repository_def()
    assert not [a for a in bare.assets_defs_by_key.values() if a.is_executable and K8S_CONFIG in a.op.tags]
