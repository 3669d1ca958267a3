"""The terminal client. `python chat_cli.py --help` tells its options."""

import argparse
import sys

from app.cli.keyboard import quiet_keyboard
from app.cli.options import Options


def parse_arguments(arguments: list[str] | None = None) -> Options:
    parser = argparse.ArgumentParser(
        description="Chat with a language model in the terminal. Starts a server when none runs.",
        epilog="Without a terminal, standard input is one message and standard output its answer.",
    )
    parser.add_argument("--url", help="only connect to this server, as http://127.0.0.1:8000")
    parser.add_argument("--api-key", metavar="KEY", help="of the server (default: $LLM_API_KEY)")
    parser.add_argument("-m", "--model", help="the model to talk to")
    parser.add_argument("-s", "--system", default="", metavar="TEXT", help="what the model is told first")
    parser.add_argument("--plain", action="store_true", help="text as it comes: no Markdown, colours or bars")
    parser.add_argument("--no-color", action="store_true", help="Markdown without colours")
    return Options(**vars(parser.parse_args(arguments)))


def run() -> int:
    options = parse_arguments()
    try:
        with quiet_keyboard() as typed:
            from app.cli.chat import main  # takes a while, during which people type already

            return main(options, typed)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(run())
