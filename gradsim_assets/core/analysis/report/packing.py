"""Numbers in a page."""

import base64

import numpy as np


def pack(values: np.ndarray) -> str:
    """Base64 of little-endian numbers, which the page reads as a typed array."""
    return base64.b64encode(values.astype(values.dtype.newbyteorder("<")).tobytes()).decode()
