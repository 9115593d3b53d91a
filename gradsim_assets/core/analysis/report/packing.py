"""Numbers and data in a page."""

import base64
import gzip
import json
from typing import Any

import numpy as np


def pack(values: np.ndarray) -> str:
    """Base64 of little-endian numbers, which the page reads as a typed array."""
    return base64.b64encode(values.astype(values.dtype.newbyteorder("<")).tobytes()).decode()


def packed_json(value: Any) -> str:
    """Base64 of JSON under gzip, which `packed.js` reads: nothing of it can end the script element that it stands in."""
    # No time stamp: the same data give the same page.
    return base64.b64encode(gzip.compress(json_bytes(value), compresslevel=6, mtime=0)).decode()


def json_bytes(value: Any) -> bytes:
    """JSON as browsers read it: lone surrogates, which texts out of JSON may have, are written as escapes."""
    document = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return document.encode("utf-8", "backslashreplace")
