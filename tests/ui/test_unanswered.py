"""Questions whose answers fail, or whose turns the page has lost sight of, in a browser."""

import httpx
import pytest
from playwright.sync_api import FilePayload, Page, expect

from tests.http_options import LOCAL
from tests.ui.conftest import answers, ask, deliver, hang
from tests.ui.scripted_models import PAUSE, Script


@pytest.mark.parametrize("number", [1, 2])
def test_question_of_a_turn_that_fails_after_a_reload_is_returned_to_its_field(
    page: Page, script: Script, number: int
) -> None:
    if number == 2:
        ask(page, "Hello")
        expect(answers(page)).to_contain_text(" token")
    question = "Tell me a story. " * 40  # longer than the server's list of running turns has it
    script.answer(question.strip(), ("Once", PAUSE))
    script.failing.add(question.strip())
    ask(page, question)
    expect(page.get_by_text("Once", exact=True)).to_be_visible()
    page.reload()
    expect(page.get_by_text("Once", exact=True)).to_be_visible()
    script.may_go_on.set()
    expect(page.locator("#failure")).to_contain_text("The model has crashed.")
    expect(page.get_by_label("Message", exact=True)).to_have_value(question.strip())
    expect(page.locator(".message")).to_have_count(2 * (number - 1))


def test_question_waits_if_another_client_has_asked_meanwhile(page: Page, url: str, script: Script) -> None:
    ask(page, "Apples")
    expect(answers(page)).to_contain_text(" token")
    page.route("**/api/v1/chat/turns", lambda route: route.fulfill(json={"turns": []}))
    body = {"message": "Plums", "conversation_id": page.url.rpartition("/")[2]}
    httpx.post(f"{url}/api/v1/chat", json=body, **LOCAL).raise_for_status()
    ask(page, "Pears")
    expect(page.locator("#failure")).to_contain_text("This conversation has changed elsewhere.")
    expect(page.locator(".question")).to_have_text(["Apples", "Plums"])
    expect(page.get_by_label("Message", exact=True)).to_have_value("Pears")
    page.keyboard.press("Enter")
    expect(answers(page).nth(2)).to_contain_text(" token")
    assert script.asked == ["Apples", "Plums", "Pears"]


def test_answer_of_another_client_is_not_continued(page: Page, url: str, script: Script) -> None:
    script.cut.add("Apples")
    ask(page, "Apples")
    expect(answers(page)).to_contain_text(" token")
    page.route("**/api/v1/chat/turns", lambda route: route.fulfill(json={"turns": []}))
    body = {"message": "Plums", "conversation_id": page.url.rpartition("/")[2]}
    httpx.post(f"{url}/api/v1/chat", json=body, **LOCAL).raise_for_status()
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#failure")).to_have_text(
        "This conversation has changed elsewhere. Its last answer is another one now, and was not continued."
    )
    expect(page.locator(".question")).to_have_text(["Apples", "Plums"])
    assert script.asked == ["Apples", "Plums"]


def test_question_that_never_reached_the_server_is_returned_after_a_reload(page: Page) -> None:
    page.route("**/api/v1/chat", hang)
    ask(page, "Hello")
    expect(page.locator(".question")).to_have_text("Hello")
    page.reload()
    expect(page.get_by_label("Message", exact=True)).to_have_value("Hello")
    expect(page.get_by_role("heading", name="What is on your mind?")).to_be_visible()
    page.reload()
    expect(page.get_by_label("Message", exact=True)).to_have_value("Hello")
    page.get_by_label("Message", exact=True).fill("")
    page.reload()
    expect(page.get_by_label("Message", exact=True)).to_have_value("")


def test_question_is_not_lost_by_reloads_while_the_server_hangs(page: Page) -> None:
    page.route("**/api/v1/chat", hang)
    ask(page, "Hello")
    expect(page.locator(".question")).to_have_text("Hello")
    page.route("**/api/v1/chat/turns", hang)
    with page.expect_request("**/api/v1/chat/turns"):
        page.reload()
    page.unroute("**/api/v1/chat/turns")
    page.reload()
    expect(page.get_by_label("Message", exact=True)).to_have_value("Hello")


@pytest.mark.parametrize("number", [1, 2])
def test_turn_whose_beginning_the_page_did_not_see_is_its_own_after_a_reload(
    page: Page, script: Script, number: int
) -> None:
    if number == 2:
        ask(page, "Hello")
        expect(answers(page)).to_contain_text(" token")
    script.answer("Tell me a story", ("Once", PAUSE))
    script.failing.add("Tell me a story")
    page.route("**/api/v1/chat", hang)
    with page.expect_request("**/api/v1/chat") as sent:
        ask(page, "Tell me a story")
    deliver(sent.value)
    page.reload()
    expect(page.get_by_text("Once", exact=True)).to_be_visible()
    script.may_go_on.set()
    expect(page.get_by_label("Message", exact=True)).to_have_value("Tell me a story")


@pytest.mark.parametrize("number", [1, 2])
def test_turn_that_has_ended_unseen_is_shown_after_a_reload(page: Page, number: int) -> None:
    if number == 2:
        ask(page, "Hello")
        expect(answers(page)).to_contain_text(" token")
    page.route("**/api/v1/chat", hang)
    with page.expect_request("**/api/v1/chat") as sent:
        ask(page, "Tell me a story")
    request, session = sent.value, {"x-session-id": sent.value.headers["x-session-id"]}
    httpx.post(request.url, json=request.post_data_json, headers=session, **LOCAL).raise_for_status()
    page.reload()
    expect(page.locator(".message")).to_have_count(2 * number)
    expect(page.locator(".question").last).to_have_text("Tell me a story")
    expect(page.get_by_label("Message", exact=True)).to_have_value("")


def test_failed_question_is_returned_before_what_was_typed_meanwhile(page: Page, script: Script) -> None:
    script.answer("Hello", ("Good", PAUSE))
    script.failing.add("Hello")
    ask(page, "Hello")
    expect(page.get_by_text("Good", exact=True)).to_be_visible()
    page.get_by_label("Message", exact=True).fill("And then")
    script.may_go_on.set()
    expect(page.get_by_label("Message", exact=True)).to_have_value("Hello\n\nAnd then")


def test_first_turn_that_fails_at_once_shows_its_error(page: Page, script: Script) -> None:
    page.evaluate(
        "addEventListener('hashchange', () => console.warn('opened anew'))"
    )  # `watch` takes it as a fault
    script.answer("Hello", ())
    script.failing.add("Hello")
    for _ in range(3):
        ask(page, "Hello")
        expect(page.get_by_label("Message", exact=True)).to_have_value("Hello")
        expect(page.locator("#failure")).to_contain_text("The model has crashed.")
    assert page.url.endswith("#/")


def test_failed_question_is_returned_with_its_files(page: Page, script: Script) -> None:
    notes = FilePayload(name="notes.txt", mimeType="text/plain", buffer=b"Apples")
    page.locator("#picker").set_input_files([notes])
    expect(page.locator("#files li")).to_contain_text("notes.txt")
    question = "What is this?\n\nnotes.txt:\n```txt\nApples\n```"
    script.failing.add(question)
    ask(page, "What is this?")
    expect(page.locator("#failure")).to_contain_text("The model has crashed.")
    expect(page.get_by_label("Message", exact=True)).to_have_value("What is this?")
    expect(page.locator("#files li")).to_contain_text("notes.txt")
    script.failing.clear()
    page.keyboard.press("Enter")
    expect(answers(page)).to_contain_text(" token")
    assert script.asked == [question, question]


def test_error_of_an_unreachable_server_goes_when_it_answers_again(page: Page) -> None:
    page.route("**/api/v1/**", lambda route: route.abort())
    ask(page, "Hello")
    expect(page.locator("#failure")).to_contain_text("The server does not answer.")
    page.unroute("**/api/v1/**")
    expect(page.locator("#banner")).to_be_hidden()
    expect(page.locator("#failure")).to_be_hidden()
