import pytest

from app.models.chat.thinking import ThinkingSplit


def split(text: str, thinking: str, size: int) -> tuple[str, str]:
    parts = ThinkingSplit(thinking)  # type: ignore[arg-type]
    pieces = [parts.push(text[i : i + size]) for i in range(0, len(text), size)] + [parts.flush()]
    return "".join(thought for thought, _ in pieces), "".join(answer for _, answer in pieces)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
@pytest.mark.parametrize(
    ("text", "thinking", "thought", "answer"),
    [
        ("<think>\nOne, two.\n</think>\n\nTwo.\n", "marked", "One, two.", "Two.\n"),
        ("\n <think>a</think>b", "marked", "a", "b"),
        ("One.\n</think>\n\nTwo.", "begun", "One.", "Two."),
        ("One </thin", "begun", "One </thin", ""),
        ("<think>a\n\nb", "marked", "a\n\nb", ""),
        ("<thin", "marked", "", "<thin"),
        (" Two <think>is</think> it.", "marked", "", " Two <think>is</think> it."),
        ("<think></think>", "marked", "", ""),
        ("<think>a</think>b</think>c", "marked", "a", "b</think>c"),
        ("<think>text</think>", "none", "", "<think>text</think>"),
        ("\n\n", "none", "", "\n\n"),
        ("", "marked", "", ""),
    ],
)
def test_split_is_the_same_however_the_text_comes(
    text: str, thinking: str, thought: str, answer: str, size: int
) -> None:
    assert split(text, thinking, size) == (thought, answer)
