"""`gradsim ui`: Dagster's web server, daemon and code server and our own pages on one machine, started again when one dies.

`dagster dev` ends when its daemon or web server does, and does not see that the process behind its code server is gone: the
pages then go on answering while every run fails.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import psutil

from gradsim_assets.core.errors import InputError
from gradsim_assets.runs.environment import MODULE
from gradsim_assets.runs.served_home import address_of
from gradsim_assets.runs.ui_lock import BEAT_SECONDS, UiLock, only_ui

_PATIENCE_SECONDS = 20.0

#: Services that end before that are started again after a pause, which doubles from time to time.
_SHORT_SECONDS, _LONGEST_PAUSE_SECONDS = 30.0, 15.0


#: Our own pages beside Dagster's, as a service: what they show is imported there, above this module.
_WEB_MODULE = "gradsim_assets.web"


def serve(host: str, port: int, web_port: int) -> int:
    """Serves Dagster's UI and our own pages until Ctrl-C or SIGTERM and returns the exit code.

    Links that runs write into Dagster's metadata meanwhile lead to the pages that are served here, unless GRADSIM_WEB says
    by which address people reach them.

    Raises:
        InputError: a port is taken, or another process serves this home.
    """
    with only_ui(Path(os.environ["DAGSTER_HOME"]), f"http://{host}:{port}") as lock:
        _check_free(host, port, "--port")
        _check_free(host, web_port, "--web-port")
        os.environ.setdefault("GRADSIM_WEB", address_of(host, web_port))
        pages = _Pages(host, web_port, address_of(host, port))
        click.echo(f"{address_of(host, web_port)}  models, figures, reports")
        click.echo(f"{address_of(host, port)}  Dagster: assets, runs, automation  (stop both with Ctrl-C)")
        try:
            return _serve(host, port, pages, lock)
        finally:
            pages.end()


class _Pages:
    """The server of our own pages: a process that is started again when it has died, whatever Dagster's services do."""

    def __init__(self, host: str, port: int, dagster: str) -> None:
        arguments = ["--host", host, "--port", str(port), "--dagster", dagster]
        self._command = [sys.executable, "-m", _WEB_MODULE, *arguments]
        self._start()

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._process.pid

    def keep(self) -> None:
        """Starts it again where it has died, at most once in a while."""
        if self._process.poll() is not None and time.monotonic() - self._started > _LONGEST_PAUSE_SECONDS:
            click.echo("gradsim: the server of reports has died; starting it again.", err=True)
            self._start()

    def end(self) -> None:
        """Ends it; it holds nothing that has to be finished."""
        self._process.terminate()
        try:
            self._process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _start(self) -> None:
        self._started = time.monotonic()
        self._process = subprocess.Popen(self._command)


def _serve(host: str, port: int, pages: _Pages, lock: UiLock) -> int:
    command = [sys.executable, "-m", "dagster", "dev", "-m", MODULE, "-h", host, "-p", str(port)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    pause = 1.0
    while True:
        started = time.monotonic()
        services = subprocess.Popen(command)
        try:
            _watch(services, pages, lock)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS) if time.monotonic() - started < _SHORT_SECONDS else 1.0
            click.echo(f"gradsim: a service has died; starting again in {pause:.0f} s. Runs at work go on.", err=True)
            _pause(pause, lock)
        except (KeyboardInterrupt, SystemExit) as asked:
            return _end(services, told=isinstance(asked, KeyboardInterrupt))


def _pause(seconds: float, lock: UiLock) -> None:
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        lock.beat()
        time.sleep(min(left, BEAT_SECONDS))


def _check_free(host: str, port: int, option: str) -> None:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise InputError(f"{host}:{port} cannot be listened on ({error}); choose another {option}.") from error


def _end(services: subprocess.Popen[bytes], told: bool) -> int:
    """Ends the services in order and returns their exit code; `told` are they by a terminal, which tells all its processes."""
    if told:
        try:
            return services.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:  # somebody told this process alone
            pass
    services.send_signal(signal.SIGINT)
    return services.wait()


def _watch(services: subprocess.Popen[bytes], pages: _Pages, lock: UiLock) -> None:
    """Returns when the services have ended; has a code server whose process died started again meanwhile, and says to others
    that this home is served."""
    served: set[psutil.Process] = set()
    while services.poll() is None:
        pages.keep()
        lock.beat([services.pid, *_children(services.pid), pages.pid])
        for server, workers in _code_servers(services.pid):
            if workers:
                served.add(server)
            elif server in served:
                click.echo("gradsim: the code server has died; starting it again.", err=True)
                server.kill()  # `dagster dev` starts what it started itself again
        time.sleep(BEAT_SECONDS)


def _children(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.Error:
        return []


def _code_servers(pid: int) -> Iterator[tuple[psutil.Process, Sequence[psutil.Process]]]:
    """The code servers below a process, each with the processes that hold the definitions for it."""
    try:
        for process in psutil.Process(pid).children():
            if "code-server" in process.cmdline():
                yield process, [child for child in process.children() if child.status() != psutil.STATUS_ZOMBIE]
    except psutil.Error:  # gone while it was looked at
        return
