"""Types every command once into a terminal, with a real server and real models."""

from pathlib import Path

from app.cli.commands.registry import COMMANDS
from tests.cli.client_process import CLIENT, client_environ
from tests.cli.pseudo_terminal import PseudoTerminal
from tests.server import free_port

SESSION = (  # a line to type, and text that then appears
    ("My name is Ann.", "Ann!"),
    ("/help retry", "for this answer only"),
    ("/models", "A tiny chat model"),
    ("/status", "started"),
    ("/history", "Nice to meet you, Ann!"),
    ("/system Be brief.", "It applies from the next message on."),
    ("/set temperature 0", "0 is greedy"),
    ("/retry", "Nice to meet you, Ann!"),
    ("/continue", "added nothing"),
    ("/versions", "chooses one"),
    ("/version 1", "Nice to meet you, Ann!"),
    ("/branch", "← here"),
    ("/fork", "into a new conversation"),
    ("/undo", "0 turns left"),
    ("My name is Bo.", "Bo!"),
    ("/edit", "Cy!"),
    ("/read note.txt", "is attached to your next message"),
    ("/undo", "Removed 1 turn"),
    ("My name is Di.", "Di!"),
    ("/copy all", "Copied the conversation"),
    ("/export talk.md", "Exported 1 turn"),
    ("/save talk", "saved to talk.json"),
    ("/title Friends", "This conversation is now called Friends."),
    ("/new", "New conversation."),
    ("/follow", "No other client has asked here since."),
    ("/load talk", "Loaded talk.json with 1 turn"),
    ("/sessions", "Friends"),
    ("/delete talk", "Deleted"),
    ("/stats", "tokens"),
    ("/switch gpt2", "Successfully switched to gpt2"),
    ("/compare builtin gpt2", "These answers are not part of the conversation"),
)


def test_every_command_on_a_real_server(
    cache_with_tiny_gpt2: Path, shared_fork_server: Path, tmp_path: Path
) -> None:
    typed = {line.split()[0].removeprefix("/") for line, _ in SESSION if line.startswith("/")}
    assert typed | {"clear", "quit"} == {command.name for command in COMMANDS}
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\necho "My name is Cy." > "$1"\n')
    editor.chmod(0o755)
    Path("note.txt").write_text("a note")
    environ = client_environ(
        LLM_PORT=str(free_port()),
        LLM_MODEL_NAME="builtin",
        LLM_MODEL_CACHE_DIR=str(cache_with_tiny_gpt2),
        LLM_FORK_SERVER=str(shared_fork_server),
        EDITOR=str(editor),
        VISUAL=str(editor),
    )
    with PseudoTerminal(CLIENT, environ, columns=110, rows=60) as terminal:
        terminal.wait_for("You:")
        for line, shown in SESSION:
            before, prompts = terminal.text.count(shown), terminal.text.count("You:")
            terminal.type(line + "\r")
            terminal.wait_for(shown, times=before + 1)
            terminal.wait_for("You:", times=prompts + 1)
        terminal.type("/clear\r")
        terminal.wait_for_escape("\x1b[2J\x1b[H")
        terminal.type("/quit\r")
        assert terminal.wait_for_end() == 0
        assert "❌" not in terminal.text
        assert "Traceback" not in terminal.text and "bug in the client" not in terminal.text
