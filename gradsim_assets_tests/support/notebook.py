"""Runs the notebook of the documentation; `python -m gradsim_assets_tests.support.notebook HOME` draws its pictures anew.

The notebook is a script whose cells begin with `# %%`, which Jupyter (with jupytext) and editors open as a notebook.
"""

import os
import runpy
import sys
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt

from gradsim_assets_tests.support.documented import ROOT

NOTEBOOK = ROOT / "docs/notebooks/first_look.py"

PICTURES = ROOT / "docs/images"


def run_notebook(home: Path) -> tuple[dict[str, Any], list[Any]]:
    """What the notebook has named at its end, on a home where the demo was computed, and the figures that it drew."""
    matplotlib.use("agg")
    plt.close("all")
    os.environ["GRADSIM_HOME"] = str(home)
    names = runpy.run_path(str(NOTEBOOK))
    return names, [plt.figure(number) for number in plt.get_fignums()]


if __name__ == "__main__":
    for number, drawn in enumerate(run_notebook(Path(sys.argv[1]))[1], start=1):
        drawn.savefig(PICTURES / f"notebook_{number}.png", dpi=110)
