"""Texts in the page as a reader sees them (mark `ui`): Markdown, code, formulas, and what a text must never do."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import polars as pl
import pytest

from gradsim_assets_tests.support.browser import violations
from gradsim_assets_tests.support.report_case import Case

pytestmark = pytest.mark.ui

ANSWER = """# A heading

Some *emphasis* and `inline`, a [link](https://example.org/x).
A second line. It costs $5 and $10.

| name | size |
|---|--:|
| one | 1 |

```python
def tenth(x: int) -> str:
    return f"{x / 10}"  # said
```

1. first
2. second

$$\\int_0^1 x^2\\,dx = \\frac{1}{3}$$ with \\(a_i \\le b\\), \\[y\\] and broken $\\frac{1$.

$$
z
$$
"""

#: Each tries to run a script, to fetch something, or to reach into the page.
HOSTILE = (
    "<script>document.body.dataset.broken='script'</script>",
    "<img src=x onerror=\"document.body.dataset.broken='img'\">",
    "<svg onload=\"document.body.dataset.broken='svg'\"></svg>",
    "<iframe srcdoc=\"<script>parent.document.body.dataset.broken='frame'</script>\"></iframe>",
    "<style>body { display: none }</style><form action=https://evil.example><input name=x></form>",
    "![tracked](https://evil.example/pixel.png)",
    "![script](javascript:document.body.dataset.broken='image')",
    "[script](javascript:document.body.dataset.broken='link') [data](data:text/html,<script>alert(1)</script>)",
    "[upper](JaVaScRiPt:document.body.dataset.broken='link') <javascript:document.body.dataset.broken='auto'>",
    "[entity](&#106;avascript:document.body.dataset.broken='link') [vb](vbscript:msgbox(1))",
    '[title](https://example.org/x "\\" onmouseover=document.body.dataset.broken=1 x=\\"")',
    "```\"><img src=x onerror=document.body.dataset.broken='fence'>\ncode\n```",
    "```html\n<img src=x onerror=document.body.dataset.broken='code'>\n```",
    "$\\href{javascript:document.body.dataset.broken='tex'}{x}$ $\\url{javascript:alert(1)}$",
    "$\\includegraphics{https://evil.example/pixel.png}$ $\\html{<img src=x onerror=alert(1)>}$",
    "$\\style{position:fixed;top:0;background:url(https://evil.example/x)}{x}$ $\\class{role}{x}$ $\\id{search}{x}$",
    "$\\text{<img src=x onerror=document.body.dataset.broken='text'>}$",
    "$\\unknown<img src=x onerror=document.body.dataset.broken='unknown'>$",
    "$\\def\\a{\\a\\a}\\a$ $\\rule{100000em}{100000em}$ $\\kern{99999em}x$",
    "<math><mtext><table><mglyph><style><img src=x onerror=document.body.dataset.broken='math'></style></mglyph></table></mtext></math>",
    "</script></textarea></title><script>document.body.dataset.broken='out'</script>",
)


def with_answer(case: Case, original: str, variant: str | None = None) -> Case:
    """The case, with an answer of `lima_1` and of its variants."""
    case = case.copy()

    def put(frame: pl.DataFrame, text: str) -> pl.DataFrame:
        rows = frame.to_dicts()
        next(row for row in rows if row["id"] == "lima_1")["messages"][1]["content"] = text
        return pl.DataFrame(rows, schema=frame.schema)

    case.originals = put(case.originals, original)
    for setting, results in case.settings.items():
        case.settings[setting] = replace(results, variants=put(results.variants, variant or original))
    return case


ANSWERED = "#original-text .message.assistant"


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False)])
def test_texts_are_read_as_they_were_meant(case: Case, open_page: Callable[..., Any], width: int, dark: bool) -> None:
    page = open_page(
        with_answer(case, ANSWER, ANSWER.replace("said", "told").replace("x^2", "x^3")).html(), width, dark
    )
    shown = page.locator(ANSWERED)
    assert shown.locator("p.heading.h1").inner_text() == "A heading"
    assert page.locator("h1").count() == 1, "headings of a text are none of the page"
    assert shown.locator("em").inner_text() == "emphasis" and shown.locator("p > code").first.inner_text() == "inline"
    assert "It costs $5 and $10." in shown.inner_text(), "amounts are no formulas"
    assert shown.locator("td").all_inner_texts() == ["one", "1"] and shown.locator("ol li").count() == 2
    assert shown.locator("pre .hljs-keyword").first.inner_text() == "def"
    assert shown.locator("math").count() == 4 and shown.locator("math mfrac").count() == 1
    assert "\\frac{1" in shown.inner_text(), "what is no formula is shown as it was written"
    link = shown.locator("a")
    assert link.get_attribute("href") == "https://example.org/x" and "noopener" in link.get_attribute("rel")
    # Words that differ are marked where they stand, formulas as a whole.
    assert shown.locator("del").all_inner_texts() == ["said"] and shown.locator("math.del").count() == 1
    assert page.locator("#variant-text .assistant ins").all_inner_texts() == ["told"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert violations(page) == []
    page.select_option("#reading", "raw")
    # Lines end where they do in the text; the first two are the role and the button.
    assert shown.inner_text().split("\n", 2)[2] == ANSWER and not shown.locator("em, math, pre").count()
    assert shown.locator("del").all_inner_texts() == ["said", "2"]
    shown.locator("button").click()
    shown.locator("button", has_text="copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == ANSWER, "the text itself, however it is read"


def test_nothing_of_a_text_runs_fetches_or_reaches_into_the_page(case: Case, open_page: Callable[..., Any]) -> None:
    page = open_page(with_answer(case, "\n\n".join(HOSTILE)).html())
    shown = page.locator(ANSWERED)
    assert shown.locator(".rendered").count() == 1 and "tracked" in shown.inner_text()
    for node in page.locator(f"{ANSWERED} a").all():
        node.hover()
    page.wait_for_timeout(200)
    assert page.evaluate("document.body.dataset.broken") is None
    assert [url for url in page.asked if not url.startswith(("file:", "blob:", "data:"))] == []
    found = page.evaluate(
        """(place) => [...document.querySelectorAll(`${place} .rendered *`)].map((node) => ({
          tag: node.localName, attributes: Object.fromEntries([...node.attributes].map((one) => [one.name, one.value])) }))""",
        ANSWERED,
    )
    assert not {"script", "img", "svg", "iframe", "style", "form", "input", "object"} & {one["tag"] for one in found}
    for one in found:
        assert not [name for name in one["attributes"] if name.startswith("on") or name in ("id", "name", "srcdoc")], (
            one
        )
        assert one["attributes"].get("href", "https:").startswith(("https:", "http:", "mailto:")), one
        style = one["attributes"].get("style", "")
        assert "url" not in style and "fixed" not in style and "100000" not in style, one
    assert page.locator("#search").count() == 1 and page.locator("main").is_visible()


def test_a_script_that_found_its_way_into_the_page_would_not_run(case: Case, open_page: Callable[..., Any]) -> None:
    """The last of the three defences by itself: what is not ours has no hash in the policy."""
    page = open_page(with_answer(case, "text").html())
    refused = page.evaluate(
        """() => new Promise((done) => {
          document.addEventListener("securitypolicyviolation", (event) => done(event.effectiveDirective), { once: true });
          const script = document.createElement("script");
          script.textContent = "document.body.dataset.broken = 'yes'";
          document.body.append(script);
        })"""
    )
    assert refused == "script-src-elem" and page.evaluate("document.body.dataset.broken") is None
