"""The demo dataset: single-turn samples in LIMA's schema, each with a hand-written paraphrase."""

import hashlib
import json
from importlib.resources import files
from typing import Any

#: One JSON object a line: `id`, `topic`, `language`, `messages` and `paraphrased_messages` (lists of {role, content}).
SAMPLES = files("gradsim_assets.demo") / "samples.jsonl"


def _rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in SAMPLES.read_text(encoding="utf-8").splitlines()]


def load_originals() -> list[dict[str, Any]]:
    """The originals as rows {id, messages}, in the dataset's order."""
    return [{"id": row["id"], "messages": row["messages"]} for row in _rows()]


def load_paraphrases() -> list[dict[str, Any]]:
    """The hand-written paraphrases as rows {id, messages}: same ids, same order as the originals."""
    return [{"id": row["id"], "messages": row["paraphrased_messages"]} for row in _rows()]


def fingerprint() -> str:
    """SHA-256 (hex) of the parsed texts: line ends that a checkout may have changed do not count, nor what no model sees."""
    texts = [{name: row[name] for name in ("id", "messages", "paraphrased_messages")} for row in _rows()]
    canonical = json.dumps(texts, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()
