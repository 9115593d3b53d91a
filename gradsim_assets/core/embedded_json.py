"""Data in a page's script."""

import json
from typing import Any


def embedded_json(value: Any) -> str:
    """JSON that may stand inside a script element: only "<" could end the element, and JSON may write it as an escape."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
