"""What stands around a conversation: the list, the models, the settings, files, and comparing models."""

import json
import re
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import BrowserContext, FilePayload, Page, expect

from tests.ui.conftest import answers, ask, begin
from tests.ui.scripted_models import OTHER, PAUSE, QUICK, SLOW, Script


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
    with httpx.stream("POST", f"{url}/api/v1/chat", json=body | {"stream": True, "background": True}) as turn:
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
    with httpx.Client(base_url=f"{url}/api/v1/chat") as server:
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
    with httpx.Client(base_url=f"{url}/api/v1/chat") as server:
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
    with httpx.Client(base_url=f"{url}/api/v1/chat") as server:
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


def test_model_is_switched_with_progress(page: Page, script: Script) -> None:
    page.get_by_role("button", name="Builtin").click()
    page.get_by_role("button", name="Gpt2-Medium").click()
    expect(page.locator("#models .loading")).to_contain_text(f"Loading {SLOW}: reading its weights, 50 %")
    expect(page.locator("#model-name")).to_have_text(f"{SLOW}: loading 50 %")
    script.may_load.set()
    expect(page.locator("#model-name")).to_have_text("Gpt2-Medium")
    ask(page, "Hello")
    expect(page.locator(".assistant .facts")).to_contain_text(SLOW)


def test_a_load_that_goes_on_elsewhere_is_shown_below_its_model(page: Page, context: BrowserContext) -> None:
    other = context.new_page()
    other.goto(page.url)
    other.get_by_role("button", name="Builtin").click()
    other.get_by_role("button", name="Gpt2-Medium").click()
    expect(other.locator("#models .loading")).to_contain_text("50 %")
    page.bring_to_front()
    page.locator("#model").click()
    about, progress = (page.locator(f"#models {one}") for one in (".model:disabled .about", ".loading"))
    expect(progress).to_contain_text("50 %")
    above, below = about.bounding_box(), progress.bounding_box()
    assert above is not None and below is not None
    assert above["y"] + above["height"] <= below["y"] and below["width"] > 300


def test_switch_is_cancelled(page: Page) -> None:
    page.get_by_role("button", name="Builtin").click()
    page.get_by_role("button", name="Gpt2-Medium").click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text(f"Loading {SLOW} was cancelled.")).to_be_visible()
    expect(page.locator("#models .loading")).to_have_count(0)
    expect(page.locator("#model-name")).to_have_text("Builtin")


def test_settings_and_system_prompt_reach_the_model(page: Page, script: Script) -> None:
    page.get_by_role("button", name="Settings").click()
    expect(page.get_by_label("Temperature")).to_have_attribute("placeholder", "0.7 (model)")
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("Temperature").fill("1.5")
    page.get_by_label("Stop texts").fill("END")
    page.get_by_role("button", name="Close", exact=True).click()
    ask(page, "Hello")
    expect(page.locator(".assistant .facts")).to_contain_text(" token")
    assert (script.sampling[0].temperature, script.sampling[0].stop) == (1.5, ("END",))
    messages = script.prompts[0].messages
    assert messages is not None and (messages[0].role, messages[0].content) == ("system", "Be brief.")
    expect(page.locator("#gauge")).to_have_attribute("title", "42 of 160 tokens of the context are used")


def test_text_files_are_attached_and_others_refused(page: Page, script: Script) -> None:
    notes = FilePayload(name="notes.py", mimeType="text/x-python", buffer=b"print(1)\n```\n")
    photo = FilePayload(name="photo.png", mimeType="image/png", buffer=b"\x89PNG\x00\xff")
    page.locator("#picker").set_input_files([notes, photo])
    expect(page.get_by_text("photo.png is not a text file.")).to_be_visible()
    expect(page.locator("#files li")).to_contain_text("13 B, 7 tokens")
    ask(page, "What is this?")
    expect(page.locator(".assistant .facts")).to_contain_text(" token")
    assert script.asked == ["What is this?\n\nnotes.py:\n````py\nprint(1)\n```\n````"]
    expect(page.locator(".question .words")).to_have_text("What is this?")
    page.locator(".question").get_by_text("notes.py").click()
    expect(page.locator(".question pre")).to_have_text("print(1)\n```")


def test_export_can_be_imported(page: Page, tmp_path: Path) -> None:
    begin(page, "Apples")
    page.get_by_role("button", name="More").click()
    with page.expect_download() as exported:
        page.get_by_role("button", name="Export as JSON").click()
    file = tmp_path / exported.value.suggested_filename
    exported.value.save_as(file)
    assert json.loads(file.read_text())["format"] == "llm-serving conversation"
    page.get_by_role("button", name="More").click()
    with page.expect_download() as exported:
        page.get_by_role("button", name="Export as Markdown").click()
    text = exported.value.path().read_text()
    assert text == "# Apples\n\n**You**\n\nApples\n\n---\n\n**Answer** (builtin)\n\nI do not know.\n"
    page.locator("#import").set_input_files(file)
    expect(page.locator("#conversations .title")).to_have_text(["Apples", "Apples"])
    expect(page.locator(".assistant")).to_contain_text("I do not know.")


def test_models_are_compared_side_by_side(page: Page, script: Script) -> None:
    script.answer("Hello", ("First",), ("Second",))
    page.get_by_role("button", name="More").click()
    page.get_by_role("button", name="Compare models").click()
    page.get_by_label("Question").fill("Hello")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator(".column")).to_have_count(2)
    expect(page.get_by_label(QUICK, exact=True)).to_contain_text("First")
    expect(page.get_by_label(OTHER, exact=True)).to_contain_text("Second")
    page.get_by_label(OTHER, exact=True).get_by_role("button", name="Go on with this one").click()
    expect(page.locator(".assistant")).to_contain_text("Second")
    expect(page.locator(".assistant .place")).to_have_text("2/2")
    page.get_by_role("button", name="Compare versions").click()
    expect(page.locator(".column")).to_have_count(2)


def test_comparison_says_how_many_models_it_takes(page: Page, script: Script) -> None:
    page.get_by_role("button", name="More").click()
    page.get_by_role("button", name="Compare models").click()
    page.get_by_label("Question").fill("Hello")
    first, second = (page.locator("#compare-models input").nth(number) for number in (0, 1))
    second.uncheck()
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(first).to_have_js_property("validationMessage", "Choose two or three models.")
    expect(page.locator(".column")).to_have_count(0)
    second.check()
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator(".column")).to_have_count(2)


def test_advice_of_the_builtin_model_to_switch_has_a_button(page: Page, script: Script) -> None:
    script.answer("Who was Kant?", ("I don't know that: try /switch llama3-1b.",))
    ask(page, "Who was Kant?")
    expect(page.get_by_text("try /switch llama3-1b.")).to_be_visible()
    page.get_by_role("button", name="Choose another model").click()
    expect(page.locator("#models")).to_be_visible()


def test_without_a_model_the_page_leads_to_the_menu(page: Page) -> None:
    refused = {
        "error": {"code": "no_model_chosen", "message": "No model is chosen.", "hint": "POST one first."}
    }
    page.route("**/api/v1/chat", lambda route: route.fulfill(status=400, json=refused))
    ask(page, "Hello")
    expect(page.get_by_text("POST one first.")).to_be_hidden()
    page.locator("#failure").get_by_role("button", name="Choose a model").click()
    expect(page.locator("#models")).to_be_visible()
