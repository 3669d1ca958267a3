"""A headless browser, and pages in it that may reach nothing but their server."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    Request,
    Route,
    expect,
    sync_playwright,
)

from tests.http_options import LOCAL
from tests.ui.scripted_models import Script, page_server

WAIT_MS = 60_000
expect.set_options(timeout=WAIT_MS)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        yield browser
        browser.close()


@pytest.fixture
def script() -> Iterator[Script]:
    script = Script()
    yield script
    script.may_go_on.set()
    script.may_load.set()


@pytest.fixture
def url(script: Script) -> Iterator[str]:
    """A server whose models follow the script."""
    with page_server(script) as url:
        yield url
        script.may_go_on.set()
        script.may_load.set()


@dataclass
class Watch:
    """What a browser did that it must not do, and what its pages complained of."""

    foreign: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def on_request(self, route: Route) -> None:
        address = urlsplit(route.request.url)
        if address.hostname == "127.0.0.1":
            return route.fallback()
        self.foreign.append(route.request.url)
        route.abort()

    def on_console(self, message: ConsoleMessage) -> None:
        is_expected = "Failed to load resource" in message.text  # a refused request, which the page explains
        if message.type in ("error", "warning") and not is_expected:
            self.complaints.append(message.text)


@pytest.fixture
def watch() -> Iterator[Watch]:
    watch = Watch()
    yield watch
    assert watch.foreign == []
    assert watch.complaints == []


@pytest.fixture
def context(browser: Browser, watch: Watch) -> Iterator[BrowserContext]:
    """A browser without a past. The test fails if a page reaches for another server, or complains."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, locale="en-GB")
    context.set_default_timeout(WAIT_MS)
    context.route("**/*", watch.on_request)
    context.on("console", watch.on_console)
    context.on("weberror", lambda error: watch.complaints.append(str(error.error)))
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext, url: str) -> Page:
    """A page that shows a new conversation."""
    page = context.new_page()
    page.goto(f"{url}/ui")
    expect(page.get_by_role("heading", name="What is on your mind?")).to_be_visible()
    return page


def ask(page: Page, question: str) -> None:
    page.get_by_label("Message", exact=True).fill(question)
    page.keyboard.press("Enter")


def answers(page: Page) -> Locator:
    return page.locator(".message.assistant")


def begin(page: Page, question: str) -> None:
    """Begins a conversation, and waits for its first answer."""
    page.get_by_role("link", name="New conversation").click()
    ask(page, question)
    expect(page.locator(".assistant .facts")).to_contain_text(" token")


def hang(route: Route) -> None:
    """Lets no reply ever reach the page."""


def deliver(request: Request) -> None:
    """Sends a request that the page could not send, and returns once its stream has begun."""
    session = {"x-session-id": request.headers["x-session-id"]}
    with httpx.stream("POST", request.url, json=request.post_data_json, headers=session, **LOCAL) as reply:
        next(reply.iter_lines())
