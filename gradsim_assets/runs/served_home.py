"""Where the pages of a home are served: their server says so in a file, and commands of the same machine may ask it."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from gradsim_assets import __version__
from gradsim_assets.core.files import write_whole
from gradsim_assets.core.home import Home, gradsim_home
from gradsim_assets.runs.process_identity import ProcessIdentity


@dataclass(frozen=True)
class Served:
    """A server of pages: where it answers, which process it is, and with what version and configuration it works."""

    address: str
    process: str
    version: str
    configuration: str


def address_of(host: str, port: int) -> str:
    """What a browser on this machine opens; a server that listens everywhere is here, too."""
    named = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{named}]:{port}" if ":" in named else f"http://{named}:{port}"


def _configuration(environment: Mapping[str, str]) -> str:
    """What decides beside the home which settings a process has."""
    file = Path(environment.get("GRADSIM_CONFIG") or "gradsim.toml").expanduser().absolute()
    return " ".join((str(file), environment.get("GRADSIM_TABLES", "")))


def _file(home: Home) -> Path:
    return home.locks / "pages.json"


@contextmanager
def serving(address: str) -> Iterator[None]:
    """Says for the length of the block that this process serves the pages of its home; a home that cannot be written is silent."""
    own = Served(address, str(ProcessIdentity.of(os.getpid())), __version__, _configuration(os.environ))
    file = _file(gradsim_home())
    with suppress(OSError):
        write_whole(file, json.dumps(asdict(own)))
    try:
        yield
    finally:
        with suppress(OSError):
            if _read(file) == own:
                file.unlink()


def served() -> Served | None:
    """The server of this home's pages on this machine, with the settings and the version of this process; None for no such."""
    found = _read(_file(gradsim_home()))
    if found is None or (found.version, found.configuration) != (__version__, _configuration(os.environ)):
        return None
    process = ProcessIdentity.parse(found.process)
    return found if process is not None and process.is_gone is False else None


def _read(file: Path) -> Served | None:
    try:
        return Served(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
