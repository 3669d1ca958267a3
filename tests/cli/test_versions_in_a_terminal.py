"""Alt-← and Alt-→ go between the versions of the last answer, in place."""

import pytest

from tests.cli.client_process import CLIENT, client_environ
from tests.cli.pseudo_terminal import PseudoTerminal
from tests.cli.stand_in.state import StandIn

ALT_LEFT, ALT_RIGHT = "\x1b[1;3D", "\x1b[1;3C"
ANSWER = "# Red\n\n- apples\n- `cherries`"


def _with_two_versions(terminal: PseudoTerminal, standin: StandIn, other: str = "Green.") -> None:
    standin.answer = ANSWER
    terminal.type("A colour?\r")
    terminal.wait_for("12 tokens")
    terminal.wait_for("You:", times=2)
    standin.answer = other
    terminal.type("/retry\r")
    terminal.wait_for("12 tokens", times=2)
    terminal.wait_for("You:", times=3)


@pytest.mark.parametrize("columns", [40, 80])
def test_alt_arrows_redraw_the_last_answer_in_place(url: str, standin: StandIn, columns: int) -> None:
    with PseudoTerminal([*CLIENT, "--url", url], client_environ(), columns=columns) as terminal:
        _with_two_versions(terminal, standin)
        before = terminal.text
        assert before.count("Green.") == 1
        terminal.type(ALT_LEFT)
        terminal.wait_for("version 1 of 2")
        terminal.wait_for("You:", times=3)
        shown = "Assistant (1 of 2):\nRed\n\n • apples\n • cherries\nversion 1 of 2 · builtin"
        assert shown in terminal.text and "Green." not in terminal.text
        terminal.type(ALT_RIGHT)
        terminal.wait_for("version 2 of 2")
        assert "Assistant (2 of 2):\nGreen.\nversion 2 of 2" in terminal.text
        assert terminal.text.count("Assistant") == 2 and terminal.text.count("You: /version") == 0
        terminal.type(f"{ALT_RIGHT}{ALT_LEFT}{ALT_LEFT}\x1bf\x1bb")  # beyond the ends nothing happens
        terminal.wait_for("version 1 of 2")
        terminal.wait_for("You:", times=3)
        terminal.type("Why?\r")
        terminal.wait_for("240 tokens/s", times=2)
    assert standin.conversations["conv_1"].texts == ["A colour?", ANSWER, "Why?", "Green."]


def test_answer_that_is_not_at_the_end_is_not_replaced(url: str, standin: StandIn) -> None:
    with PseudoTerminal([*CLIENT, "--url", url], client_environ()) as terminal:
        _with_two_versions(terminal, standin)
        terminal.type("/help undo\r")
        terminal.wait_for("go back by one turn")
        terminal.wait_for("You:", times=4)
        terminal.type(ALT_LEFT)
        terminal.wait_for("version 1 of 2")
        assert "Green." in terminal.text and "go back by one turn" in terminal.text


def test_answer_that_is_taller_than_the_screen_is_not_replaced(url: str, standin: StandIn) -> None:
    long = "\n\n".join(f"Line {number}." for number in range(40))
    with PseudoTerminal([*CLIENT, "--url", url], client_environ()) as terminal:
        _with_two_versions(terminal, standin, other=long)
        terminal.type(ALT_LEFT)
        terminal.wait_for("version 1 of 2")
        assert "Line 0." in terminal.text and "Line 39." in terminal.text


def test_alt_arrows_in_a_text_move_the_cursor(url: str, standin: StandIn) -> None:
    with PseudoTerminal([*CLIENT, "--url", url], client_environ()) as terminal:
        _with_two_versions(terminal, standin)
        terminal.type("one two\x1bbX\r")
        terminal.wait_for("12 tokens", times=3)
    assert standin.requests[-1][1]["message"] == "one Xtwo"


def test_plain_terminal_shows_versions_below(url: str, standin: StandIn) -> None:
    with PseudoTerminal([*CLIENT, "--url", url, "--plain"], client_environ()) as terminal:
        _with_two_versions(terminal, standin)
        terminal.type(ALT_LEFT)
        terminal.wait_for("version 1 of 2, builtin")
        assert "Green." in terminal.text and terminal.text.isascii()
