"""Photographs a real session for the README, in light and in dark: `python -m tests.ui.picture`.

The pictures are docs/page-light.png and docs/page-dark.png. Their font is Inter, if it is installed.
"""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Literal

from playwright.sync_api import Page, sync_playwright

from tests.server import ROOT, running_server

SIZE = (1120, 800)
EARLIER = ("What is 12 + 30?", "Tell me a joke.", "What is the capital of Japan?")
ASKED = (
    "Hello, my name is Zofia.",
    "What is my name?",
    "A function that calculates the factorial of a number",
)
ANSWERED = ".assistant .facts:has-text(' token')"
COLOURS: tuple[Literal["light", "dark"], ...] = ("light", "dark")


def main() -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("Chromium is not installed (Debian: apt-get install chromium)")
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(Path(folder), LLM_MODEL_NAME="builtin") as server,
        sync_playwright() as playwright,
    ):
        server.wait_until_ready()
        browser = playwright.chromium.launch(executable_path=chromium)
        page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]}, locale="en-GB")
        page.goto(f"{server.url}/ui")
        for question in EARLIER:
            _ask(page, question, 0)
            page.get_by_role("link", name="New conversation").click()
        for number, question in enumerate(ASKED):
            _ask(page, question, number)
        page.mouse.move(0, 0)
        for colours in COLOURS:
            page.emulate_media(color_scheme=colours, reduced_motion="reduce")
            page.screenshot(path=ROOT / "docs" / f"page-{colours}.png")
        browser.close()


def _ask(page: Page, question: str, number: int) -> None:
    page.get_by_label("Message", exact=True).fill(question)
    page.keyboard.press("Enter")
    page.locator(ANSWERED).nth(number).wait_for()


if __name__ == "__main__":
    main()
