"""What the pages show: the registered models, how they stand, and what their reports say. Only reads."""

import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gradsim_assets.configuration import load_settings
from gradsim_assets.core.home import Home
from gradsim_assets.core.partition_keys import model_id_of, model_slug
from gradsim_assets.runs.launcher import Launcher

#: Looking at every partition takes seconds on a large home: it is done once for all who ask, and then not for a while, which is
#: longer where it took longer.
_KEPT_SECONDS, _KEPT_TIMES = 3.0, 3


class NotThereError(Exception):
    """What was asked for does not exist; the sentence says what there is, or how it is made."""


@dataclass(frozen=True)
class Model:
    """A model as pages show it; `summary` is what stands beside its report, None without a report."""

    id: str
    slug: str
    revision: str | None = None
    control_of: str | None = None
    summary: dict[str, Any] | None = None

    @property
    def headlines(self) -> dict[str, dict[str, Any]]:
        """The headlines of its report by setting; none without a report, and none of a report that has not got them."""
        return {setting: one for setting, one in ((self.summary or {}).get("headline") or {}).items() if one}


class Site:
    """The home that is served, and where Dagster's UI shows the same."""

    def __init__(self, launcher: Launcher, dagster: str) -> None:
        self.launcher = launcher
        self.dagster = dagster.rstrip("/")
        self._lock = threading.Lock()
        self._states: dict[str, str] = {}
        self._good_until = 0.0

    @property
    def home(self) -> Home:
        """The home, as the environment names it."""
        return Home(load_settings().home)

    def is_registered(self, model_id: str) -> bool:
        """Whether a model is registered; costs much less than `models`."""
        return model_id in self.launcher.models()

    def models(self) -> list[Model]:
        """The registered models by name, each before its controls."""
        known, versions = sorted(self.launcher.models()), self.launcher.versions()
        studied = load_settings().studied(known)
        ordered = [
            one
            for model in known
            if model not in studied
            for one in (model, *(control for control in known if studied.get(control) == model))
        ]
        # A base may be a control of several models, or have one itself.
        ordered = list(dict.fromkeys([*ordered, *known]))
        return [self._model(model, versions.get(model), studied.get(model)) for model in ordered]

    def model(self, slug: str) -> Model:
        """One model by its partition key, registered or with a report of before.

        Raises:
            NotThereError: there is neither.
        """
        found = next((one for one in self.models() if one.slug == slug), None)
        if found is None and slug in self.home.reported:
            found = self._model(model_id_of(slug), None, None)
        if found is None:
            raise NotThereError(f"There is no model {slug} here; `gradsim models list` shows which there are.")
        return found

    def report(self, slug: str) -> Path:
        """The folder of a model's report.

        Raises:
            NotThereError: there is no such model, or it has no report yet.
        """
        # Compared with the names that are there: no text of a request becomes a part of a path.
        if slug in self.home.reported:
            return self.home.report(slug)
        model = self.model(slug)
        raise NotThereError(f"{model.id} has no report yet; `gradsim run {model.id}` makes it.")

    def states(self) -> dict[str, str]:
        """How the tables of every model stand, in words, by partition key; as it was a moment ago."""
        with self._lock:
            started = time.monotonic()
            if started >= self._good_until:
                self._states = {model_slug(model): state for model, state in self.launcher.states().items()}
                ended = time.monotonic()
                self._good_until = ended + max(_KEPT_SECONDS, _KEPT_TIMES * (ended - started))
            return self._states

    def dagster_page(self, asset: str, partition: str | None = None) -> str:
        """The page of an asset in Dagster's UI, where its button [Materialize] is, with a partition chosen."""
        chosen = f"?view=partitions&partition={quote(partition, safe='')}" if partition else ""
        return f"{self.dagster}/assets/{quote(asset)}{chosen}"

    def _model(self, model_id: str, revision: str | None, control_of: str | None) -> Model:
        slug = model_slug(model_id)
        try:
            summary = json.loads((self.home.report(slug) / "summary.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            summary = None
        return Model(model_id, slug, revision, control_of, summary)
