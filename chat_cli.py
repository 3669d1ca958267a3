#!/usr/bin/env python3
"""The terminal client. `python chat_cli.py --help` lists its options."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from app.cli import startup_time
from app.cli.input.keyboard import quiet_keyboard
from app.cli.options import Options


class _PrintCompletion(argparse.Action):
    """Prints the completion script for a shell and exits."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,  # Any: as argparse types it
        option_string: str | None = None,
    ) -> None:
        import shtab  # only this option needs it

        sys.stdout.write(shtab.complete(parser, str(values)) + "\n")
        parser.exit()


def parse_arguments(arguments: list[str] | None = None) -> Options:
    parser = argparse.ArgumentParser(
        description="Chat with a language model in the terminal. Starts a server if none is running.",
        epilog="Without a terminal, standard input is the message and standard output the answer. "
        "Options that are not given are read from $CHAT_URL, $CHAT_MODEL, $CHAT_SYSTEM and $LLM_API_KEY, "
        "then from ~/.config/llm-serving/config.toml.",
    )
    parser.add_argument("--url", help="connect to this server only, e.g. http://127.0.0.1:8000")
    parser.add_argument("--api-key", metavar="KEY", help="API key of the server")
    parser.add_argument("-m", "--model", help="model to talk to")
    parser.add_argument("-s", "--system", metavar="TEXT", help="system prompt")
    parser.add_argument(
        "--resume", nargs="?", const="", metavar="NAME", help="continue the last conversation, or this one"
    )
    parser.add_argument(
        "-p",
        "--prompt",
        dest="message",
        metavar="TEXT",
        help="send this message and exit; piped input is appended to it",
    )
    parser.add_argument("--json", action="store_true", help="print the answer as one JSON object")
    parser.add_argument(
        "--plain", action="store_true", help="text as it arrives: no Markdown, colours or progress bars"
    )
    parser.add_argument("--no-color", action="store_true", help="Markdown without colours")
    parser.add_argument(
        "--print-completion",
        action=_PrintCompletion,
        choices=("bash", "zsh"),
        default=argparse.SUPPRESS,
        help="print the completion script for this shell",
    )
    return Options(**vars(parser.parse_args(arguments)))


def run() -> int:
    startup_time.begin()
    options = parse_arguments()
    try:
        with quiet_keyboard() if options.is_interactive else nullcontext("") as typed:
            from app.cli.run import main  # takes a while; keys typed meanwhile are kept

            return main(options, typed)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(run())
