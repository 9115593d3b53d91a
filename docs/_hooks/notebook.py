"""A hook of mkdocs: the notebook as a page, its cells as text and code, the pictures that they draw below them."""

from pathlib import Path
from typing import Any

MARK = "<!-- notebook -->"

NOTEBOOK = Path(__file__).parents[1] / "notebooks/first_look.py"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with the notebook in the place of the mark."""
    return markdown.replace(MARK, "\n\n".join(cells())) if MARK in markdown else markdown


def cells() -> list[str]:
    """The cells as Markdown; a heading of the first order is the page's own."""
    parts, pictures = [], 0
    for cell in NOTEBOOK.read_text(encoding="utf-8").split("# %%")[1:]:
        kind, _, text = cell.partition("\n")
        if "[markdown]" in kind:
            lines = [line.removeprefix("#").removeprefix(" ") for line in text.strip().splitlines()]
            parts.append("\n".join(line for line in lines if not line.startswith("# ")))
            continue
        parts.append(f"```python\n{text.strip()}\n```")
        if "plt.subplots" in text:
            pictures += 1
            parts.append(f"![What this cell draws](images/notebook_{pictures}.png)")
    return parts
