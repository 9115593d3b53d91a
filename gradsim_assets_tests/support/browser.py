"""The system's Chromium, for tests and benchmarks that look at pages."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

#: It runs as root, without a GPU, and asks nobody for anything by itself.
_FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]


def launch_chromium(playwright: "Playwright") -> "Browser":
    """Starts it without a window; there must be one (`CHROMIUM`)."""
    return playwright.chromium.launch(executable_path=CHROMIUM, args=_FLAGS)


def violations(page: "Page") -> list[str]:
    """What axe-core finds wrong with a page as it is shown now: its rule, and the first element that breaks it."""
    import axe_playwright_python

    script = Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text(encoding="utf-8")
    page.evaluate(script)
    found = page.evaluate("axe.run()")["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html'][:160]} ({one['nodes'][0]['failureSummary']})" for one in found]
