"""Reads the command line of `python -m app`: the everyday settings as options."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from app import __version__

_DESCRIPTION = (
    "Runs the server. Each option takes precedence over the variable named after it, and that over .env. "
    "Further settings are LLM_* variables: docs/settings.md lists them. Passwords and keys are safer there: "
    "other users of this machine can see a command line."
)
# The name of each option, the setting for which it stands, the name of its value, and its help.
_OPTIONS = (
    ("host", "host", "ADDRESS", "listen on this address; 0.0.0.0 for all of this machine"),
    ("port", "port", "PORT", "listen on this port; 0 for any free one"),
    ("root-path", "root_path", "PREFIX", "the prefix, such as /llm, that a proxy takes off each path"),
    ("model", "model_name", "NAME", "the model that answers; `none` for no model"),
    ("database", "database_url", "URL", "where conversations are kept, such as sqlite:///conversations.db"),
    ("models-file", "models_file", "FILE", "a TOML file with models of your own"),
    ("model-cache-dir", "model_cache_dir", "FOLDER", "where downloaded models are kept"),
    ("device", "device", "DEVICE", "cpu, cuda, mps or auto"),
    ("dtype", "dtype", "TYPE", "auto, float32, bfloat16 or float16"),
    ("quantization", "quantization", "FORM", "none, int8, int4 or auto"),
    ("threads", "threads", "NUMBER", "processor threads of each model, or auto"),
    ("context-length", "context_length", "TOKENS", "the longest context window of a model"),
    ("memory-gb", "memory_gb", "GIGABYTES", "memory for all models together, or auto"),
    (
        "max-active-requests",
        "max_active_requests",
        "NUMBER",
        "requests of a model that are computed together",
    ),
    ("api-keys-file", "api_keys_file", "FILE", "a file with a name and a key on each line"),
    ("log-level", "log_level", "LEVEL", "DEBUG, INFO, WARNING, ERROR or CRITICAL"),
    ("log-format", "log_format", "FORMAT", "text or json"),
)
# The same for the options without a value, which turn their setting on.
_SWITCHES = (
    ("allow-any-model", "allow_any_model", "let requests name any Hub repository, local folder or GGUF file"),
)


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What the command line says. `settings` has the values given, as text, by the name of the setting."""

    settings: dict[str, str]
    exit_on_stdin_close: bool


def parse(arguments: Sequence[str] | None = None) -> CommandLine:
    """Returns what the arguments say, by default those of this process. Wrong ones end the process."""
    parser = argparse.ArgumentParser(prog="python -m app", description=_DESCRIPTION, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=__version__)
    for option, setting, value, text in _OPTIONS:
        parser.add_argument(
            f"--{option}",
            dest=setting,
            metavar=value,
            default=argparse.SUPPRESS,
            help=_help(setting, text),
        )
    for option, setting, text in _SWITCHES:
        parser.add_argument(
            f"--{option}",
            dest=setting,
            action="store_const",
            const="true",
            default=argparse.SUPPRESS,
            help=_help(setting, text),
        )
    parser.add_argument(
        "--exit-on-stdin-close", action="store_true", help="stop when standard input is closed"
    )
    given = vars(parser.parse_args(arguments))
    return CommandLine(exit_on_stdin_close=given.pop("exit_on_stdin_close"), settings=given)


def _help(setting: str, text: str) -> str:
    return f"{text} (LLM_{setting.upper()})"
