from pathlib import Path

import pytest

from app.cli.conversation.attachments import attachment, mentioned, read_text
from app.cli.errors import UsageError


def test_file_is_attached_in_a_fence_that_nothing_in_it_ends() -> None:
    Path("a.py").write_text("x = 1\n")
    assert attachment("a.py") == "a.py:\n```py\nx = 1\n```"
    Path("b.md").write_text("````\ncode\n````\n")
    assert attachment("b.md") == "b.md:\n`````md\n````\ncode\n````\n`````"


def test_only_files_are_mentioned() -> None:
    Path("notes.txt").write_text("n")
    Path("two words.md").write_text("n")
    said = 'mail me@notes.txt, see @notes.txt, @missing @. and @"two words.md"!'
    assert mentioned(said) == ["notes.txt", '"two words.md"']
    assert mentioned(f"again @notes.txt\n\n{attachment('notes.txt')}") == []


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\x00\x01", "no text"),
        (b"\xff\xfe", "no text"),
        (b"x" * 400_001, "too much"),
        (b"x" * 2_000_000, "too much"),
    ],
)
def test_what_is_no_text_or_too_much_is_refused(content: bytes, told: str) -> None:
    Path("file").write_bytes(content)
    with pytest.raises(UsageError, match=told):
        read_text("file")


def test_file_that_cannot_be_read_says_why() -> None:
    with pytest.raises(UsageError, match="No such file"):
        attachment("missing")
    with pytest.raises(UsageError, match="Is a directory"):
        attachment(".")
