import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from app.cli.errors import TranscriptError
from app.cli.files import remove_abandoned
from app.cli.net.server import PROJECT
from app.cli.transcripts.autosave import Autosave
from app.cli.transcripts.message_tree import ConversationTree
from app.cli.transcripts.transcript_file import Transcript, load
from app.models.schemas import TranscriptMessage
from tests.waiting import LIMIT_S


def _said(text: str) -> Transcript:
    return Transcript(tree=_tree(text))


def _tree(text: str) -> ConversationTree:
    return ConversationTree.linear([TranscriptMessage(role="user", content=text)])


def test_autosave_writes_states_in_order_and_privately(tmp_path: Path) -> None:
    autosave, folder = Autosave(tmp_path / "sessions"), tmp_path / "sessions"
    transcript = _said("0")
    for number in range(1, 20):
        transcript.tree = _tree(str(number))
        autosave.write(transcript)
    transcript.tree = ConversationTree()  # has no effect on the queued state
    autosave.settle()
    (file,) = folder.glob("*.json")
    assert load(file.stem, folder).messages[0].content == "19"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert autosave.failure() is None


def test_autosave_of_an_empty_conversation_creates_no_file(tmp_path: Path) -> None:
    autosave = Autosave(tmp_path / "sessions")
    autosave.write(Transcript())
    autosave.settle()
    assert not list((tmp_path / "sessions").glob("*.json"))
    Autosave(None).write(_said("kept nowhere"))


def test_autosave_reports_a_failure_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    autosave = Autosave(tmp_path / "file")
    autosave.write(_said("hello"))
    with pytest.raises(TranscriptError, match="cannot be written"):
        autosave.settle()
    assert "cannot be written" in str(autosave.failure())
    assert autosave.failure() is None


def test_autosave_reports_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """As in a home directory that is read-only."""
    (tmp_path / "file").write_text("")
    autosave = Autosave(tmp_path / "file" / "sessions")
    autosave.write(_said("hello"))
    with pytest.raises(TranscriptError, match="sessions cannot be written: Not a directory"):
        autosave.settle()
    assert "cannot be written" in str(autosave.failure())


def test_abandoned_files_are_removed_after_a_day(tmp_path: Path) -> None:
    for name, age in ((".saving-old", 0), (".saving-new", 4_000_000_000), ("talk.json", 0)):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (age, age))
    remove_abandoned(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [".saving-new", "talk.json"]


def test_conversation_is_locked_by_one_client(tmp_path: Path) -> None:
    one, other = Autosave(tmp_path), Autosave(tmp_path)
    one.write(Transcript(session_id="talk"))
    assert one.claim("talk") and other.claim("other") and not other.claim("talk")
    one.close()
    assert other.claim("talk") and Autosave(None).claim("talk")
    other.close()
    assert not list((tmp_path / "open").iterdir())


def test_conversation_on_a_disk_without_locks_keeps_one_file_open(tmp_path: Path) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    autosave = Autosave(tmp_path, refuse)
    opened = []
    for _ in range(5):
        autosave.write(Transcript(session_id="talk", tree=_tree("kept")))
        autosave.settle()
        opened.append(len(os.listdir("/proc/self/fd")))
    autosave.close()
    assert len(set(opened)) == 1
    assert [each.content for each in load("talk", tmp_path).tree.messages.values()] == ["kept"]


_WRITER = """
import sys
from pathlib import Path
from app.cli.transcripts.autosave import Autosave
from app.cli.transcripts.message_tree import ConversationTree
from app.cli.transcripts.transcript_file import Transcript
from app.models.schemas import TranscriptMessage
autosave = Autosave(Path(sys.argv[1]))
transcript = Transcript(session_id="talk")
for number in range(10**9):
    message = TranscriptMessage(role="user", content=f"{number} " + "x" * 100_000)
    transcript.tree = ConversationTree.linear([message])
    autosave.write(transcript)
    if number:
        autosave.settle()
    print(number, flush=True)
"""


@pytest.mark.parametrize("kills", [5, pytest.param(200, marks=pytest.mark.slow)])
def test_autosave_that_is_killed_leaves_the_old_or_the_new_file(tmp_path: Path, kills: int) -> None:
    command = [sys.executable, "-c", _WRITER, str(tmp_path)]
    for kill in range(kills):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=PROJECT)
        assert process.stdout is not None
        last = [int(process.stdout.readline()) for _ in range(2 + kill % 7)][-1]
        process.send_signal(signal.SIGKILL)
        process.wait(LIMIT_S)
        last = max([last, *map(int, process.stdout.read().split())])
        process.stdout.close()
        number, content = load("talk", tmp_path).messages[0].content.split()
        assert int(number) in (last, last + 1) and len(content) == 100_000
