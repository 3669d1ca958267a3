"""Owns what the user's own configuration says: a TOML file, below flags and environment.

url = "http://gpu-box:8000"
model = "qwen3-1.7b"
system = "Answer briefly."
thinking = "fold"

[sampling]
temperature = 0.7
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from app.cli.conversation.reply_settings import SamplingSettings
from app.cli.errors import ClientError
from app.cli.files import write_whole
from app.cli.options import Options
from app.cli.paths import config_file
from app.models.schemas import SamplingFields

_ENVIRONMENT = {  # an option's name, and its variable
    "url": "CHAT_URL",
    "api_key": "LLM_API_KEY",
    "model": "CHAT_MODEL",
    "system": "CHAT_SYSTEM",
}
_SAMPLING_TABLE = re.compile(r"^\[sampling\][^\n]*\n(?:(?!\[)[^\n]*\n?)*", re.MULTILINE)


class ConfigError(ClientError):
    pass


class Preferences(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)

    url: str | None = None
    api_key: str | None = None
    model: str | None = None
    system: str | None = None
    plain: bool = False
    no_color: bool = False
    thinking: Literal["show", "fold"] = "show"
    sampling: SamplingFields | None = None

    @property
    def settings(self) -> SamplingSettings:
        settings = SamplingSettings()
        if self.sampling is not None:
            settings.values = self.sampling.model_dump(exclude_unset=True)
        return settings


def load_preferences(path: Path | None = None) -> Preferences:
    """
    Raises:
        ConfigError: naming what in the file is wrong.
    """
    path = path or config_file()
    try:
        return Preferences.model_validate(_parsed(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return Preferences.model_construct()  # nothing to judge: what judges need not be built
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise ConfigError(f"{path}: {where}: {problem['msg']}.", "Change it, or remove the line.") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise ConfigError(f"{path} is no TOML: {error}.") from None


def _parsed(text: str) -> dict[str, Any]:  # Any: what TOML holds
    import tomllib  # only where there is such a file

    return tomllib.loads(text)


def decided(options: Options, environ: Mapping[str, str], preferences: Preferences) -> Options:
    """What holds: the flag; else the environment; else the file; else the default."""
    changes: dict[str, Any] = {}  # Any: as Options types each field
    for name, variable in _ENVIRONMENT.items():
        given, written = getattr(options, name), getattr(preferences, name)
        changes[name] = given if given is not None else environ.get(variable) or written
    for name in ("plain", "no_color"):
        changes[name] = getattr(options, name) or getattr(preferences, name)
    return options.with_(**changes)


def save_settings(settings: SamplingSettings, path: Path | None = None) -> Path:
    """Writes them into the file as its `[sampling]`; the rest of the file stays as it is.

    Raises:
        ConfigError: it cannot be written.
    """
    path = path or config_file()
    lines = [f"{key} = {_toml(value)}\n" for key, value in settings.values.items()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        kept = _SAMPLING_TABLE.sub("", before).rstrip()
        written = "".join([f"{kept}\n\n" if kept else "", "[sampling]\n", *lines])
        write_whole(Path(os.path.realpath(path)), written.encode())
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}.") from None
    return path


def _toml(value: Any) -> str:  # Any: a setting's number, text or list of texts
    """JSON's numbers, strings and lists of them are TOML's too, but for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
