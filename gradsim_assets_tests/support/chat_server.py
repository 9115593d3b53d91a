"""A real HTTP server on loopback that speaks the chat-completions and batch protocols, and fails on a schedule.

It is written on bare asyncio streams, since half of its work is to break the protocol: to cut answers, to drop
connections, to send what is no JSON.

A kind of answer is a word or a word with an argument: `says TEXT` answers so, `wrap TEXT` puts the rewriting in place of {} in
the text, `ends REASON` is whole and ends so, `reply STATUS BODY` is that response; the others are in `ACCENTS` and `_chat_answer`.
"""

import argparse
import asyncio
import gzip
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

#: What a fault rate of so many per cent is made of.
FAULTS = ("429", "500", "503", "drop", "cut", "malformed", "html", "refusal", "empty", "length", "slow")

#: How an answer is sent, where not as JSON that says it is JSON: (content type, further header, encoding of the bytes).
TRANSPORTS: dict[str, tuple[str, str, Callable[[bytes], bytes]]] = {
    "gzip": ("application/json", "Content-Encoding: gzip\r\n", gzip.compress),
    "no gzip": ("application/json", "Content-Encoding: gzip\r\n", lambda payload: payload),
    "plain text": ("text/plain; charset=iso-8859-1", "", lambda payload: payload),
    "no type": ("application/octet-stream", "", lambda payload: payload),
    "bom": ("application/json", "", lambda payload: b"\xef\xbb\xbf" + payload),
    "blank lines": ("application/json", "", lambda payload: b"\n\n\n" + payload),
    "stream": ("text/event-stream", "", lambda payload: streamed(payload)),
    "cut stream": ("text/event-stream", "", lambda payload: streamed(payload)[: -len(payload) // 2]),
}

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
    forbidden: tuple[str, ...] = ()  # fields that are refused by a 422 as FastAPI words it
    longest: int | None = None  # characters of the longest text that is taken

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
        if (refused := self._refused(body)) is not None:
            return await self._send(writer, *refused)
        asked = self._note(body)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await asyncio.sleep(self.latency + (self.slow if asked.kind == "slow" else 0))
            return await self._chat_answer(asked, writer)
        finally:
            self._at_once -= 1

    def _refused(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        """Status and body for a request that is not taken."""
        if stray := [name for name in self.forbidden if name in body]:
            told = {"type": "extra_forbidden", "loc": ["body", stray[0]], "msg": "Extra inputs are not permitted"}
            return 422, {"detail": [told]}
        text = body["messages"][-1]["content"]
        if self.longest is not None and len(text) > self.longest:
            told = f"Input validation error: `inputs` must have less than 1024 tokens. Given: {len(text)}"
            return 422, {"error": told, "error_type": "validation"}
        return None

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
        if kind.startswith("reply "):
            _, status, payload = kind.split(" ", 2)
            return await self._send(writer, int(status), payload.encode())
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
        if kind in TRANSPORTS:
            media, header, encode = TRANSPORTS[kind]
            asked.completed = True
            # Not escaped, so that a wrong charset would show.
            whole = json.dumps(completion(asked), ensure_ascii=False).encode()
            return await self._send(writer, 200, encode(whole), header, kind=media)
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
            found, failed = self._batch_lines(entry["custom_id"], entry["body"], batch)
            answers += found
            errors += failed
        if batch["status"] == "in_progress":
            batch["status"] = "completed"
        for name, lines in (("output_file_id", answers), ("error_file_id", errors)):
            if lines:
                batch[name] = f"file-{len(self.files)}"
                self.files[batch[name]] = "".join(lines[::-1]).encode()

    def _batch_lines(self, name: str, body: dict[str, Any], batch: dict[str, Any]) -> tuple[list[str], list[str]]:
        """Lines of the output file and of the error file for one request of a batch."""

        def line(status: int, body: Any, name: str = name) -> str:
            response = {"status_code": status, "body": body}
            return json.dumps({"custom_id": name, "response": response, "error": None}) + "\n"

        if (refused := self._refused(body)) is not None:
            return [], [line(*refused)]
        asked = self._note(body)
        kind = asked.kind
        if kind == "expired":  # the batch ran out of its 24 hours before this one
            batch["status"] = "expired"
            told = {"code": "batch_expired", "message": "This request could not be executed in time."}
            return [], [json.dumps({"custom_id": name, "response": None, "error": told}) + "\n"]
        if kind == "lost":
            return [], []
        if kind.isdigit():
            return [], [line(int(kind), {"error": {"message": "No.", "code": "e"}})]
        if kind.startswith("reply "):
            _, status, payload = kind.split(" ", 2)
            return [], [line(int(status), json.loads(payload))]
        asked.completed = True
        whole = line(200, completion(asked))
        if kind == "twice":
            other = Asked("The same line once more.", 0, body, "ok")
            return [line(200, completion(other)), whole], []  # lines are written from last to first
        if kind == "torn":
            return [whole[: len(whole) // 2] + "\n"], []
        return [line(200, completion(asked), "foreign-0"), whole] if kind == "among others" else [whole], []


def rewritten(text: str, seed: int | None) -> str:
    """What the server makes of a text: sound in every respect, and different for every seed."""
    words = text.split(" ")
    middle = len(words) // 2
    return " ".join([*words[:middle], f"(in short, {seed})", *words[middle:]])


#: Messages and usage of answers as servers with an accent give them; {} is the rewriting.
ACCENTS: dict[str, dict[str, Any]] = {
    "refusal": {"content": REFUSAL},
    "refusal field": {"content": None, "refusal": "No."},
    "refusal part": {"content": [{"type": "refusal", "refusal": "No."}]},
    "empty": {"content": "  \n"},
    "null": {"content": None},
    "parts": {"content": [{"type": "text", "text": "{}"}]},
    "two parts": {"content": ["{}", {"type": "output_text", "text": ""}]},
    "one part": {"content": {"type": "text", "text": {"value": "{}", "annotations": []}}},
    "thinking part": {"content": [{"type": "thinking", "thinking": [{"text": "Hm."}]}, {"type": "text", "text": "{}"}]},
    "reasoning": {"content": None, "reasoning_content": "The user wants", "finish_reason": "length"},
    "reasoning inside": {"content": "<think>The user wants", "finish_reason": "length"},
    "reasoning beside": {"content": "{}", "reasoning_content": "The user wants another text."},
    "reasoning alone": {"content": "<think>The user wants another text.</think>"},
    "tool call": {"content": None, "tool_calls": [{"type": "function"}], "finish_reason": "tool_calls"},
    "usage null": {"content": "{}", "usage": {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None}},
    "usage none": {"content": "{}", "usage": None},
    "usage words": {"content": "{}", "usage": {"prompt_tokens": "many", "completion_tokens": float("nan")}},
    "surrogate": {"content": "{} \ud83d"},
    "nul": {"content": "{} \0"},
}


def completion(asked: Asked) -> dict[str, Any]:
    """The body of an answer of the given kind."""
    kind, whole = asked.kind, rewritten(asked.text, asked.seed)
    parts = dict(ACCENTS.get(kind, {"content": "{}"}))
    if kind == "identical":
        parts["content"] = asked.text + "\n"
    elif kind in ("length", "content_filter"):
        parts |= {"content": whole[: len(whole) // 2], "finish_reason": kind}
    elif kind.startswith(("says ", "wrap ")):
        parts["content"] = kind[5:]
    elif kind.startswith("ends "):
        parts["finish_reason"] = json.loads(kind[5:])
    if not kind.startswith("says "):
        parts["content"] = _filled(parts["content"], whole)
    content = parts["content"]
    tokens = {
        "prompt_tokens": 100 + len(asked.text) // 4,
        "completion_tokens": len(content) // 4 if isinstance(content, str) else 10,
    }
    choice = {
        "index": 0,
        "finish_reason": parts.pop("finish_reason", "stop"),
        "message": {"role": "assistant", "refusal": None, **parts},
    }
    document = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": asked.body["model"],
        "choices": [choice],
        "usage": parts.get("usage", {**tokens, "total_tokens": sum(tokens.values())}),
    }
    if kind == "no message":
        document["choices"] = [{"index": 0, "finish_reason": "content_filter"}]
    if kind == "two choices":
        other = {"role": "assistant", "content": "A second choice that nobody asked for."}
        document["choices"] = [{"index": 1, "finish_reason": "stop", "message": other}, choice]
    return document


def _filled(content: Any, whole: str) -> Any:
    """The content with the rewriting in place of {}, whatever it is wrapped in."""
    if isinstance(content, str):
        return content.replace("{}", whole)
    if isinstance(content, list):
        return [_filled(part, whole) for part in content]
    if isinstance(content, dict):
        return {name: _filled(part, whole) for name, part in content.items()}
    return content


def streamed(payload: bytes) -> bytes:
    """A completion as the server-sent events of a stream, its content in pieces that split words and characters' escapes."""
    document = json.loads(payload)
    choice, usage = document["choices"][0], document["usage"]
    text = choice["message"]["content"]
    pieces = [text[i : i + 7] for i in range(0, len(text), 7)]
    deltas = [{"role": "assistant"}, *({"content": piece} for piece in pieces)]
    frame = {"id": "x", "object": "chat.completion.chunk", "model": document["model"]}
    events = [{**frame, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    events.append({**frame, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    events.append({**frame, "choices": [], "usage": usage})
    lines = [": keep-alive", *(f"data: {json.dumps(event, ensure_ascii=False)}" for event in events), "data: [DONE]"]
    return "\n\n".join(lines).encode() + b"\n\n"


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
