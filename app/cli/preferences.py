"""The user's preferences: command-line options, then environment variables, then config.toml. For example:

url = "http://gpu-box:8000"
model = "qwen3-1.7b"
system = "Answer briefly."
thinking = "fold"

[sampling]
temperature = 0.7
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from app.cli.conversation.sampling_settings import SamplingSettings
from app.cli.errors import ConfigError, InputError
from app.cli.files import check_regular, write_atomically
from app.cli.options import Options
from app.cli.paths import config_file
from app.models.schemas import SamplingFields

_VARIABLES = {  # name of the option: environment variable
    "url": "CHAT_URL",
    "api_key": "LLM_API_KEY",
    "model": "CHAT_MODEL",
    "system": "CHAT_SYSTEM",
}


class Preferences(BaseModel):
    """The contents of config.toml."""

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


def read_environment() -> Mapping[str, str]:
    """Returns the environment variables, completed from `.env` as the server does it.

    Raises:
        InputError: `.env` is not UTF-8 text.
    """
    if not os.path.exists(".env"):
        return os.environ
    from dotenv import dotenv_values  # few users have the file

    try:
        settings = {name: value for name, value in dotenv_values(".env").items() if value is not None}
    except UnicodeDecodeError:
        raise InputError(".env is not UTF-8 text.", "Rewrite it or remove it.") from None
    return settings | os.environ


def load_preferences(path: Path | None = None) -> Preferences:
    """Returns the preferences in `path`, by default config.toml; the defaults if it does not exist.


    Raises:
        ConfigError: the file cannot be read or is invalid.
    """
    path = path or config_file()
    if path is None:
        return Preferences.model_construct()
    try:
        return Preferences.model_validate(_parse(_read(path)))
    except FileNotFoundError:
        return Preferences.model_construct()  # without validation, whose validator takes time to build
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise ConfigError(f"{path}: {key}: {problem['msg']}.", "Correct the line or remove it.") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from None


def _read(path: Path) -> str:
    check_regular(path)
    return path.read_text(encoding="utf-8-sig")


def _parse(text: str) -> dict[str, Any]:  # Any: TOML values
    import tomllib  # few users have the file

    return tomllib.loads(text)


def resolve(options: Options, environ: Mapping[str, str], preferences: Preferences) -> Options:
    """Returns the options, completed from the environment and then from the preferences."""
    changes: dict[str, Any] = {}  # Any: as Options types each field
    for name, variable in _VARIABLES.items():
        option, preference = getattr(options, name), getattr(preferences, name)
        changes[name] = option if option is not None else environ.get(variable) or preference
    for name in ("plain", "no_color"):
        changes[name] = getattr(options, name) or getattr(preferences, name)
    if options.url is None:
        variable = _VARIABLES["url"]
        changes["url_setting"] = variable if environ.get(variable) else str(config_file())
    return options.with_(**changes)


def save_settings(settings: SamplingSettings, path: Path | None = None) -> Path:
    """Writes the settings to the `[sampling]` table of the file and leaves the rest of it unchanged. Returns
    the path.

    Raises:
        ConfigError: the file cannot be written.
    """
    import tomlkit  # slow to import, and only /set --save needs it

    path = path or config_file()
    if path is None:
        raise ConfigError("There is no home folder to save the settings in.", "Set HOME or XDG_CONFIG_HOME.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        document = tomlkit.parse(_read(path) if path.exists() else "")
        table = document.setdefault("sampling", tomlkit.table())
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: sampling is not a table.", "Correct the line or remove it.")
        for key in set(table) - set(settings.values):
            del table[key]
        table.update(settings.values)
        write_atomically(Path(os.path.realpath(path)), tomlkit.dumps(document).encode())
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}.") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from None
    return path
