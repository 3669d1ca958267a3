"""Runs `python -m app.conversations` on databases of each kind."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from app.conversations.__main__ import main
from app.models.conversation import Conversation, chained, now, text_message
from app.models.storage.sql.database import Database
from app.models.storage.sql.sql_store import SqlStore
from app.models.storage.sql.turns.leases import LeaseLocks
from tests.models.storage.conftest import opened, url_of
from tests.server import ROOT
from tests.waiting import LIMIT_S


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return url_of(request, tmp_path)


@dataclass
class Ended:
    """A command that has ended."""

    status: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command on a database."""

    def run_on(url: str, *arguments: str) -> Ended:
        with pytest.raises(SystemExit) as ended:
            main(["--database", url, *arguments])
        out, err = capsys.readouterr()
        code = ended.value.code
        return Ended(code, out, err) if isinstance(code, int) else Ended(1, out, f"{code}\n")

    return run_on


def store(url: str, *owners: str) -> list[Conversation]:
    """One conversation of each owner, each changed a day after the one before it, the last one now."""

    async def scenario() -> list[Conversation]:
        made = []
        async with opened(url) as database:
            for age, owner in zip(reversed(range(len(owners))), owners, strict=True):
                messages = chained((text_message("user", f"question {age}"), text_message("assistant", "é")))
                conversation = Conversation(owner=owner, title="rain").with_messages(*messages)
                conversation = replace(conversation, updated_at=now() - timedelta(days=age))
                await SqlStore(database, LeaseLocks(database)).commit(conversation, messages)
                made.append(conversation)
        return made

    return asyncio.run(scenario())


def execute(url: str, *statements: str) -> None:
    async def scenario() -> None:
        async with opened(url) as database, database.writing() as connection:
            for statement in statements:
                await connection.execute(text(statement))

    asyncio.run(scenario())


async def ids(database: Database) -> list[str]:
    async with database.reading() as connection:
        return list((await connection.scalars(text("SELECT id FROM conversations ORDER BY number"))).all())


def stored_ids(url: str) -> list[str]:
    async def scenario() -> list[str]:
        async with opened(url) as database:
            return await ids(database)

    return asyncio.run(scenario())


def test_an_export_is_imported_once_and_exported_again(run: Run, database_url: str, tmp_path: Path) -> None:
    made = store(database_url, "ada", "bob")
    exported = run(database_url, "export")
    assert [json.loads(line)["id"] for line in exported.out.splitlines()] == [each.id for each in made]
    path, other = tmp_path / "export.jsonl", f"sqlite:///{tmp_path / 'other.db'}"
    path.write_text(exported.out, encoding="utf-8")
    first = run(other, "import", str(path))
    assert (first.status, first.err) == (0, "Conversations imported: 2, already present: 0\n")
    again = run(other, "import", str(path))
    assert again.err == "Conversations imported: 0, already present: 2\n"
    assert run(other, "export").out == exported.out
    assert run(other, "check").status == 0


def test_an_export_may_be_a_file_for_each_conversation_of_an_owner(
    run: Run, database_url: str, tmp_path: Path
) -> None:
    _, wanted = store(database_url, "ada", "bob")
    run(database_url, "export", "--owner", "bob", "--folder", str(tmp_path / "out"))
    [path] = (tmp_path / "out").iterdir()
    assert path.name == f"{wanted.id}.jsonl"
    assert run(database_url, "import", str(path)).err == "Conversations imported: 0, already present: 1\n"


def test_a_damaged_file_is_refused_as_a_whole(run: Run, database_url: str, tmp_path: Path) -> None:
    store(database_url, "ada")
    line = run(database_url, "export").out
    path, other = tmp_path / "export.jsonl", f"sqlite:///{tmp_path / 'other.db'}"
    path.write_text(f"{line}\n{line[:-20]}\n" + line.replace("question", "answer"), encoding="utf-8")
    refused = run(other, "import", str(path))
    assert refused.status == 1
    assert f"{path}, line 3: " in refused.err and f"{path}, line 4: another line" in refused.err
    assert stored_ids(other) == []


def test_prune_removes_by_age_and_keeps_the_newest(run: Run, database_url: str) -> None:
    made = store(database_url, "ada", "bob", "ada", "ada", "bob")
    assert run(database_url, "prune").status == 1
    trial = run(database_url, "prune", "--keep", "1", "--dry-run")
    assert trial.err == "Conversations to remove: 3, kept because in use: 0\n"
    run(database_url, "prune", "--older-than", "1.5", "--keep", "1", "--owner", "ada")
    left = [made[1].id, made[3].id, made[4].id]
    assert stored_ids(database_url) == left
    run(database_url, "prune", "--older-than", "0.5")
    assert stored_ids(database_url) == [made[4].id]
    assert run(database_url, "check").out == ""


def test_prune_keeps_a_conversation_in_the_middle_of_a_turn(run: Run, database_url: str) -> None:
    [conversation] = store(database_url, "ada")

    async def scenario() -> None:
        async with opened(database_url) as database, LeaseLocks(database).hold(conversation.id):
            pruned = await asyncio.to_thread(run, database_url, "prune", "--keep", "0")
            assert pruned.err == "Conversations removed: 0, kept because in use: 1\n"
            assert await ids(database) == [conversation.id]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE conversations SET message_count = 7", "counts 7 messages, not 2"),
        ("UPDATE conversations SET messages_bytes = 7", "counts 7 bytes"),
        ("UPDATE conversations SET head_id = 'msg_none'", "head is not one of its messages"),
        ("UPDATE messages SET depth = 9 WHERE depth = 2", "has depth 9, not 2"),
        ("DELETE FROM search_texts", "the search index has 0 of its 3 texts"),
        ("INSERT INTO turn_leases VALUES ('conv_x', 'gone', 0)", "conv_x: a turn lease"),
    ],
)
def test_check_finds_every_contradiction(run: Run, database_url: str, statement: str, problem: str) -> None:
    store(database_url, "ada")
    execute(database_url, statement)
    checked = run(database_url, "check")
    assert checked.status == 1
    assert problem in checked.out


def test_the_commands_need_a_database_that_can_be_used(run: Run) -> None:
    assert "LLM_DATABASE_URL" in run("mysql://x", "check").err
    assert run("postgresql://127.0.0.1:1/x", "check") == Ended(1, "", "The database cannot be reached.\n")


@pytest.mark.parametrize(("url", "status"), [("", 1), ("sqlite:///{}/new.db", 0)])
def test_the_program_reads_the_url_from_the_settings(url: str, status: int, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LLM_")}
    ended = subprocess.run(
        [sys.executable, "-m", "app.conversations", "check"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment | {"LLM_DATABASE_URL": url.format(tmp_path), "PYTHONPATH": str(ROOT)},
        timeout=LIMIT_S,
        check=False,
    )
    assert ended.returncode == status
    assert ("LLM_DATABASE_URL" in ended.stderr) == (status == 1)
