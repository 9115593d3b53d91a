"""What makes a table of the analyses wrong: figures out of their range, sums that do not come out, and decisions that are not those
of the products that the table was made from."""

from collections.abc import Iterable

import polars as pl

from gradsim_assets.core.components import component_columns
from gradsim_assets.core.tables.schemas import FULL_GRADIENT, TABLES
from gradsim_assets.core.tables.soundness import Findings
from gradsim_assets.core.tables.table_schema import TableSchema

#: Sums and shares of some hundred float64 numbers agree to this; a wrong row, variant or component is off by 1/V and more.
TOLERANCE = 1e-6

#: Cosines that are nearer to one another may fall either way: sums of components were formed in another order (1e-15 a term).
TIE = 1e-9

_PAIR = ["variant_id", "original_id"]

#: What a table's interval always encloses: Wilson's and Newcombe's do, a bootstrap's need not.
_ENCLOSED = r"^(control_)?accuracy(_verbatim|_not_verbatim)?$|^recall_at_\d+$|^difference$|^(untrained|base)_(accuracy|difference)$"


def range_findings(schema: TableSchema, frame: pl.DataFrame) -> Findings:
    """Shares beyond [0, 1], cosines and differences of shares beyond [-1, 1], counts below 0, and intervals that are none."""
    found = []
    for name in frame.columns:
        column = schema.column(name)
        if column is None or not frame.schema[name].is_numeric():
            continue
        low, high = _range(name, column.unit, frame.schema[name])
        value = pl.col(name)
        beyond = frame.filter((value < low - TOLERANCE) | (value > high + TOLERANCE))
        if beyond.height:
            found.append(
                f"column {name} is beyond [{low:g}, {high:g}] in {beyond.height} rows, such as {_row(schema, beyond)}"
            )
        if {f"{name}_low", f"{name}_high"} <= set(frame.columns):
            found += _interval_findings(schema, frame, name)
    return found


def _range(name: str, unit: str | None, dtype: pl.DataType) -> tuple[float, float]:
    if unit == "share":
        return (-1 if "difference" in name else 0), 1
    if unit == "cosine":
        return (0, 2) if name == "divergence" else (-1, 1)
    if name == "p_value":
        return 0, 1
    return (0 if dtype.is_integer() else -float("inf")), float("inf")


def _interval_findings(schema: TableSchema, frame: pl.DataFrame, name: str) -> Findings:
    value, low, high = pl.col(name), pl.col(f"{name}_low"), pl.col(f"{name}_high")
    outside = (
        (value < low - TOLERANCE) | (value > high + TOLERANCE)
        if pl.Series([name]).str.contains(_ENCLOSED)[0]
        else False
    )
    wrong = frame.filter((low > high + TOLERANCE) | (low.is_null() != high.is_null()) | outside)
    return (
        [f"the interval of {name} is none in {wrong.height} rows, such as {_row(schema, wrong)}"]
        if wrong.height
        else []
    )


def _row(schema: TableSchema, frame: pl.DataFrame) -> str:
    return "(" + ", ".join(map(str, frame.select(schema.key).row(0))) + ")"


def rank_findings(schema: TableSchema, frame: pl.DataFrame) -> Findings:
    """Accuracies, reciprocal ranks and recalls of the same rows that no ranking has together."""
    recalls = sorted(
        (one for one in frame.columns if one.startswith("recall_at_") and one[10:].isdigit()), key=lambda n: int(n[10:])
    )
    accuracy, mrr = pl.col("accuracy"), pl.col("mrr")
    # Who is not first is second at best; the mean of reciprocal ranks of those is 1/2 at most.
    wrong = frame.filter((mrr < accuracy - TOLERANCE) | (mrr > accuracy + (1 - accuracy) / 2 + TOLERANCE))
    found = (
        [f"accuracy and mrr do not fit in {wrong.height} rows, such as {_row(schema, wrong)}"] if wrong.height else []
    )
    for less, more in zip(["accuracy", *recalls], recalls, strict=False):
        lower = frame.filter(pl.col(more) < pl.col(less) - TOLERANCE)
        if lower.height:
            found.append(f"{more} is below {less} in {lower.height} rows, such as {_row(schema, lower)}")
    return found


def decisions(products: pl.LazyFrame) -> pl.DataFrame:
    """What a table `dot_products` says of every component and the full gradient, computed anew and in another way than analyses do.

    Columns component, variants, surely_right and perhaps_right (numbers of variants whose own original is ahead of all others, by
    more than rounding or at least not behind by more), agreement (rho with the full gradient; null where it is undefined).
    """
    terms = products.select(*_PAIR, "component", "dot_product", "variant_self", "original_self")
    whole = terms.group_by(_PAIR).agg(pl.col("dot_product", "variant_self", "original_self").sum())
    cosines = pl.concat([_cosine(terms), _cosine(whole.with_columns(component=pl.lit(FULL_GRADIENT)))])
    own = pl.col("variant_id") == pl.col("original_id")
    ahead = pl.col("own") - pl.col("rival")
    counts = (
        cosines.group_by("component", "variant_id")
        .agg(own=pl.col("cosine").filter(own).max(), rival=pl.col("cosine").filter(~own).max())
        .group_by("component")
        .agg(
            variants=pl.len().cast(pl.Int64),
            surely_right=(pl.col("own").is_not_null() & (ahead > TIE).fill_null(True)).sum().cast(pl.Int64),
            perhaps_right=(pl.col("own").is_not_null() & (ahead > -TIE).fill_null(True)).sum().cast(pl.Int64),
        )
    )
    full = cosines.filter(component=FULL_GRADIENT).select(*_PAIR, full="cosine")
    both = cosines.join(full, on=_PAIR).filter(pl.col("full").is_not_null()).with_columns(pl.col("cosine").fill_null(0))
    sums = both.group_by("component").agg(
        product=(pl.col("cosine") * pl.col("full")).sum(),
        lengths=((pl.col("cosine") ** 2).sum() * (pl.col("full") ** 2).sum()).sqrt(),
    )
    rho = pl.when(pl.col("lengths") > 0).then(pl.col("product") / pl.col("lengths"))
    return counts.join(sums.select("component", agreement=rho), on="component", how="left").sort("component").collect()


def _cosine(terms: pl.LazyFrame) -> pl.LazyFrame:
    square = pl.col("variant_self") * pl.col("original_self")
    cosine = pl.when(square > 0).then(pl.col("dot_product") / square.sqrt())
    return terms.select(*_PAIR, "component", cosine=cosine)


def decision_findings(frame: pl.DataFrame, decided: pl.DataFrame, what: str = "component") -> Findings:
    """Accuracies of a table that are not those of the products; `what` is its column with the names that `decided` has."""
    joined = frame.select(pl.col(what).alias("component"), "accuracy").join(decided, on="component", how="inner")
    right = pl.col("accuracy") * pl.col("variants")
    wrong = joined.filter((right < pl.col("surely_right") - 1e-3) | (right > pl.col("perhaps_right") + 1e-3))
    return (
        [
            f"{wrong.height} accuracies are not those of dot_products, such as that of {wrong['component'][0]}: {wrong['accuracy'][0]:.6g} "
            f"in place of {wrong['surely_right'][0]} of {wrong['variants'][0]}"
        ]
        if wrong.height
        else []
    )


def agreement_of_products(frame: pl.DataFrame, decided: pl.DataFrame) -> Findings:
    """Agreements that are not those of the products."""
    joined = frame.select("component", "agreement").join(
        decided.select("component", wanted="agreement"), on="component"
    )
    known = pl.col("agreement").is_null() == pl.col("wanted").is_null()
    wrong = joined.filter(~known | ((pl.col("agreement") - pl.col("wanted")).abs() > TOLERANCE))
    return (
        [
            f"{wrong.height} agreements are not those of dot_products, such as that of {wrong['component'][0]}: {wrong['agreement'][0]} in "
            f"place of {wrong['wanted'][0]}"
        ]
        if wrong.height
        else []
    )


def size_findings(frame: pl.DataFrame) -> Findings:
    """Sizes of components that do not make up the whole, and names whose type or depth is another one."""
    found = []
    counts = frame["parameters"]
    if (counts <= 0).any():
        found.append(f"{int((counts <= 0).sum())} components have no parameters")
    if counts.null_count() == 0 and frame.height:
        share = frame["share"].fill_null(float("nan"))
        off = frame.filter(~((share - counts / counts.sum()).abs() <= TOLERANCE))
        if off.height:
            found.append(
                f"{off.height} shares are not those of their parameters, such as that of {off['component'][0]}"
            )
    return found + named_findings(frame)


def named_findings(frame: pl.DataFrame) -> Findings:
    """Rows whose type or depth is not what the component's name says."""
    parts = ["component_type", "depth"]
    named = component_columns([name for name in frame["component"].unique() if name != FULL_GRADIENT])
    joined = frame.join(
        named.select("component", *(pl.col(part).alias(f"named_{part}") for part in parts)), on="component"
    )
    off = joined.filter(pl.any_horizontal(pl.col(part).ne_missing(pl.col(f"named_{part}")) for part in parts))
    return (
        [f"{off.height} rows have another type or depth than their component, such as {off['component'][0]}"]
        if off.height
        else []
    )


def retrieval_findings(frame: pl.DataFrame) -> Findings:
    """Counts of the table `retrieval` that do not fit its accuracies."""
    schema, found = TABLES["retrieval"], []
    for name in (FULL_GRADIENT, "chance"):
        if name not in frame["method"].to_list():
            found.append(f"the method {name} is missing")
    missed = frame.filter(((1 - pl.col("accuracy")) * pl.col("variants") - pl.col("wrong")).abs() > 1e-3)
    if missed.height:
        found.append(f"wrong and accuracy do not fit in {missed.height} rows, such as {_row(schema, missed)}")
    full = frame.filter(method=FULL_GRADIENT)["accuracy"].to_list()
    if full and full[0] is not None:
        lead = (pl.col("only_full_gradient_right") - pl.col("only_this_right")) / pl.col("variants")
        for what, value in (("decisions", lead), ("difference", pl.col("difference"))):
            off = frame.filter(((full[0] - pl.col("accuracy")) - value).abs() > TOLERANCE)
            if off.height:
                found.append(f"{what} and accuracies do not fit in {off.height} rows, such as {_row(schema, off)}")
    copies = frame.filter(pl.col("variants_verbatim") + pl.col("variants_not_verbatim") > pl.col("variants"))
    if copies.height:
        found.append(f"more answers than variants in {copies.height} rows, such as {_row(schema, copies)}")
    return found


def group_findings(frame: pl.DataFrame, retrieval: pl.DataFrame | None) -> Findings:
    """Groups of which a column's are not all variants once, and figures of a column's groups that do not make up those of all.

    `retrieval` is the table of that name, None where it is not there or was made from other products.
    """
    found = []
    whole = frame.group_by("column", "method", maintain_order=True).agg(
        pl.col("variants").sum(),
        *((pl.col(figure) * pl.col("variants")).sum().alias(figure) for figure in ("accuracy", "mrr")),
    )
    sizes = whole.group_by("column", maintain_order=True).agg(pl.col("variants").n_unique())
    if (uneven := sizes.filter(pl.col("variants") > 1)).height:
        found.append(f"methods are scored on groups of other sizes by {uneven['column'][0]}")
    if retrieval is None:
        return found
    joined = whole.join(
        retrieval.select("method", *(pl.col(n).alias(f"all_{n}") for n in ("variants", "accuracy", "mrr"))),
        on="method",
        how="left",
    )
    off = joined.filter(
        (pl.col("variants") != pl.col("all_variants"))
        | pl.any_horizontal(
            (pl.col(figure) / pl.col("variants") - pl.col(f"all_{figure}")).abs() > TOLERANCE
            for figure in ("accuracy", "mrr")
        )
        | pl.col("all_variants").is_null()
    )
    if off.height:
        found.append(f"groups by {off['column'][0]} do not make up retrieval's figures for {off['method'][0]}")
    return found


def selection_findings(frame: pl.DataFrame, components: Iterable[str], decided: pl.DataFrame | None) -> Findings:
    """Selections that leave components out or take them twice, whose shares of parameters do not grow to 1, or which end at another
    figure than the full gradient's; `decided` is that of `decisions`, None where it is not known."""
    wanted, found = sorted(components), []
    for (criterion, evaluation, split), rounds in frame.group_by(
        "criterion", "evaluation", "split", maintain_order=True
    ):
        name = f"the selection ({criterion}, {evaluation}, {split})"
        if (
            rounds["round"].to_list() != list(range(1, len(wanted) + 1))
            or rounds["component"].sort().to_list() != wanted
        ):
            found.append(f"{name} does not take every component once")
            continue
        shares = rounds["parameter_share"]
        if shares.null_count() == 0 and (
            (shares.diff().drop_nulls() < -TOLERANCE).any() or abs(shares[-1] - 1) > TOLERANCE
        ):
            found.append(f"{name} has shares of parameters that do not grow to 1")
        if evaluation == "same_ids" and decided is not None:
            found += _end_findings(name, criterion, rounds, decided)
    return found


def _end_findings(name: str, criterion: str, rounds: pl.DataFrame, decided: pl.DataFrame) -> Findings:
    first, last = rounds["value"][0], rounds["value"][-1]
    full = decided.filter(component=FULL_GRADIENT).row(0, named=True)
    if criterion == "accuracy":
        right = None if last is None else last * full["variants"]
        ends = right is None or full["surely_right"] - 1e-3 <= right <= full["perhaps_right"] + 1e-3
        return (
            []
            if ends
            else [f"{name} ends at {last:.6g}, where all components find {full['surely_right']} of {full['variants']}"]
        )
    agreements = decided.filter(pl.col("component") != FULL_GRADIENT)["agreement"].drop_nulls().to_list()
    best = max(agreements, default=None)
    found = [] if last is None or abs(last - 1) <= TOLERANCE else [f"{name} ends at {last:.6g} and not at 1"]
    if best is not None and (first is None or abs(first - best) > TOLERANCE):
        found.append(f"{name} begins at {first} and not with the best component's {best:.6g}")
    return found


def own_pair_findings(frame: pl.DataFrame, products: pl.LazyFrame) -> Findings:
    """Self similarities that are not the cosines of the products, divergences that are no differences, and ranks that are none."""
    own = _cosine(products.filter(pl.col("variant_id") == pl.col("original_id"))).collect()
    joined = frame.join(
        own.select("variant_id", "component", wanted="cosine"), on=["variant_id", "component"], how="left"
    )
    off = joined.filter(
        (pl.col("similarity").is_null() != pl.col("wanted").is_null())
        | ((pl.col("similarity") - pl.col("wanted")).abs() > TOLERANCE)
    )
    found = []
    if off.height:
        found.append(
            f"{off.height} similarities are not those of dot_products, such as {off.select('variant_id', 'component').row(0)}"
        )
    samples = frame.unique("variant_id", maintain_order=True)
    apart = (pl.col("best_component") - pl.col("full_gradient")).abs()
    if (wrong := samples.filter((apart - pl.col("divergence")).abs() > TOLERANCE)).height:
        found.append(f"{wrong.height} divergences are no differences, such as that of {wrong['variant_id'][0]}")
    ranked = samples.sort("divergence_rank")
    falls = ranked["divergence"].drop_nulls().diff().drop_nulls() <= TOLERANCE
    if ranked["divergence_rank"].to_list() != list(range(1, ranked.height + 1)) or not falls.all():
        found.append("the ranks of the divergences are not their order")
    return found


def paired_findings(frame: pl.DataFrame) -> Findings:
    """Differences of `control_comparison` that are none of its figures, or do not fit the counted decisions."""
    found = []
    schema = TABLES["control_comparison"]
    for name, own, other in (("difference", "accuracy", "control_accuracy"), ("mrr_difference", "mrr", "control_mrr")):
        off = frame.filter((pl.col(own) - pl.col(other) - pl.col(name)).abs() > TOLERANCE)
        if off.height:
            found.append(f"{name} is no difference in {off.height} rows, such as {_row(schema, off)}")
    counted = pl.col("only_model_right") - pl.col("only_control_right")
    off = frame.filter((counted - pl.col("difference") * pl.col("variants")).abs() > 1e-3)
    if off.height:
        found.append(f"decisions and differences do not fit in {off.height} rows, such as {_row(schema, off)}")
    return found


def compared_findings(frame: pl.DataFrame, retrieval: pl.DataFrame, model: str, setting: str) -> Findings:
    """Rows of `model_comparison` that are not those of a model's `retrieval`."""
    here = frame.filter(model=model, setting=setting)
    figures = ("accuracy", "mrr")
    joined = retrieval.select("method", *figures).join(
        here.select("method", *(pl.col(n).alias(f"told_{n}") for n in figures)), on="method", how="full"
    )
    off = joined.filter(
        pl.any_horizontal(
            pl.col(n).is_null().ne(pl.col(f"told_{n}").is_null())
            | ((pl.col(n) - pl.col(f"told_{n}")).abs() > TOLERANCE).fill_null(False)
            for n in figures
        )
    )
    return [f"{off.height} rows of {model} ({setting}) are not those of its retrieval"] if off.height else []
