"""What makes a table unsound: every function takes frames and returns findings, one sentence each, none for a sound one."""

import json
from collections.abc import Iterable, Mapping

import polars as pl

from gradsim_assets.core.candidates.bm25_candidates import zero_score_places
from gradsim_assets.core.tables.table_schema import TableSchema

Findings = list[str]

#: How far |D_ij| may exceed sqrt(D_ii D_jj), and how far two computations of one self product may lie apart, relative
#: to their size. Sums of fp32 products over 1e7 to 1e9 parameters agree to about 1e-5 whatever their order; a wrong
#: sample, a stale model or a mixed-up component is off by far more than 1e-3.
TOLERANCE = 1e-3

_PAIR = ["variant_id", "original_id"]


def schema_findings(schema: TableSchema, frame: pl.DataFrame) -> Findings:
    """Columns that are missing, unknown or of another dtype, and nulls where null is no value."""
    found = [f"column {name} is missing" for name in schema.columns if name not in frame.columns]
    for name, dtype in frame.schema.items():
        column = schema.column(name)
        if column is None:
            if not schema.open:
                found.append(f"column {name} is not part of the schema")
            continue
        if dtype != (wanted := column.dtype_of(dtype)) or (column.fixed and not isinstance(dtype, pl.Array)):
            found.append(f"column {name} is {dtype}, not {wanted}{' of one length' if column.fixed else ''}")
        if not column.nullable and (nulls := frame[name].null_count()):
            found.append(f"column {name} holds {nulls} null values")
    return found


def duplicate_findings(schema: TableSchema, frame: pl.DataFrame) -> Findings:
    """Rows that share the columns which identify a row."""
    key = list(schema.key)
    repeated = frame.select(key).filter(pl.struct(key).is_duplicated())
    if repeated.is_empty():
        return []
    return [f"{repeated.n_unique()} keys occur more than once, such as {_named(repeated, key)}"]


def conversation_findings(frame: pl.DataFrame) -> Findings:
    """Originals without messages, or without anything that the loss could be on, and such whose whole conversation (as JSON) is
    another one than their messages."""
    messages = pl.col("messages")
    roles = messages.list.eval(pl.element().struct.field("role"))
    answered = roles.list.contains("assistant") | roles.list.contains("text")
    silent = frame.filter((messages.list.len() == 0) | ~answered)
    found = [f"{silent.height} originals have no answer, such as {silent['id'][0]}"] if silent.height else []
    if "conversation" in frame.columns:
        other = [
            name
            for name, told, whole in frame.select("id", "messages", "conversation").drop_nulls().iter_rows()
            if [(m["role"], m["content"]) for m in json.loads(whole)["messages"]]
            != [(m["role"], m["content"]) for m in told]
        ]
        if other:
            found.append(f"{len(other)} originals have another conversation than their messages, such as {other[0]}")
    return found


def flag_findings(frame: pl.DataFrame) -> Findings:
    """Paraphrases that are missing or carry a flag, by why they do."""
    counts = (
        frame.filter(pl.col("flag").is_not_null())
        .group_by(pl.col("messages").is_null().alias("missing"), "flag", maintain_order=True)
        .agg(pl.col("id"))
    )
    return [
        f"{len(ids)} paraphrases are {'missing' if missing else 'flagged'} {flag!r}, such as {ids[0]}"
        for missing, flag, ids in counts.sort("missing", descending=True, maintain_order=True).iter_rows()
    ]


def unexplained_findings(frame: pl.DataFrame) -> Findings:
    """Missing variants that do not say why they are."""
    silent = frame.filter(pl.col("messages").is_null() & pl.col("flag").is_null())["id"].to_list()
    return [f"{len(silent)} missing paraphrases have no flag that says why, such as {silent[0]}"] if silent else []


def zero_score_findings(frame: pl.DataFrame, originals: int) -> Findings:
    """Candidates that were chosen out of so many originals although BM25 knows nothing of them."""
    zero = zero_score_places(frame, originals)
    if zero.is_empty():
        return []
    variants = f"{zero['variant_id'].n_unique()} of {frame['variant_id'].n_unique()} variants"
    return [f"{variants} have candidates with a BM25 score of 0 ({zero.height} in all), such as {_named(zero, _PAIR)}"]


def finite_findings(frame: pl.DataFrame) -> Findings:
    """NaN and infinity in columns of numbers (null is how a table says "undefined")."""
    found = []
    for name, dtype in frame.schema.items():
        if dtype.is_float() and (count := int((~frame[name].is_finite()).sum())):
            found.append(f"column {name} holds {count} values that are NaN or infinite")
    return found


def sample_findings(frame: pl.DataFrame, expected: Iterable[str], source: str, dropped: int = 0) -> Findings:
    """Samples of a dataset that are not those of `source`; up to `dropped` may be missing."""
    ids, wanted = set(frame["id"].to_list()), set(expected)
    found = []
    if extra := sorted(ids - wanted):
        found.append(f"{len(extra)} samples are not in {source}, such as {extra[0]}")
    missing = sorted(wanted - ids)
    if len(missing) > dropped:
        found.append(f"{len(missing)} samples of {source} are missing, such as {missing[0]}")
    return found


def shard_findings(by_shard: Mapping[str, Iterable[str]], expected: Iterable[str] | None, dropped: int = 0) -> Findings:
    """Variants that are in more than one shard, and such of `expected` that are in none; up to `dropped` may be missing.

    `by_shard` holds the ids of each shard; `expected` is None where nobody knows them.
    """
    places: dict[str, list[str]] = {}
    for shard, ids in by_shard.items():
        for name in set(ids):
            places.setdefault(name, []).append(shard)
    twice = sorted(name for name, shards in places.items() if len(shards) > 1)
    found = []
    if twice:
        where = " and ".join(sorted(places[twice[0]]))
        found.append(f"{len(twice)} variants are in several shards, such as {twice[0]} in {where}")
    missing = sorted(set(expected or ()) - set(places))
    if len(missing) > dropped:
        found.append(f"{len(missing)} variants are in no shard, such as {missing[0]}")
    return found


def pair_findings(frame: pl.DataFrame, expected: pl.DataFrame, per_pair: str, dropped: bool = False) -> Findings:
    """Rows = variants x candidates x distinct values of `per_pair` (component, proportion).

    `expected` holds the pairs (variant_id, original_id) of the candidates. With `dropped`, pairs may be missing whose
    sample the context policy left out.
    """
    pairs, wanted = frame.select(_PAIR).unique(), expected.select(_PAIR).unique()
    found = []
    extra = pairs.join(wanted, on=_PAIR, how="anti").sort(_PAIR)
    if extra.height:
        found.append(f"{extra.height} pairs are not among the candidates, such as {_named(extra, _PAIR)}")
    missing = wanted.join(pairs, on=_PAIR, how="anti").sort(_PAIR)
    if missing.height and not dropped:
        found.append(f"{missing.height} of {wanted.height} pairs are missing, such as {_named(missing, _PAIR)}")
    values = frame[per_pair].n_unique()
    if frame.height != pairs.height * values:
        found.append(f"{frame.height} rows are not {pairs.height} pairs x {values} of column {per_pair}")
    return found


def component_findings(frame: pl.DataFrame, components: Iterable[str] | None) -> Findings:
    """Components of the model that a table does not have, and such as the model does not have; None: not known."""
    if components is None:
        return []
    found, wanted = set(frame["component"].to_list()), set(components)
    findings = []
    for absent, what in ((wanted - found, "of the model are missing"), (found - wanted, "are not the model's")):
        if absent:
            findings.append(f"{len(absent)} components {what}, such as {min(absent)}")
    return findings


def product_findings(frame: pl.DataFrame, tolerance: float = TOLERANCE) -> Findings:
    """Self products below zero, gradients without any length, and |D_ij| > sqrt(D_ii D_jj) (Cauchy-Schwarz).

    A self product of zero is right for a component that got no gradient (an expert that no token chose); then the dot
    product must be zero too, which Cauchy-Schwarz says.
    """
    found = []
    for side, name in (("variant", "variant_id"), ("original", "original_id")):
        column = f"{side}_self"
        negative = frame.filter(pl.col(column) < 0)
        if negative.height:
            found.append(f"{column} is negative in {negative.height} rows, such as {_named(negative, [name])}")
        lengths = frame.group_by(name).agg(pl.col(column).sum(), known=pl.col(column).is_not_null().any())
        lost = lengths.filter(pl.col("known") & (pl.col(column) == 0)).sort(name)
        if lost.height:
            found.append(f"{lost.height} {side}s have a gradient of zero in every component, such as {lost[name][0]}")
    bound = (pl.col("variant_self").clip(0) * pl.col("original_self").clip(0)).sqrt() * (1 + tolerance)
    broken = frame.filter(pl.col("dot_product").abs() > bound)
    if broken.height:
        found.append(
            f"|dot_product| exceeds the product of the two norms in {broken.height} rows, such as "
            f"{_named(broken, [*_PAIR, 'component'])}"
        )
    return found


def predicted_findings(frame: pl.DataFrame, products: pl.LazyFrame) -> Findings:
    """Changes of loss (`first_order`) that are not predicted by the products: -learning rate x product of the full gradients."""
    joined = frame.join(_whole_products(products, frame), on=_PAIR)
    wanted = -pl.col("learning_rate") * pl.col("product")
    # Of the size that the two gradients could have at most: products near 0 are sums of terms that cancel.
    off = joined.filter((pl.col("predicted") - wanted).abs() > TOLERANCE * pl.col("learning_rate") * pl.col("most"))
    return (
        [f"{off.height} predictions are not those of the products, such as {_named(off, _PAIR)}"] if off.height else []
    )


def token_findings(frame: pl.DataFrame, products: pl.LazyFrame) -> Findings:
    """Contributions of a side's tokens (`token_attribution`) that do not make up the product of the full gradients."""
    sums = frame.group_by(*_PAIR, "side", maintain_order=True).agg(pl.col("contribution").sum(), pl.len())
    joined = sums.join(_whole_products(products, frame), on=_PAIR)
    off = joined.filter((pl.col("contribution") - pl.col("product")).abs() > TOLERANCE * pl.col("most"))
    if off.is_empty():
        return []
    return [f"the tokens of {off.height} texts do not make up the product, such as {_named(off, [*_PAIR, 'side'])}"]


def _whole_products(products: pl.LazyFrame, wanted: pl.DataFrame) -> pl.DataFrame:
    """By pair of those in `wanted` the product of the full gradients, and the most that it could be."""
    pairs = wanted.select(_PAIR).unique().lazy()
    sums = (
        products.join(pairs, on=_PAIR, how="semi")
        .group_by(_PAIR)
        .agg(
            product=pl.col("dot_product").sum(),
            most=(pl.col("variant_self").sum() * pl.col("original_self").sum()).sqrt(),
        )
    )
    return sums.collect()


def cosine_findings(frame: pl.DataFrame, column: str = "similarity", tolerance: float = TOLERANCE) -> Findings:
    """Cosines beyond [-1, 1]."""
    beyond = frame.filter(pl.col(column).abs() > 1 + tolerance)
    return [f"{column} is beyond [-1, 1] in {beyond.height} rows"] if beyond.height else []


def sketch_findings(frame: pl.DataFrame, dimension: int, tolerance: float = TOLERANCE) -> Findings:
    """Sketches that have not the dimension, or are neither of length 1 nor all zeros with a length of zero; NaN is neither."""
    found = []
    dtype = frame.schema["sketch"]
    if not isinstance(dtype, pl.Array) or dtype.shape != (dimension,):
        return [f"sketches are {dtype}, and have {dimension} numbers each"]
    squares = frame["sketch"].cast(pl.Array(pl.Float64, dimension)).arr.explode().pow(2)
    lengths = (
        squares.reshape((frame.height, dimension)).arr.sum().sqrt() if frame.height else pl.Series([], dtype=pl.Float64)
    )
    wanted = (frame["length"] > 0).cast(pl.Float64)
    wrong = frame.filter(~((lengths - wanted).abs() <= tolerance).fill_null(False))
    if wrong.height:
        found.append(f"{wrong.height} sketches are not of length 1, such as that of {wrong['id'][0]}")
    if negative := frame.filter(pl.col("length") < 0).height:
        found.append(f"{negative} lengths are negative")
    return found


def nearest_findings(frame: pl.DataFrame, known: pl.Series, asked: int) -> Findings:
    """Candidates by an index of the originals `known` that are not the `asked` best of each variant, its own original among them."""
    found = []
    strange = frame.filter(~pl.col("original_id").is_in(known.implode()))
    if strange.height:
        found.append(f"{strange.height} candidates are not in the index, such as {_named(strange, _PAIR)}")
    by_variant = frame.sort("rank").group_by("variant_id", maintain_order=True)
    falling = pl.when("forced").then(None).otherwise("score").drop_nulls().diff().max().fill_null(0) <= 0
    variants = by_variant.agg(
        counted=(pl.col("rank").cast(pl.Int64) == pl.int_range(1, pl.len() + 1)).all(),
        complete=pl.len() == min(asked, len(known)),
        falling=falling,
        own=(pl.col("variant_id").first() == pl.col("original_id")).any(),
        own_forced=(~pl.col("forced") | (pl.col("rank") == pl.len())).all(),
    )
    own = pl.col("own") | ~pl.col("variant_id").is_in(known.implode())
    for holds, said in (
        (pl.col("counted") & pl.col("complete"), f"do not have {min(asked, len(known))} candidates with ranks from 1"),
        (pl.col("falling"), "have candidates that are not in the order of their scores"),
        (own, "do not have their own original among their candidates"),
        (pl.col("own_forced"), "have a forced candidate that is not the last"),
    ):
        wrong = variants.filter(~holds)
        if wrong.height:
            found.append(f"{wrong.height} variants {said}, such as {wrong['variant_id'][0]}")
    beyond = frame.filter(pl.col("score").abs() > 1 + TOLERANCE)
    return found + ([f"score is beyond [-1, 1] in {beyond.height} rows"] if beyond.height else [])


def agreement_findings(selves: Mapping[str, pl.DataFrame], tolerance: float = TOLERANCE) -> Findings:
    """Originals whose self product in one component differs between rows or between partitions.

    `selves` holds, by name of a partition, frames with original_id, component, original_self.
    """
    frames = [
        frame.select("original_id", "component", "original_self", partition=pl.lit(name))
        for name, frame in selves.items()
    ]
    if not frames:
        return []
    spread = (
        pl.concat([frame.lazy() for frame in frames])
        .group_by("original_id", "component")
        .agg(
            low=pl.col("original_self").min(),
            high=pl.col("original_self").max(),
            partitions=pl.col("partition").unique().sort(),
        )
        .filter(pl.col("high") - pl.col("low") > tolerance * pl.col("high").abs())
        .sort("original_id", "component")
        .collect()
    )
    if spread.is_empty():
        return []
    row = spread.row(0, named=True)
    return [
        f"{spread.height} self products of originals differ, such as {row['original_id']} in {row['component']}: "
        f"{row['low']:.6g} to {row['high']:.6g} (partitions {', '.join(row['partitions'])})"
    ]


def drift(current: Mapping[str, float], previous: Mapping[str, float], limit: float = 0.1) -> Findings:
    """Methods whose retrieval accuracy moved by more than `limit` since the previous revision."""
    return [
        f"accuracy of {method} went from {previous[method]:.3f} to {value:.3f}"
        for method, value in current.items()
        if method in previous and method != "chance" and abs(value - previous[method]) > limit
    ]


def _named(frame: pl.DataFrame, columns: list[str]) -> str:
    return "(" + ", ".join(map(str, frame.select(columns).row(0))) + ")"
