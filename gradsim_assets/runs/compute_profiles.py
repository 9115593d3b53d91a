"""Compute profiles: what pod a heavy step gets on Kubernetes, named in one file that the Helm chart renders.

A profile becomes `op_tags`, which dagster-k8s applies to *step* pods only, so a run pod stays small while its step holds
a GPU. Without a file (a laptop) there are no profiles, and assets carry no tags: nothing else differs.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from gradsim_assets.core.errors import InputError

#: The tag that dagster-k8s reads, and ours with the profile's name.
K8S_CONFIG, PROFILE = "dagster-k8s/config", "gradsim/profile"

_SHARED_MEMORY_VOLUME = "shared-memory"


class _Section(BaseModel):
    # Field names as in pod specs: whoever writes values for a cluster knows those.
    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True)


class Resources(_Section):
    """Requests and limits of the step's container, in Kubernetes quantities."""

    requests: dict[str, str | int | float] = Field(default_factory=dict)
    limits: dict[str, str | int | float] = Field(default_factory=dict)


class Profile(_Section):
    """One kind of step pod. Every field is optional; names are those of Kubernetes' pod spec.

    Attributes:
        image: the step's image; None keeps that of the code location.
        image_pull_policy: of that image.
        resources: requests and limits; GPUs belong here and nowhere else, since anything set for run pods leaks into
            every step.
        node_selector: labels that a node must have.
        tolerations: taints that the pod accepts.
        affinity: as in a pod spec.
        shared_memory: size of /dev/shm (64 MiB otherwise, too small for several data-loading processes).
        priority_class_name: of an existing PriorityClass.
        runtime_class_name: for instance `nvidia`, where the nodes' default runtime does not inject GPUs.
        scheduler_name: another scheduler than the default one.
        service_account_name: of the step. Dagster wants its token there, but an account without any rights will do.
        env: more environment variables.
        labels, annotations: of the pod.
        job_labels: of the Job (Kueue's queue name is one).
        ttl_seconds_after_finished: how long the finished Job stays.
        active_deadline_seconds: the step is killed after so many seconds, waiting for a node included.
    """

    image: str | None = None
    image_pull_policy: str | None = None
    resources: Resources = Resources()
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: list[dict[str, Any]] = Field(default_factory=list)
    affinity: dict[str, Any] = Field(default_factory=dict)
    shared_memory: str | None = None
    priority_class_name: str | None = None
    runtime_class_name: str | None = None
    scheduler_name: str | None = None
    service_account_name: str | None = None
    env: dict[str, str] = Field(default_factory=dict)
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    job_labels: dict[str, str] = Field(default_factory=dict)
    ttl_seconds_after_finished: int | None = Field(default=None, ge=0)
    active_deadline_seconds: int | None = Field(default=None, ge=1)


def load_profiles(path: str | None) -> dict[str, Profile]:
    """The profiles of a YAML (or JSON) file, by name; none without a file.

    Args:
        path: the file, a mapping from profile name to fields of `Profile`; None or "" where there is no cluster.

    Raises:
        InputError: the file is missing, is no mapping, or a profile holds an unknown key or a wrong value.
    """
    if not path:
        return {}
    file = Path(path)
    if not file.is_file():
        raise InputError(f"GRADSIM_PROFILES names {path}, which is no file; correct the path or unset the variable.")
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(document, dict):
        raise InputError(f"{path} holds a {type(document).__name__}; it must map profile names to profiles.")
    return {str(name): _profile(path, str(name), fields or {}) for name, fields in document.items()}


def _profile(path: str, name: str, fields: Any) -> Profile:
    try:
        return Profile.model_validate(fields)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join([name, *map(str, fault["loc"])])
        if fault["type"] == "extra_forbidden":
            known = ", ".join(field.alias or key for key, field in Profile.model_fields.items())
            raise InputError(f"{path}: unknown key {where} in a compute profile; known are {known}.") from error
        raise InputError(f"{path}: {where} = {fault['input']!r} is not accepted ({fault['msg']}).") from error


def tags_for(profiles: Mapping[str, Profile], name: str, model: str | None = None) -> dict[str, Any]:
    """`op_tags` of the profile of that name, which `model` chose; none where no profiles are configured at all.

    Raises:
        InputError: profiles are configured, but not this one.
    """
    if not profiles:
        return {}
    if name not in profiles:
        wanted = f", which model {model} asks for" if model else ""
        raise InputError(
            f"There is no compute profile {name!r}{wanted}; add it to the profiles or choose from {sorted(profiles)}."
        )
    return {**op_tags(profiles[name]), PROFILE: name}


def op_tags(profile: Profile) -> dict[str, Any]:
    """The tags that give a step this profile: {"dagster-k8s/config": {...}}.

    dagster-k8s merges them deeply onto what run pods have and *appends* lists, so only what differs is said here: the
    volumes, secrets and variables of run pods stay. A quantity that run pods limit and the profile does not mention is
    inherited; the chart refuses such profiles.
    """
    container = _present(
        image=profile.image,
        image_pull_policy=profile.image_pull_policy,
        resources=_present(requests=profile.resources.requests, limits=profile.resources.limits),
        env=[{"name": name, "value": value} for name, value in profile.env.items()],
    )
    pod = _present(
        node_selector=profile.node_selector,
        tolerations=profile.tolerations,
        affinity=profile.affinity,
        priority_class_name=profile.priority_class_name,
        runtime_class_name=profile.runtime_class_name,
        scheduler_name=profile.scheduler_name,
        service_account_name=profile.service_account_name,
    )
    # As process 1 it would not hear that its pod is to go until Dagster's own handlers are there, begin the step while it is being
    # replaced, and leave the one in its place with a step that was "already started": the run would wait for ever.
    pod["share_process_namespace"] = True
    if profile.shared_memory:
        pod["volumes"] = [
            {"name": _SHARED_MEMORY_VOLUME, "empty_dir": {"medium": "Memory", "size_limit": profile.shared_memory}}
        ]
        container["volume_mounts"] = [{"name": _SHARED_MEMORY_VOLUME, "mount_path": "/dev/shm"}]
    job_spec = _present(
        ttl_seconds_after_finished=profile.ttl_seconds_after_finished,
        active_deadline_seconds=profile.active_deadline_seconds,
    )
    # Retries are the asset's RetryPolicy's: a pod that Kubernetes restarts by itself finds its step already started
    # and does nothing.
    job_spec["backoff_limit"] = 0
    config = _present(
        container_config=container,
        pod_spec_config=pod,
        pod_template_spec_metadata=_present(labels=profile.labels, annotations=profile.annotations),
        job_metadata=_present(labels=profile.job_labels),
        job_spec_config=job_spec,
    )
    return {K8S_CONFIG: config}


def _present(**fields: Any) -> dict[str, Any]:
    """The fields that say something; an explicit 0 does."""
    return {key: value for key, value in fields.items() if value is not None and value != {} and value != []}
