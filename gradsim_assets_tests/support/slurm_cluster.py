"""A SLURM cluster of this machine alone: munged, slurmctld and slurmd of Debian's packages, as the current user, on free ports."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: What the packages slurm-wlm and munge bring.
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "sinfo")

_CONFIG = """
ClusterName=gradsim
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
ReturnToService=2
KillWait=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """What a cluster would need and this machine lacks."""
    return [program for program in PROGRAMS if _which(program) is None]


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Starts a cluster with its files in an empty folder of a short path; yields the variables that its commands need."""
    host = socket.gethostname()
    ports = _free_ports(2)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    config = folder / "slurm.conf"
    config.write_text(
        _CONFIG.format(
            host=host,
            controller=ports[0],
            daemon=ports[1],
            user=getpass.getuser(),
            folder=folder,
            cpus=os.cpu_count(),
        )
    )
    environment = {"SLURM_CONF": str(config)}
    munge = [f"--{name}={folder}/munge.{ending}" for name, ending in _MUNGE.items()]
    commands = [
        [_which("munged"), "--foreground", "--force", f"--key-file={key}", *munge],
        [_which("slurmctld"), "-D", "-f", str(config)],
        [_which("slurmd"), "-D", "-f", str(config)],
    ]
    daemons = []
    try:
        for command in commands:
            log = (folder / f"{Path(str(command[0])).name}.log").open("w")
            daemons.append(subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log))
            log.close()
            time.sleep(0.5)
        _wait_for_node(environment, folder)
        yield environment
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()


#: Options of munged for files, and the endings of those.
_MUNGE = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}


def _which(program: str) -> str | None:
    """Daemons lie where only root's path leads."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _wait_for_node(environment: dict[str, str], folder: Path) -> None:
    deadline = time.monotonic() + 60
    said = ""
    while time.monotonic() < deadline:
        asked = subprocess.run(
            ["sinfo", "--noheader", "--format=%T"], env={**os.environ, **environment}, capture_output=True, text=True
        )
        said = asked.stdout.strip() or asked.stderr.strip()
        if said == "idle":
            return
        time.sleep(0.5)
    logs = "\n".join(f"{log.name}: {log.read_text()[-1000:]}" for log in folder.glob("*.log"))
    raise AssertionError(f"the node is {said}, not idle\n{logs}")
