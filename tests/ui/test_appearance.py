"""Whether everybody can use the page: on narrow screens, in the dark, by the keyboard, from right to left."""

from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from playwright.sync_api import FilePayload, Page, expect

from tests.http_options import LOCAL
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
    """What axe finds."""
    if not AXE.is_file():
        pytest.skip("axe is not installed (npm ci --prefix tests/ui)")
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found: Any = page.evaluate("axe.run()")  # Any: a JSON document
    return [f"{fault['id']}: {node['html']}" for fault in found["violations"] for node in fault["nodes"]]


def show_rich_answer(page: Page, script: Script) -> None:
    script.answer("Show", (Piece("thinking", "Let me see."), *words(RICH)))
    ask(page, "Show")
    expect(page.locator(".assistant .facts")).to_contain_text(" token")
    expect(page.locator(".assistant math")).to_have_count(1)
    expect(page.locator(".hl-keyword").first).to_be_visible()


def test_page_has_one_main_heading(page: Page) -> None:
    heading = page.get_by_role("heading", level=1)
    expect(heading).to_have_text("What is on your mind?")
    ask(page, "Hello")
    expect(page.locator(".assistant .facts")).to_contain_text(" token")
    expect(heading).to_have_text("Hello · LLM server")


def wait_until_drawn(page: Page) -> None:
    page.evaluate("new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))")


def test_answer_to_a_question_of_several_lines_stays_in_sight(page: Page, script: Script) -> None:
    question = "One\ntwo\nthree\nfour\nfive\nsix"
    script.answer("Show", words(RICH * 4))
    script.answer(question, words(RICH * 4))
    for number, asked in enumerate(("Show", question, question)):
        ask(page, asked)
        facts = page.locator(".assistant .facts").nth(number)
        expect(facts).to_contain_text(" token")
        expect(facts).to_be_in_viewport()
        expect(page.locator("#to-end")).to_be_hidden()


def test_end_stays_in_sight_when_a_question_returns_to_its_field(page: Page, script: Script) -> None:
    page.set_viewport_size({"width": 375, "height": 760})
    script.answer("Show", words("One line.\n\n" * 12))
    ask(page, "Show")
    facts, question = page.locator(".assistant .facts"), "One\ntwo\nthree\nfour"
    expect(facts).to_contain_text(" token")
    notes = FilePayload(name="notes.txt", mimeType="text/plain", buffer=b"Apples\n" * 50)
    page.locator("#picker").set_input_files([notes])
    page.context.set_offline(True)
    for asked in ("Hello", question) * 3:
        ask(page, asked)
        expect(page.get_by_label("Message", exact=True)).to_have_value(asked)
        expect(page.get_by_role("button", name="Send")).to_be_enabled()
        expect(page.locator(".message")).to_have_count(2)
        wait_until_drawn(page)
        expect(facts).to_be_in_viewport()
        expect(page.locator("#to-end")).to_be_hidden()


def test_notice_covers_nothing_of_the_new_message(page: Page) -> None:
    for name, text in (("notes.txt", b"Apples"), ("picture.png", b"\x89PNG\0")):
        page.locator("#picker").set_input_files([FilePayload(name=name, mimeType="", buffer=text)])
    notice, message = page.locator(".toast").bounding_box(), page.locator("#composer").bounding_box()
    assert notice is not None and message is not None
    assert notice["y"] + notice["height"] <= message["y"]


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_axe_finds_nothing(page: Page, script: Script, colours: Literal["light", "dark"]) -> None:
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


def edges(page: Page) -> list[bytes]:
    """Pictures of the left and right edges of the table, where no text is."""
    table, row = page.locator(".table").bounding_box(), page.locator(".table tr").last.bounding_box()
    assert table is not None and row is not None
    lefts = (table["x"] + 2, table["x"] + table["width"] - 6)
    return [page.screenshot(clip={"x": x, "y": row["y"] + 2, "width": 4, "height": 4}) for x in lefts]


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_table_is_shaded_where_it_goes_on(
    page: Page, script: Script, colours: Literal["light", "dark"]
) -> None:
    page.set_viewport_size({"width": 360, "height": 640})
    page.emulate_media(color_scheme=colours)
    script.answer(
        "Show", ("| name | of | each | of | the | columns |\n|-|-|-|-|-|-|\n| a | b | c | d | e | f |",)
    )
    ask(page, "Show")
    expect(page.locator(".assistant .facts")).to_contain_text(" token")
    at_start = edges(page)
    page.locator(".table").evaluate("box => { box.scrollLeft = 60; }")
    between = edges(page)
    page.locator(".table").evaluate("box => { box.scrollLeft = box.scrollWidth; }")
    at_end = edges(page)
    plain = at_start[0]
    assert at_end[1] == plain
    assert plain not in (at_start[1], *between, at_end[0])


def test_printed_page_has_the_whole_conversation_and_nothing_else(page: Page, url: str) -> None:
    messages = [
        {"role": role, "content": f"**{role} {number}**\n\n" + "Some text. " * 40}
        for number in range(30)
        for role in ("user", "assistant")
    ]
    started = (
        httpx.post(f"{url}/api/v1/chat/new", json={"messages": messages}, **LOCAL).raise_for_status().json()
    )
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
    script.answer("مرحبا", ("مرحبا بك\n\nAnd in English.\n\n- مرحبا\n\n> مرحبا\n\n1. one",))
    ask(page, "مرحبا")
    expect(page.locator(".assistant .facts")).to_contain_text(" token")
    directions = page.locator(".question, .markdown > *").evaluate_all(
        "parts => parts.map(part => getComputedStyle(part).direction)"
    )
    assert directions == ["rtl", "rtl", "ltr", "rtl", "rtl", "ltr"]


def test_conversation_is_scrolled_from_the_field_and_the_keys_are_listed(page: Page, script: Script) -> None:
    script.answer("Show", words(RICH * 4))
    ask(page, "Show")
    expect(page.locator(".assistant .facts")).to_contain_text(" token")
    field = page.get_by_label("Message", exact=True)
    field.press("PageUp")
    expect(page.locator("#to-end")).to_be_visible()
    for _ in range(2):
        field.press("PageDown")
    expect(page.locator("#to-end")).to_be_hidden()
    page.keyboard.press("Control+/")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()


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
