"""Traces in folders: each is there whole or not at all, and a text that was traced before is found again."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from gradsim_assets.core.candidates.candidate_source import ALL
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.files import whole_folder
from gradsim_assets.core.tables.schemas import KEPT_TRACES, TRACE_TOKENS, TRACED, TRACES

#: What a folder holds.
DOCUMENT, ORIGINALS, TOKENS, PAGE = "trace.json", f"{TRACES.name}.parquet", f"{TRACE_TOKENS.name}.parquet", "index.html"


@dataclass(frozen=True)
class StoredTrace:
    """One text and what was found of it.

    Attributes:
        id: the name of its folder, the same for the same text, method, model and originals.
        prompt: what the model was asked.
        answer: what it said.
        generated: whether the answer is the model's own.
        method: what originals are ranked by.
        provenance: the model's id and revision, the originals' fingerprint, versions and the time, all as text.
        originals: the table `traces`, best first.
        tokens: the table `trace_tokens` of the best originals.
    """

    id: str
    prompt: str
    answer: str
    generated: bool
    method: str
    provenance: Mapping[str, str]
    originals: pl.DataFrame
    tokens: pl.DataFrame

    @property
    def document(self) -> dict[str, Any]:
        """All but the tables, as JSON holds it."""
        named = {name: getattr(self, name) for name in ("id", "prompt", "answer", "generated", "method")}
        return {**named, "provenance": dict(self.provenance)}

    def save(self, root: Path, page: str) -> Path:
        """Writes the trace with its page under `root`, unless one of its id is there, and returns its folder."""
        folder = root / self.id
        root.mkdir(parents=True, exist_ok=True)
        with whole_folder(folder) as unfinished:
            (unfinished / DOCUMENT).write_text(
                json.dumps(self.document, ensure_ascii=False, indent=1), encoding="utf-8"
            )
            TRACES.enforce(self.originals).write_parquet(unfinished / ORIGINALS)
            TRACE_TOKENS.enforce(self.tokens).write_parquet(unfinished / TOKENS)
            (unfinished / PAGE).write_text(page, encoding="utf-8")
        return folder

    @classmethod
    def load(cls, folder: Path) -> "StoredTrace":
        """The trace in a folder.

        Raises:
            InputError: the folder holds none, or its files are damaged.
        """
        try:
            document: dict[str, Any] = json.loads((folder / DOCUMENT).read_text(encoding="utf-8"))
            return cls(
                **document,
                originals=TRACES.enforce(pl.read_parquet(folder / ORIGINALS)),
                tokens=TRACE_TOKENS.enforce(pl.read_parquet(folder / TOKENS)),
            )
        except (OSError, ValueError, TypeError, pl.exceptions.PolarsError) as error:
            raise InputError(
                f"{folder} holds no whole trace ({str(error).splitlines()[0]}); remove the folder and trace the text again."
            ) from error


def head_frame(traces: Sequence[StoredTrace]) -> pl.DataFrame:
    """What each trace is of, and the original that it goes back to first: the columns of `KEPT_TRACES`, a row a trace."""
    return pl.concat([KEPT_TRACES.empty(), *(_kept(one).head(1) for one in traces)])


def traces_frame(folders: Sequence[Path]) -> pl.DataFrame:
    """All texts in these folders with their originals, in their order: the table `KEPT_TRACES`; raises as `StoredTrace.load`."""
    return pl.concat([KEPT_TRACES.empty(), *(_kept(StoredTrace.load(folder)) for folder in folders)])


def _kept(trace: StoredTrace) -> pl.DataFrame:
    document = {"against": ALL, **trace.provenance, **trace.document}
    return KEPT_TRACES.enforce(
        trace.originals.select(*(pl.lit(document.get(name)).alias(name) for name in TRACED), pl.all())
    )


def ids_digest(folders: Sequence[Path]) -> str:
    """A hash of which traces there are; 16 hex digits."""
    return hashlib.sha256(" ".join(sorted(folder.name for folder in folders)).encode()).hexdigest()[:16]


def traces_in(root: Path) -> list[Path]:
    """The folders of all traces, newest first."""
    found = [folder for folder in root.glob("[!.]*") if (folder / DOCUMENT).is_file()]  # not what a kill has left
    return sorted(found, key=lambda folder: (folder / DOCUMENT).stat().st_mtime_ns, reverse=True)
