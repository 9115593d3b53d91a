"""A hub on loopback: it hands out folders as commits of models and datasets, and takes datasets that are pushed to it."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

#: Status, headers and body of an answer.
Answer = tuple[int, dict[str, str], bytes]


class HubServer:
    """Repositories of models whose commits are folders, the last one that was pushed being the head; a context manager.

    Attributes:
        files_busy: every file is answered with 503, while commits are told as ever.
        posts: paths that were posted to, in order.
        created: what was asked for when a dataset was created.
        received: files of that dataset by path.
    """

    #: What datasets are pushed with.
    token = "hf_right"

    def __init__(self) -> None:
        self._commits: dict[str, dict[str, Path]] = {}
        self._names: dict[str, dict[str, str]] = {}  # branches and tags
        self._refused: dict[str, tuple[int, str]] = {}
        self.files_busy = False
        self.posts: list[str] = []
        self.created: dict[str, Any] = {}
        self.received: dict[str, bytes] = {}
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self) -> "HubServer":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process must have in its environment to take this for the hub."""
        return {"HF_ENDPOINT": self.url, "HF_HUB_DISABLE_XET": "1"}

    @property
    def _dataset_url(self) -> str:
        return f"{self.url}/datasets/{self.created.get('organization')}/{self.created.get('name')}"

    def push(self, repo: str, folder: Path, tag: str | None = None) -> str:
        """Makes a folder the head of a model's repository, tags it if asked to, and returns its commit."""
        commits = self._commits.setdefault(repo, {})
        sha = hashlib.sha1(f"{repo} {len(commits)}".encode()).hexdigest()
        commits[sha] = folder
        self._names.setdefault(repo, {}).update({"main": sha, **({tag: sha} if tag else {})})
        return sha

    def refuse(self, repo: str, status: int, code: str = "") -> None:
        """Answers all that is asked about a model with a status, and the hub's own name of the error."""
        self._refused[repo] = status, code

    def close(self) -> None:
        """Stops answering."""
        self._server.shutdown()
        self._server.server_close()

    def get(self, path: str) -> Answer:
        """The answer to what is asked of models."""
        parts = unquote(path.split("?")[0]).strip("/").split("/")
        api = parts[:2] in (["api", "models"], ["api", "datasets"])
        parts = parts[1:] if parts[0] == "datasets" else parts
        owner, name, *rest = (*parts[2:], "", "") if api else (*parts, "", "")
        repo, rest = f"{owner}/{name}", [part for part in rest if part]
        if repo in self._refused:
            status, code = self._refused[repo]
            return status, {"X-Error-Code": code} if code else {}, b"{}"
        if repo not in self._commits:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        if api and rest == ["refs"]:
            return _json(self._refs(repo))
        wanted = rest[1] if len(rest) > 1 and rest[0] in ("revision", "resolve", "tree") else "main"
        sha = self._names[repo].get(wanted, wanted)
        if sha not in self._commits[repo]:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        folder = self._commits[repo][sha]
        if api and rest[:1] in ([], ["revision"]):
            siblings = [{"rfilename": file.name} for file in sorted(folder.iterdir())]
            return _json({"id": repo, "sha": sha, "siblings": siblings})
        if api and rest[:1] == ["tree"]:
            return _json([_entry(file) for file in sorted(folder.iterdir()) if file.is_file()])
        return (
            (503, {}, b"") if self.files_busy else _file(folder.joinpath(*rest[2:]), sha, known=bool(rest) and not api)
        )

    def _paths_info(self, path: str, asked: dict[str, list[str]]) -> Answer:
        """What is known of some files of a commit."""
        owner, name, _, wanted = unquote(path).strip("/").split("/")[2:6]
        repo = f"{owner}/{name}"
        folder = self._commits[repo][self._names[repo].get(wanted, wanted)]
        there = [folder / one for one in asked.get("paths", []) if (folder / one).is_file()]
        return _json([_entry(file) for file in there])

    def _refs(self, repo: str) -> dict[str, Any]:
        """The branch `main`, and tags."""
        found = [
            {"name": name, "ref": f"refs/tags/{name}", "targetCommit": sha} for name, sha in self._names[repo].items()
        ]
        return {
            "branches": [one for one in found if one["name"] == "main"],
            "tags": [one for one in found if one["name"] != "main"],
            "converts": [],
        }

    def post(self, path: str, body: bytes, token: str | None) -> Answer:
        """The answer to what is sent to datasets; what a client asks of paths by a POST needs no token."""
        if "/paths-info/" in path:
            return self._paths_info(path, parse_qs(body.decode()))
        if token != f"Bearer {self.token}":
            return _json({"error": "Invalid credentials"}, 401)
        self.posts.append(path)
        if path == "/api/repos/create":
            self.created = json.loads(body)
            return _json({"url": self._dataset_url})
        if "/preupload/" in path:
            found = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            return _json({"files": [{**file, "shouldIgnore": False, "oid": None} for file in found]})
        if "/commit/" in path:
            for entry in map(json.loads, body.splitlines()):
                if entry["key"] == "file":
                    self.received[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            told = {"commitOid": "0" * 40, "commitUrl": f"{self._dataset_url}/commit/{'0' * 40}"}
            return _json({"success": True, "hookOutput": "", **told})
        return _json({"errors": [], "warnings": []})  # of the card


def _entry(file: Path) -> dict[str, Any]:
    return {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": _oid(file.read_bytes())}


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def _json(document: Any, status: int = 200) -> Answer:
    return status, {"Content-Type": "application/json"}, json.dumps(document).encode()


def _file(file: Path, sha: str, known: bool) -> Answer:
    if not known or not file.is_file():
        return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha}, b""
    content = file.read_bytes()
    return 200, {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": sha}, content


class _Handler(BaseHTTPRequestHandler):
    server_hub: HubServer

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self._answer(self.server_hub.get(self.path))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(self.server_hub.post(self.path, body, self.headers.get("Authorization")))

    def _answer(self, answer: Answer) -> None:
        status, headers, content = answer
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass
