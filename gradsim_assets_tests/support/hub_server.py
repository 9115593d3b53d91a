"""A model hub on loopback that hands out folders as commits: what `huggingface_hub` asks of the real one."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote


class HubServer:
    """Repositories whose commits are folders; the last one that was pushed is the head."""

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, Path]] = {}
        self.heads: dict[str, str] = {}
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """What a process must have in its environment to take this for the hub."""
        return {"HF_ENDPOINT": f"http://127.0.0.1:{self._server.server_port}", "HF_HUB_DISABLE_XET": "1"}

    def push(self, repo: str, folder: Path) -> str:
        """Makes a folder the head of a repository and returns its commit."""
        commits = self.commits.setdefault(repo, {})
        sha = hashlib.sha1(f"{repo} {len(commits)}".encode()).hexdigest()
        commits[sha] = folder
        self.heads[repo] = sha
        return sha

    def close(self) -> None:
        """Stops answering."""
        self._server.shutdown()

    def find(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of an answer."""
        parts = unquote(path.split("?")[0]).strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        owner, name, *rest = (*parts[2:], "", "") if api else (*parts, "", "")
        commits = self.commits.get(repo := f"{owner}/{name}")
        if commits is None:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        rest = [part for part in rest if part]
        wanted = rest[1] if len(rest) > 1 and rest[0] in ("revision", "resolve") else "main"
        sha = self.heads[repo] if wanted == "main" else wanted
        if sha not in commits:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if api and rest[:1] in ([], ["revision"]):
            siblings = [{"rfilename": file.name} for file in sorted(commits[sha].iterdir())]
            return 200, {}, json.dumps({"id": repo, "sha": sha, "siblings": siblings}).encode()
        file = commits[sha].joinpath(*rest[2:])
        if api or not rest or not file.is_file():
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha}, b""
        content = file.read_bytes()
        return 200, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": sha}, content


class _Handler(BaseHTTPRequestHandler):
    server_hub: HubServer

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        status, headers, content = self.server_hub.find(self.path)
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass
