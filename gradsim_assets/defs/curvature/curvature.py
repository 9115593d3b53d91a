"""The assets `curvature_<kind>`: what preconditioners are made of, computed once for all later products."""

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from gradsim_assets.configuration import PreconditionerSettings, Settings
from gradsim_assets.core.gradients.numerics_version import NUMERICS, NUMERICS_VERSION, PRECONDITIONERS_VERSION
from gradsim_assets.core.models.loading import LoadedModel
from gradsim_assets.core.partition_keys import model_id_of
from gradsim_assets.core.tables.beside import put_beside, sweep_beside
from gradsim_assets.core.tables.schemas import CURVATURE, LIMA, PRECONDITIONERS
from gradsim_assets.core.tables.storage import Partition, fingerprint
from gradsim_assets.defs.code_version import code_version
from gradsim_assets.defs.curvature.optimizer_states import OPTIMIZER_STATES, state_sighting
from gradsim_assets.defs.models.hf_model import HF_MODEL, loaded_model, provenance_of, revision_for_run, revision_tags
from gradsim_assets.defs.progress import progress
from gradsim_assets.defs.table_results import column_schema, saved_table_result
from gradsim_assets.orchestration import groups
from gradsim_assets.orchestration.asset_keys import asset_key
from gradsim_assets.orchestration.failures import RETRIES, fails_in_one_sentence
from gradsim_assets.orchestration.observations import made_from, record
from gradsim_assets.orchestration.partitions import MODELS
from gradsim_assets.resources.compute import Compute
from gradsim_assets.resources.model_hub import ModelHub
from gradsim_assets.resources.table_store import TableStore

if TYPE_CHECKING:
    from gradsim_assets.core.curvature.curvature import Fisher
    from gradsim_assets.core.models.encoded_sample import EncodedSample

ADAM, EKFAC = PRECONDITIONERS

_DECLARED = "core.gradients.numerics_version"

_DESCRIPTIONS = {
    ADAM: (
        "Second moments of gradients, as Adam divides by them: those of the optimizer that trained the model where its state is "
        "named (`optimizer_state` under [[models]]), else the mean squares of the originals' gradients. COST: one pass over the "
        "originals, or none."
    ),
    EKFAC: (
        "Kronecker-factored eigenbases of every matrix with corrected eigenvalues (EK-FAC), over all originals. COST: two "
        "passes over the originals, and as much again for the products of tokens."
    ),
}


def build(settings: Settings, op_tags: Mapping[str, Any] | None = None) -> list[dg.AssetsDefinition]:
    """One asset for each preconditioner that is configured."""
    return [_build(kind, settings.preconditioners, settings, op_tags) for kind in settings.preconditioners.methods]


def _build(
    kind: str, asked: PreconditionerSettings, settings: Settings, op_tags: Mapping[str, Any] | None
) -> dg.AssetsDefinition:
    fisher = {"fisher": asked.fisher} if kind == EKFAC else {}
    version = code_version(
        "core.models.loading:load_model",
        "core.gradients.pass_inputs:pass_inputs",
        "core.tables.schemas:CURVATURE",
        *(f"{_DECLARED}:{name}" for name in ("NUMERICS_VERSION", "PRECONDITIONERS_VERSION")),
        config=settings.compute.model_dump_json(include={"precision"}) + str(fisher),
        without=NUMERICS,  # what the declared versions stand for
    )

    @dg.asset(
        key=asset_key(CURVATURE.name, kind),
        group_name=groups.CURVATURE,
        partitions_def=MODELS,
        deps=[HF_MODEL, LIMA.name, *([OPTIMIZER_STATES] if kind == ADAM else [])],
        kinds={"pytorch", "parquet"},
        metadata=column_schema(CURVATURE),
        pool="gpu",
        op_tags=op_tags,
        retry_policy=RETRIES,
        code_version=version,
        description=f"{_DESCRIPTIONS[kind]} The numbers are in safetensors files beside the table.",
    )
    @fails_in_one_sentence
    def curvature(
        context: dg.AssetExecutionContext, hub: ModelHub, store: TableStore, compute: Compute
    ) -> dg.MaterializeResult:
        return _Work(context, hub, store, compute, kind, asked.fisher, version).result()

    return curvature


class _Work:
    """The curvature of one kind and model."""

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        hub: ModelHub,
        store: TableStore,
        compute: Compute,
        kind: str,
        fisher: "Fisher",
        version: str,
    ) -> None:
        self.context, self.hub, self.store, self.compute = context, hub, store, compute
        self.kind, self.fisher, self.version = kind, fisher, version
        self.slug = context.partition_key
        self.model_id = model_id_of(self.slug)
        self.scratch = compute.places.scratch(CURVATURE.name, kind, self.slug)

    def result(self) -> dg.MaterializeResult:
        """The table, with its files in place."""
        from gradsim_assets.core.curvature.curvature_frame import SUFFIX, curvature_frame, stored_name

        started = time.monotonic()
        revision = revision_for_run(self.context, self.hub, self.model_id)
        loaded = loaded_model(self.context, self.hub, self.model_id, revision)
        lima = self.store.tables.read([LIMA.name])
        originals, counts = self._originals(lima, loaded)
        state = self._state()
        if state:
            files, source, shown, tags = *self._of_optimizer(loaded, state), self._state_tags(state)
        else:
            files, source, shown = self._of_originals(loaded, originals)
            tags = self._state_tags(state) if self.kind == ADAM else {}
        frame = curvature_frame(files, source)
        key, place = (CURVATURE.name, self.kind), Partition(self.slug)
        for path in files:
            put_beside(self.store.tables, key, place, stored_name(path), path)
        made = self._data_version(originals, loaded, state)
        result = saved_table_result(
            self.context,
            self.store,
            asset_key(*key),
            frame,
            place,
            metadata={
                **counts,
                "source": source,
                "bytes_of_factors": sum(path.stat().st_size for path in files),
                "curvature_seconds": time.monotonic() - started,
                **shown,
            },
            provenance={
                **provenance_of(self.hub, self.model_id, revision),
                "numerics": f"{NUMERICS_VERSION} {PRECONDITIONERS_VERSION}",
                "dataset": fingerprint(lima),
                "source": source,
                "made_from": made,
            },
            tags={**revision_tags(self.context), **tags},
            data_version=made,
        )
        sweep_beside(self.store.tables, key, place, SUFFIX, set(frame["file"].to_list()))
        shutil.rmtree(self.scratch, ignore_errors=True)
        return result

    def _originals(self, lima: pl.DataFrame, loaded: LoadedModel) -> "tuple[list[EncodedSample], dict[str, int]]":
        from gradsim_assets.core.gradients.pass_inputs import pass_inputs

        all_of_them = lima.select(variant_id="id", original_id="id")
        policy = self.hub.settings(self.model_id).context
        inputs = pass_inputs(lima, {}, all_of_them, loaded, policy=policy, products=(), projections={})
        return inputs.request.originals, inputs.counts

    def _state(self) -> str:
        """The optimizer state that counts: its path, or "" where there is none."""
        return self.hub.settings(self.model_id).optimizer_state if self.kind == ADAM else ""

    def _state_tags(self, state: str) -> dict[str, str]:
        """Tags that say which content of the optimizer state the table was made from."""
        seen = state_sighting(self.hub, self.slug)
        pointer = record(self.context.instance, OPTIMIZER_STATES, self.slug, seen)
        return made_from(OPTIMIZER_STATES, seen.version, pointer)

    def _of_optimizer(self, loaded: LoadedModel, state: str) -> tuple[list[Path], str, dict[str, Any]]:
        from gradsim_assets.core.curvature.factor_files import save
        from gradsim_assets.core.curvature.optimizer_states import moments_of, second_moments
        from gradsim_assets.core.sample_gradients.components import trainable_components

        version = self.hub.optimizer_version(self.model_id)
        path = self.scratch / f"{version}.safetensors"
        self.scratch.mkdir(parents=True, exist_ok=True)
        trained = self.hub.skeleton(self.model_id, loaded.revision, whole=True)
        moments = second_moments(Path(state), trained)
        save(path, moments_of(moments, (name for name, _ in trainable_components(loaded.model))))
        self.hub.check_optimizer_version(self.model_id, version)
        return [path], "optimizer_state", {"optimizer_state": dg.MetadataValue.path(state)}

    def _of_originals(
        self, loaded: LoadedModel, originals: "list[EncodedSample]"
    ) -> tuple[list[Path], str, dict[str, Any]]:
        what = f"curvature {self.kind} {self.slug}"
        with progress(self.context, what, "originals") as report:
            found = self.compute.curvature(
                loaded, originals, self.kind, self.fisher, self.scratch, report, self.context.log.info, self.version
            )
        shown = {
            "gradients_computed": found.gradients_computed,
            "groups_restored": found.groups_restored,
            "verified": found.verified,
            "plan": dg.MetadataValue.md(f"```\n{found.plan}\n```"),
            **({"notes": dg.MetadataValue.text("\n".join(found.notes))} if found.notes else {}),
        }
        return found.files, "mean_squared_gradient" if self.kind == ADAM else self.fisher, shown

    def _data_version(self, originals: "list[EncodedSample]", loaded: LoadedModel, state: str) -> str:
        from gradsim_assets.core.gradients.inputs_version import samples_version

        settings = self.hub.settings(self.model_id)
        own = (settings.dtype, *filter(None, [settings.choice, loaded.quantised]))
        stated = (self.kind, self.version, loaded.revision.name, *own)
        if state:
            return samples_version((), *stated, self.hub.optimizer_version(self.model_id))
        return samples_version(originals, *stated, self.compute.libraries(False, loaded.device))
