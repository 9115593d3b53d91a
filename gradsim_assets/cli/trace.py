"""`gradsim trace`: which originals a text goes back to."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gradsim_assets.cli import completion
from gradsim_assets.cli.columns import columns
from gradsim_assets.cli.instance import FAILED
from gradsim_assets.cli.model_id import MODEL_ID

if TYPE_CHECKING:
    from gradsim_assets.core.tracing.stored_traces import StoredTrace

#: Characters of a prompt that head what is found of it.
_HEAD = 100


@click.command()
@click.argument("model", type=MODEL_ID)
@click.option("--prompt", help="What the model was asked.")
@click.option("--answer", help="What it said; without it the model gives its own answer (greedy).")
@click.option(
    "--file",
    "path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Many texts instead: JSON lines with `prompt` and perhaps `answer`, or a prompt on every line.",
)
@click.option("--top", default=20, show_default=True, type=click.IntRange(1), help="Originals to show.")
@click.option(
    "--method",
    default="cosine",
    shell_complete=completion.methods,
    show_default=True,
    help="cosine, dot_product, a preconditioner that is configured (ekfac), or patterns of components ('*.mlp.*,*.q_proj.*').",
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
@click.option(
    "--here",
    is_flag=True,
    help="Trace in this process, even where `gradsim ui` serves this home with the model at hand.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, all originals; of a file a line for each text.")
def trace(
    model: str,
    prompt: str | None,
    answer: str | None,
    path: Path | None,
    top: int,
    method: str,
    against: str,
    rerank: int,
    here: bool,
    as_json: bool,
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
      gradsim trace demo --file questions.jsonl --top 5
    """
    if (prompt is None) == (path is None) or (path is not None and answer is not None):
        raise click.UsageError("give a text by --prompt (and --answer), or many by --file.")
    how = (method, f"index:{rerank}" if against == "index" else against)
    try:
        if path is None:
            whole = _one(model, str(prompt), answer, top, how, here, as_json)
        else:
            whole = _many(model, path, top, how, as_json)
    except Exception as error:
        if not (
            told := getattr(error, "description", None)
        ):  # as a failure of Dagster's has it, which may not be loaded
            raise
        click.echo(f"✗ {told}", err=True)
        sys.exit(FAILED)
    if not whole:
        sys.exit(FAILED)


def _one(
    model: str, prompt: str, answer: str | None, top: int, how: tuple[str, str], here: bool, as_json: bool
) -> bool:
    from gradsim_assets.core.tracing.query import checked_query

    checked_query(prompt, answer)
    found = None if here else _served(model, prompt, answer, how)
    if found is None:
        from gradsim_assets.runs.tracing import trace as trace_text

        found = trace_text(model, prompt, answer, *how)
    _print(*found, top, as_json)
    return True


def _served(model: str, prompt: str, answer: str | None, how: tuple[str, str]) -> "tuple[StoredTrace, Path] | None":
    """What the server of this home's pages traces; None where there is none on this machine, or it could not."""
    from gradsim_assets.runs.asked_server import ask_server
    from gradsim_assets.runs.served_home import served

    if (server := served()) is None:
        return None
    if found := ask_server(server, model, prompt, answer, *how):
        click.echo(f"{server.address} serves this home and traced the text; --here does it in this process.", err=True)
    return found


def _many(model: str, path: Path, top: int, how: tuple[str, str], as_json: bool) -> bool:
    """Prints what is found of every text of a file; False where some could not be traced."""
    from gradsim_assets.runs.tracing import trace_file

    whole = True
    for number, (asked, found) in enumerate(trace_file(model, path, *how)):
        if not isinstance(found, tuple):
            click.echo(f"✗ {asked.place}: {found}", err=True)
            whole = False
            continue
        if not as_json:
            click.echo(f"{'' if number == 0 else chr(10)}{asked.place}: {' '.join(asked.prompt.split())[:_HEAD]}")
        _print(*found, top, as_json)
    return whole


def _print(found: "StoredTrace", folder: Path, top: int, as_json: bool) -> None:
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
