"""Curvature of a model over its originals, group by group of components and resumable: `adam` and `ekfac`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from gradsim_assets.core.curvature import factor_files
from gradsim_assets.core.curvature.component_curvature import Bases, ComponentCurvature, bases_of
from gradsim_assets.core.curvature.statistics import BasesByComponent, Covariances, SecondMoments
from gradsim_assets.core.curvature.sweep import Progress, Sweep
from gradsim_assets.core.gradients.engine.request import PassOptions, PassRequest
from gradsim_assets.core.gradients.engine.scratch import fingerprint
from gradsim_assets.core.models.encoded_sample import EncodedSample
from gradsim_assets.core.sample_gradients.preconditioning import ADAM, EKFAC

#: Whose labels gradients are taken of: the model's own, drawn from what it predicts at each place, or those that are given.
Fisher = Literal["sampled", "empirical"]

#: The share of the memory that sums of a group of components may take.
GROUP_SHARE = 1 / 2

#: Bytes that a number of a sum takes: itself in float64, and what a batch adds to it.
SUM_BYTES = 12


@dataclass(frozen=True)
class CurvatureReport:
    """How curvature was computed: for the table's metadata and the log."""

    #: In the order of the model.
    files: list[Path]
    #: Originals, and how often a gradient of one was taken.
    samples: int
    gradients_computed: int
    groups: int
    #: Groups that an earlier try had finished.
    groups_restored: int
    plan: str
    #: On what hooks were verified.
    verified: str
    #: What turned out otherwise than planned, a sentence each.
    notes: list[str] = field(default_factory=list)


def compute_curvature(
    model: torch.nn.Module,
    originals: Sequence[EncodedSample],
    kind: str,
    fisher: Fisher,
    folder: Path,
    options: PassOptions,
    progress: Progress,
    log: Callable[[str], None],
) -> CurvatureReport:
    """Curvature of every component, in files under `folder`, each of a group of components as large as memory allows.

    A killed computation goes on behind its last finished group. `adam` takes the labels that are given, as training does.

    Raises:
        InputError: there are no originals, or the device runs out of memory with one sample at a time.
        ArithmeticError: gradients are wrong in any way that they are taken.
    """
    named = fingerprint(model, PassRequest(list(originals), {}, {}), options, {kind: "" if kind == ADAM else fisher})
    work = folder / named
    work.mkdir(parents=True, exist_ok=True)
    notes: list[str] = []

    def note(said: str) -> None:
        notes.append(said)
        log(said)

    sweep = Sweep(model, originals, options, progress, note)
    log(sweep.verified)
    groups = list(_groups(sweep, kind))
    plan = _describe(sweep, kind, groups)
    log(plan)
    files = [work / f"group_{number:04d}.safetensors" for number in range(len(groups))]
    restored = gradients = 0
    for group, path in zip(groups, files, strict=True):
        if path.exists():
            restored += 1
            continue
        computed, passes = _compute(sweep, kind, fisher, group, path.with_suffix(".bases.safetensors"))
        gradients += passes * len(originals)
        factor_files.save(path, computed)
        path.with_suffix(".bases.safetensors").unlink(missing_ok=True)
    return CurvatureReport(files, len(originals), gradients, len(groups), restored, plan, sweep.verified, notes)


def _groups(sweep: Sweep, kind: str) -> Iterator[list[int]]:
    """Components in model order, in groups whose sums fit; one that fits nowhere is a group of its own."""
    allowed = GROUP_SHARE * sweep.memory_bytes
    group: list[int] = []
    left = allowed
    for number, size in enumerate(_sizes(sweep, kind)):
        if group and size > left:
            yield group
            group, left = [], allowed
        group.append(number)
        left -= size
    if group:
        yield group


def _sizes(sweep: Sweep, kind: str) -> list[int]:
    """Bytes of every component's sums and bases."""
    hooks, bases = sweep.hooks, bases_of(sweep.hooks)
    sizes = []
    for number, shape in enumerate(hooks.shapes):
        stacked = shape[0] if len(shape) == 3 else 1
        sides = [width for width in (bases[number].left, bases[number].right) if width and kind == EKFAC]
        sizes.append(SUM_BYTES * (shape.numel() + stacked * sum(width * width for width in sides)))
    return sizes


def _describe(sweep: Sweep, kind: str, groups: Sequence[Sequence[int]]) -> str:
    passes = 2 if kind == EKFAC else 1
    total = sum(_sizes(sweep, kind))
    turns = f"{len(groups)} groups of components in turn" if len(groups) > 1 else "all components at once"
    return (
        f"{kind}: {passes * len(groups)} passes over the originals, {turns}; {total / 2**30:.2f} GiB of sums and bases, "
        f"{GROUP_SHARE * sweep.memory_bytes / 2**30:.2f} GiB allowed at a time."
    )


def _compute(
    sweep: Sweep, kind: str, fisher: Fisher, group: list[int], unfinished: Path
) -> tuple[dict[str, ComponentCurvature], int]:
    """The curvature of a group, and how many passes that took."""
    names, chosen, passes = sweep.hooks.names, frozenset(group), 1
    sampled = kind == EKFAC and fisher == "sampled"
    kinds = {number: Bases("diagonal") for number in group}
    bases: BasesByComponent = {}
    tokens: dict[int, int] = {}
    if kind == EKFAC:
        passes = 2
        sums = sweep.over(lambda: Covariances(sweep.hooks, chosen), "covariances", sampled)
        kinds, bases, tokens = sums.bases, _eigenbases(sums, group), sums.tokens
    moments = sweep.over(
        lambda: SecondMoments(sweep.hooks, chosen, bases, sweep.profile.work_bytes), "second moments", sampled
    )
    found = {}
    for number in group:
        left, right = bases.get(number, (None, None))
        mean = (moments.sums[number] / moments.samples).to(sweep.hooks.dtype)
        seen = tokens.get(number) or None
        found[names[number]] = ComponentCurvature(kinds[number].kind, mean, left, right, moments.samples, seen)
    return found, passes


def _eigenbases(sums: Covariances, group: Sequence[int]) -> BasesByComponent:
    """Eigenvectors of the sums, by columns; layers that read the same input share the tensor."""
    known: list[tuple[torch.Tensor, torch.Tensor]] = []
    found: dict[tuple[int, int], torch.Tensor] = {}
    for place, total in sums.sums.items():
        alike = (one for one in known if one[0].shape == total.shape and one[0].device == total.device)
        vectors = next((vectors for other, vectors in alike if torch.equal(other, total)), None)
        if vectors is None:
            vectors = torch.linalg.eigh(total).eigenvectors.to(sums.dtype)
            known.append((total, vectors))
        found[place] = vectors
    return {number: (found.get((number, 0)), found.get((number, 1))) for number in group}
