"""What stands around a conversation: the models, the settings, files, and comparing models."""

import json
from pathlib import Path

from playwright.sync_api import BrowserContext, FilePayload, Page, Route, expect

from tests.ui.conftest import ask, begin
from tests.ui.scripted_models import OTHER, PAUSE, QUICK, SLOW, Script


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


def test_model_that_is_too_large_says_so_in_the_menu(page: Page) -> None:
    def enlarge(route: Route) -> None:
        listed = route.fetch().json()
        for model in listed["models"]:
            if model["name"] == OTHER:
                model |= {"is_too_large": True, "memory_bytes": 16_000_000_000}
        route.fulfill(json=listed)

    page.route("**/api/v1/chat/models", enlarge)
    page.locator("#model").click()
    about = page.locator("#models .has-failed .about")
    expect(about).to_have_text("Too large for this machine, because it needs 16 GB of memory.")


def test_switch_is_cancelled(page: Page) -> None:
    page.get_by_role("button", name="Builtin").click()
    page.get_by_role("button", name="Gpt2-Medium").click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text(f"Loading {SLOW} was cancelled.")).to_be_visible()
    expect(page.locator("#models .loading")).to_have_count(0)
    expect(page.locator("#model-name")).to_have_text("Builtin")


def test_focus_stays_on_the_model_whose_load_goes_on(page: Page, script: Script) -> None:
    menu = page.locator("#models")
    page.locator("#model").press("Enter")
    menu.get_by_role("button", name="Gpt2-Medium").press("Enter")
    expect(menu.locator(".loading")).to_contain_text("50 %")
    expect(menu.get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Enter")
    expect(menu.get_by_role("button", name="Gpt2-Medium")).to_be_focused()


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


def test_a_value_that_is_typed_before_the_defaults_are_known_is_kept(page: Page, script: Script) -> None:
    held: list[Route] = []
    page.route("**/api/v1/model-info*", lambda route: held.append(route))
    with page.expect_request("**/api/v1/model-info*"):
        page.get_by_role("button", name="Settings").click()
    page.get_by_label("Temperature").press_sequentially("1.")
    held[0].continue_()
    expect(page.get_by_label("Seed")).to_have_attribute("placeholder", "random")
    page.keyboard.type("37")
    page.keyboard.press("Escape")
    ask(page, "Hello")
    expect(page.locator(".assistant .facts")).to_contain_text(" token")
    assert script.sampling[0].temperature == 1.37


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


def test_question_of_a_comparison_that_fails_is_kept(page: Page, script: Script) -> None:
    script.failing.add("Hello")
    page.get_by_role("button", name="More").click()
    page.get_by_role("button", name="Compare models").click()
    page.get_by_label("Question").fill("Hello")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator(".column .problem")).to_have_text(["The model has crashed."] * 2)
    page.keyboard.press("Escape")
    expect(page.locator(".toast")).to_have_count(0)
    page.get_by_role("button", name="More").click()
    page.get_by_role("button", name="Compare models").click()
    expect(page.get_by_label("Question")).to_have_value("Hello")


def test_one_answer_of_a_comparison_can_be_stopped(page: Page, script: Script) -> None:
    script.answer("Hello", ("First", PAUSE), ("Second",))
    page.get_by_role("button", name="More").click()
    page.get_by_role("button", name="Compare models").click()
    page.get_by_label("Question").fill("Hello")
    page.keyboard.press("Enter")
    first = page.get_by_label(QUICK, exact=True)
    expect(first).to_contain_text("First")
    first.get_by_role("button", name="Stop").press("Enter")
    expect(first).to_contain_text("stopped")
    expect(first.get_by_role("button", name="Go on with this one")).to_be_focused()
    expect(page.get_by_label(OTHER, exact=True)).to_contain_text("Second")


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
