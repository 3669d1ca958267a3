"""Owns where the client keeps its own files."""

import os
import tempfile
from pathlib import Path


def state_folder() -> Path:
    """$XDG_STATE_HOME/llm-serving or its default; where that cannot be written, a temporary one."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    folder = Path(home) / "llm-serving"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return Path(tempfile.mkdtemp(prefix="llm-serving-"))
    return folder


def sessions_folder() -> Path:
    """Where conversations are kept as they go on: $XDG_DATA_HOME/llm-serving/sessions or its default."""
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "llm-serving" / "sessions"


def config_file() -> Path:
    """$XDG_CONFIG_HOME/llm-serving/config.toml or its default."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "llm-serving" / "config.toml"


def private_file(path: Path) -> Path:
    """The path of a file that only its owner can read, made now if it was not there."""
    handle = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
    os.fchmod(handle, 0o600)
    os.close(handle)
    return path
