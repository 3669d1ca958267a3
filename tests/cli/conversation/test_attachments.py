import os
from pathlib import Path

import pytest

from app.cli.conversation.attachments import attachment, mentioned, missing, read_text
from app.cli.errors import UsageError


def test_attachment_fence_is_longer_than_any_in_the_file() -> None:
    Path("a.py").write_text("x = 1\n")
    assert attachment("a.py") == "a.py:\n```py\nx = 1\n```"
    Path("b.md").write_text("````\ncode\n````\n")
    assert attachment("b.md") == "b.md:\n`````md\n````\ncode\n````\n`````"


def test_only_existing_files_are_mentioned() -> None:
    Path("notes.txt").write_text("n")
    Path("two words.md").write_text("n")
    said = 'mail me@notes.txt, see @notes.txt, @missing @. and @"two words.md"!'
    assert mentioned(said) == ["notes.txt", '"two words.md"']
    assert mentioned(f"again @notes.txt\n\n{attachment('notes.txt')}") == []


def test_mention_of_a_path_where_nothing_is_is_missing() -> None:
    Path("notes.txt").write_text("n")
    Path("folder.d").mkdir()
    said = "see @notes.txt, @lost.txt, @~/lost/b.py, @folder.d, @ann, @v2, @app.get(x) and me@lost.txt"
    assert missing(said) == ["lost.txt", "~/lost/b.py"]


@pytest.mark.parametrize(
    "name",
    [
        "pytest.mark.skip",
        "app.get",
        "mock.patch",
        "functools.cache",
        "attr.s",
        "types/node",
        "org.junit.Test",
    ],
)
def test_pasted_decorator_or_package_is_not_a_missing_file(name: str) -> None:
    assert missing(f"@{name}\ndef test_it(): ...") == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\x00\x01", "not a text file"),
        (b"\xff\xfe", "not a text file"),
        (b"x" * 400_001, "too l(arge|ong)"),
        (b"x" * 2_000_000, "too l(arge|ong)"),
    ],
)
def test_binary_or_large_file_is_rejected(content: bytes, expected: str) -> None:
    Path("file").write_bytes(content)
    with pytest.raises(UsageError, match=expected):
        read_text("file")


def test_unreadable_file_is_reported() -> None:
    with pytest.raises(UsageError, match="No such file"):
        attachment("missing")
    with pytest.raises(UsageError, match="Is a directory"):
        attachment(".")


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/stdin", "pipe", "~nobody-here/notes.txt", "a\0b"])
def test_only_regular_files_are_read(path: str) -> None:
    os.mkfifo("pipe")
    with pytest.raises(UsageError):
        read_text(path)
