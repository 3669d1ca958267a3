"""Shows the activity of a server live in the terminal: `python -m app.status`."""

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Mapping, Sequence

from app.cli.errors import ClientError
from app.cli.monitor.tables import activity_tables, speeds_between
from app.cli.net.client import ChatClient
from app.cli.net.server import default_address, default_setting, url_of
from app.cli.preferences import read_environment
from app.models.schemas import ActivityResponse

_INTERVAL_S = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Shows the server's activity until Ctrl-C, or once. Returns the exit status."""
    options = _parse(arguments)
    try:
        environ = read_environment()
        asyncio.run(_show(_client(options.url, environ), options.once, options.interval))
    except ClientError as error:
        sys.stderr.write(" ".join(filter(None, (error.message, error.hint))) + "\n")
        return 1
    except KeyboardInterrupt:
        pass
    return 0


def _client(url: str | None, environ: Mapping[str, str]) -> ChatClient:
    key = environ.get("LLM_API_KEY")
    if named := url or environ.get("CHAT_URL"):
        return ChatClient(named, key, setting="--url" if url else "CHAT_URL")
    return ChatClient(url_of(*default_address(environ)), key, setting=default_setting(environ))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m app.status",
        description="Shows a server's models, open requests and last failures. A server with keys shows the "
        "requests and failures of the key in LLM_API_KEY.",
    )
    parser.add_argument("--url", help="the server's address (CHAT_URL)")
    parser.add_argument("--once", action="store_true", help="show it once; also if the output is no terminal")
    parser.add_argument(
        "--interval",
        type=_seconds,
        default=_INTERVAL_S,
        metavar="SECONDS",
        help="time between two updates (1)",
    )
    return parser.parse_args(arguments)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError("must be between 0.1 and 3600")
    return seconds


async def _show(server: ChatClient, once: bool, interval_s: float) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from app.cli.output.console import SafeConsole

    console = SafeConsole()
    async with server as client:
        if once or not console.is_terminal:
            for number, table in enumerate(activity_tables(await client.activity(), None, console.width)):
                console.print(*([""] if number else []), table, sep="\n")
            return
        with Live(console=console, screen=True, auto_refresh=False) as live:
            async for before, now in _reports(client, interval_s):
                speeds = None if before is None else speeds_between(before, now)
                title = Text(f"{client.url}, version {now.version}. Ctrl-C ends this view.", "dim")
                tables = activity_tables(now, speeds, console.width)
                live.update(Group(title, *(row for table in tables for row in (Text(), table))), refresh=True)


async def _reports(
    client: ChatClient, interval_s: float
) -> AsyncIterator[tuple[ActivityResponse | None, ActivityResponse]]:
    """Yields each report with the one before."""
    before = None
    while True:
        now = await client.activity()
        yield before, now
        before = now
        await asyncio.sleep(interval_s)


if __name__ == "__main__":
    sys.exit(main())
