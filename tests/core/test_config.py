import os
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.core.config import Settings, SettingsError, load_settings

EXAMPLE = Path(__file__).resolve().parents[2] / ".env.example"


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_settings_defaults_are_those_of_the_document() -> None:
    settings = Settings()
    assert (settings.model_name, settings.device, settings.log_level) == ("llama3-1b", "cpu", "INFO")
    assert settings.model_cache_dir == Path("./models")
    assert settings.max_conversation_length == 50
    assert not settings.model_was_chosen


def test_settings_read_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_MODEL_NAME", "llama3-1b")
    monkeypatch.setenv("LLM_LOG_LEVEL", "debug")
    monkeypatch.setenv("LLM_ALLOWED_HOSTS", "chat.example, llm.local")
    monkeypatch.setenv("LLM_KV_CACHE_GB", "auto")
    settings = load_settings()
    assert settings.model_was_chosen
    assert settings.log_level == "DEBUG"
    assert settings.allowed_hosts == ("chat.example", "llm.local")
    assert settings.kv_cache_bytes is None


def test_settings_read_the_env_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LLM_PORT=9001\nLLM_KV_CACHE_GB=0.5\n")
    settings = load_settings()
    assert settings.port == 9001
    assert settings.kv_cache_bytes == 500_000_000


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LLM_DEVICE", "tpu"),
        ("LLM_PORT", "70000"),
        ("LLM_MAX_CONVERSATION_LENGTH", "0"),
        ("LLM_REQUEST_TIMEOUT", "nan"),
        ("LLM_KV_CACHE_GB", "lots"),
        ("LLM_THREADS", "0"),
        ("LLM_LOG_LEVEL", "LOUD"),
        ("LLM_ADMINS", ","),
        ("LLM_ALLOWED_HOSTS", " , "),
    ],
)
def test_settings_name_the_variable_that_is_wrong(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"^{name}: "):
        load_settings()


def test_settings_error_never_shows_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_API_KEY", "hunter2")
    monkeypatch.setenv("LLM_API_KEYS", "alice:hunter2-a")
    monkeypatch.setenv("LLM_PORT", "x")
    assert "hunter2" not in repr(Settings(port=1)) and "hunter2" not in Settings(port=1).facts
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_empty_setting_has_its_default(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(f"LLM_{name.upper()}", "")
    assert load_settings() == Settings(_env_file=None)
    assert name not in load_settings().model_fields_set


def test_empty_variable_takes_precedence_over_the_env_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("LLM_PORT=9001\nLLM_API_KEY=hunter2\n")
    monkeypatch.setenv("LLM_PORT", "")
    monkeypatch.setenv("LLM_API_KEY", "")
    assert (load_settings().port, load_settings().api_key) == (8000, None)


@pytest.mark.parametrize("name", ["LLM_API_KEY", "LLM_API_KEYS", "LLM_HF_TOKEN"])
@pytest.mark.parametrize("written", ["hunter2\n", " hunter2\r\n", "\thunter2 ", "hunter2"])
def test_blanks_around_a_secret_do_not_belong_to_it(
    name: str, written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, written)
    secret = getattr(load_settings(), name.removeprefix("LLM_").lower())
    assert secret.get_secret_value() == "hunter2"


@pytest.mark.parametrize("name", ["LLM_API_KEY", "LLM_API_KEYS", "LLM_HF_TOKEN"])
@pytest.mark.parametrize("written", [" ", "\n", "hunter\n2", "hunter\x1b2"])
def test_secret_that_no_request_could_send_is_refused(
    name: str, written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, written)
    with pytest.raises(SettingsError, match=f"^{name}: ") as caught:
        load_settings()
    assert "hunter" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["LLM_MODEL_CACHE_DIR", "LLM_MODELS_FILE", "LLM_FORK_SERVER", "LLM_API_KEYS_FILE"]
)
def test_home_folder_of_an_unknown_user_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "~nobody-has-this-name/x")
    with pytest.raises(SettingsError, match=f"^{name}: this machine does not know the home folder"):
        load_settings()


def test_path_may_begin_with_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LLM_MODEL_CACHE_DIR", "~/models")
    assert load_settings().model_cache_dir == tmp_path / "models"


def test_env_file_with_a_misspelt_setting_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LLM_PROT=9001\nHF_TOKEN=anything\n")
    with pytest.raises(SettingsError, match="^LLM_PROT: no such setting") as caught:
        load_settings()
    assert "HF_TOKEN" not in str(caught.value)


def test_env_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"LLM_SYSTEM_PROMPT=caf\xe9\n")
    with pytest.raises(SettingsError, match="^.env is not UTF-8 text.$"):
        load_settings()


def test_env_file_that_is_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".env")
    with pytest.raises(SettingsError, match="^.env is a pipe, not a regular file.$"):
        load_settings()


def test_env_example_lists_every_setting_with_its_default(tmp_path: Path) -> None:
    example = EXAMPLE.read_text()
    named = re.findall(r"^(?:# )?LLM_([A-Z_]+)=", example, re.MULTILINE)
    assert [name.lower() for name in named] == list(dict.fromkeys(name.lower() for name in named))
    assert {name.lower() for name in named} == set(Settings.model_fields)
    (tmp_path / ".env").write_text(example)
    assert load_settings() == Settings(_env_file=None)
