"""Remove the Jobs of runs and steps of a release: Dagster made them, so `helm uninstall` leaves them. Arguments: namespace,
label selector."""

import sys
import time

from kubernetes import client, config  # noqa: TID253 - a program of its own, run by the hook

GIVE_UP_SECONDS = 240

namespace, selector = sys.argv[1:]
config.load_incluster_config()
core, batch = client.CoreV1Api(), client.BatchV1Api()
deadline = time.monotonic() + GIVE_UP_SECONDS
while True:
    # The daemon goes first: while it ends, it could launch or resume one more run.
    pods = core.list_namespaced_pod(namespace, label_selector=f"{selector},app.kubernetes.io/component!=cleanup").items
    jobs = batch.list_namespaced_job(namespace, label_selector=f"{selector},app.kubernetes.io/part-of=dagster").items
    for job in jobs:
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
    time.sleep(2)
