"""The system's Chromium, for tests and benchmarks that look at pages."""

import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

#: It runs as root, without a GPU, and asks nobody for anything by itself.
_FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]


def launch_chromium(playwright: "Playwright") -> "Browser":
    """Starts it without a window; there must be one (`CHROMIUM`)."""
    return playwright.chromium.launch(executable_path=CHROMIUM, args=_FLAGS)
