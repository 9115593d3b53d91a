"""The model made again without some of its originals, and what it then thinks of every sample: each set is trained on once.

What was measured lies in files of their own, so that a killed evaluation goes on, a set that two methods ask for is trained
on once, and several processes share the work.
"""

import copy
import hashlib
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from gradsim_assets.core.evaluation.one_step import precise_loss
from gradsim_assets.core.files import write_whole
from gradsim_assets.core.gradients.engine.request import ORIGINAL, Losses
from gradsim_assets.core.locks import try_lock
from gradsim_assets.core.models.encoded_sample import EncodedSample
from gradsim_assets.core.models.loading import blank_model, load_model, untrained_adapter
from gradsim_assets.core.models.quantisation import Quantize
from gradsim_assets.core.models.revisions import Part, Revision
from gradsim_assets.core.sample_gradients.reference import PlainAutograd
from gradsim_assets.core.training.loop import reproducible, train
from gradsim_assets.core.training.recipe import TrainingRecipe

#: The ids of the originals that are left out.
LeftOut = frozenset[str]

#: Called with (sets done, sets in all).
Progress = Callable[[int, int], None]

#: Models of so many parameters are trained several at a time on a CPU: one thread each, which is all that they can use.
SMALL = 10**7

_LOOK_AGAIN_SECONDS = 0.5


@dataclass(frozen=True)
class Start:
    """What is known of the model under study, and of the one that it was made from; None: random weights.

    An adapter is made from its own base, whatever is said here, quantised as `quantize` says. Both are the `part` of what they are that is studied.
    """

    model_id: str
    revision: Revision
    base_id: str = ""
    base: Revision | None = None
    quantize: Quantize = ""
    part: Part = ""


@dataclass(frozen=True)
class Training:
    """All that the losses after a retraining depend on, but for the set that is left out."""

    recipe: TrainingRecipe
    start: Start
    originals: Sequence[EncodedSample]
    #: The originals after the prompts of their paraphrases, in the same order; empty where the recipe does not ask for them.
    reworded: Sequence[EncodedSample | None]
    #: By setting.
    variants: Mapping[str, Sequence[EncodedSample]]
    device: str = "cpu"

    @property
    def ids(self) -> list[str]:
        """Of the originals, in order."""
        return [sample.id for sample in self.originals]

    def version(self, code_version: str) -> str:
        """A hash (16 hex digits) of everything here and of the code."""
        libraries = f"torch {torch.__version__} transformers {version('transformers')}"
        stated = f"{code_version} {libraries} {self.recipe.model_dump_json()} {asdict(self.start)}"
        digest = hashlib.sha256(stated.encode())
        for name, samples in {ORIGINAL: self.originals, "reworded": self.reworded, **self.variants}.items():
            for sample in samples:
                digest.update(f"\0{name} {sample.id if sample else ''}\0".encode())
                if sample:
                    digest.update(sample.input_ids.tobytes() + sample.labels.tobytes())
        return digest.hexdigest()[:16]

    def initial_model(self) -> Any:
        """The model before training, in float32 on the device. Runs within `reproducible`."""
        if self.start.revision.base is not None:
            start = self.start
            made = untrained_adapter(start.model_id, start.revision, self.device, start.quantize, start.part)
            return made.to(self.device)
        if self.start.base is not None:
            model, _ = load_model(self.start.base_id, self.start.base, "float32", self.device, part=self.start.part)
            return copy.deepcopy(model)  # the loaded one is shared
        return blank_model(self.start.model_id, self.start.revision, "float32", part=self.start.part).to(self.device)

    def model(self, left_out: LeftOut, progress: Progress = lambda done, total: None) -> Any:
        """The model made without some originals, in evaluation mode: the same bits for the same call on one CPU."""
        with reproducible(self.recipe.seed, self.device):
            model = self.initial_model()
            train(model, self.originals, self.recipe, reworded=self.reworded, left_out=left_out, progress=progress)
        return model

    def losses(self, left_out: LeftOut, progress: Progress = lambda done, total: None) -> Losses:
        """The loss of every original and variant under the model made without some originals."""
        model = self.model(left_out, progress)
        return losses_under(model, {ORIGINAL: self.originals, **self.variants}, self.device)


def losses_under(model: Any, samples: Mapping[str, Sequence[EncodedSample]], device: str) -> Losses:
    """The loss of every sample by a model, in nats per response token: one sample at a time, its mean in float64."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    plain = PlainAutograd(model, parameters, device)
    with reproducible(0, device):
        return {name: {one.id: precise_loss(plain, one) for one in found} for name, found in samples.items()}


class Retrainings:
    """Losses after retrainings, by the set that was left out; they lie under `folder`, which is never cleared.

    Sets that others train on at the moment come last, when these are done with them. `at_once` is how many are trained on at
    a time, each in a process of its own; what comes out does not depend on it.
    """

    def __init__(self, training: Training, folder: Path, code_version: str, at_once: int = 1) -> None:
        self.training, self.at_once = training, at_once
        self.folder = folder / training.version(code_version)

    def get(self, left_out: LeftOut) -> Losses | None:
        """What was measured without these originals; None where nobody has yet."""
        path = self._path(left_out)
        return json.loads(path.read_text())["losses"] if path.exists() else None

    def losses(self, sets: Sequence[LeftOut], progress: Progress = lambda done, total: None) -> dict[LeftOut, Losses]:
        """The losses after leaving out each of the sets, trained on where nobody has yet."""
        wanted = list(dict.fromkeys(sets))
        with self._helpers([one for one in wanted if self.get(one) is None]):
            for _ in self.work(wanted, progress):
                pass
        return {one: self._read(one) for one in wanted}

    def work(
        self, sets: Sequence[LeftOut], progress: Progress, step: Progress = lambda done, total: None
    ) -> Iterator[LeftOut]:
        """Trains on all sets that nobody has finished and nobody works on, until all are finished."""
        left = list(sets)
        while left:
            progress(len(sets) - len(left), len(sets))
            if (one := self._take(left, step)) is not None:
                left.remove(one)
                yield one
            else:
                time.sleep(_LOOK_AGAIN_SECONDS)
        progress(len(sets), len(sets))

    def _take(self, sets: Sequence[LeftOut], step: Progress) -> LeftOut | None:
        """A set that is finished now; None where others work on all of them."""
        for one in sets:
            if self._path(one).exists():
                return one
            lock = try_lock(self._path(one).with_suffix(".lock"))
            if lock is None:
                continue
            with lock:
                if not self._path(one).exists():
                    found = self.training.losses(one, step)
                    write_whole(self._path(one), json.dumps({"left_out": sorted(one), "losses": found}))
            return one
        return None

    def _read(self, left_out: LeftOut) -> Losses:
        found = self.get(left_out)
        assert found is not None  # all are finished
        return found

    def _path(self, left_out: LeftOut) -> Path:
        name = hashlib.sha256("\x1f".join(sorted(left_out)).encode()).hexdigest()[:24]
        return self.folder / f"{name}.json"

    @contextmanager
    def _helpers(self, sets: Sequence[LeftOut]) -> Iterator[None]:
        """Other processes that work on the same sets meanwhile; they end with this one, however it ends."""
        context = multiprocessing.get_context("spawn")
        count = min(self.at_once, len(sets)) - 1
        # From the other end, so that they meet as late as can be.
        helpers = [context.Process(target=_help, args=(self, list(sets)[::-1]), daemon=True) for _ in range(count)]
        for helper in helpers:
            helper.start()
        try:
            yield
        finally:
            for helper in helpers:
                helper.terminate()
                helper.join()


def _help(retrainings: Retrainings, sets: Sequence[LeftOut]) -> None:
    """A helper's work, which ends when its parent is gone: nobody would wait for it."""
    parent = multiprocessing.parent_process()

    def look(done: int, total: int) -> None:
        if parent is None or not parent.is_alive():
            raise SystemExit

    for _ in retrainings.work(sets, look, look):
        pass
