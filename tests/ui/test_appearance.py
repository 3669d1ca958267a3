"""Whether everybody can use the page: on narrow screens, in the dark, by the keyboard, from right to left."""

from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.ui.conftest import ask
from tests.ui.scripted_models import Piece, Script, words

AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
RICH = """\
# Heading

A [link](https://example.org/), `code`, $a^2 + b^2 = c^2$ and a list:

1. one
2. two

| name | value |
|---|---|
| a long name of something | 1234567890123456789012345678901234567890 |

```python
def add(a, b):
    return a + b  # this line is long enough to leave a screen that is only 360 pixels wide
```
"""


def faults(page: Page) -> list[str]:
    """What axe finds serious or worse."""
    if not AXE.is_file():
        pytest.skip("axe is not installed (npm ci --prefix tests/ui)")
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found: Any = page.evaluate("axe.run()")  # Any: a JSON document
    return [
        f"{fault['id']}: {node['html']}"
        for fault in found["violations"]
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]


def show_rich_answer(page: Page, script: Script) -> None:
    script.answer("Show", (Piece("thinking", "Let me see."), *words(RICH)))
    ask(page, "Show")
    expect(page.locator(".assistant .facts")).to_contain_text(" token")
    expect(page.locator(".assistant math")).to_have_count(1)
    expect(page.locator(".hl-keyword").first).to_be_visible()


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_axe_finds_nothing_serious(page: Page, script: Script, colours: Literal["light", "dark"]) -> None:
    page.emulate_media(color_scheme=colours)
    assert faults(page) == []
    show_rich_answer(page, script)
    assert faults(page) == []
    page.get_by_role("button", name="Builtin").click()
    assert faults(page) == []
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Settings").click()
    expect(page.get_by_label("Temperature")).to_have_attribute("placeholder", "0.7 (model)")
    assert faults(page) == []


def test_narrow_screen_shows_everything_without_scrolling_sideways(page: Page, script: Script) -> None:
    page.set_viewport_size({"width": 360, "height": 640})
    show_rich_answer(page, script)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.locator("#scroller").evaluate("box => box.scrollWidth <= box.clientWidth")
    expect(page.locator("#sidebar")).to_be_hidden()
    page.get_by_role("button", name="Conversations").click()
    expect(page.get_by_role("link", name="Show")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#sidebar")).to_be_hidden()
    page.get_by_role("button", name="Conversations").click()
    page.get_by_role("link", name="New conversation").click()
    expect(page.locator("#sidebar")).to_be_hidden()


def test_printed_page_has_the_whole_conversation_and_nothing_else(page: Page, url: str) -> None:
    messages = [
        {"role": role, "content": f"**{role} {number}**\n\n" + "Some text. " * 40}
        for number in range(30)
        for role in ("user", "assistant")
    ]
    started = httpx.post(f"{url}/api/v1/chat/new", json={"messages": messages}).raise_for_status().json()
    page.goto(f"{url}/ui#/c/{started['conversation_id']}")
    expect(page.locator(".message")).to_have_count(60)
    expect(page.locator(".undrawn").first).to_be_attached()
    pages = page.pdf(format="A4").count(b"/Type /Page\n")
    assert pages > 5
    expect(page.locator(".undrawn")).to_have_count(0)
    page.emulate_media(media="print", color_scheme="dark")
    for hidden in ("#sidebar", "header", "#composer", ".footer button >> nth=0"):
        expect(page.locator(hidden)).to_be_hidden()
    expect(page.get_by_text("user 0", exact=False).first).to_be_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_each_paragraph_has_the_direction_of_its_script(page: Page, script: Script) -> None:
    script.answer("مرحبا", ("مرحبا بك\n\nAnd in English.",))
    ask(page, "مرحبا")
    expect(page.locator(".assistant .facts")).to_contain_text(" token")
    directions = page.locator(".question, .markdown p").evaluate_all(
        "parts => parts.map(part => getComputedStyle(part).direction)"
    )
    assert directions == ["rtl", "rtl", "ltr"]


def test_everything_is_reached_by_the_keyboard(page: Page) -> None:
    ask(page, "Hello")
    expect(page.locator(".assistant .facts")).to_contain_text(" token")
    page.get_by_label("Message", exact=True).focus()
    names = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        names.add(page.evaluate("document.activeElement.ariaLabel || document.activeElement.innerText"))
    wanted = {
        "Copy answer",
        "Answer again",
        "Edit question",
        "Settings",
        "More",
        "Rename Hello",
        "Delete Hello",
    }
    assert wanted <= names
