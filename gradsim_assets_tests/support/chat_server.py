"""A real HTTP server on loopback that speaks the chat-completions and batch protocols, and fails on a schedule.

It is written on bare asyncio streams, since half of its work is to break the protocol: to cut answers, to drop
connections, to send what is no JSON.
"""

import argparse
import asyncio
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

#: What a fault rate of so many per cent is made of.
FAULTS = ("429", "500", "503", "drop", "cut", "malformed", "html", "refusal", "empty", "length", "slow")

REFUSAL = "I'm sorry, but I can't help with that request."


@dataclass
class Asked:
    """One chat request that the server has read; `completed` once its answer has been sent whole."""

    text: str
    seed: int | None
    body: dict[str, Any]
    kind: str
    completed: bool = False


@dataclass
class ChatServer:
    """The server in a thread of its own; a context manager. `plan` gives the kind of the nth answer (from 0) to a text.

    `latency` is the time that an answer takes, in seconds; a slow one takes `slow` more.
    """

    plan: Callable[[str, int], str] = lambda text, nth: "ok"
    latency: float = 0.0
    slow: float = 5.0
    retry_after: str | None = "0"
    key: str = "sk-test-0123456789abcdef"
    models: tuple[str, ...] = ("gpt-4o-mini-2024-07-18",)
    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    most_at_once: int = 0
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    batch_polls: int = 1
    lost_batches: int = 0  # so many batches are made without the client hearing of it
    has_batches: bool = True

    def __enter__(self) -> "ChatServer":
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._times: Counter[str] = Counter()
        self._at_once = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def completed(self) -> Counter[tuple[str, int | None]]:
        """How often each (text, seed) was answered whole."""
        return Counter((asked.text, asked.seed) for asked in self.asked if asked.completed)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.set_exception_handler(lambda *_: None)  # connections that clients break are no news
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", self.port))
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        try:
            self._loop.run_forever()
        finally:
            server.close()
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                first, *lines = head.split("\r\n")
                method, path, _ = first.split()
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                if not await self._respond(method, path.split("?")[0], headers, body, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    async def _respond(
        self, method: str, path: str, headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter
    ) -> bool:
        """Answers one request; False when the connection is to be closed."""
        if headers.get("authorization") != f"Bearer {self.key}":
            shown = headers.get("authorization", "").removeprefix("Bearer ")
            message = f"Incorrect API key provided: {shown[:6]}***{shown[-4:]}."
            return await self._send(writer, 401, {"error": {"message": message, "code": "invalid_api_key"}})
        if (method, path) == ("POST", "/v1/chat/completions"):
            return await self._chat(json.loads(body), writer)
        if self.has_batches and path.startswith(("/v1/files", "/v1/batches")):
            return await self._batch(method, path, headers, body, writer)
        return await self._send(writer, 404, {"error": {"message": f"Invalid URL ({method} {path})"}})

    async def _send(
        self, writer: asyncio.StreamWriter, status: int, content: Any, more: str = "", kind: str = "application/json"
    ) -> bool:
        payload = content if isinstance(content, bytes) else json.dumps(content).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(payload)}\r\n{more}\r\n"
        writer.write(head.encode() + payload)
        await writer.drain()
        return True

    # Chat

    async def _chat(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        if body["model"] not in self.models:
            message = f"The model `{body['model']}` does not exist or you do not have access to it."
            return await self._send(writer, 404, {"error": {"message": message, "code": "model_not_found"}})
        asked = self._note(body)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await asyncio.sleep(self.latency + (self.slow if asked.kind == "slow" else 0))
            return await self._chat_answer(asked, writer)
        finally:
            self._at_once -= 1

    def _note(self, body: dict[str, Any]) -> Asked:
        text = body["messages"][-1]["content"]
        kind = self.plan(text, self._times[text])
        self._times[text] += 1
        self.asked.append(Asked(text, body.get("seed"), body, kind))
        return self.asked[-1]

    async def _chat_answer(self, asked: Asked, writer: asyncio.StreamWriter) -> bool:
        kind = asked.kind
        if kind.isdigit():
            wait = f"Retry-After: {self.retry_after}\r\n" if kind == "429" and self.retry_after else ""
            return await self._send(writer, int(kind), {"error": {"message": "Try again.", "code": f"e{kind}"}}, wait)
        if kind.startswith("400 "):
            return await self._send(writer, 400, {"error": {"message": "No.", "code": kind[4:]}})
        if kind == "quota":
            return await self._send(writer, 429, {"error": {"message": "No quota.", "code": "insufficient_quota"}})
        if kind == "html":
            page = b"<!DOCTYPE html><html><head><title>Proxy login</title></head><body>Sign in</body></html>"
            return await self._send(writer, 200, page, kind="text/html")
        if kind == "malformed":
            return await self._send(writer, 200, b'{"choices": [{"message": ')
        if kind == "drop":
            return False
        payload = json.dumps(completion(asked)).encode()
        if kind == "cut":
            writer.write(f"HTTP/1.1 200 X\r\nContent-Length: {len(payload)}\r\n\r\n".encode() + payload[:40])
            await writer.drain()
            return False
        sent = await self._send(writer, 200, payload)
        asked.completed = True
        return sent

    # Batches

    async def _batch(
        self, method: str, path: str, headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter
    ) -> bool:
        parts = path.removeprefix("/v1/").split("/")
        if (method, parts) == ("POST", ["files"]):
            boundary = headers["content-type"].partition("boundary=")[2].encode()
            part = next(p for p in body.split(b"--" + boundary) if b'name="file"' in p)
            name = f"file-{len(self.files)}"
            self.files[name] = part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
            return await self._send(writer, 200, {"id": name, "object": "file", "purpose": "batch"})
        if (method, parts) == ("POST", ["batches"]):
            created = self._new_batch(json.loads(body))
            self.lost_batches -= 1
            return self.lost_batches < 0 and await self._send(writer, 200, created)
        if (method, parts) == ("GET", ["batches"]):
            return await self._send(
                writer, 200, {"object": "list", "data": list(self.batches.values())[::-1], "has_more": False}
            )
        if parts[0] == "batches":
            batch = self.batches[parts[1]]
            batch["polls"] += 1
            if batch["polls"] >= self.batch_polls and batch["status"] == "in_progress":
                self._complete(batch)
            return await self._send(writer, 200, batch)
        return await self._send(writer, 200, self.files[parts[1]], kind="application/octet-stream")

    def _new_batch(self, body: dict[str, Any]) -> dict[str, Any]:
        batch = {
            "id": f"batch_{len(self.batches)}",
            "object": "batch",
            "status": "in_progress",
            "input_file_id": body["input_file_id"],
            "endpoint": body["endpoint"],
            "completion_window": body["completion_window"],
            "metadata": body.get("metadata"),
            "created_at": 0,
            "polls": 0,
        }
        self.batches[batch["id"]] = batch
        return batch

    def _complete(self, batch: dict[str, Any]) -> None:
        answers, errors = [], []
        for line in self.files[batch["input_file_id"]].splitlines():
            entry = json.loads(line)
            asked = self._note(entry["body"])
            if asked.kind == "expired":  # the batch ran out of its 24 hours before this one
                batch["status"] = "expired"
                continue
            if asked.kind.isdigit():
                error = {"status_code": int(asked.kind), "body": {"error": {"message": "No.", "code": "e"}}}
                errors.append({"custom_id": entry["custom_id"], "response": error, "error": None})
                continue
            asked.completed = True
            response = {"status_code": 200, "body": completion(asked)}
            answers.append({"custom_id": entry["custom_id"], "response": response, "error": None})
        if batch["status"] == "in_progress":
            batch["status"] = "completed"
        for name, lines in (("output_file_id", answers), ("error_file_id", errors)):
            if lines:
                batch[name] = f"file-{len(self.files)}"
                self.files[batch[name]] = "".join(json.dumps(line) + "\n" for line in lines[::-1]).encode()


def rewritten(text: str, seed: int | None) -> str:
    """What the server makes of a text: sound in every respect, and different for every seed."""
    return f"{text} (in other words, {seed})"


def completion(asked: Asked) -> dict[str, Any]:
    """The body of an answer of the given kind."""
    content, finish, refusal = rewritten(asked.text, asked.seed), "stop", None
    if asked.kind == "refusal":
        content = REFUSAL
    elif asked.kind == "refusal field":
        content, refusal = None, "No."
    elif asked.kind == "empty":
        content = "  \n"
    elif asked.kind == "identical":
        content = asked.text + "\n"
    elif asked.kind in ("length", "content_filter"):
        content, finish = content[: len(content) // 2], asked.kind
    elif asked.kind.startswith("says "):
        content = asked.kind[5:]
    tokens = {"prompt_tokens": 100 + len(asked.text) // 4, "completion_tokens": len(content or "") // 4}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": asked.body["model"],
        "choices": [
            {
                "index": 0,
                "finish_reason": finish,
                "message": {"role": "assistant", "content": content, "refusal": refusal},
            }
        ],
        "usage": {**tokens, "total_tokens": sum(tokens.values())},
    }


def faulty(share: float, kinds: tuple[str, ...] = FAULTS, seed: int = 0) -> Callable[[str, int], str]:
    """A plan by which that share of the answers is faulty, the same on every run."""

    def plan(text: str, nth: int) -> str:
        digest = hashlib.sha256(f"{seed} {nth} {text}".encode()).digest()
        if int.from_bytes(digest[:4], "big") >= share * 2**32:
            return "ok"
        return kinds[digest[4] % len(kinds)]

    return plan


def main() -> None:
    """Serves until it is killed, for measurements from another process; prints its address."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--faults", type=float, default=0.0)
    options = parser.parse_args()
    with ChatServer(plan=faulty(options.faults), latency=options.latency) as server:
        print(server.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
