import pytest

from app.engine.ipc.messages import DeltaKind
from app.engine.replies.parts import PartSplitter, Thinking


def split(text: str, thinking: Thinking, size: int) -> tuple[str, str]:
    """The thinking and the text of a reply that comes in pieces of `size` characters."""
    splitter = PartSplitter(thinking)
    parts = [part for i in range(0, len(text), size) for part in splitter.push(text[i : i + size])]
    parts += splitter.flush()
    assert all(part.text for part in parts)
    joined: dict[DeltaKind, str] = {"thinking": "", "text": ""}
    for part in parts:
        joined[part.kind] += part.text
    return joined["thinking"], joined["text"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
@pytest.mark.parametrize(
    ("reply", "thinking", "thought", "text"),
    [
        ("<think>\nOne, two.\n</think>\n\nTwo.\n", "marked", "One, two.", "Two.\n"),
        ("\n <think>a</think>b", "marked", "a", "b"),
        ("One.\n</think>\n\nTwo.", "opened", "One.", "Two."),
        ("One </thin", "opened", "One </thin", ""),
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
def test_parts_are_the_same_however_the_text_comes(
    reply: str, thinking: Thinking, thought: str, text: str, size: int
) -> None:
    assert split(reply, thinking, size) == (thought, text)
