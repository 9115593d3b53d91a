"""The durable store: a folder of journals (JSON lines), one per process that ever asked.

A journal is only ever appended to by its own process, so processes and machines that share the folder (a network mount,
a copied or synchronised folder) never write into one another's files, and a kill can at worst cut off the last line.
Each line is one event of one request `(key, attempt)`:

- `sent`: about to be asked, with the most it can cost. It claims the request, and reserves that sum.
- `answer`: what came back, written at once and fsynced right after.
- `failed`: nothing came back; `billed` says whether it may have cost something all the same, `batch` which batch it was in.
- `batch`, `batch_done`: requests handed to the batch endpoint, and that its outcome has been taken in.

A process holds a lock on its journal as long as it lives, so a claim of a process that was killed is known to be void.
"""

import fcntl
import json
import os
import socket
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.room import room_in

#: One request: the key of its text and the number of the attempt (from 0).
Slot = tuple[str, int]


#: The `finish_reason` of a text that the service does not take at all; the code stands in `refusal`.
REJECTED = "rejected"


@dataclass(frozen=True)
class Answer:
    """One answer as it was received, envelope and all; `limit` is the most tokens that it was allowed, None if unknown."""

    text: str
    finish_reason: str
    refusal: str | None
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    model: str
    limit: int | None = None


@dataclass
class _Journal:
    """How far another journal has been read."""

    offset: int = 0


@dataclass(frozen=True)
class _Sent:
    """A claim's way of asking, and the sum it reserves."""

    campaign: str
    reserved_usd: float


@dataclass
class OpenBatch:
    """Requests handed to the batch endpoint whose outcome is not taken in yet; no id: it was killed while submitting."""

    token: str
    slots: frozenset[Slot]
    id: str | None
    reserved_usd: float
    campaign: str
    owner: Path


@dataclass
class _State:
    answers: dict[Slot, Answer] = field(default_factory=dict)
    # By owner as well: journals are not read in the order in which they were written.
    sent: dict[Slot, dict[Path, _Sent]] = field(default_factory=dict)
    spent: dict[str, float] = field(default_factory=dict)
    failed: Counter[Slot] = field(default_factory=Counter)
    batches: dict[str, OpenBatch] = field(default_factory=dict)
    batches_done: set[str] = field(default_factory=set)


class AnswerStore:
    """The store at one folder, opened by this process; a context manager.

    Raises:
        InputError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # The time in front sorts journals for the human eye; the rest makes the name unique among machines.
            stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
            self.path = self.folder / f"{stamp}-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - held open as long as the store
            fcntl.flock(self._file, fcntl.LOCK_EX)
            _sync_folder(self.folder)
        except OSError as error:
            raise InputError(
                f"the paraphrase store {self.folder} cannot be written ({error.strerror}); free the folder or choose another."
            ) from error
        self._journals: dict[Path, _Journal] = {}
        self._state = _State()
        self.refresh()

    def __enter__(self) -> "AnswerStore":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def close(self) -> None:
        """Gives up this process's claims; a journal without a line is removed."""
        if not self._file.closed:
            if self._file.tell() == 0 and os.path.getsize(self.path) == 0:
                self.path.unlink(missing_ok=True)
            self._file.close()

    # Reading

    def answer(self, slot: Slot) -> Answer | None:
        """The stored answer of one attempt."""
        return self._state.answers.get(slot)

    def attempts(self, key: str) -> list[Answer]:
        """The stored answers of a text, from the first attempt on."""
        found: list[Answer] = []
        while (answer := self._state.answers.get((key, len(found)))) is not None:
            found.append(answer)
        return found

    @property
    def batches(self) -> list[OpenBatch]:
        """Batches whose outcome is not taken in yet."""
        return list(self._state.batches.values())

    def committed_usd(self, campaign: str) -> float:
        """USD spent by all who share the store, and the most that what is under way can cost.

        A request that was lost in a kill or timed out may have been billed: it counts at its most.
        """
        claims = (sent for owners in self._state.sent.values() for sent in owners.values())
        reserved = sum(sent.reserved_usd for sent in claims if sent.campaign == campaign)
        batched = sum(batch.reserved_usd for batch in self._state.batches.values() if batch.campaign == campaign)
        return self._state.spent.get(campaign, 0.0) + reserved + batched

    def refresh(self) -> None:
        """Takes in what this and other processes have written since."""
        for path in sorted(self.folder.glob("*.jsonl")):
            journal = self._journals.setdefault(path, _Journal())
            try:
                if path.stat().st_size <= journal.offset:
                    continue
                with open(path, "rb") as file:
                    file.seek(journal.offset)
                    content = file.read()
            except FileNotFoundError:
                continue  # an empty journal that its process has just removed
            whole = content[: content.rfind(b"\n") + 1]  # a line that is being written, or was cut off, is left alone
            journal.offset += len(whole)
            for line in whole.splitlines():
                try:
                    self._apply(json.loads(line), path)
                except (ValueError, KeyError, TypeError):
                    continue  # damage by foreign hands costs this one line

    def _apply(self, event: dict[str, Any], owner: Path) -> None:
        kind = event["event"]
        if kind in ("sent", "answer", "failed"):
            self._apply_request(kind, event, owner)
        elif kind == "batch" and event["token"] not in self._state.batches_done:
            slots = frozenset((key, attempt) for key, attempt in event["slots"])
            known = self._state.batches.get(event["token"])
            batch_id = event["id"] or (known.id if known else None)
            self._state.batches[event["token"]] = OpenBatch(
                event["token"], slots, batch_id, event["reserved_usd"], event["campaign"], owner
            )
        elif kind == "batch_done":
            self._state.batches_done.add(event["token"])
            self._state.batches.pop(event["token"], None)

    def _apply_request(self, kind: str, event: dict[str, Any], owner: Path) -> None:
        slot = (event["key"], int(event["attempt"]))
        campaign = event["campaign"]
        owners = self._state.sent.setdefault(slot, {})
        sent = owners.pop(owner, None)
        if kind == "sent":
            owners[owner] = _Sent(campaign, event["reserved_usd"])
            return
        if not owners:
            del self._state.sent[slot]
        if kind == "failed":
            self._state.failed[slot] += bool(event.get("batch"))
            if event["billed"] and sent is not None:
                self._spend(campaign, sent.reserved_usd)
            return
        answer = Answer(**event["answer"])
        self._spend(campaign, answer.cost_usd)
        self._state.answers.setdefault(slot, answer)

    def _spend(self, campaign: str, usd: float) -> None:
        self._state.spent[campaign] = self._state.spent.get(campaign, 0.0) + usd

    def failures(self, slot: Slot) -> int:
        """How many batches have brought nothing for this very request."""
        return self._state.failed[slot]

    def claimed_elsewhere(self, slot: Slot) -> bool:
        """Whether a living process, or a batch, is asking for this very request."""
        others = (owner for owner in self._state.sent.get(slot, ()) if owner != self.path)
        return any(_alive(owner) for owner in others) or self.in_batch(slot)

    def in_batch(self, slot: Slot) -> bool:
        """Whether a batch that is not taken in yet asks for this very request."""
        return any(slot in batch.slots for batch in self._state.batches.values())

    def abandoned(self, batch: OpenBatch) -> bool:
        """Whether whoever was submitting the batch has gone (or was this process, which then knows)."""
        return batch.owner == self.path or not _alive(batch.owner)

    # Writing

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Alone among all that share the store, and up to date: for looking and then claiming."""
        with open(self.folder / "lock", "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.refresh()
            yield

    def write(self, events: Iterable[dict[str, Any]], durable: bool) -> None:
        """Appends events to this process's journal; on return they survive a kill, and if `durable` a power cut.

        Raises:
            InputError: there is no room for them; none of them is there then.
        """
        now = round(time.time(), 3)
        lines = b"".join(_line({"time": now, **event}) for event in events)
        view, before = memoryview(lines), os.path.getsize(self.path)
        try:
            with room_in(self.folder):
                while view:
                    view = view[os.write(self._file.fileno(), view) :]
        except BaseException:
            os.ftruncate(self._file.fileno(), before)  # nobody else writes here: what comes next begins a line
            raise
        if durable:
            self.sync()

    def sync(self) -> None:
        """Waits until all that was written is on disk."""
        with room_in(self.folder):
            os.fsync(self._file.fileno())


def _line(event: dict[str, Any]) -> bytes:
    try:
        return json.dumps(event, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half a surrogate pair can be written as an escape alone
        return json.dumps(event).encode() + b"\n"


def _alive(journal: Path) -> bool:
    try:
        with open(journal, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _sync_folder(folder: Path) -> None:
    """Makes the new journal's name as durable as its lines."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
