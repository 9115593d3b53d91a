"""Which revision of a model is in force: the commit on the hub, or the content hash of a folder."""

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Literal

from gradsim_assets.core.errors import InputError, ServiceError, first_line
from gradsim_assets.core.models.controls import UNTRAINED_SEED, untrained_id

#: Files of a folder that hold a model's configuration and its tokenizer, and those that hold its weights or say where they are.
_CONFIGURATION_FILES = ("*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken")
_WEIGHT_FILES = ("*.safetensors", "*.bin", "*.safetensors.index.json", "*.bin.index.json")

#: Files that make a model what it is; anything else (logs, optimizer states) leaves its revision alone.
_MODEL_FILES = (*_WEIGHT_FILES, *_CONFIGURATION_FILES)

#: What transformers' Trainer writes of a training beside every checkpoint, and what our own callback does.
TRAINER_STATE, TRAINING_RECORD = "trainer_state.json", "training_record.json"

#: Files that trainers (transformers, accelerate) leave beside a model, though they are named as its own are.
_OF_TRAINERS = (
    *(TRAINER_STATE, TRAINING_RECORD, "*_results.json", "training_args.bin"),
    *("optimizer*.bin", "optimizer*.safetensors", "scheduler*.bin", "sampler*.bin"),
)


#: The file that says that a folder holds an adapter.
ADAPTER = "adapter_config.json"

#: One of these files is in every folder of a model.
_OF_MODELS = ("config.json", ADAPTER)

#: Names of the weights of a model that is no adapter.
_WHOLE = ("model*.safetensors", "pytorch_model*.bin")

#: A tokenizer is there where one of these files is.
_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json")

#: What stands between a run, or a model of the hub, and the name of one of its checkpoints.
_AT = "@"

#: What stands between the versions of an adapter and of its base.
OVER = "+"

#: How a file begins that git-lfs put in the place of the one that was asked for.
_POINTER = b"version https://git-lfs.github.com/spec/"


#: Which part of a model is studied: all that texts reach of one that reads images, too, or the whole of a language model.
Part = Literal["", "text"]


@dataclass(frozen=True)
class Revision:
    """One exact version of a model: `name` identifies it; `source` and `commit` say where transformers finds it.

    With a `seed` its weights are random ones, and only its configuration and its tokenizer are found there. With a `base` it
    is an adapter, which was trained over that model; its name tells both versions.
    """

    name: str
    source: str
    commit: str | None = None
    seed: int | None = None
    base: "Revision | None" = None


def is_folder(model_id: str) -> bool:
    """Whether an id names a local folder rather than a model of the hub."""
    return model_id.startswith(("/", "./", "../", "~")) or model_id in (".", "..")


def whole_id(model_id: str, base: Path) -> str:
    """The id by which a model is registered: that of a local folder is its absolute path, which every process reads alike.

    Args:
        model_id: a hub id, `id@revision`, or a folder as somebody wrote it.
        base: the folder that a relative path begins at.

    Raises:
        InputError: a path begins at the home of a user whom there is not.
    """
    path = base / _at_home(model_id)
    return os.path.abspath(path) if is_folder(model_id) or folder_of(path).is_dir() else model_id


def _at_home(model_id: str) -> Path:
    try:
        return Path(model_id).expanduser()
    except RuntimeError as error:
        raise InputError(f"{model_id} begins at the home of a user whom there is not; give the whole path.") from error


def split_revision(model_id: str) -> tuple[str, str | None]:
    """A hub id and the branch, tag or commit behind its `@`."""
    repo, _, revision = model_id.partition(_AT)
    return repo, revision or None


def checkpoint_id(run: str, name: str) -> str:
    """The id of a checkpoint: of a branch or tag of a model on the hub, or of a folder in the one of a training run."""
    return f"{run}{_AT}{name}"


def folder_of(path: Path) -> Path:
    """The folder that a path names: itself, or in place of `RUN@NAME` the folder NAME in that of the run."""
    run, found, name = str(path).rpartition(_AT)
    return path if not found or path.exists() else Path(run, name)


def model_folders(folder: str, pattern: str) -> list[str]:
    """Names of the folders in another one that fit a pattern and hold a model; raises InputError where there is no such folder."""
    place = _at_home(folder)
    if not place.is_dir():
        raise InputError(f"there is no folder {folder}; correct the id of its entry under [[models]].")
    found = (path for path in place.glob(pattern) if any((path / name).is_file() for name in _OF_MODELS))
    return [path.relative_to(place).as_posix() for path in found]


def names_on_hub(repo: str) -> list[str]:
    """Names of the branches and tags of a model on the hub; raises as `resolve`."""
    from huggingface_hub import HfApi

    _check_repo(repo)
    try:
        found = HfApi().list_repo_refs(repo)
    except Exception as error:  # the client's errors have no common kind
        raise _refusal(error, repo, None) from error
    return [one.name for one in (*found.branches, *found.tags)]


def resolve(model_id: str, fallback: bool = True, base: str = "") -> Revision:
    """The revision that a model id stands for now: the commit on the hub, or the content hash of a folder.

    With `fallback`, the revision that was downloaded last where the hub cannot be reached. An adapter stands over the base
    that it names itself, or over `base` if that is given.

    Raises:
        InputError: there is no such model (or no base of an adapter), or it is a folder by a relative path.
        ServiceError: the hub does not answer.
    """
    found, is_adapter = _without_base(model_id, fallback)
    return over_base(found, model_id, fallback, base) if is_adapter else found


def _without_base(model_id: str, fallback: bool) -> tuple[Revision, bool]:
    """As `resolve`, of an adapter what it is without its base; and whether it is one."""
    if not is_folder(model_id):
        return _hub_revision(model_id, fallback)
    folder = folder_of(_at_home(model_id))
    if not folder.is_absolute():
        raise InputError(
            f"{model_id} is a relative path, which is another folder for each process; in the place where it holds run "
            f"`gradsim models remove {model_id}` and `gradsim models add {model_id}`, which registers the whole path."
        )
    _check_folder(folder, model_id)
    return Revision(_folder_hash(folder), str(folder)), _is_adapter((file.name for file in folder.iterdir()), model_id)


def _is_adapter(files: Iterable[str], model_id: str) -> bool:
    """Whether a model of these files is an adapter; raises InputError where it may be a whole model as well."""
    names = list(files)
    if ADAPTER in names and any(fnmatchcase(name, whole) for name in names for whole in _WHOLE):
        raise InputError(
            f"{model_id} holds an adapter ({ADAPTER}) and the weights of a whole model; give each a place of its own, so that it "
            "is clear which is meant."
        )
    return ADAPTER in names


def _check_folder(folder: Path, model_id: str) -> None:
    """Raises InputError for a folder that holds no whole model, as far as its files tell without being read."""
    if not any((folder / name).is_file() for name in _OF_MODELS):
        raise InputError(
            f"{model_id} is no model folder (it holds no config.json, and no {ADAPTER}); give the folder of a saved model."
        )
    for file in _model_files(folder):
        with file.open("rb") as opened:
            if opened.read(len(_POINTER)) == _POINTER:
                raise InputError(
                    f"{file} is a pointer of git-lfs in place of the file itself; run `git lfs pull` in its folder."
                )


def over_base(adapter: Revision, model_id: str, fallback: bool = True, base: str = "") -> Revision:
    """An adapter over its base as that is now; arguments and errors are those of `resolve`."""
    base_id = base or _named_base(adapter, model_id)
    try:  # not what it stands over itself, which may be this adapter
        found, is_adapter = _without_base(base_id, fallback)
    except InputError as error:
        mend = "" if base else " If it lies elsewhere now, give it as `base` of the adapter's entry under [[models]]."
        raise InputError(f"the base of the adapter {model_id}: {error}{mend}") from error
    if is_adapter:
        raise InputError(
            f"the base of the adapter {model_id} is an adapter itself ({base_id}); merge that into its own base (PEFT: "
            "merge_and_unload), and give the merged model as `base` of this entry under [[models]]."
        )
    return replace(adapter, name=f"{adapter.name}{OVER}{found.name}", base=found)


def named_revision(repo: str, name: str, base: str = "") -> Revision:
    """The revision of a model of the hub that has a name, whatever its head is now; `base` as in `resolve`.

    Raises:
        InputError: the base of an adapter is a folder that has changed since, so that its old content is gone.
        ServiceError: the hub does not hand it out now.
    """
    commit, over, base_name = name.partition(OVER)
    plain = _commit(repo, commit)
    if not over:
        return plain
    base_id = base or _named_base(plain, repo)
    if not is_folder(base_id):
        return replace(plain, name=name, base=Revision(base_name, split_revision(base_id)[0], base_name))
    found = over_base(plain, repo, base=base)
    if found.name != name:
        raise InputError(f"the base of {repo} changed while this run worked on it; start a new run.")
    return found


def _named_base(adapter: Revision, model_id: str) -> str:
    """The id of the model that an adapter names as the one that it was trained over."""
    mend = "give its base as `base` of its entry under [[models]]."
    file = file_of(adapter, ADAPTER)
    try:
        config = json.loads(file.read_text(encoding="utf-8")) if file else {}
    except ValueError as error:
        raise InputError(f"{ADAPTER} of {model_id} is no JSON ({error}); save the adapter again.") from error
    known = config if isinstance(config, dict) else {}
    named, wanted = known.get("base_model_name_or_path"), known.get("revision")
    if not named or not isinstance(named, str):
        raise InputError(
            f"{ADAPTER} of {model_id} does not say what it was trained over (base_model_name_or_path); {mend}"
        )
    beside = Path(adapter.source, named)
    if not adapter.commit and beside.is_dir():
        return os.path.abspath(beside)
    if not is_folder(named):
        return f"{named}@{wanted}" if wanted else str(named)
    if not _at_home(named).is_dir() or not _at_home(named).is_absolute():
        raise InputError(f"{model_id} was trained over {named}, which is no folder here; {mend}")
    return str(_at_home(named))


def file_of(revision: Revision, name: str) -> Path | None:
    """A file of a revision, downloaded where that is on the hub; None where it has none of that name.

    Raises:
        ServiceError: the hub does not hand it out now.
    """
    if not revision.commit:
        path = Path(revision.source, name)
        return path if path.is_file() else None
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    known = try_to_load_from_cache(revision.source, name, revision=revision.commit)
    if known is not None or constants.HF_HUB_OFFLINE:  # the cache remembers what a commit does not have, too
        return Path(known) if isinstance(known, str) else None
    try:
        return Path(hf_hub_download(revision.source, name, revision=revision.commit))
    except Exception as error:  # the client's errors have no common kind
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            return None
        raise ServiceError(
            f"{name} of {revision.source} could not be fetched from the hub ({first_line(error)}); try again later."
        ) from error


def tokenizer_revision(revision: Revision) -> Revision:
    """Where the tokenizer of a revision is found: that of an adapter which was saved without one is its base's."""
    if revision.base is None or any(file_of(revision, name) for name in _TOKENIZERS):
        return revision
    return revision.base


def _folder_hash(folder: Path) -> str:
    """Content hash of a model folder (16 hex digits): names and bytes of its weights, tokenizer and configuration."""
    return _content_hash(_model_files(folder))


def _content_hash(files: Iterable[Path], drawn_by: str = "") -> str:
    digest = hashlib.sha256(drawn_by.encode())
    for file in files:
        stat = file.stat()
        digest.update(file.name.encode())
        digest.update(_file_hash(str(file.resolve()), stat.st_size, stat.st_mtime_ns))
    return digest.hexdigest()[:16]


def _model_files(folder: Path, of: Iterable[str] = _MODEL_FILES, without: Iterable[str] = ()) -> list[Path]:
    found = {path for pattern in of for path in folder.glob(pattern)}
    return sorted(found - {path for pattern in (*_OF_TRAINERS, *without) for path in folder.glob(pattern)})


def untrained_revision(revision: Revision) -> Revision:
    """The revision of a model's control with random weights, from the model's own.

    Its name is a hash of what it is made of: the files of the model's configuration and of its tokenizer, and the seed. So
    other weights leave it as it is. Of a model on the hub these files are downloaded.

    Raises:
        InputError: the id of the control is the path of a folder that there is.
        ServiceError: the hub does not hand them out now.
    """
    if not revision.commit and Path(untrained_id(revision.source)).exists():
        raise InputError(
            f"{untrained_id(revision.source)} is a folder, and also the id of the control of {revision.source} with random "
            "weights; rename the folder."
        )
    folder = _downloaded_configuration(revision) if revision.commit else Path(revision.source)
    files = _model_files(folder, _CONFIGURATION_FILES, _WEIGHT_FILES)
    own = replace(revision, name=_content_hash(files, f"seed {UNTRAINED_SEED}"), seed=UNTRAINED_SEED)
    if revision.base is None:
        return own
    base = untrained_revision(revision.base)
    return replace(own, name=f"{own.name}{OVER}{base.name}", base=base)


def _downloaded_configuration(revision: Revision) -> Path:
    """The folder of the hub's cache with the files of a commit that are no weights."""
    from huggingface_hub import snapshot_download

    below = "*/*"
    try:
        folder = snapshot_download(
            revision.source,
            revision=revision.commit,
            allow_patterns=list(_CONFIGURATION_FILES),
            ignore_patterns=[below, *_WEIGHT_FILES, *_OF_TRAINERS],
        )
    except Exception as error:  # the client's errors have no common kind
        raise ServiceError(
            f"the configuration of {revision.source} could not be fetched from the hub ({first_line(error)}); try again later."
        ) from error
    return Path(folder)


def content_hash(file: Path) -> str:
    """Hash of a file's content; 16 hex digits."""
    stat = file.stat()
    return _file_hash(str(file.resolve()), stat.st_size, stat.st_mtime_ns).hex()[:16]


@lru_cache(maxsize=1024)  # sensors ask again and again; size and time tell whether a file is still the same
def _file_hash(path: str, size: int, mtime_ns: int) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _hub_revision(model_id: str, fallback: bool) -> tuple[Revision, bool]:
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    repo, wanted = split_revision(model_id)
    _check_repo(repo)
    if constants.HF_HUB_OFFLINE:
        return _cached_revision(repo, wanted)
    try:
        found = HfApi().model_info(repo, revision=wanted, timeout=30)
    except Exception as error:  # the client's errors have no common kind
        refusal = _refusal(error, repo, wanted)
        answered = isinstance(error, HfHubHTTPError)
        if fallback and isinstance(refusal, ServiceError) and not answered:  # what was downloaded before is still good
            with suppress(InputError):
                return _cached_revision(repo, wanted)
        raise refusal from error
    return _commit(repo, str(found.sha)), _is_adapter((file.rfilename for file in found.siblings or ()), repo)


def _refusal(error: Exception, repo: str, wanted: str | None) -> InputError | ServiceError:
    """What an error of the hub's client says of a model (and of its revision, if one was asked for)."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        return InputError(f"{repo} is gated on the hub; accept its terms there and set HF_TOKEN.")
    if isinstance(error, RepositoryNotFoundError):
        return InputError(f"there is no model {repo} on the hub (or HF_TOKEN may not see it); correct its id.")
    if isinstance(error, RevisionNotFoundError):
        return InputError(f"{repo} has no revision {wanted} on the hub; correct what stands behind the @.")
    if not may_pass(error):
        return InputError(f"the hub refuses {repo} ({first_line(error)}); correct its id or HF_TOKEN.")
    return ServiceError(
        f"the hub cannot be asked for {repo} ({first_line(error)}); try again later, check the network, or give the "
        "folder of a saved model."
    )


def _check_repo(repo: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise InputError(
            f"{repo} is neither a folder nor the id of a model on the hub; write owner/name, or the path of a saved model."
        ) from error


def may_pass(error: BaseException | None) -> bool:
    """Whether an error of the hub's client, or what led to it, is one of the network or of a busy server."""
    from huggingface_hub.errors import HfHubHTTPError

    while error is not None:
        if isinstance(error, HfHubHTTPError):
            return error.response.status_code in (408, 425, 429) or error.response.status_code >= 500
        # By name: releases of the hub's client are built on different HTTP packages.
        transport = any(kind.__name__ == "TransportError" for kind in type(error).__mro__)
        if transport or isinstance(error, ConnectionError | TimeoutError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _commit(repo: str, sha: str) -> Revision:
    return Revision(sha, repo, sha)


def _cached_revision(repo: str, wanted: str | None) -> tuple[Revision, bool]:
    from huggingface_hub import constants, try_to_load_from_cache

    cached = (try_to_load_from_cache(repo, name, revision=wanted) for name in _OF_MODELS)
    config = next((path for path in cached if isinstance(path, str)), None)
    if config is None and wanted is None:  # models are loaded by commit, which leaves no name in the cache
        snapshots = Path(constants.HF_HUB_CACHE, f"models--{repo.replace('/', '--')}", "snapshots")
        files = (path for name in _OF_MODELS for path in snapshots.glob(f"*/{name}"))
        found = sorted(files, key=lambda path: path.parent.stat().st_mtime)
        config = str(found[-1]) if found else None
    if config is None:
        raise InputError(
            f"{repo} is not in the local cache and HF_HUB_OFFLINE is set; download it first or unset the variable."
        )
    snapshot = Path(config).parent  # .../snapshots/<commit>/config.json
    return _commit(repo, snapshot.name), _is_adapter((file.name for file in snapshot.iterdir()), repo)
