import json
import threading
from pathlib import Path

import pytest

from app.cli.errors import TranscriptError, UsageError
from app.cli.transcripts.documents import code_blocks, document, write_document
from app.cli.transcripts.message_tree import ConversationTree
from app.cli.transcripts.transcript_file import Transcript, load
from app.models.schemas import TranscriptMessage

TALK = Transcript(
    system_prompt="Be brief.",
    tree=ConversationTree.linear(
        [
            TranscriptMessage(role="user", content="Add <b>two</b>"),
            TranscriptMessage(
                role="assistant", content="```py\n1 + 2\n```\n<script>x</script>", model_name="gpt2"
            ),
        ]
    ),
)


def _write(path: Path) -> None:
    write_document(document(TALK, path), path)


def test_markdown_names_the_speakers() -> None:
    _write(Path("talk.md"))
    assert Path("talk.md").read_text() == (
        "# Add <b>two</b>\n\n> Be brief.\n\n## You\n\nAdd <b>two</b>\n\n"
        "## Assistant (gpt2)\n\n```py\n1 + 2\n```\n<script>x</script>\n"
    )


def test_html_escapes_messages() -> None:
    _write(Path("talk.html"))
    written = Path("talk.html").read_text()
    assert "<script>" not in written and "<b>" not in written
    assert '<code class="language-py">1 + 2' in written and "<blockquote>Be brief.</blockquote>" in written


def test_html_export_stops_when_asked() -> None:
    stopped = threading.Event()
    assert document(TALK, Path("talk.html"), stopped).count(b"<h2>") == 2
    stopped.set()
    assert document(TALK, Path("talk.html"), stopped).count(b"<h2>") == 0


def test_exported_json_can_be_loaded() -> None:
    _write(Path("talk.json"))
    assert json.loads(Path("talk.json").read_text())["version"] == 2
    assert load("talk", Path()) == TALK


def test_unknown_format_and_missing_folder_are_rejected() -> None:
    with pytest.raises(UsageError, match="not end in a known format"):
        _write(Path("talk.pdf"))
    with pytest.raises(TranscriptError, match="cannot be written"):
        _write(Path("missing/talk.md"))


def test_nested_code_blocks_are_found() -> None:
    answer = "```\none\n```\n- item\n  ```py\n  two\n  ```\n\ntext\n\n    three\n"
    assert code_blocks(answer) == ["one\n", "two\n", "three\n"]
    assert code_blocks("`inline`") == []


def test_path_that_no_file_can_have_is_reported() -> None:
    with pytest.raises(TranscriptError, match="cannot be written"):
        write_document(b"", Path("a\0b.md"))
