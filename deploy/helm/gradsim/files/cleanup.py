"""Remove the Jobs of runs and steps of a release: Dagster made them, so `helm uninstall` leaves them, and their pods would hold
its volumes. Arguments: namespace, label selector, and the daemon's deployment if there is one."""

import sys
import time

from kubernetes import client, config  # noqa: TID253 - a program of its own, run by the hook

GIVE_UP_SECONDS = 240

namespace, selector, *daemons = sys.argv[1:]
config.load_incluster_config()
core, batch = client.CoreV1Api(), client.BatchV1Api()
for daemon in daemons:
    # It goes first: it would launch queued runs, and resume those whose pods vanish.
    client.AppsV1Api().patch_namespaced_deployment_scale(daemon, namespace, {"spec": {"replicas": 0}})
deadline = time.monotonic() + GIVE_UP_SECONDS
while True:
    working = f"{selector},app.kubernetes.io/component in (daemon,run_worker,step_worker)"
    pods = core.list_namespaced_pod(namespace, label_selector=working).items
    waiting = any(pod.metadata.labels["app.kubernetes.io/component"] == "daemon" for pod in pods)
    jobs = batch.list_namespaced_job(namespace, label_selector=f"{selector},app.kubernetes.io/part-of=dagster").items
    for job in [] if waiting else jobs:
        if job.metadata.deletion_timestamp is None:
            print(f"deleting job {job.metadata.name}", flush=True)
            try:
                batch.delete_namespaced_job(job.metadata.name, namespace, propagation_policy="Background")
            except client.ApiException as error:
                if error.status != 404:  # gone by itself meanwhile
                    raise
    if not pods and not jobs:
        break
    if time.monotonic() > deadline:
        sys.exit(f"still there after {GIVE_UP_SECONDS} s: {len(jobs)} jobs, {len(pods)} pods")
    time.sleep(1)
