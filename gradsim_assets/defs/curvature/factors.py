"""Curvature that was computed, as a pass takes it."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from gradsim_assets.configuration import PreconditionerSettings
from gradsim_assets.core.partition_keys import model_id_of
from gradsim_assets.core.tables.beside import beside
from gradsim_assets.core.tables.schemas import CURVATURE
from gradsim_assets.core.tables.storage import Partition
from gradsim_assets.defs.models.hf_model import check_version
from gradsim_assets.resources.compute import Compute
from gradsim_assets.resources.table_store import TableStore

if TYPE_CHECKING:
    from gradsim_assets.core.curvature.factor_files import StoredCurvature
    from gradsim_assets.core.sample_gradients.preconditioning import Preconditioners


@dataclass(frozen=True)
class Factors:
    """The curvature of one kind and model, with its files at hand."""

    kind: str
    frame: pl.DataFrame
    files: list[Path]
    #: The data version of the table.
    made_from: str

    @classmethod
    def of(cls, store: TableStore, compute: Compute, partition: Partition, kind: str, model: str) -> "Factors":
        """The curvature of a model at this version (see `ModelHub.version`).

        Raises:
            InputError: it is missing, or that of another version.
        """
        key, place = (CURVATURE.name, kind), Partition(partition.model)
        frame, provenance = store.tables.read(key, place), store.tables.provenance(key, place)
        check_version("/".join(key), provenance, model_id_of(str(partition.model)), model)
        cache = compute.places.scratch("fetched", CURVATURE.name, kind, str(partition.model))
        names = dict.fromkeys(frame["file"].to_list())
        files = [beside(store.tables, key, place, name, cache) for name in names]
        return cls(kind, frame, files, str(provenance.get("made_from")))

    def preconditioner(self, asked: PreconditionerSettings) -> "StoredCurvature":
        """What gradients are multiplied with."""
        from gradsim_assets.core.curvature.curvature_frame import typical_eigenvalue
        from gradsim_assets.core.curvature.factor_files import StoredCurvature, Tuning

        tuning = Tuning(asked.damping, asked.epsilon)
        return StoredCurvature(self.kind, self.files, tuning, typical_eigenvalue(self.frame))


def preconditioners_of(
    kinds: Collection[str], store: TableStore, compute: Compute, model: str, version: str, asked: PreconditionerSettings
) -> "tuple[Preconditioners, dict[str, str]]":
    """What a pass over a model (by its partition key, at this version) multiplies gradients with, by kind, and the data versions
    of the curvature that each was made from.

    Raises:
        InputError: some of the curvature is missing, or that of another version.
    """
    used = {kind: Factors.of(store, compute, Partition(model), kind, version) for kind in kinds}
    stored = {kind: factors.preconditioner(asked) for kind, factors in used.items()}
    return stored, {kind: factors.made_from for kind, factors in used.items()}
