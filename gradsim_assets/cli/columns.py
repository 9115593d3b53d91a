"""Tables on the terminal."""

from collections.abc import Sequence


def columns(header: Sequence[str], rows: Sequence[Sequence[str | float]]) -> str:
    """Lines of a table: texts from the left, numbers from the right, two spaces between columns."""
    texts = [list(map(str, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *texts, strict=True)]
    numeric = [
        bool(rows) and all(isinstance(cell, (int, float)) for cell in column) for column in zip(*rows, strict=True)
    ]
    numeric = numeric or [False] * len(header)

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(cells, widths, numeric, strict=True)
        ]
        return "  ".join(padded).rstrip()

    return "\n".join(line(cells) for cells in [header, *texts])
