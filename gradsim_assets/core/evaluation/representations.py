"""What a model makes of a sample: its last hidden states, averaged over the response."""

from collections.abc import Sequence

import numpy as np
import torch

from gradsim_assets.core.models.encoded_sample import IGNORED, EncodedSample
from gradsim_assets.core.models.loading import LoadedModel
from gradsim_assets.core.sample_gradients.model_state import ModelState, undisturbed


def representation_vectors(loaded: LoadedModel, samples: Sequence[EncodedSample]) -> np.ndarray:
    """The last layer's hidden states at the response tokens, averaged: float64 [samples, D], one sample at a time."""
    state, rows = ModelState(loaded.model), []
    with undisturbed(loaded.model), torch.no_grad():
        for sample in samples:
            state.restore()
            ids = torch.from_numpy(sample.input_ids).to(loaded.device)[None]
            found = loaded.model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states[-1][0]
            counted = torch.from_numpy(sample.labels != IGNORED).to(loaded.device)
            rows.append(found[counted].double().mean(dim=0).cpu().numpy())
    state.restore()
    return np.array(rows)
