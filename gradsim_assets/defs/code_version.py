"""Code versions: a hash of the code that decides an asset's values.

What counts are definitions, not files: all those that an asset's roots reach by name, in whatever module of `core/` they
stand, so that moving code makes nothing stale. By contract two kinds of code are left out, since they cannot change a
value: the modules of `DECIDES_NOTHING`, and what is only said to people. For the gradient tables a declared version stands
in for the code of the engine (see `core.gradients.numerics_version`). The function of an asset itself (in `defs/`)
reads, calls `core/` and tells what happened; what decides values is not written there.
"""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from gradsim_assets import core
from gradsim_assets.orchestration.followed_code import Followed, SourceTree
from gradsim_assets.orchestration.remembered_code import RememberedCode

#: The folder of the package; modules are named relative to it ("core.analysis.agreement").
PACKAGE = Path(core.__file__).parent.parent

#: What is followed, beside the modules of the roots.
FOLLOWED = ("core", "demo")

#: Modules that decide what a computation costs or how it is reported, never what comes out of it.
DECIDES_NOTHING = (
    "core.errors",  # sentences for people
    "core.files",  # how bytes reach the disk
    "core.healing",  # what is tried again
    "core.home",  # where they lie
    "core.locks",  # who may at the moment
    "core.memory",  # how much is free
    "core.room",  # what is said of a full disk
    "core.tables.storage",  # where tables lie
    "core.models.checkpoints",  # what is refused
    "core.models.devices",  # which of the GPUs
    "core.datasets.originals_source",  # what is watched; what is read of it is the table
    "core.datasets.paraphrases_source",
    "core.datasets.generation.batch_size",  # how many at a time; every answer is that of its prompt alone
    "core.datasets.generation.meter",  # what is told meanwhile
    "core.evaluation.finished",  # what a killed step goes on from
    "core.gradients.engine.planning",  # how many at a time; the engine's tests hold results to be independent of it
    "core.gradients.engine.recovery",  # what is tried again with less memory
    "core.sample_gradients.calibration",  # how long it is said to take
    "core.sample_gradients.device_measurements",
    "core.gradients.engine.scratch",  # what a killed pass goes on from
    "core.datasets.paraphrasing.answer_store",  # what was answered before
    "core.datasets.paraphrasing.batch",  # when answers come
    "core.datasets.paraphrasing.budget",  # what may be spent
    "core.datasets.paraphrasing.chat_service",  # how the service is reached
    "core.datasets.paraphrasing.live",  # when answers come
)


#: A module ("core.analysis.report"), a definition ("core.gradients.engine:run_pass"), or a function itself.
Root = str | Callable[..., Any]


@cache
def code_version(*roots: Root, config: str = "", without: tuple[str, ...] = ()) -> str:
    """A hash (12 hex digits) of what decides an asset's values.

    Args:
        roots: what it is computed by; a string for what definitions do not import, such as torch.
        config: that part of the configuration which decides values.
        without: modules that decide nothing of this asset, though its roots use them.

    Raises:
        LookupError: a root, an import, or what is to be left out names what there is not.
    """
    digest = hashlib.sha256(config.encode())
    for one in sorted({one.hash for one in followed(*roots, without=without)}):
        digest.update(one)
    return digest.hexdigest()[:12]


def followed(*roots: Root, without: tuple[str, ...] = ()) -> list[Followed]:
    """The definitions and files that a code version is made of; arguments and errors are those of `code_version`."""
    question = sorted(map(_name, roots)), sorted({*DECIDES_NOTHING, *without}), FOLLOWED
    remembered = _remembered(PACKAGE)
    if (found := remembered.get(*question)) is None:
        found = _tree(PACKAGE).followed(*question[:2])
        remembered.put(found, *question)
    return found


def remember() -> None:
    """Keeps what was found of code versions for the next process that asks, see `remembered_code`."""
    _remembered(PACKAGE).keep()


def _name(root: Root) -> str:
    name = root if isinstance(root, str) else f"{root.__module__}:{root.__qualname__}"
    return name.removeprefix(f"{PACKAGE.name}.")


@cache
def _remembered(package: Path) -> RememberedCode:
    return RememberedCode(package)


@cache
def _tree(package: Path) -> SourceTree:
    return SourceTree(package, FOLLOWED)
