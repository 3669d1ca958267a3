"""Reads the settings from the environment and `.env`. `.env.example` explains each setting to users."""

import difflib
import logging
import unicodedata
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any

from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.core.literals import Device, DType, LogFormat, LogLevel, QuantizationSetting
from app.core.paths import expand

logger = logging.getLogger(__name__)

DEFAULT_MODEL = "llama3-1b"
DEFAULT_CONTEXT_LENGTH = 8192  # tokens
NO_MODEL = "none"  # as LLM_MODEL_NAME: the server starts without a model
ENV_FILE = ".env"
DATABASES = ("sqlite:///", "postgresql://", "postgres://")


def _split_commas(value: object) -> object:
    """Turns `a, b` from the environment into ("a", "b")."""
    if isinstance(value, str):
        parts = tuple(part.strip() for part in value.split(",") if part.strip())
        if value.strip() and not parts:  # as unset, it might allow what it was to forbid
            raise ValueError("has nothing between its commas")
        return parts
    return value


def _never_is_none(value: object) -> object:
    return None if isinstance(value, str) and value.strip().lower() == "never" else value


def _auto_is_none(value: object) -> object:
    """Turns `auto`, which lets the server decide, into None."""
    return None if isinstance(value, str) and value.strip().lower() == "auto" else value


def _strip_secret(secret: SecretStr) -> SecretStr | None:
    """Removes blanks and newlines around the secret, which files of secrets often have."""
    text = secret.get_secret_value().strip()
    if secret.get_secret_value() and not text:
        raise ValueError("holds only blanks")
    if any(unicodedata.category(character) == "Cc" for character in text):
        raise ValueError("contains a control character, such as a newline, which no header can carry")
    return SecretStr(text) if text else None


def _check_database(url: SecretStr | None) -> SecretStr | None:
    """Checks only the beginning. The rest is checked by SQLAlchemy, which starts slowly."""
    if url is not None and not url.get_secret_value().startswith(DATABASES):
        raise ValueError(f"does not begin with {' or '.join(DATABASES[:2])}")
    return url


LocalPath = Annotated[Path, AfterValidator(expand)]
Secret = Annotated[SecretStr, AfterValidator(_strip_secret)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_commas)]


class Settings(BaseSettings):
    """All settings. Their environment variables have the prefix `LLM_`."""

    model_config = SettingsConfigDict(env_prefix="LLM_", env_file=ENV_FILE, frozen=True, extra="ignore")

    model_name: str = Field(DEFAULT_MODEL, min_length=1, max_length=200)
    device: Device = "cpu"
    model_cache_dir: LocalPath = Path("./models")
    log_level: LogLevel = "INFO"
    log_format: LogFormat = "text"
    max_conversation_length: int = Field(50, ge=1, le=10_000)

    dtype: DType = "auto"
    quantization: QuantizationSetting = "none"
    threads: Annotated[int | None, BeforeValidator(_auto_is_none)] = Field(None, ge=1, le=1024)
    context_length: int = Field(DEFAULT_CONTEXT_LENGTH, ge=16, le=100_000_000)
    system_prompt: str = Field("", max_length=32_000)
    host: str = Field("127.0.0.1", min_length=1)
    port: int = Field(8000, ge=0, le=65_535)
    root_path: str = Field("", pattern=r"^(/[A-Za-z0-9._~-]+)*$", max_length=200)
    database_url: Annotated[Secret | None, AfterValidator(_check_database)] = None
    max_conversations: int = Field(1000, ge=1, le=1_000_000)
    max_conversation_bytes: int = Field(1_000_000, ge=1_000, le=1_000_000_000)
    conversation_memory_gb: float = Field(0.5, gt=0, le=10_000)
    conversation_ttl: float = Field(86_400, gt=0)
    models_file: LocalPath | None = None
    allow_any_model: bool = False
    find_local_models: bool = True
    max_loaded_models: int = Field(2, ge=1, le=64)
    memory_gb: Annotated[float | None, BeforeValidator(_auto_is_none)] = Field(None, gt=0, le=100_000)
    model_idle_timeout: Annotated[float | None, BeforeValidator(_never_is_none)] = Field(
        None, gt=0, le=31_536_000
    )
    max_active_requests: int = Field(16, ge=1, le=1024)
    max_queued_requests: int = Field(64, ge=0, le=100_000)
    request_timeout: float = Field(300, gt=0, le=86_400)
    worker_timeout: float = Field(60, gt=0, le=86_400)
    fork_server: LocalPath | None = None
    kv_cache_gb: Annotated[float | None, BeforeValidator(_auto_is_none)] = Field(None, gt=0, le=10_000)
    max_body_bytes: int = Field(1_000_000, ge=1_000, le=1_000_000_000)
    allowed_hosts: Names = ()
    cors_origins: Names = ()
    api_key: Secret | None = None
    api_keys: Secret | None = None  # api_keys.py reads them
    api_keys_file: LocalPath | None = None
    admins: Names = ()
    key_max_open_requests: int | None = Field(None, ge=1, le=100_000)
    key_requests_per_minute: int | None = Field(None, ge=1, le=1_000_000)
    key_tokens_per_minute: int | None = Field(None, ge=1, le=1_000_000_000)
    hf_token: Secret | None = None
    metrics_addresses: Annotated[
        tuple[IPv4Network | IPv6Network, ...], NoDecode, BeforeValidator(_split_commas)
    ] = ()

    @model_validator(mode="before")
    @classmethod
    def _empty_is_unset(cls, values: Any) -> Any:  # Any: the values of any source

        return {name: value for name, value in values.items() if value != ""}

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @property
    def model_was_chosen(self) -> bool:
        """Whether the model was set, even if to the default."""
        return "model_name" in self.model_fields_set

    @property
    def facts(self) -> str:
        """All settings but the texts and secrets among them, for the log."""
        shown = self.model_dump(exclude={"system_prompt", "database_url", "api_key", "api_keys", "hf_token"})
        return " ".join(f"{name}={str(value)!r}" for name, value in shown.items())

    @property
    def memory_bytes(self) -> int | None:
        return None if self.memory_gb is None else int(self.memory_gb * 1e9)

    @property
    def conversation_memory_bytes(self) -> int:
        return int(self.conversation_memory_gb * 1e9)

    @property
    def kv_cache_bytes(self) -> int | None:
        return None if self.kv_cache_gb is None else int(self.kv_cache_gb * 1e9)


class SettingsError(ValueError):
    """The settings cannot be used. The message has one line per mistake and never shows a value."""


def load_settings(**given: str) -> Settings:
    """Returns the settings; those that are `given`, by name, take precedence over the environment.

    Raises SettingsError, which names each wrong variable and the reason.
    """
    if Path(ENV_FILE).is_fifo():
        raise SettingsError(f"{ENV_FILE} is a pipe, not a regular file.")  # reading it might never end
    try:
        _check_names(dotenv_values(ENV_FILE))
        return Settings(**given)  # type: ignore[arg-type]  # they are parsed like variables
    except UnicodeDecodeError:
        raise SettingsError(f"{ENV_FILE} is not UTF-8 text.") from None
    except ValidationError as error:
        raise SettingsError("\n".join(map(_mistake, error.errors()))) from None


def _mistake(error: ErrorDetails) -> str:
    name = "_".join(map(str, error["loc"])).upper()
    return f"LLM_{name}: {error['msg'].removeprefix('Value error, ')}"


def _check_names(names: Iterable[str]) -> None:
    known = {f"LLM_{name.upper()}" for name in Settings.model_fields}
    misspelt = [name for name in names if name.upper().startswith("LLM_") and name.upper() not in known]
    if misspelt:
        raise SettingsError("\n".join(f"{name}: no such setting (in {ENV_FILE})" for name in misspelt))


def warn_of_misspelt_settings(names: Iterable[str]) -> None:
    """Logs a warning for each environment variable whose name resembles that of a setting.

    Otherwise a misspelt setting would be ignored silently. Other programs have variables that begin with LLM_
    as well, so a name that resembles no setting causes no warning.
    """
    known = [field.upper() for field in Settings.model_fields]
    for name in names:
        prefix, setting = name.upper()[:4], name.upper()[4:]
        nearest = difflib.get_close_matches(setting, known, n=1) if prefix == "LLM_" else []
        if nearest and nearest != [setting]:
            logger.warning(
                "The environment variable %s is not a setting. Did you mean LLM_%s?", name, nearest[0]
            )
