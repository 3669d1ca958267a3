"""Exports, imports, prunes and checks the conversations of a database: `python -m app.conversations`."""

import argparse
import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

from app.conversations.transfer import ImportRefused, export_to_folder, export_to_stream, import_lines
from app.conversations.upkeep import problems, prune
from app.core.config import SettingsError, load_settings
from app.core.errors import DomainError
from app.models.conversation import now
from app.models.storage.sql.sql_storage import SqlStorage

DatabaseCommand = Callable[[SqlStorage, argparse.Namespace], Awaitable[int]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command, and exits with its status. `arguments` None means those of the process."""
    parsed = _parser().parse_args(arguments)
    logging.getLogger("app").addHandler(logging.NullHandler())  # the exception has the reason
    try:
        sys.exit(asyncio.run(_run(parsed)))
    except (DomainError, ImportRefused, OSError) as error:
        sys.exit(str(error))
    except SettingsError as error:
        sys.exit(f"Wrong settings. {error}")
    except KeyboardInterrupt:
        sys.exit(130)


async def _run(arguments: argparse.Namespace) -> int:
    """Returns the exit status."""
    storage = SqlStorage(_url(arguments.database))
    command: DatabaseCommand = arguments.command
    try:
        await storage.open()
        return await command(storage, arguments)
    finally:
        await storage.close()


def _url(given: str | None) -> str:
    if given is not None:
        return given
    url = load_settings().database_url
    if url is None:
        raise SettingsError("LLM_DATABASE_URL: it is not set; only a database can be exported or checked.")
    return url.get_secret_value()


async def _export(storage: SqlStorage, arguments: argparse.Namespace) -> int:
    if arguments.folder is not None:
        count = await export_to_folder(storage, arguments.owner, arguments.folder)
    else:
        sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]  # it is a text stream of the program
        count = await export_to_stream(storage, arguments.owner, sys.stdout)
    sys.stderr.write(f"Conversations exported: {count}\n")
    return 0


async def _import(storage: SqlStorage, arguments: argparse.Namespace) -> int:
    with ExitStack() as stack:
        counts = await import_lines(storage, _streams(arguments.files, stack))
    sys.stderr.write(f"Conversations imported: {counts.added}, already present: {counts.present}\n")
    return 0


def _streams(files: list[Path], stack: ExitStack) -> Iterator[tuple[str, BinaryIO]]:
    for path in files:
        if str(path) == "-":
            yield "standard input", sys.stdin.buffer
        else:
            yield str(path), stack.enter_context(path.open("rb"))


async def _prune(storage: SqlStorage, arguments: argparse.Namespace) -> int:
    days, keep = arguments.older_than, arguments.keep
    if days is None and keep is None:
        raise ImportRefused("prune needs --older-than or --keep.")
    before = None if days is None else now() - timedelta(days=days)
    counts = await prune(storage, arguments.owner, before, keep, is_trial=arguments.dry_run)
    verb = "to remove" if arguments.dry_run else "removed"
    sys.stderr.write(f"Conversations {verb}: {counts.removed}, kept because in use: {counts.busy}\n")
    return 0


async def _check(storage: SqlStorage, arguments: argparse.Namespace) -> int:
    count = 0
    async for problem in problems(storage):
        sys.stdout.write(problem + "\n")
        count += 1
    sys.stderr.write(f"Problems found: {count}\n")
    return 1 if count else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m app.conversations",
        description="Exports, imports, prunes and checks the conversations of a database.",
    )
    parser.add_argument("--database", metavar="URL", help="another database than that of LLM_DATABASE_URL")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    export = _add(commands, "export", _export, "write one JSON line for each conversation")
    export.add_argument("--owner", help="only conversations of this owner")
    export.add_argument("--folder", type=Path, help="a file for each instead of standard output")
    importing = _add(commands, "import", _import, "store the conversations of an export")
    importing.add_argument("files", nargs="+", type=Path, metavar="FILE", help="or - for standard input")
    pruning = _add(commands, "prune", _prune, "remove old conversations")
    pruning.add_argument("--older-than", type=_days, metavar="DAYS", help="not changed for so many days")
    pruning.add_argument("--keep", type=_count, metavar="N", help="keep the N newest of each owner")
    pruning.add_argument("--owner", help="only conversations of this owner")
    pruning.add_argument("--dry-run", action="store_true", help="only count them")
    _add(commands, "check", _check, "look for faults; the exit status is 1 if there are any")
    return parser


def _add(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    command: DatabaseCommand,
    text: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(command=command)
    return parser


def _days(text: str) -> float:
    days = float(text)
    if not 0 <= days <= 100_000:
        raise ValueError
    return days


def _count(text: str) -> int:
    if (count := int(text)) < 0:
        raise ValueError
    return count


if __name__ == "__main__":
    main()
