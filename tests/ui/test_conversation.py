"""Conversations in a browser: answers that arrive piece by piece, are stopped, continued or given again."""

import re

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.ui.conftest import answers, ask
from tests.ui.scripted_models import PAUSE, Piece, Script, words


def test_answer_arrives_piece_by_piece(page: Page, script: Script) -> None:
    script.answer("Hello", ("Good ", PAUSE, "morning"))
    ask(page, "Hello")
    expect(page.get_by_text("Good", exact=True)).to_be_visible()
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    script.may_go_on.set()
    expect(page.get_by_text("Good morning", exact=True)).to_be_visible()
    expect(answers(page)).to_contain_text("builtin · 2 tokens")
    expect(page.locator("#sidebar").get_by_role("link", name="Hello")).to_be_visible()


def test_next_question_continues_the_conversation(page: Page, script: Script) -> None:
    ask(page, "One")
    expect(answers(page)).to_contain_text(" token")
    ask(page, "Two")
    expect(answers(page).nth(1)).to_contain_text(" token")
    (_, prompt) = script.prompts
    assert prompt.messages is not None
    assert [message.content for message in prompt.messages] == ["One", "I do not know.", "Two"]


def test_requests_name_their_conversation_from_its_first_turn_on(page: Page, script: Script) -> None:
    sessions: list[str] = []
    turns = re.compile(r"/chat$|/chat/(conversation|turns)/")
    page.on(
        "request",
        lambda request: (
            sessions.append(request.headers.get("x-session-id", "")) if turns.search(request.url) else None
        ),
    )
    ask(page, "One")
    expect(answers(page)).to_contain_text(" token")
    ask(page, "Two")
    expect(answers(page).nth(1)).to_contain_text(" token")
    assert len(sessions) > 2
    assert set(sessions) == {page.url.partition("#/c/")[2]}


def test_address_of_a_conversation_opens_it_again(page: Page, context: BrowserContext) -> None:
    ask(page, "Hello")
    expect(answers(page)).to_contain_text(" token")
    address = page.url
    assert "#/c/conv_" in address
    page.reload()
    expect(answers(page)).to_contain_text("I do not know.")
    other = context.new_page()
    other.goto(address)
    expect(answers(other)).to_contain_text("I do not know.")
    page.get_by_role("link", name="New conversation").click()
    expect(page.get_by_role("heading", name="What is on your mind?")).to_be_visible()
    page.go_back()
    expect(answers(page)).to_contain_text("I do not know.")


@pytest.mark.parametrize("way", ["button", "Escape"])
def test_stop_keeps_the_text_so_far(page: Page, script: Script, way: str) -> None:
    script.answer("Hello", ("Good ", PAUSE, "morning"))
    ask(page, "Hello")
    expect(page.get_by_text("Good", exact=True)).to_be_visible()
    if way == "button":
        page.get_by_role("button", name="Stop").click()
    else:
        page.keyboard.press("Escape")
    expect(answers(page)).to_contain_text("stopped")
    expect(page.get_by_text("Good", exact=True)).to_be_visible()
    expect(page.get_by_role("button", name="Continue")).to_be_visible()


def test_escape_closes_an_open_menu_and_lets_the_answer_go_on(page: Page, script: Script) -> None:
    script.answer("Hello", ("Good ", PAUSE, "morning"))
    ask(page, "Hello")
    expect(page.get_by_text("Good", exact=True)).to_be_visible()
    page.locator("#model").click()
    expect(page.locator("#models")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#models")).to_be_hidden()
    script.may_go_on.set()
    expect(page.get_by_text("Good morning", exact=True)).to_be_visible()


def test_answers_and_questions_have_versions(page: Page, script: Script) -> None:
    script.answer("Hello", ("First",), ("Second",))
    script.answer("Goodbye", ("Third",))
    ask(page, "Hello")
    expect(answers(page)).to_contain_text("First")
    page.get_by_role("button", name="Answer again").click()
    expect(answers(page)).to_contain_text("Second")
    expect(answers(page).locator(".place")).to_have_text("2/2")
    page.get_by_role("button", name="Previous version").click()
    expect(answers(page)).to_contain_text("First")
    expect(answers(page).locator(".place")).to_have_text("1/2")
    page.locator(".question").hover()
    page.get_by_role("button", name="Edit question").click()
    page.get_by_label("Changed question").fill("Goodbye")
    page.keyboard.press("Enter")
    expect(answers(page)).to_contain_text("Third")
    expect(page.locator(".user .place")).to_have_text("2/2")
    page.locator(".user").get_by_role("button", name="Previous version").click()
    expect(answers(page)).to_contain_text("Second")  # the newest answer to it


def test_cut_answer_is_continued_in_place(page: Page, script: Script) -> None:
    script.cut.add("Count")
    script.answer("Count", ("one, two",), (", three",))
    ask(page, "Count")
    expect(answers(page)).to_contain_text("cut off")
    page.get_by_role("button", name="Continue").click()
    expect(answers(page).locator(".markdown")).to_have_text("one, two, three")
    expect(answers(page)).to_have_count(1)


def test_reload_in_mid_answer_picks_the_stream_up(page: Page, script: Script) -> None:
    script.answer("Tell me a story", (*words("Once upon a time "), PAUSE, "there was a fox."))
    ask(page, "Tell me a story")
    expect(page.get_by_text("Once upon a time")).to_be_visible()
    page.reload()
    expect(page.get_by_text("Once upon a time")).to_be_visible()
    expect(page.locator(".question")).to_have_text("Tell me a story")
    script.may_go_on.set()
    expect(answers(page).locator(".markdown")).to_have_text("Once upon a time there was a fox.")
    expect(answers(page)).to_contain_text(" token")
    expect(page.locator(".message")).to_have_count(2)


def test_another_browser_follows_a_first_answer(page: Page, browser: Browser, script: Script) -> None:
    script.answer("Tell me a story", (*words("Once upon a time "), PAUSE, "there was a fox."))
    ask(page, "Tell me a story")
    expect(page.get_by_text("Once upon a time")).to_be_visible()
    other = browser.new_context().new_page()
    other.goto(page.url.partition("#")[0])
    other.get_by_role("link", name="Tell me a story").click()
    expect(other.get_by_text("Once upon a time")).to_be_visible()
    expect(other.locator(".question")).to_have_text("Tell me a story")
    script.may_go_on.set()
    expect(answers(other).locator(".markdown")).to_have_text("Once upon a time there was a fox.")
    expect(answers(other)).to_contain_text(" token")
    expect(other.locator(".message")).to_have_count(2)
    other.context.close()


def test_a_tab_follows_a_later_answer_and_can_stop_it(
    page: Page, context: BrowserContext, script: Script
) -> None:
    ask(page, "Hello")
    expect(answers(page)).to_contain_text(" token")
    other = context.new_page()
    other.goto(page.url)
    expect(answers(other)).to_contain_text(" token")
    script.answer("Tell me a story", (*words("Once upon a time "), PAUSE, "there was a fox."))
    ask(page, "Tell me a story")
    expect(other.locator(".question").last).to_have_text("Tell me a story")
    expect(other.get_by_text("Once upon a time")).to_be_visible()
    other.get_by_role("button", name="Stop").click()
    for each in (page, other):
        expect(answers(each).last).to_contain_text("stopped")
        expect(each.locator(".message")).to_have_count(4)


def test_thinking_is_folded_and_calls_of_tools_are_blocks(page: Page, script: Script) -> None:
    call = Piece("tool_call", '{"city": "Oslo"}', "call_1", "weather")
    script.answer("Weather?", (Piece("thinking", "Let me see."), "I ask.", call))
    ask(page, "Weather?")
    expect(answers(page)).to_contain_text(" token")
    expect(page.get_by_text("Let me see.")).to_be_hidden()
    page.get_by_text("Thoughts").click()
    expect(page.get_by_text("Let me see.")).to_be_visible()
    page.get_by_text("weather", exact=True).click()
    expect(page.locator(".tool pre")).to_have_text(re.compile(r'"city": "Oslo"'))


def test_up_arrow_edits_the_last_question(page: Page) -> None:
    ask(page, "Hello")
    expect(answers(page)).to_contain_text(" token")
    page.keyboard.press("ArrowUp")
    expect(page.get_by_label("Changed question")).to_have_value("Hello")
    page.keyboard.press("Escape")
    expect(page.get_by_label("Changed question")).to_have_count(0)


def test_focus_stays_where_the_keyboard_can_go_on(page: Page) -> None:
    field = page.get_by_label("Message", exact=True)
    ask(page, "Hello")
    expect(answers(page)).to_contain_text(" token")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Escape")
    expect(field).to_be_focused()
    page.get_by_role("button", name="Answer again").press("Enter")
    expect(answers(page).locator(".place")).to_have_text("2/2")
    expect(field).to_be_focused()
    page.get_by_role("button", name="Previous version").press("Enter")
    expect(answers(page).locator(".place")).to_have_text("1/2")
    expect(page.get_by_role("button", name="Next version")).to_be_focused()
    page.keyboard.press("Enter")
    expect(answers(page).locator(".place")).to_have_text("2/2")


@pytest.mark.parametrize("address", ["#/c/%ZZ", "#/c/a/b", "#nothing"])
def test_address_that_names_nothing_shows_a_new_conversation(page: Page, url: str, address: str) -> None:
    page.goto(f"{url}/ui?again{address}")
    ask(page, "Hello")
    expect(answers(page)).to_contain_text(" token")
    assert "#/c/conv_" in page.url
