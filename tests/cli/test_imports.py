"""The modules that the client imports, and those that must not delay the first prompt."""

import subprocess
import sys
from pathlib import Path

from app.cli.net.server import PROJECT
from tests.cli.client_process import CLIENT, client_environ
from tests.cli.pseudo_terminal import PseudoTerminal


def test_client_imports_neither_torch_nor_the_server() -> None:
    modules = "sorted(m for m in sys.modules if m.startswith(('app.', 'torch')))"
    code = f"import sys, app.cli.run, app.cli.chat, app.cli.commands.comparison; print(*{modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    others = [name for name in done.stdout.split() if not name.startswith("app.cli")]
    wire = [name for name in others if name.startswith("app.models.schemas")]
    assert wire and set(others) - set(wire) <= {
        "app.models",
        "app.core",
        "app.core.literals",
        "app.core.sampling",
    }


LATER = {"shtab", "torch", "transformers", "fastapi", "click", "pygments", "markdown_it", "tomllib", "dotenv"}
LATER |= {
    "rich.markdown",
    "rich.table",
    "rich.progress",
    "app.cli.output.markdown_stream",
    "app.cli.commands.comparison",
}


def test_prompt_appears_before_slow_modules_are_imported(url: str) -> None:
    command = f"exec {sys.executable} -X importtime {CLIENT[1]} --url {url} 2> imports"
    with PseudoTerminal(["sh", "-c", command], client_environ()) as terminal:
        terminal.wait_for("You:")
        lines = Path("imports").read_text().splitlines()
    imported = {line.rpartition("|")[2].strip() for line in lines}
    assert "prompt_toolkit" in imported and not imported & LATER
