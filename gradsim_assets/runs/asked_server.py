"""A text that the server of a home's pages traces for a command: it has torch and the model at hand."""

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from gradsim_assets.core.home import gradsim_home
from gradsim_assets.core.partition_keys import model_slug
from gradsim_assets.runs.served_home import Served

if TYPE_CHECKING:
    from gradsim_assets.core.tracing.stored_traces import StoredTrace

#: Seconds that the server may wait for a trace, and that an answer may take beyond that.
_WAIT, _BEYOND = 300, 10


def ask_server(
    server: Served, model_id: str, prompt: str, answer: str | None, method: str, against: str
) -> "tuple[StoredTrace, Path] | None":
    """What a server traced, and its folder; None where it does not answer, is too busy, or could not trace the text.

    Why it could not is not told: who traces the text in a process of its own finds the same.
    """
    from gradsim_assets.core.tracing.stored_traces import StoredTrace

    asked = {"model": model_id, "prompt": prompt, "answer": answer, "method": method, "against": against, "wait": _WAIT}
    try:
        body = json.dumps(asked).encode("utf-8", "strict")
        request = urllib.request.Request(f"{server.address}/api/trace", body, {"Content-Type": "application/json"})
        # Never by a proxy: it is this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=_WAIT + _BEYOND) as reply:
            told = json.loads(reply.read())
        folder = gradsim_home().traces(model_slug(model_id)) / told["trace"]["id"]
        return StoredTrace.load(folder), folder
    except (OSError, ValueError, KeyError):
        return None
