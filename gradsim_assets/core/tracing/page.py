"""The page of one trace: a file that needs no network, in which no text is ever read as HTML."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from gradsim_assets.core.analysis.plots import palette
from gradsim_assets.core.components import FAMILIES
from gradsim_assets.core.embedded_json import embedded_json
from gradsim_assets.core.samples import Sample
from gradsim_assets.core.tracing.stored_traces import StoredTrace

_HERE = Path(__file__).parent


def render_trace(trace: StoredTrace, originals: Mapping[str, Sample], top: int) -> str:
    """The page as one HTML document, with the texts of the best `top` originals."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined)
    shown = trace.originals.head(top)
    split = trace.tokens.partition_by("original_id", "side", as_dict=True)
    families = [name for name in FAMILIES if shown[name].null_count() < shown.height]
    return environment.get_template("page.html.j2").render(
        trace=trace,
        compared=trace.originals.height,
        shown=shown.height,
        families=families,
        palette=palette,
        style=(_HERE / "page.css").read_text(encoding="utf-8"),
        script=(_HERE / "page.js").read_text(encoding="utf-8"),
        data=embedded_json(
            {
                "prompt": trace.prompt,
                "answer": trace.answer,
                "families": families,
                "originals": [_original(row, originals[row["original_id"]], split) for row in shown.to_dicts()],
            }
        ),
    )


def _original(row: Mapping[str, Any], sample: Sample, split: Mapping[tuple[Any, ...], pl.DataFrame]) -> dict[str, Any]:
    """What the page knows of an original: its figures and text, and its tokens where they were split (by id and side)."""
    sides = {
        side: split[row["original_id"], side].select("text", "counted", "contribution").rows()
        for side in ("answer", "original")
        if (row["original_id"], side) in split
    }
    return {**row, "user": sample.user, "assistant": sample.assistant, "tokens": sides or None}
