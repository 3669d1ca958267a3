import os
from pathlib import Path

import pytest

from app.cli.errors import TranscriptError
from app.cli.transcripts.message_tree import ConversationTree
from app.cli.transcripts.session_index import delete_session, load_session, recent_sessions
from app.cli.transcripts.transcript_file import Transcript, save
from app.models.schemas import TranscriptMessage


def _keep(folder: Path, session_id: str, asked: str, age: int, title: str | None = None) -> None:
    messages = [TranscriptMessage(role=role, content=asked) for role in ("user", "assistant")]
    path = save(
        Transcript(title=title, model_name="gpt2", tree=ConversationTree.linear(messages)), session_id, folder
    )
    os.utime(path, (age, age))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    _keep(tmp_path, "a", "how to bake bread", 10)
    _keep(tmp_path, "b", "capital of France", 30)
    _keep(tmp_path, "c", "x" * 100, 20, title="Sorting in Rust")
    save(Transcript(), "empty", tmp_path)
    (tmp_path / "broken.json").write_text("{")
    return tmp_path


def test_sessions_are_listed_newest_first(folder: Path) -> None:
    found = recent_sessions(folder)
    assert [entry.name for entry in found] == ["capital of France", "Sorting in Rust", "how to bake bread"]
    assert (found[0].turns, found[0].model_name, found[0].changed_at) == (1, "gpt2", 30)
    assert recent_sessions(folder, limit=1) == found[:1]
    assert recent_sessions(folder / "missing") == []


@pytest.mark.parametrize(
    ("query", "found"),
    [("france", ["b"]), ("brd", ["a"]), ("RUST", ["c"]), ("r", ["b", "c", "a"]), ("zz", [])],
)
def test_sessions_are_found_by_letters_in_order(folder: Path, query: str, found: list[str]) -> None:
    assert [entry.session_id for entry in recent_sessions(folder, query)] == found


def test_loaded_session_keeps_its_id(folder: Path) -> None:
    assert load_session("b", folder).session_id == "b"
    delete_session("b", folder)
    with pytest.raises(TranscriptError):
        load_session("b", folder)
    delete_session("b", folder)
