"""Held gradients of originals in a file, so that the next process reads them where they would take a pass."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from gradsim_assets.core.errors import InputError, first_line
from gradsim_assets.core.files import whole_file
from gradsim_assets.core.models.encoded_sample import EncodedSample
from gradsim_assets.core.sample_gradients.components import trainable_components
from gradsim_assets.core.sample_gradients.reference import PlainAutograd
from gradsim_assets.core.sample_gradients.several_devices import gathered
from gradsim_assets.core.tracing.held_originals import HeldOriginals

#: How far a component's gradient that is computed again may be from the one in the file, in units of its own length: rounding in
#: float32. What is nothing but rounding (the bias of keys, say) may be as far as this share of the whole gradient's length.
_TOLERANCE, _NOISE = 1e-5, 1e-7

_SUFFIX = ".safetensors"

#: Samples that are computed again.
_CHECKED = 2


class KeptGradients:
    """The gradients of the originals of one model under one key, which stands for all that they follow from."""

    def __init__(self, folder: Path, key: str, log: Callable[[str], None] = lambda said: None) -> None:
        self._path, self._log = folder / f"{key}{_SUFFIX}", log

    def read(self, model: torch.nn.Module, samples: Sequence[EncodedSample], device: str) -> HeldOriginals | None:
        """The gradients of these samples, in their order; None where there are none of this key, or not those of the model.

        The shortest samples are computed again by plain autograd, and a file that says otherwise is not believed.
        """
        named = trainable_components(model)
        names = [name for name, _ in named]
        try:
            with safe_open(self._path, framework="pt", device=device) as file:
                rows = [file.get_tensor(name).to(parameter.device) for name, parameter in named]
        except (OSError, SafetensorError):
            return None
        held = HeldOriginals(samples, names, rows)
        if all(len(row) == len(samples) for row in rows) and self._is_right(held, model, samples, device):
            return held
        self._log(f"{self._path} does not hold the gradients of these originals; they are computed again.")
        return None

    def write(self, held: HeldOriginals, model: torch.nn.Module) -> None:
        """Keeps gradients of a model in float32, in the place of those of any other key; narrower ones cannot be checked by
        computing some again, and are not kept."""
        if any(parameter.dtype != torch.float32 for _, parameter in trainable_components(model)):
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            for other in self._path.parent.glob(f"*{_SUFFIX}"):
                other.unlink(missing_ok=True)
            with whole_file(self._path) as unfinished:
                save_file({name: row.cpu() for name, row in zip(held.names, held.rows, strict=True)}, unfinished)
        except (OSError, InputError, SafetensorError) as error:  # who traces has them all the same
            self._log(f"gradients of the originals are not kept for the next process: {first_line(error)}")

    def _is_right(
        self, held: HeldOriginals, model: torch.nn.Module, samples: Sequence[EncodedSample], device: str
    ) -> bool:
        named = trainable_components(model)
        plain = PlainAutograd(model, [parameter for _, parameter in named], device)
        for sample in sorted(samples, key=lambda one: (one.length, one.id))[:_CHECKED]:
            own, kept = plain.gradient(sample, range(len(named))), held.gradient(sample.id)
            length = float(gathered([one.norm() for one in own], 0).norm())
            for one, other in zip(own, kept, strict=True):
                allowed = max(_TOLERANCE * float(one.norm()), _NOISE * length)
                if one.shape != other.shape or not float((one - other).norm()) <= allowed:  # NaN is no gradient either
                    return False
        return True
