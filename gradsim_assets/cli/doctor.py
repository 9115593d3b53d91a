"""`gradsim doctor`: what is installed, configured and reachable, and what of it would be in the way of a run."""

import json
import os
import platform
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

import click

from gradsim_assets.cli.columns import columns
from gradsim_assets.cli.instance import FAILED
from gradsim_assets.configuration import Settings, config_file, load_settings
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.home import gradsim_home

#: A finding is in order, a hint for some uses, or in the way of every run.
GOOD, HINT, WRONG = "ok", "note", "wrong"

#: Tables, retrained weights and scratch of a model of real size want more room than that.
_LITTLE_GIB = 5

_GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: its name, how it stands, and what is to be known of it."""

    name: str
    state: str
    text: str


@click.command()
@click.option(
    "--measure",
    "measures",
    is_flag=True,
    help="Measure the device first (seconds), and keep what plans predict time by.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def doctor(measures: bool, as_json: bool) -> None:
    """Look at what runs need: packages, GPU, configuration, keys, the hub, the disk.

    Keys are never shown, only whether they are set. The command ends with 1 where something is in the way of every run. Nothing
    is written or downloaded without --measure, and the hub is asked for nothing but whether it answers.

    \b
    Examples:
      gradsim doctor
      gradsim doctor --measure            `gradsim plan` goes by that from then on
      gradsim doctor --json | jq '.[] | select(.state != "ok")'
    """
    if measures:
        _measure()
    found = [finding for look in _LOOKS for finding in look()]
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in found]))
    else:
        click.echo(columns(["what", "state", "finding"], [[one.name, one.state, one.text] for one in found]))
    if any(one.state == WRONG for one in found):
        sys.exit(FAILED)


def _measure() -> None:
    """Measures the configured device in every arithmetic that it has, and keeps what it finds."""
    import torch

    from gradsim_assets.core.models.devices import pick_device
    from gradsim_assets.core.sample_gradients.calibration import keep, kinds_of
    from gradsim_assets.core.sample_gradients.device_measurements import measure

    device = torch.device(pick_device(load_settings().compute.device))
    for kind in kinds_of(device):
        keep(measure(device, kind), gradsim_home().calibrations)


def _measured() -> Iterator[Finding]:
    """The devices that were measured in this home."""
    try:
        from gradsim_assets.core.sample_gradients.calibration import COMMAND, all_kept
    except ImportError:
        return
    found = all_kept(gradsim_home().calibrations)
    for one in found:
        best = max(one.widths, key=lambda rates: rates.pass_rate)
        threads = "" if one.host_bytes_per_second else f", {one.threads} thread{'s' * (one.threads > 1)}"
        text = (
            f"{one.device}, {one.kind}{threads}, torch {one.torch}, on {one.measured_on}: {_rate(best.pass_rate)} in passes of "
            f"width {best.width}, {_rate(best.product_rate)} in products, {one.bytes_per_second / 1e9:.0f} GB/s, "
            f"{one.launch_seconds * 1e6:.1f} us a call"
        )
        yield Finding("measured", GOOD, text)
    if not found:
        yield Finding("measured", HINT, f"no device yet: `gradsim plan` goes by constants until `{COMMAND}`")


def _rate(flop_per_second: float) -> str:
    if flop_per_second < 1e12:
        return f"{flop_per_second / 1e9:.0f} GFLOP/s"
    return f"{flop_per_second / 1e12:.1f} TFLOP/s"


def _python() -> Iterator[Finding]:
    yield Finding("python", GOOD, f"{platform.python_version()} ({sys.executable})")


def _packages() -> Iterator[Finding]:
    for name in ("gradsim", "dagster", "polars", "torch", "transformers", "datasets"):
        needed = name in ("torch", "transformers", "datasets")
        try:
            yield Finding(name, GOOD, version(name))
        except PackageNotFoundError:
            text = "not installed; gradients and answers need `gradsim[compute]`" if needed else "not installed"
            yield Finding(name, HINT, text)


def _gpu() -> Iterator[Finding]:
    try:
        import torch
    except ImportError:
        yield Finding("gpu", HINT, "unknown without torch")
        return
    if not torch.cuda.is_available():
        yield Finding(
            "gpu", HINT, f"none that torch {torch.__version__} can use; runs compute on {os.cpu_count()} CPU cores"
        )
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        memory = torch.cuda.get_device_properties(number).total_memory / _GIB
        yield Finding(f"gpu {number}", GOOD, f"{torch.cuda.get_device_name(number)}, {memory:.0f} GiB")


def _configuration() -> Iterator[Finding]:
    try:
        settings, path = load_settings(), config_file()
    except InputError as error:
        yield Finding("configuration", WRONG, str(error))
        return
    models = ", ".join(model.id for model in settings.models)
    yield Finding("configuration", GOOD, f"{path or 'no gradsim.toml: the embedded demo'}; models: {models}")
    yield from _keys(settings)


def _keys(settings: Settings) -> Iterator[Finding]:
    pays = settings.data.paraphrases == "openai"
    given = bool(os.environ.get("OPENAI_API_KEY"))
    if given or pays:
        lacking = 'not set, and data.paraphrases = "openai" asks for it' if pays else "not set"
        yield Finding("OPENAI_API_KEY", GOOD if given else WRONG, "set" if given else lacking)
    token = os.environ.get("HF_TOKEN")
    yield Finding(
        "HF_TOKEN", GOOD if token else HINT, "set" if token else "not set: gated and private models cannot be read"
    )


def _hub() -> Iterator[Finding]:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        yield Finding(
            "hub", HINT, "not asked: HF_HUB_OFFLINE is set, so that only what was downloaded before can be read"
        )
        return
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=5).close()
        yield Finding("hub", GOOD, f"{constants.ENDPOINT} answers")
    except urllib.error.HTTPError:
        yield Finding("hub", GOOD, f"{constants.ENDPOINT} answers")
    except OSError as error:
        why = getattr(error, "reason", error)
        yield Finding(
            "hub", HINT, f"{constants.ENDPOINT} cannot be reached ({why}): models must lie here, or in a folder"
        )


def _disk() -> Iterator[Finding]:
    home = gradsim_home().folder
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(there).free / _GIB
    if not there.is_dir() or not os.access(there, os.W_OK):
        yield Finding("home", WRONG, f"{home} cannot be written; set GRADSIM_HOME to a folder of yours")
        return
    short = f": less than {_LITTLE_GIB} GiB do for small models alone" if free < _LITTLE_GIB else ""
    yield Finding("home", HINT if short else GOOD, f"{home}, {free:.1f} GiB free{short}")


_LOOKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _python,
    _packages,
    _gpu,
    _measured,
    _configuration,
    _hub,
    _disk,
)
