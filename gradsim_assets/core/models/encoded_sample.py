"""A sample as a model sees it; numpy is all that this module needs."""

from dataclasses import dataclass

import numpy as np

#: The label that Hugging Face losses leave out.
IGNORED = -100


@dataclass(frozen=True)
class EncodedSample:
    """One sample of T tokens: its token ids, and the labels that its loss is defined on."""

    id: str
    #: int64 [T]
    input_ids: np.ndarray
    #: int64 [T]: the token itself where the loss counts it, IGNORED elsewhere (on the prompt).
    labels: np.ndarray

    @property
    def length(self) -> int:
        """Number of tokens T."""
        return len(self.input_ids)
