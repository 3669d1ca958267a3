"""The list of conversations: found, renamed, deleted, and shown while turns run in them."""

import re

import httpx
import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.http_options import LOCAL
from tests.ui.conftest import answers, ask, begin
from tests.ui.scripted_models import PAUSE, Script


def test_conversations_are_found_renamed_and_deleted(page: Page) -> None:
    begin(page, "Apples")
    begin(page, "Pears")
    expect(page.locator("#conversations .title")).to_have_text(["Pears", "Apples"])
    expect(page.locator("#conversations h2")).to_have_text(["Today"])
    page.keyboard.press("Control+k")
    page.keyboard.type("app")
    expect(page.locator("#conversations .title")).to_have_text(["Apples"])
    page.keyboard.press("Enter")
    expect(page.locator(".question")).to_have_text("Apples")
    page.locator("#conversations li").first.hover()
    page.get_by_role("button", name="Rename Apples").click()
    page.get_by_label("Title").fill("Fruit")
    page.keyboard.press("Enter")
    page.get_by_label("Find a conversation").fill("")
    expect(page.locator("#conversations .title")).to_have_text(["Fruit", "Pears"])
    page.locator("#conversations li").first.hover()
    page.get_by_role("button", name="Delete Fruit").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.locator("#conversations .title")).to_have_text(["Pears"])
    expect(page.get_by_role("heading", name="What is on your mind?")).to_be_visible()


def test_focus_stays_in_the_list_after_a_title_or_a_conversation_was_changed(page: Page) -> None:
    for question in ("Apples", "Pears", "Plums"):
        begin(page, question)
    for key, title in (("Enter", "Fruit"), ("Escape", "Pears")):
        page.get_by_role("button", name="Rename " + ("Apples" if title == "Fruit" else title)).focus()
        page.keyboard.press("Enter")
        page.get_by_label("Title").fill("Fruit")
        page.keyboard.press(key)
        expect(page.get_by_role("link", name=title)).to_be_focused()
    page.get_by_role("button", name="Delete Pears").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    expect(page.locator("#conversations .title")).to_have_text(["Fruit", "Plums"])
    expect(page.get_by_role("button", name="Delete Plums")).to_be_focused()


def test_focus_tells_conversations_with_the_same_title_apart(page: Page, url: str) -> None:
    titles = page.locator("#conversations .title")
    with httpx.Client(base_url=f"{url}/api/v1/chat") as server:

        def show(number: int, title: str) -> None:
            server.post("/new", json={"title": title}).raise_for_status()
            page.evaluate("window.dispatchEvent(new Event('focus'))")
            expect(titles).to_have_count(number)

        for number, title in enumerate(("Apples", "Pears", "Apples"), 1):
            show(number, title)
        oldest = page.locator("#conversations li").last
        for number, action in ((4, "Rename"), (5, "Delete")):
            oldest.get_by_role("button", name=f"{action} Apples").focus()
            show(number, "Plums")
            expect(oldest.get_by_role("button", name=f"{action} Apples")).to_be_focused()
        page.keyboard.press("Enter")
        show(6, "Plums")
    page.keyboard.press("Enter")
    expect(titles).to_have_text(["Plums"] * 3 + ["Apples", "Pears"])
    expect(page.get_by_role("button", name="Delete Pears")).to_be_focused()


def test_all_conversations_are_deleted_but_those_that_are_answered(page: Page, script: Script) -> None:
    begin(page, "Apples")
    page.get_by_label("Message", exact=True).fill("More of Apples")
    begin(page, "Pears")
    script.answer("More of Pears", ("one ", PAUSE, "two"))
    titles = page.locator("#conversations .title")
    for last in (False, True):
        if not last:
            ask(page, "More of Pears")
            expect(page.get_by_text("one", exact=True)).to_be_visible()
        page.get_by_role("button", name="More").click()
        page.get_by_role("button", name="Delete all").click()
        dialog = page.get_by_role("dialog", name="Delete all conversations?")
        expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
        dialog.get_by_role("button", name="Delete all").click()
        expect(titles).to_have_text([] if last else ["Pears"])
        if not last:
            expect(page.locator(".toast")).to_contain_text("Kept, because their answers are arriving: 1.")
            script.may_go_on.set()
            expect(page.get_by_text("one two", exact=True)).to_be_visible()
            expect(answers(page).nth(1)).to_contain_text(" token")
    expect(page.get_by_role("heading", name="What is on your mind?")).to_be_visible()
    expect(page.locator(".toast").last).to_contain_text("Deleted: 1.")


def test_conversation_goes_on_while_another_one_is_open(page: Page, script: Script) -> None:
    script.answer("Long", ("one ", PAUSE, "two"))
    begin(page, "Short")
    page.get_by_role("link", name="New conversation").click()
    ask(page, "Long")
    expect(page.get_by_text("one", exact=True)).to_be_visible()
    page.get_by_role("link", name="Short").click()
    expect(page.locator(".assistant")).to_contain_text("I do not know.")
    page.get_by_role("link", name="Long").click()
    expect(page.get_by_text("one", exact=True)).to_be_visible()
    script.may_go_on.set()
    expect(page.get_by_text("one two", exact=True)).to_be_visible()


@pytest.mark.parametrize("is_first", [True, False])
def test_title_of_a_running_conversation_is_changed_when_its_answer_is_complete(
    page: Page, script: Script, is_first: bool
) -> None:
    if not is_first:
        begin(page, "Apples")
    script.answer("More apples", ("one ", PAUSE, "two"))
    ask(page, "More apples")
    expect(page.get_by_text("one", exact=True)).to_be_visible()
    item = page.locator("#conversations li")
    item.hover()
    item.get_by_role("button", name=re.compile("^Rename")).click()
    page.get_by_label("Title").fill("Fruit")
    page.keyboard.press("Enter")
    expect(item.locator(".title")).to_have_text("Fruit")
    script.may_go_on.set()
    expect(answers(page).last).to_contain_text(" token")
    expect(page).to_have_title("Fruit · LLM server")
    page.reload()
    expect(item.locator(".title")).to_have_text("Fruit")


def test_title_waits_for_a_turn_that_the_page_does_not_know(page: Page, url: str, script: Script) -> None:
    begin(page, "Apples")
    page.route("**/api/v1/chat/turns", lambda route: route.fulfill(json={"turns": []}))
    script.answer("More apples", ("one ", PAUSE, "two"))
    body = {"message": "More apples", "conversation_id": page.url.rpartition("/")[2]}
    with httpx.stream(
        "POST", f"{url}/api/v1/chat", json=body | {"stream": True, "background": True}, **LOCAL
    ) as turn:
        next(turn.iter_lines())
    item = page.locator("#conversations li")
    item.hover()
    with page.expect_response("**/api/v1/chat/conversation/*") as refused:
        item.get_by_role("button", name=re.compile("^Rename")).click()
        page.get_by_label("Title").fill("Fruit")
        page.keyboard.press("Enter")
    assert refused.value.status == 409
    expect(item.locator(".title")).to_have_text("Fruit")
    expect(page.locator(".toast")).to_have_count(0)
    script.may_go_on.set()
    expect(page).to_have_title("Fruit · LLM server")


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("client", ["own", "other"])
def test_running_conversation_can_be_deleted(
    page: Page, context: BrowserContext, script: Script, is_first: bool, client: str
) -> None:
    if not is_first:
        begin(page, "Apples")
    script.answer("More apples", ("one ", PAUSE, "two"))
    ask(page, "More apples")
    expect(page.get_by_text("one", exact=True)).to_be_visible()
    where = page if client == "own" else context.new_page()
    where.goto(page.url)
    item = where.locator("#conversations li")
    item.hover()
    item.get_by_role("button", name=re.compile("^Delete")).click()
    where.get_by_role("button", name="Delete", exact=True).click()
    expect(item).to_have_count(0)
    expect(where.get_by_role("heading", name="What is on your mind?")).to_be_visible()
    expect(where.get_by_label("Message", exact=True)).to_have_value("")
    expect(where.locator(".toast")).to_have_count(0)


def test_running_turn_of_an_old_conversation_is_shown_in_its_place(
    page: Page, url: str, script: Script
) -> None:
    begin(page, "The oldest one")
    with httpx.Client(base_url=f"{url}/api/v1/chat", **LOCAL) as server:
        for number in range(51):
            server.post("/new", json={"title": f"Newer {number}"}).raise_for_status()
    script.answer("Long", ("one ", PAUSE, "two"))
    ask(page, "Long")
    expect(page.get_by_text("one", exact=True)).to_be_visible()
    page.reload()
    titles = page.locator("#conversations .title")
    expect(titles).to_have_count(51)
    expect(titles.last).to_have_text("The oldest one")
    expect(page.locator("#conversations .dot")).to_have_count(1)
    page.get_by_role("button", name="Show more").click()
    expect(titles).to_have_count(52)
    expect(titles.last).to_have_text("The oldest one")
    script.may_go_on.set()
    expect(titles.first).to_have_text("The oldest one")
    expect(titles).to_have_count(52)


@pytest.mark.parametrize("client", ["page", "other"])
def test_running_edit_of_the_first_question_leaves_an_old_conversation_in_its_place(
    page: Page, url: str, script: Script, client: str
) -> None:
    with httpx.Client(base_url=f"{url}/api/v1/chat", **LOCAL) as server:
        for number in range(61):
            messages = [
                {"role": "user", "content": f"Question {number}"},
                {"role": "assistant", "content": "Yes."},
            ]
            server.post("/new", json={"messages": messages}).raise_for_status()
        listed = (
            server.get("/conversations", params={"limit": 100}).raise_for_status().json()["conversations"]
        )
    page.goto(f"{url}/ui?again#/c/{listed[-1]['conversation_id']}")
    page.locator(".question").hover()
    page.get_by_role("button", name="Edit question").click()
    script.answer("Long", ("one ", PAUSE, "two"))
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.get_by_label("Changed question").fill("Long")
    page.keyboard.press("Enter")
    expect(page.get_by_text("one", exact=True)).to_be_visible()
    if client == "other":
        page.evaluate("sessionStorage.clear()")
        requests.clear()
        page.goto(f"{url}/ui#/")
    titles = page.locator("#conversations .title")
    expect(titles).to_have_count(51)
    expect(titles.last).to_have_text("Question 0")
    expect(page.locator("#conversations .dot")).to_have_count(1)
    if client == "other":
        assert not any("/chat/conversation/" in request for request in requests)


def test_list_that_is_read_anew_keeps_its_length_and_the_focus(page: Page, url: str) -> None:
    with httpx.Client(base_url=f"{url}/api/v1/chat", **LOCAL) as server:
        for number in range(120):
            server.post("/new", json={"title": f"Number {number}"}).raise_for_status()
        page.reload()
        titles = page.locator("#conversations .title")
        expect(titles).to_have_count(50)
        page.get_by_role("button", name="Show more").click()
        expect(titles).to_have_count(100)
        link = page.get_by_role("link", name="Number 30", exact=True)
        link.focus()
        server.post("/new", json={"title": "The newest"}).raise_for_status()
    page.evaluate("window.dispatchEvent(new Event('focus'))")
    expect(titles.first).to_have_text("The newest")
    expect(titles).to_have_count(100)
    expect(link).to_be_focused()
    page.get_by_label("Find a conversation").fill("Number 1")
    expect(titles).to_have_count(31)
    page.get_by_label("Find a conversation").fill("")
    expect(titles).to_have_count(50)
