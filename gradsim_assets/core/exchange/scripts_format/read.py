"""From the scripts' files to our tables."""

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.exchange.scripts_format.frames import Products, Selfs, product_table, similarity_table
from gradsim_assets.core.exchange.scripts_format.layout import (
    DOT_PRODUCTS,
    ORIGINAL_SELF,
    VARIANT_SELF,
    Finding,
    Loaded,
    check_lengths,
    check_model,
    dot_product_folder,
    find_parts,
    id_ranges,
    listed,
    load,
    similarity_folder,
)
from gradsim_assets.core.tables import schemas

#: Parts repeat originals whose values were computed anew: differences up to 3e-6 are seen and mean nothing.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class ImportedSetting:
    """One setting's tables, as their schemas describe them; None for what the folder does not hold.

    `gradient_similarity` holds the published similarities of the full gradient only.
    """

    dot_products: pl.DataFrame | None = None
    gradient_similarity: pl.DataFrame | None = None
    projected_similarity: pl.DataFrame | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the folder holds nothing of this setting."""
        return self.dot_products is self.gradient_similarity is self.projected_similarity is None


@dataclass(frozen=True)
class Imported:
    """What a folder holds of one model."""

    settings: dict[str, ImportedSetting]
    components: list[str]  # in model order
    findings: list[Finding] = field(default_factory=list)
    files: list[str] = field(default_factory=list)  # relative to the folder, for provenance


def read_scripts(
    folder: Path,
    model: str,
    sizes: Mapping[str, int] | None = None,
    known_ids: Collection[str] | None = None,
    sample_size: str = "full",
) -> Imported:
    """Reads a model's results from the folder that the scripts call `data/`.

    A file of all samples and its parts may stand side by side: rows are taken once, the file of all samples wins over
    parts, a part of higher rows over one of lower rows. Damaged and missing files are findings, and what is sound
    stands.

    Args:
        folder: the folder with `dot_products` and `gradient_similarity`.
        model: the model's hub id, `org/name`.
        sizes: parameters per component in model order; tells unknown components and the projections' proportions.
        known_ids: ids of the dataset; others are reported as foreign.
        sample_size: `full`, or the number of samples of a smaller run, as in the files' names.

    Raises:
        InputError: the folder holds nothing of the model or sample size, or nothing of it can be used.
    """
    check_model(folder, model, sample_size)
    reader = _Reader(folder, model, sample_size, sizes, known_ids)
    settings = {setting: reader.setting(setting) for setting in schemas.SETTINGS}
    settings = {setting: found for setting, found in settings.items() if not found.is_empty}
    if not settings:
        raise InputError(f"nothing of {model} in {folder} can be used: {reader.findings[0].text}")
    return Imported(settings, reader.components, reader.findings, reader.files)


class _Reader:
    def __init__(
        self,
        folder: Path,
        model: str,
        size: str,
        sizes: Mapping[str, int] | None,
        known_ids: Collection[str] | None,
    ):
        self.folder, self.model, self.size = folder, model, size
        self.sizes, self.known_ids = sizes, known_ids
        self.components: list[str] = []
        self.findings: list[Finding] = []
        self.files: list[str] = []

    def setting(self, setting: str) -> ImportedSetting:
        """The tables of one setting."""
        similarity = self._merged(similarity_folder(self.folder, setting, self.model, False), self._stem, setting)
        projected = self._projected(similarity_folder(self.folder, setting, self.model, True), setting)
        return ImportedSetting(
            self._dot_products(setting),
            similarity_table(similarity) if similarity else None,
            projected,
        )

    @property
    def _stem(self) -> str:
        return f"sample_size_{self.size}"

    def _load(self, folder: Path, stem: str, depth: int) -> Loaded:
        loaded = load(folder, stem, self.findings, depth)
        self.files += [str(part.path.relative_to(self.folder)) for part, _ in loaded.contents]
        return loaded

    def _merged(self, folder: Path, stem: str, setting: str, depth: int = 2) -> dict[str, Any]:
        """One kind of file put together from all samples' file and the parts, in the order of the samples."""
        loaded = self._load(folder, stem, depth)
        check_lengths(loaded, self.findings)
        return self._put_together(loaded, f"{setting} {stem}")

    def _put_together(self, loaded: Loaded, what: str) -> dict[str, Any]:
        contents = [content for _, content in loaded.contents]
        whole = any(part.rows is None for part, _ in loaded.contents)
        if not contents:
            return {}
        # Order: that of the whole file where there is one, else of the parts; the values of later contents win.
        merged: dict[str, Any] = dict.fromkeys(contents[-1]) if whole else {}
        differing: set[str] = set()
        for content in contents:
            for sample_id, values in content.items():
                before = merged.get(sample_id)
                if before is not None and before != values and not _close(before, values):
                    differing.add(sample_id)
                merged[sample_id] = values
        if differing:
            self.findings.append(
                Finding(
                    "warning",
                    f"{what}: files differ by more than {TOLERANCE:g} for {id_ranges(differing)}; the values of "
                    f"{loaded.contents[-1][0].label if whole else 'the part of the highest rows'} were taken.",
                )
            )
        if whole and (added := [i for i in merged if i not in contents[-1]]):
            self.findings.append(
                Finding("warning", f"{what}: the file of all samples lacks {id_ranges(added)}, taken from the parts.")
            )
        return merged

    # ---- dot products ----------------------------------------------------------------------------------------------

    def _dot_products(self, setting: str) -> pl.DataFrame | None:
        folder = dot_product_folder(self.folder, setting, self.model, self.size)
        products: Products = self._merged(folder, DOT_PRODUCTS, setting, 3)
        variant_self: Selfs = self._merged(folder, VARIANT_SELF, setting)
        original_self: Selfs = self._put_together(self._load(folder, ORIGINAL_SELF, 2), f"{setting} {ORIGINAL_SELF}")
        if not products:
            if variant_self or original_self:
                self.findings.append(
                    Finding("error", f"{setting}: there are self products but no readable {DOT_PRODUCTS} file.")
                )
            return None
        self._check_kinds(folder, setting)
        known = self._known_components(products, setting)
        self._check_ids(products, variant_self, original_self, setting)
        table = product_table(products, variant_self, original_self, known)
        self._check_values(table, setting)
        return table

    def _check_kinds(self, folder: Path, setting: str) -> None:
        # A last part that never was written leaves no gap in its own kind: the other kinds tell.
        rows = {
            kind: {p.rows for p in find_parts(folder, kind)} for kind in (DOT_PRODUCTS, VARIANT_SELF, ORIGINAL_SELF)
        }
        every = set().union(*rows.values()) - {None}
        for kind, found in rows.items():
            if None in found:
                continue
            for start, end in sorted(r for r in every - found if r is not None):
                self.findings.append(
                    Finding("warning", f"{setting}: {kind} has no part of the rows {start} to {end}, other kinds do.")
                )

    def _known_components(self, products: Products, setting: str) -> set[str]:
        """The components that the model has: those of `sizes`, or else those that most pairs have."""
        pairs = sum(len(candidates) for candidates in products.values())
        counts = Counter(name for candidates in products.values() for values in candidates.values() for name in values)
        order = [name for name in self.sizes if name in counts] if self.sizes else []
        if self.sizes and not order:
            raise InputError(
                f"{self.folder}: no component of the {setting} results (such as {next(iter(counts))}) is one of the "
                "config's model; pass the config.json of the model that the results are of."
            )
        order = order or [name for name, count in counts.items() if 2 * count > pairs]
        known = set(order)
        self.components += [name for name in order if name not in self.components]
        if unknown := [name for name in counts if name not in known]:
            reason = "which the config's model does not have" if self.sizes else "which most pairs do not have"
            self.findings.append(
                Finding("error", f"{setting}: component {listed(unknown)}, {reason}; its values were left out.")
            )
        if partly := [name for name in order if counts[name] < pairs]:
            self.findings.append(
                Finding(
                    "warning",
                    f"{setting}: component {listed(partly)} is missing in some pairs ({pairs - counts[partly[0]]} of "
                    f"{pairs} for the first); their full gradient is undefined.",
                )
            )
        if self.sizes and (absent := [name for name in self.sizes if name not in counts]):
            self.findings.append(Finding("warning", f"{setting}: the results have no component {listed(absent)}."))
        return known

    def _check_ids(self, products: Products, variant_self: Selfs, original_self: Selfs, setting: str) -> None:
        originals = {original for candidates in products.values() for original in candidates}

        def report(severity: Any, ids: Collection[str], text: str) -> None:
            if ids:
                self.findings.append(Finding(severity, f"{setting}: {text.format(id_ranges(ids))}"))

        report("warning", products.keys() - variant_self.keys(), "no self products of the variants {}.")
        report("warning", originals - original_self.keys(), "no self products of the originals {}.")
        report("warning", variant_self.keys() - products.keys(), "self products but no pairs of the variants {}.")
        report("note", original_self.keys() - originals, "self products of originals that no pair needs: {}.")
        report(
            "warning", [v for v, c in products.items() if v not in c], "own original not among the candidates of {}."
        )
        if self.known_ids is not None:
            known = set(self.known_ids)
            report("warning", products.keys() - known, "variants that the dataset does not have: {}.")
            report("warning", originals - known, "originals that the dataset does not have: {}.")

    def _check_values(self, table: pl.DataFrame, setting: str) -> None:
        for column in ("dot_product", "variant_self", "original_self"):
            rows = table.filter(~pl.col(column).is_finite())
            if len(rows):
                first = rows.row(0, named=True)
                self.findings.append(
                    Finding(
                        "error",
                        f"{setting}: {column} is not a number in {len(rows)} rows (first: variant "
                        f"{first['variant_id']}, original {first['original_id']}, {first['component']}); their "
                        "similarities are undefined.",
                    )
                )

    # ---- random projections ----------------------------------------------------------------------------------------

    def _projected(self, folder: Path, setting: str) -> pl.DataFrame | None:
        loaded = self._load(folder, self._stem, 3)
        dimensions = list(dict.fromkeys(key for _, content in loaded.contents for key in content))
        proportions = self._proportions([int(key) for key in dimensions], setting)
        frames = []
        for key in dimensions:
            part = Loaded(loaded.found, [(p, content[key]) for p, content in loaded.contents if key in content])
            check_lengths(part, self.findings)
            table = similarity_table(self._put_together(part, f"{setting} projection to {key}"))
            frames.append(
                table.select("variant_id", "original_id", "similarity").with_columns(
                    pl.lit(proportions[int(key)], dtype=pl.Float64).alias("proportion"),
                    pl.lit(int(key), dtype=pl.Int64).alias("dimension"),
                )
            )
        return schemas.PROJECTED_SIMILARITY.enforce(pl.concat(frames)) if frames else None

    def _proportions(self, dimensions: list[int], setting: str) -> dict[int, float | None]:
        """Proportion of each nominal dimension: from the model's size, else the scripts' 1 % and 5 % if they fit."""
        if self.sizes:
            total = sum(self.sizes.values())
            return {dimension: float(f"{dimension / total:.2g}") for dimension in dimensions}
        low, high = (min(dimensions), max(dimensions)) if dimensions else (0, 0)
        if len(dimensions) == 2 and abs(high / low - 5) < 0.01:
            return {low: 0.01, high: 0.05}
        if dimensions:
            self.findings.append(
                Finding(
                    "note",
                    f"{setting}: the proportions of the projections are unknown without the model's config; they are "
                    "named by their dimension.",
                )
            )
        return dict.fromkeys(dimensions)


def _close(first: Any, second: Any) -> bool:
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(_close(first[key], second[key]) for key in first)
    if isinstance(first, int | float) and isinstance(second, int | float):
        both_undefined = math.isnan(first) and math.isnan(second)
        return both_undefined or math.isclose(first, second, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(first == second)
