"""What was written but not sent, or not answered, belongs to its conversation, in a browser."""

import pytest
from playwright.sync_api import FilePayload, Locator, Page, expect

from tests.ui.conftest import answers, ask, begin, deliver, hang
from tests.ui.scripted_models import PAUSE, Script

DROP = """([names, then]) => {
  const data = new DataTransfer();
  for (const name of names) data.items.add(new File(["Apples ".repeat(140_000)], name));
  document.dispatchEvent(new DragEvent("drop", { dataTransfer: data, cancelable: true }));
  if (then === "leave") location.hash = "#/";
  if (then === "send") document.querySelector("#composer").requestSubmit();
}"""


def drop(page: Page, *names: str, then: str = "stay") -> None:
    """Drops files of 980 kB on the page, and goes on before they are read."""
    page.evaluate(DROP, [names, then])


def field(page: Page) -> Locator:
    return page.get_by_label("Message", exact=True)


def open_conversation(page: Page, name: str) -> None:
    page.locator("#conversations").get_by_role("link", name=name).click()
    expect(page.locator(".question").first).to_have_text(name)


@pytest.mark.parametrize("reloads", [False, True])
def test_draft_stays_with_its_conversation(page: Page, reloads: bool) -> None:
    begin(page, "Apples")
    begin(page, "Pears")
    field(page).fill("More of Pears")
    open_conversation(page, "Apples")
    expect(field(page)).to_have_value("")
    notes = FilePayload(name="notes.txt", mimeType="text/plain", buffer=b"Cox")
    page.locator("#picker").set_input_files([notes])
    expect(page.locator("#files li")).to_contain_text("notes.txt")
    if reloads:
        page.reload()
        expect(page.locator("#files li")).to_contain_text("notes.txt")
    page.get_by_role("link", name="New conversation").click()
    expect(page.locator("#files")).to_be_hidden()
    open_conversation(page, "Pears")
    expect(field(page)).to_have_value("More of Pears")
    open_conversation(page, "Apples")
    expect(page.locator("#files li")).to_contain_text("notes.txt")


def test_draft_follows_a_new_conversation_to_its_address(page: Page, script: Script) -> None:
    script.answer("Apples", ("Cox ", PAUSE, "and Gala"))
    with page.expect_response("**/api/v1/chat"):
        ask(page, "Apples")
        field(page).fill("And then?")
    expect(page.get_by_text("Cox", exact=True)).to_be_visible()
    expect(field(page)).to_have_value("And then?")
    page.get_by_role("link", name="New conversation").click()
    expect(field(page)).to_have_value("")
    page.go_back()
    expect(field(page)).to_have_value("And then?")
    script.may_go_on.set()


def test_questions_that_never_reached_the_server_return_to_their_own_conversations(page: Page) -> None:
    begin(page, "Apples")
    begin(page, "Pears")
    page.route("**/api/v1/chat", hang)
    ask(page, "More of Pears")
    expect(page.locator(".question").last).to_have_text("More of Pears")
    open_conversation(page, "Apples")
    ask(page, "More of Apples")
    expect(page.locator(".question").last).to_have_text("More of Apples")
    page.reload()
    expect(field(page)).to_have_value("More of Apples")
    open_conversation(page, "Pears")
    expect(field(page)).to_have_value("More of Pears")


@pytest.mark.parametrize("is_first", [True, False])
def test_question_that_fails_while_another_conversation_is_open_is_not_lost(
    page: Page, script: Script, is_first: bool
) -> None:
    begin(page, "Apples")
    if not is_first:
        begin(page, "Pears")
    else:
        page.get_by_role("link", name="New conversation").click()
    script.answer("Tell me more", ("Once", PAUSE))
    script.failing.add("Tell me more")
    ask(page, "Tell me more")
    expect(page.get_by_text("Once", exact=True)).to_be_visible()
    open_conversation(page, "Apples")
    script.may_go_on.set()
    toast = page.locator(".toast")
    expect(toast).to_contain_text("“Tell me more” was not answered: The model has crashed.")
    expect(field(page)).to_have_value("")
    toast.get_by_role("button", name="Open").click()
    expect(page.locator(".question")).to_have_count(0 if is_first else 1)
    expect(field(page)).to_have_value("Tell me more")


def test_question_of_a_comparison_is_not_taken_for_one_that_never_began(page: Page, script: Script) -> None:
    begin(page, "Apples")
    script.answer("Which is best?", ("Cox ", PAUSE, "of course"))
    page.route("**/api/v1/chat", hang)
    page.get_by_role("button", name="More").click()
    page.get_by_role("button", name="Compare models").click()
    page.get_by_label("Question", exact=True).fill("Which is best?")
    with page.expect_request("**/api/v1/chat") as sent:
        page.get_by_role("button", name="Ask", exact=True).click()
    deliver(sent.value)
    page.reload()
    expect(page.get_by_text("Cox", exact=True)).to_be_visible()
    expect(page.locator(".question")).to_have_text(["Apples", "Which is best?"])
    expect(field(page)).to_have_value("")
    script.may_go_on.set()
    expect(answers(page).last).to_contain_text("Cox of course")


def test_files_that_are_still_read_stay_with_their_conversation(page: Page, script: Script) -> None:
    begin(page, "Apples")
    chips = page.locator("#files li")
    drop(page, "a.txt", "b.txt", then="leave")
    expect(page.get_by_role("heading", name="What is on your mind?")).to_be_visible()
    expect(chips).to_have_count(0)
    open_conversation(page, "Apples")
    expect(chips).to_contain_text(["a.txt980 kB", "b.txt980 kB"])
    field(page).fill("More of Apples")
    drop(page, "c.txt", then="send")
    expect(chips).to_contain_text(["a.txt", "b.txt", "c.txt980 kB"])
    expect(field(page)).to_have_value("More of Apples")
    assert script.asked == ["Apples"]


def test_files_that_are_too_large_to_be_kept_are_named(page: Page) -> None:
    chips, lost = page.locator("#files li"), page.locator("#files .lost")
    drop(page, *(f"{number}.txt" for number in range(7)))
    expect(chips).to_contain_text(["980 kB"] * 7)
    ask(page, "Look")
    expect(page.locator("#failure")).to_contain_text("The body is larger than")
    expect(field(page)).to_have_value("Look")
    expect(chips).to_contain_text(["980 kB"] * 7)
    with page.expect_event("dialog") as asked:
        page.evaluate("setTimeout(() => location.reload())")
    assert asked.value.type == "beforeunload"
    asked.value.accept()
    expect(lost.first).to_contain_text("too large to be kept: attach it again")
    expect(chips).to_have_count(7)
    expect(field(page)).to_have_value("Look")
    number = lost.count()
    assert number < 7
    drop(page, lost.first.locator(".name").inner_text())
    expect(lost).to_have_count(number - 1)
    expect(chips).to_have_count(7)
