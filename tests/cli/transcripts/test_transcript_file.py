import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from app.cli.errors import TranscriptError
from app.cli.files import checked_name, keep_backup
from app.cli.net.server import PROJECT
from app.cli.transcripts.message_tree import ConversationTree
from app.cli.transcripts.transcript_file import Transcript, load, save, saved_names
from app.models.schemas import TranscriptMessage
from tests.waiting import LIMIT_S


def _transcript(word: str = "hello") -> Transcript:
    asked = TranscriptMessage(role="user", content=word)
    answered = TranscriptMessage(role="assistant", content="hi", model_name="gpt2", finish_reason="stop")
    return Transcript("Be kind.", "Greeting", "gpt2", ConversationTree.linear([asked, answered]))


def test_transcript_name_is_the_first_message_without_attachments() -> None:
    asked = TranscriptMessage(role="user", content="\nWhat does\n@a.txt say?\n\na.txt:\n```txt\nA\n```")
    assert Transcript(tree=ConversationTree.linear([asked])).name == "What does @a.txt say?"


def test_load_returns_the_saved_conversation(tmp_path: Path) -> None:
    saved = _transcript()
    path = save(saved, "talk", tmp_path)
    assert load("talk.json", tmp_path) == saved
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["talk.json"]


def test_save_writes_the_documented_format(tmp_path: Path) -> None:
    document = json.loads(save(_transcript(), "talk", tmp_path).read_text())
    assert document["format"] == "llm-serving conversation" and document["version"] == 2
    assert [message["role"] for message in document["messages"]] == ["user", "assistant"]


def test_backup_replaces_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "notes.md"
    for text in ("one", "two", "three"):
        path.write_text(text)
        keep_backup(path)
        path.unlink()
    kept = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert kept == {"notes.md~": "one", "notes.md~2": "two", "notes.md~3": "three"}


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "a/b", "a\\b", ".hidden", "a\nb", "x" * 201, "-r"])
def test_invalid_file_name_is_rejected(name: str) -> None:
    with pytest.raises(TranscriptError, match="is not a valid name"):
        checked_name(name)


@pytest.mark.parametrize("name", ["my_conversation", "Plan 2 (draft)", "übung", "a.b"])
def test_file_name_may_contain_words(name: str) -> None:
    assert checked_name(f"{name}.json") == name


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"{}", "not a saved conversation"),
        (b"[1, 2]", "not a saved conversation"),
        (b"hello", "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"format": "llm-serving conversation", "version": 3}', "newer version"),
        (b'{"format": "llm-serving conversation", "version": 1, "messages": 3}', "not a saved conversation"),
        (b'{"format": "llm-serving conversation", "version": "1"}', "not a saved conversation"),
    ],
)
def test_load_rejects_other_files(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "bad.json").write_bytes(content)
    with pytest.raises(TranscriptError, match=expected):
        load("bad", tmp_path)


def test_load_of_a_missing_file_names_the_existing_ones(tmp_path: Path) -> None:
    save(_transcript(), "talk", tmp_path)
    with pytest.raises(TranscriptError, match="does not exist") as caught:
        load("tolk", tmp_path)
    assert caught.value.hint == "Saved conversations: talk."


def test_save_reports_why_it_failed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TranscriptError, match="cannot be written"):
        save(_transcript(), "talk", tmp_path / "file")


def test_saved_names_are_sorted_newest_first(tmp_path: Path) -> None:
    for age, name in enumerate(("old", "new")):
        os.utime(save(_transcript(), name, tmp_path), (age, age))
    assert saved_names(tmp_path) == ["new", "old"]
    assert saved_names(tmp_path / "missing") == []


_SAVER = """
import sys
from pathlib import Path
from app.cli.transcripts.message_tree import ConversationTree
from app.cli.transcripts.transcript_file import Transcript, save
from app.models.schemas import TranscriptMessage
asked = TranscriptMessage(role="user", content="x" * 100_000)
while True:
    print(flush=True)
    save(Transcript(tree=ConversationTree.linear([asked])), "talk", Path(sys.argv[1]))
"""


def test_save_that_is_killed_leaves_a_complete_file(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _SAVER, str(tmp_path)]
    for saves in range(2, 7):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=PROJECT)
        assert process.stdout is not None
        for _ in range(saves):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait(LIMIT_S)
        process.stdout.close()
        assert len(load("talk", tmp_path).messages[0].content) == 100_000


def test_load_reads_regular_files_only(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(TranscriptError, match="not a regular file"):
        load("pipe", tmp_path)
