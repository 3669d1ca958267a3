#!/usr/bin/env python3
"""The terminal client. `python chat_cli.py --help` tells its options."""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from app.cli import startup
from app.cli.input.keyboard import quiet_keyboard
from app.cli.options import Options


class _PrintCompletion(argparse.Action):
    """Writes what a shell completes the options from, and ends."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,  # Any: as argparse types it
        option_string: str | None = None,
    ) -> None:
        import shtab  # only where it is asked for

        sys.stdout.write(shtab.complete(parser, str(values)) + "\n")
        parser.exit()


def parse_arguments(arguments: list[str] | None = None) -> Options:
    parser = argparse.ArgumentParser(
        description="Chat with a language model in the terminal. Starts a server when none runs.",
        epilog="Without a terminal, standard input is one message and standard output its answer. "
        "What is not given here is taken from $CHAT_URL, $CHAT_MODEL, $CHAT_SYSTEM and $LLM_API_KEY, "
        "and then from ~/.config/llm-serving/config.toml.",
    )
    parser.add_argument("--url", help="only connect to this server, as http://127.0.0.1:8000")
    parser.add_argument("--api-key", metavar="KEY", help="of the server")
    parser.add_argument("-m", "--model", help="the model to talk to")
    parser.add_argument("-s", "--system", metavar="TEXT", help="what the model is told first")
    parser.add_argument(
        "--resume", nargs="?", const="", metavar="NAME", help="go on with the last conversation, or this one"
    )
    parser.add_argument(
        "-p", "--prompt", dest="message", metavar="TEXT", help="one message; piped input is put below it"
    )
    parser.add_argument("--json", action="store_true", help="the answer as one JSON object")
    parser.add_argument("--plain", action="store_true", help="text as it comes: no Markdown, colours or bars")
    parser.add_argument("--no-color", action="store_true", help="Markdown without colours")
    parser.add_argument(
        "--print-completion",
        action=_PrintCompletion,
        choices=("bash", "zsh"),
        default=argparse.SUPPRESS,
        help="what that shell completes these options from",
    )
    return Options(**vars(parser.parse_args(arguments)))


def run() -> int:
    startup.put_off()
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # or all that is installed is read for some
    options = parse_arguments()
    try:
        with quiet_keyboard() if options.asks else nullcontext("") as typed:
            from app.cli.run import main  # takes a while, during which people type already

            return main(options, typed)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(run())
