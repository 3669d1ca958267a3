"""Older transcript files, and files of other programs."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.cli.errors import TranscriptError
from app.cli.transcripts.transcript_file import load

TURN = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
TREE: list[dict[str, Any]] = [
    {"id": "q", "parent_id": None, "role": "user", "content": "hello"},
    {"id": "a", "parent_id": "q", "role": "assistant", "content": "hi"},
    {"id": "b", "parent_id": "q", "role": "assistant", "content": "good day"},
]
SECOND = {"format": "llm-serving conversation", "version": 2, "saved_at": "2026-01-01T00:00:00Z"}


def _write(document: object) -> None:
    Path("talk.json").write_text(json.dumps(document))


def _texts(folder: Path = Path()) -> list[str]:
    return [message.content for message in load("talk", folder).messages]


def test_first_version_loads_as_one_branch() -> None:
    _write({**SECOND, "version": 1, "title": "Greeting", "messages": TURN})
    assert _texts() == ["hello", "hi"]
    loaded = load("talk", Path())
    assert loaded.title == "Greeting" and all(message.is_local for message in loaded.messages)


@pytest.mark.parametrize(
    "messages",
    [
        TURN,
        [{"role": "system", "content": "Be brief."}, *TURN],
        [{"role": "user", "content": [{"type": "text", "text": "hel"}, {"text": "lo"}]}, TURN[1]],
        [{"role": "user", "content": "hello", "id": 3, "children": [{}]}, TURN[1]],
        ["noise", *TURN],
    ],
)
def test_messages_of_other_programs_load(messages: list[Any]) -> None:
    _write({"messages": messages})
    assert _texts() == ["hello", "hi"]


def test_conversation_as_the_server_sends_it_keeps_its_branches() -> None:
    _write({"conversation_id": "conv_1", "head_id": "a", "messages": TREE})
    loaded = load("talk", Path())
    assert _texts() == ["hello", "hi"] and len(loaded.tree.messages) == 3
    assert loaded.conversation_id is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"head_id": "x", "messages": TREE}, "head_id, which no message has"),
        ({"head_id": "a", "messages": TREE[1:]}, "messages.0.parent_id, which no earlier message has"),
        ({"head_id": "a", "messages": [*TREE, TREE[0]]}, "messages.3.id, which an earlier message has"),
        ({"messages": [TREE[0] | {"parent_id": "q"}]}, "messages.0.parent_id, which no earlier"),
        ({"messages": [TREE[0] | {"role": "cat"}]}, "messages.0.role"),
        ({"messages": [TREE[0] | {"id": ""}]}, "messages.0.id"),
        ({"messages": [TREE[0] | {"parts": [{"type": "smell"}]}]}, "messages.0.parts.0"),
    ],
)
def test_damaged_file_is_refused_and_left_alone(changes: dict[str, Any], expected: str) -> None:
    _write(SECOND | changes)
    before = Path("talk.json").read_bytes()
    with pytest.raises(TranscriptError) as caught:
        load("talk", Path())
    assert f"talk.json is not a saved conversation (invalid {expected}" in caught.value.message
    assert Path("talk.json").read_bytes() == before
