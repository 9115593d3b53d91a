"""Other people's JavaScript in the page: bundles under gzip, which `make libraries` builds out of `libraries/package-lock.json`."""

import base64
import gzip
import hashlib
from pathlib import Path

_HERE = Path(__file__).parent

#: By name: plots (plotly.js), texts (Markdown, code, formulas, and what cleans their HTML), paper (PDF).
LIBRARIES = {
    "plots": "libraries/plots.min.js.gz",
    "texts": "libraries/texts.min.js.gz",
    "paper": "libraries/paper.min.js.gz",
}


def packed_library(name: str) -> str:
    """A bundle as the page holds it: base64 of its gzip."""
    return base64.b64encode((_HERE / LIBRARIES[name]).read_bytes()).decode()


def library_source(name: str) -> str:
    """The JavaScript of a bundle."""
    return gzip.decompress((_HERE / LIBRARIES[name]).read_bytes()).decode()


def script_hash(source: str) -> str:
    """How a Content-Security-Policy names a script that may run, and no other one."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
