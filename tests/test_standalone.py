"""Tests the errors of standalone_test.py."""

import os
import subprocess
import sys
from pathlib import Path

from tests.server import ROOT


def standalone(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LLM_")}
    environ = clean | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(folder)}
    command = [sys.executable, str(ROOT / "standalone_test.py"), *arguments]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=60)


def test_model_that_cannot_be_downloaded_is_reported_once(tmp_path: Path) -> None:
    done = standalone(tmp_path, "--model", "distilgpt2")
    assert (done.returncode, done.stderr) == (1, "")
    assert "distilbert/distilgpt2 is not on this machine" in done.stdout


def test_wrong_setting_is_reported_literally(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LLM_[/red]=1\n")
    done = standalone(tmp_path)
    assert (done.returncode, done.stderr) == (2, "")
    assert "Wrong settings. LLM_[/red]: no such setting" in done.stdout
