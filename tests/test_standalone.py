"""Tests the output and the errors of standalone_test.py."""

import io
import os
import subprocess
import sys
from pathlib import Path
from shutil import copytree

from rich.console import Console
from rich.progress import Progress

from app.models.schemas import LoadProgress
from standalone_test import LoadBars
from tests.cli.pseudo_terminal import PseudoTerminal
from tests.server import ROOT

COMMAND = [sys.executable, str(ROOT / "standalone_test.py")]


def environment(folder: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LLM_")}
    return clean | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(folder)}


def standalone(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command, environ = [*COMMAND, *arguments], environment(folder)
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=60)


def test_answers_come_without_log_lines(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LLM_LOG_LEVEL=INFO\n")
    done = standalone(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "The capital of France is Paris." in done.stdout


def test_model_that_cannot_be_loaded_is_reported_once(tmp_path: Path) -> None:
    copytree(ROOT / "app" / "builtin" / "weights", tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"no weights")
    (tmp_path / ".env").write_text("LLM_ALLOW_ANY_MODEL=true\n")
    done = standalone(tmp_path, "--model", "./broken")
    assert (done.returncode, done.stderr) == (1, "")


def test_stage_that_another_one_follows_is_shown_as_done() -> None:
    with Progress(console=Console(file=io.StringIO())) as progress:
        bars = LoadBars(progress)
        bars.show(LoadProgress(model_name="gpt2", stage="import", fraction=0))
        bars.show(LoadProgress(model_name="gpt2", stage="load", fraction=0.5))
        assert [task.percentage for task in progress.tasks] == [100, 50]


def test_no_bar_is_left_on_the_terminal(tmp_path: Path) -> None:
    with PseudoTerminal(COMMAND, environment(tmp_path) | {"TERM": "xterm"}, folder=tmp_path) as terminal:
        terminal.wait_for("memory")
        assert "builtin: " not in terminal.text


def test_model_that_cannot_be_downloaded_is_reported_once(tmp_path: Path) -> None:
    done = standalone(tmp_path, "--model", "distilgpt2")
    assert (done.returncode, done.stderr) == (1, "")
    assert "distilbert/distilgpt2 is not on this machine" in done.stdout


def test_wrong_setting_is_reported_literally(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LLM_[/red]=1\n")
    done = standalone(tmp_path)
    assert (done.returncode, done.stderr) == (2, "")
    assert "Wrong settings. LLM_[/red]: no such setting" in done.stdout
