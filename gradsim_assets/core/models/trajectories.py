"""Checkpoints of one training run as models of their own: `RUN@checkpoint-40` is the model of RUN at step 40."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.models.revisions import checkpoint_id, is_folder, model_folders, names_on_hub


@dataclass(frozen=True)
class Checkpoint:
    """The model of a run at a step; `name` is that of its folder in the run's, or of its branch or tag on the hub."""

    run: str
    name: str
    step: int

    @property
    def model_id(self) -> str:
        """The id by which it is registered."""
        return checkpoint_id(self.run, self.name)


def checkpoint_of(model_id: str, patterns: Mapping[str, str]) -> Checkpoint | None:
    """The checkpoint that a model's id stands for, with the patterns of the names of checkpoints by run; None for other models."""
    run, _, name = model_id.rpartition("@")
    step = step_of(name, patterns[run]) if run in patterns else None
    return None if step is None else Checkpoint(run, name, step)


def step_of(name: str, pattern: str) -> int | None:
    """The step of a checkpoint: the number that stands where the pattern has its first `*`; None where there is none, as in
    `checkpoint-best`, or the pattern does not fit.
    """
    before, star, _ = pattern.partition("*")
    if not star or not fnmatchcase(name, pattern):
        return None
    place = next(place for place in range(len(name) + 1) if fnmatchcase(name[:place], before))
    number = re.match(r"\d+", name[place:])
    return int(number[0]) if number else None


def checkpoints(run: str, pattern: str) -> list[Checkpoint]:
    """The checkpoints of a run that there are now, in the order of their steps.

    Args:
        run: the folder of a training run, or the id of a model on the hub, whose branches and tags are looked at.
        pattern: of their names, such as `checkpoint-*`.

    Raises:
        InputError: there is no such run, none of its checkpoints fits the pattern, or two of them have the same step.
        ServiceError: the hub does not answer.
    """
    names = model_folders(run, pattern) if is_folder(run) else names_on_hub(run)
    return _ordered(run, pattern, names)


def _ordered(run: str, pattern: str, names: Iterable[str]) -> list[Checkpoint]:
    steps: dict[int, str] = {}
    for name in sorted(set(names)):
        step = step_of(name, pattern)
        if step is None:
            continue
        if step in steps:
            raise InputError(
                f'{run}: {steps[step]} and {name} are both of step {step}; let checkpoints = "{pattern}" fit one of them alone.'
            )
        steps[step] = name
    if not steps:
        place = "folder of a model in it" if is_folder(run) else "branch or tag"
        raise InputError(
            f'{run} has no checkpoints: no {place} has a name with a step that fits checkpoints = "{pattern}" under [[models]].'
        )
    return [Checkpoint(run, steps[step], step) for step in sorted(steps)]
