"""Names the folders and files that the client keeps for the user, by the XDG rules on every system."""

import functools
import os
import tempfile
from pathlib import Path

from platformdirs.unix import Unix  # not PlatformDirs: on macOS that would move the files


def state_folder() -> Path:
    """Returns the folder of the history and the logs: $XDG_STATE_HOME/llm-serving.

    It is a temporary folder if that one is not writable, or if the user has no home.
    """
    try:
        folder = Unix("llm-serving").user_state_path
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError):
        return _temporary_folder()
    return folder


def sessions_folder() -> Path:
    """Returns the folder of the autosaved conversations: $XDG_DATA_HOME/llm-serving/sessions.

    It is a temporary folder if the user has no home, as in some containers.
    """
    try:
        return Unix("llm-serving").user_data_path / "sessions"
    except RuntimeError:
        return _temporary_folder() / "sessions"


def config_file() -> Path | None:
    """Returns $XDG_CONFIG_HOME/llm-serving/config.toml, which may not exist; None if the user has no home."""
    try:
        return Unix("llm-serving").user_config_path / "config.toml"
    except RuntimeError:
        return None


@functools.cache
def _temporary_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="llm-serving-"))


def private_file(path: Path) -> Path:
    """Creates the file if it is missing and makes it readable by its owner only. Returns `path`."""
    handle = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
    os.fchmod(handle, 0o600)
    os.close(handle)
    return path


def expanded(path: str) -> Path:
    """Returns the path with `~` and `~user` replaced by home folders. An unknown user is not replaced."""
    return Path(os.path.expanduser(path))
