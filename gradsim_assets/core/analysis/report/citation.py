"""How a report is cited: an entry for BibTeX that names the model, its revision, the data and what computed it."""

import re
from datetime import date

from gradsim_assets import __version__

#: What LaTeX would read as its own.
_SPECIAL = re.compile(r"([&%$#_{}])")


def citation(model: str, revision: str | None, dataset: str | None, variants: str, made: date | None) -> str:
    """The entry; what is not known is left out. Arguments are as the page shows them."""
    known = [f"revision {revision}" if revision else "", f"data {dataset}" if dataset else "", variants]
    note = ", ".join(_tex(one) for one in known if one)
    fields = {
        "title": f"{{Training-data attribution by loss gradients: {_tex(model)}}}",
        "howpublished": f"{{gradsim {__version__}}}",
        "note": f"{{{note}}}",
        **({"year": f"{{{made.year}}}", "month": f"{{{made.month}}}"} if made else {}),
    }
    key = re.sub(r"[^A-Za-z0-9]+", "-", f"gradsim-{model}").strip("-").lower()
    return "\n".join([f"@misc{{{key},", *(f"  {name} = {value}," for name, value in fields.items()), "}"])


def _tex(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text.replace("~", "-").replace("\\", "/"))
