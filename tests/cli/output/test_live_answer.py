import pytest

from tests.cli.output.drawn_answer import DrawnAnswer, remaining_rows


def _thought(folds: bool, chunks: list[tuple[str, str]]) -> list[str]:
    answer = DrawnAnswer(folds_thoughts=folds)
    for kind, text in chunks:
        (answer.rows.think if kind == "thinking" else answer.rows.feed)(text)
        answer.frame()
        answer.now_s += 3.5
    answer.finish()
    return remaining_rows(answer.written, 40, 10)


THOUGHT = [
    ("thinking", "First *this*,\nthen th"),
    ("thinking", "at.\x1b[2J\n"),
    ("delta", "**Done** it."),
    ("delta", "\n"),
]


def test_thoughts_are_shown_above_the_answer() -> None:
    assert _thought(False, THOUGHT) == ["before", "First *this*,", "then that.[2J", "", "Done it."]


def test_folded_thoughts_are_one_line() -> None:
    assert _thought(True, THOUGHT) == ["before", "Thought for 7 s.", "", "Done it."]


def test_thoughts_without_an_answer_stay() -> None:
    assert _thought(False, THOUGHT[:1]) == ["before", "First *this*,", "then th"]


@pytest.mark.parametrize(
    ("before", "added", "shown"),
    [
        ("One two", " three.", ["One two three."]),
        ("First.\n\nSecond", " part.\n\nThird.", ["Second part.", "", "Third."]),
        ("- a\n- b\n- c", "d\n- e\n", [" • cd", " • e"]),
        ("```\na\nb\n", "c\n```\n", ["b", "c"]),
        ("word " * 20 + "wor", "d.", ["word word word word word."]),
        ("Done.\n", "", ["Done."]),
    ],
)
def test_resumed_answer_shows_only_its_last_row_again(before: str, added: str, shown: list[str]) -> None:
    answer = DrawnAnswer()
    answer.rows.resume(before)
    for character in added:
        answer.rows.feed(character)
        answer.frame()
    answer.finish()
    assert remaining_rows(answer.written, 40, 10) == ["before", *shown]
