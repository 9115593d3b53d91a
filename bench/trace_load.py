"""Traces over HTTP under load: the real server of a home on loopback, asked by one user, by many, and by everybody at once.

`python -m bench.trace_load HOME` takes a home in which the demo was run, and leaves traces in a copy of it.
"""

import argparse
import http.client
import json
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from gradsim_assets.web.tracing import MOST_BYTES
from gradsim_assets_tests.support.web_home import PagesServer

#: Texts that no template and no page may read as anything but text.
_EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)> {{ 7 * 7 }} </textarea>"


#: That somebody writes a text.
_WRITING_SECONDS = 15


class Asker:
    """Asks a server for traces of texts that it has not seen."""

    def __init__(self, site: PagesServer, model: str) -> None:
        self._site, self._model = site, model
        self._numbers = count()
        self._lock = threading.Lock()

    def text(self) -> str:
        """A prompt that is like no other."""
        with self._lock:
            return f"How long do I boil {next(self._numbers)} eggs of a hen, {time.time_ns()}?"

    def trace(self, answer: str | None = None) -> tuple[int, float]:
        """Status and seconds of one trace; who is sent away comes back when told to, and counts the seconds."""
        started, asked = (
            time.perf_counter(),
            {"model": self._model, "prompt": self.text(), "answer": answer, "wait": 300},
        )
        while True:
            status, told, headers = self.post(asked)
            if status != 503:
                assert status == 200 and told["state"] == "done", (status, told)
                return status, time.perf_counter() - started
            time.sleep(float(headers["Retry-After"]))

    def post(self, document: dict[str, Any]) -> tuple[int, dict[str, Any], Message]:
        """Status, JSON and headers of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self._site.port, timeout=600)
        try:
            connection.request("POST", "/api/trace", json.dumps(document), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read()), answer.headers
        finally:
            connection.close()

    def asked(self, **more: Any) -> dict[str, Any]:
        """A question about a new text."""
        return {"model": self._model, "prompt": self.text(), **more}


def alone(asker: Asker, site: PagesServer, times: int) -> dict[str, Any]:
    """One user of a server that has just started: a text of somebody who writes it on the page, and those behind it with an answer
    and with the model's own."""
    site.get("/trace")
    time.sleep(_WRITING_SECONDS)
    first = asker.trace("In water, for nine minutes.")[1]
    given = [asker.trace("In water, for nine minutes.")[1] for _ in range(times)]
    own = [asker.trace()[1] for _ in range(times)]
    return {"first_s": first, "warm_given": _figures(given), "warm_own": _figures(own)}


def together(asker: Asker, users: int, seconds: float) -> dict[str, Any]:
    """Many users, each of whom asks anew as soon as answered."""
    ended = time.monotonic() + seconds

    def user(_: int) -> list[float]:
        found = []
        while time.monotonic() < ended:
            found.append(asker.trace()[1])
        return found

    with ThreadPoolExecutor(users) as pool:
        found = [one for of_user in pool.map(user, range(users)) for one in of_user]
    return {"users": users, "traces": len(found), **_figures(found)}


def at_once(asker: Asker, site: PagesServer, requests: int) -> dict[str, Any]:
    """Everybody at once, and meanwhile somebody who only looks at a page."""
    statuses: Counter[str] = Counter()

    def ask(_: int) -> None:
        status, told, headers = asker.post(asker.asked(wait=0))
        kind = (
            f"{status} with a sentence and Retry-After"
            if told.get("error") and headers.get("Retry-After")
            else str(status)
        )
        with lock:
            statuses[kind] += 1

    lock, started = threading.Lock(), time.perf_counter()
    with ThreadPoolExecutor(requests) as pool:
        asking = [pool.submit(ask, number) for number in range(requests)]
        looked = _timed(lambda: site.get("/health"))
        for one in asking:
            one.result()
    return {"requests": requests, "seconds": time.perf_counter() - started, "statuses": statuses, "health_s": looked}


def badly(asker: Asker, site: PagesServer) -> dict[str, Any]:
    """What is no question, and what is given up: the status and what is said of each."""
    large = asker.post(asker.asked(answer="x" * (10 * 2**20)))
    evil = asker.post(asker.asked(answer=_EVIL, wait=300))
    page = site.get(evil[1]["trace"]["page"])[1] if evil[0] == 200 else ""
    gone = asker.post(asker.asked(wait=0))[1]["job"]
    with site.deleting(f"/api/trace/{gone}") as answer:
        cancelled = json.loads(answer.read())["state"]
    connection = http.client.HTTPConnection("127.0.0.1", site.port)
    connection.request("POST", "/api/trace", json.dumps(asker.asked(wait=300)), {"Content-Type": "application/json"})
    connection.close()  # does not wait for its answer
    cases = {
        "an empty prompt": {"prompt": " "},
        "an empty answer": {"answer": ""},
        "beyond the context": {"prompt": "egg " * 5000, "answer": "Yes."},
        "a model that is not registered": {"model": "org/none"},
        "no method": {"method": "astrology"},
        "half a character": {"prompt": "\ud83d"},
        "a number": {"prompt": 3},
    }
    found = {name: asker.post({**asker.asked(wait=300), **case}) for name, case in cases.items()}
    return {
        **{name: (status, told.get("error") or told.get("detail")) for name, (status, told, _) in found.items()},
        f"{10} MiB, of {MOST_BYTES} that may be": (large[0], large[1].get("error")),
        "HTML": (evil[0], "is text on the page" if page and _EVIL not in page else "IS READ AS HTML"),
        "given up": cancelled,
        "after all that": asker.trace("In water.")[0],
    }


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _figures(seconds: Sequence[float]) -> dict[str, float]:
    return {
        name: float(np.quantile(seconds, q)) for name, q in (("median_s", 0.5), ("p95_s", 0.95), ("largest_s", 1.0))
    }


def main() -> None:
    """Prints what it measured as JSON and writes it under build/bench."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("home", type=Path, help="a home in which the demo was run")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--times", type=int, default=10, help="traces of one user of each kind")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        shutil.copytree(given.home, home)
        (home / "gradsim.toml").touch()
        with PagesServer(home) as site:
            asker = Asker(site, given.model)
            parts: dict[str, Callable[[], dict[str, Any]]] = {
                "alone": lambda: alone(asker, site, given.times),
                "badly": lambda: badly(asker, site),
                "together": lambda: together(asker, given.users, given.seconds),
                "at_once": lambda: at_once(asker, site, given.requests),
            }
            found = {}
            for part, measure in parts.items():
                found[part] = measure()
                print(part, json.dumps(found[part], indent=1), flush=True)
    out = Path("build/bench/trace_load.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
