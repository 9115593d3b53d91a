"""`gradsim trace`: which originals a text goes back to."""

import json
import sys
from typing import TYPE_CHECKING

import click

from gradsim_assets.cli.columns import columns
from gradsim_assets.cli.instance import FAILED
from gradsim_assets.cli.model_id import MODEL_ID

if TYPE_CHECKING:
    from gradsim_assets.core.tracing.stored_traces import StoredTrace


@click.command()
@click.argument("model", type=MODEL_ID)
@click.option("--prompt", required=True, help="What the model was asked.")
@click.option("--answer", help="What it said; without it the model gives its own answer (greedy).")
@click.option("--top", default=10, show_default=True, type=click.IntRange(1), help="Originals to show.")
@click.option(
    "--method",
    default="cosine",
    show_default=True,
    help="cosine, dot_product, a preconditioner that is configured (ekfac), or a pattern of components ('*.mlp.*').",
)
@click.option(
    "--against",
    default="all",
    show_default=True,
    help="Originals to compare with: all, the best by BM25 (bm25:50), by the gradient index (index), or both (bm25:50+index:200).",
)
@click.option(
    "--rerank",
    default=200,
    show_default=True,
    type=click.IntRange(1),
    help="With --against index: so many of the best by the index are compared exactly.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, all originals.")
def trace(
    model: str, prompt: str, answer: str | None, top: int, method: str, against: str, rerank: int, as_json: bool
) -> None:
    """Rank the originals by how much they have to do with what MODEL answered, and say token by token why.

    The gradient of the text is compared with that of every original, exactly; among very many, with those that an index of sketches
    finds (docs/gradient-index.md), and the order of these is exact. Everything is kept under `traces` of the home, with a page
    that colours the tokens; the same text is not computed again.

    \b
    Examples:
      gradsim trace demo --prompt "How do I boil an egg?"
      gradsim trace demo --prompt "How do I boil an egg?" --answer "Put it into water." --method ekfac
      gradsim trace demo --prompt "How do I boil an egg?" --method "*.mlp.*" --json
      gradsim trace demo --prompt "How do I boil an egg?" --against index --rerank 500
    """
    import dagster as dg

    from gradsim_assets.runs.tracing import trace as trace_text

    try:
        named = f"index:{rerank}" if against == "index" else against
        found, folder = trace_text(model, prompt, answer, method, named)
    except dg.Failure as error:
        click.echo(f"✗ {error.description}", err=True)
        sys.exit(FAILED)
    if as_json:
        click.echo(json.dumps({**found.document, "originals": found.originals.to_dicts()}, ensure_ascii=False))
        return
    if found.generated:
        click.echo(f"The model answers: {found.answer}\n")
    click.echo(_table(found, top))
    if found.provenance.get("against", "all") != "all":
        recall = f"; {found.provenance['recall']}" if "recall" in found.provenance else ""
        click.echo(f"\nCompared with {found.originals.height} originals ({found.provenance['against']}){recall}.")
    click.echo(f"\nPage: {folder / 'index.html'}")


def _table(found: "StoredTrace", top: int) -> str:
    def figure(value: float | None, digits: int) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    rows = [
        [
            str(row["rank"]),
            row["original_id"],
            figure(row["similarity"], 4),
            "-" if row["answer_share"] is None else f"{row['answer_share']:.0%}",
            figure(row["text_overlap"], 0),
            str(row["bm25_rank"]),
        ]
        for row in found.originals.head(top).iter_rows(named=True)
    ]
    return columns(["rank", "original", found.method, "explains", "text overlap", "BM25 rank"], rows)
