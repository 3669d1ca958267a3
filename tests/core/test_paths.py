"""Text that becomes a path, or is refused with a ValueError."""

import os
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from app.core.paths import absolute, expand, read_regular

NOWHERE = ["~nobody-has-this-name/x", "~nobody-has-this-name", "a\0b", "/\0", "~\0/x"]


@pytest.mark.parametrize("text", NOWHERE)
def test_text_that_is_no_path_is_refused_without_repeating_it(text: str) -> None:
    for convert in (expand, absolute):
        with pytest.raises(ValueError) as caught:
            convert(text)
        assert text not in str(caught.value)


def test_home_folders_are_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand("~/models") == absolute("~/models") == tmp_path / "models"
    assert expand("a/~/b") == Path("a/~/b")


def test_links_are_followed_also_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "circle").symlink_to("circle")
    assert absolute("link/x", tmp_path) == absolute("real/x", tmp_path)
    assert absolute("./circle/x", tmp_path).is_absolute()


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"text")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    assert read_regular(tmp_path / "file") == read_regular(tmp_path / "link") == b"text"
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match="it is not a regular file"):
            read_regular(path)
    with pytest.raises(IsADirectoryError):
        read_regular(tmp_path)


def test_a_file_that_would_fill_the_memory_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(64_000_001)
    with pytest.raises(OSError, match="it has more than 64 MB"):
        read_regular(tmp_path / "large")


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.sampled_from(["", "/", "./", "~", "~/"]),
)
def test_every_text_is_a_path_or_a_value_error(text: str, prefix: str) -> None:
    try:
        assert absolute(prefix + text).is_absolute()
    except ValueError as error:
        assert str(error)
