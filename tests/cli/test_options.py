"""Command-line options and their shell completion."""

import subprocess
from shutil import which

import pytest

from app.cli.options import Options
from chat_cli import parse_arguments
from tests.cli.client_process import CLIENT, piped
from tests.waiting import LIMIT_S


def test_options_are_parsed() -> None:
    given = ["--url", "u", "--api-key", "k", "-m", "m", "-s", "be", "--plain", "--no-color"]
    given += ["-p", "hi", "--json", "--resume"]
    assert parse_arguments(given) == Options("u", "k", "m", "be", "", "hi", True, True, True)
    assert parse_arguments(["--resume", "talk"]).resume == "talk"
    assert parse_arguments([]) == Options()


def _completed(*words: str) -> list[str]:
    """bash's completions of the last word."""
    script = subprocess.run(
        [*CLIENT, "--print-completion", "bash"], capture_output=True, text=True, check=True, timeout=LIMIT_S
    ).stdout
    ask = 'COMP_WORDS=(chat_cli.py "$@") COMP_CWORD=$#; _shtab_chat_cli_py; echo "${COMPREPLY[@]}"'
    command = ["bash", "-c", f"{script}\n{ask}", "bash", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=LIMIT_S).stdout.split()


def test_bash_completes_the_options() -> None:
    assert _completed("--p") == ["--prompt", "--plain", "--print-completion"]
    assert _completed("--json", "--ur") == ["--url"]
    assert _completed("--print-completion", "z") == ["zsh"]


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_shell_accepts_the_completion_and_finds_every_option(shell: str) -> None:
    done = subprocess.run(
        [*CLIENT, "--print-completion", shell], capture_output=True, text=True, timeout=LIMIT_S
    )
    options = {word.strip("[],") for word in piped("", "--help").stdout.split() if "-" in word[:2]}
    assert (done.returncode, done.stderr) == (0, "")
    assert options > {"--url", "-m"} and all(option in done.stdout for option in options)
    if which(shell):
        assert subprocess.run([shell, "-n"], input=done.stdout, text=True, timeout=LIMIT_S).returncode == 0
