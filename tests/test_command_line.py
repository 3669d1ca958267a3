"""The options of `python -m app`."""

import re
from pathlib import Path

import pytest

from app import __version__, command_line
from app.core.config import Settings, SettingsError, load_settings


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_options_win_over_the_environment_and_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("LLM_HOST=127.0.0.2\nLLM_PORT=1\nLLM_DEVICE=auto\n")
    monkeypatch.setenv("LLM_PORT", "2")
    given = command_line.parse(["--port", "3", "--model=builtin", "--threads", "auto"])
    settings = load_settings(**given.settings)
    assert (settings.host, settings.port, settings.device, settings.threads) == ("127.0.0.2", 3, "auto", None)
    assert settings.model_was_chosen and settings.model_name == "builtin"


def test_no_option_changes_nothing() -> None:
    given = command_line.parse([])
    assert given.settings == {} and not given.exit_on_stdin_close
    assert load_settings(**given.settings) == Settings(_env_file=None)


def test_database_and_models_of_any_name_are_options() -> None:
    given = command_line.parse(["--database", "sqlite:///kept.db", "--allow-any-model"])
    settings = load_settings(**given.settings)
    assert settings.allow_any_model
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == "sqlite:///kept.db"


def test_database_that_is_a_path_is_refused_with_the_form_of_a_url() -> None:
    with pytest.raises(SettingsError, match="LLM_DATABASE_URL: .*sqlite:///"):
        load_settings(**command_line.parse(["--database", "kept.db"]).settings)


def test_wrong_value_is_refused_with_the_name_of_the_setting() -> None:
    with pytest.raises(SettingsError, match="LLM_PORT: "):
        load_settings(**command_line.parse(["--port", "many"]).settings)


def test_help_names_the_variable_of_each_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command_line.parse(["--help"])
    text = capsys.readouterr().out
    named = re.findall(r"\(LLM_([A-Z_]+)\)", " ".join(text.split()))
    assert {name.lower() for name in named} <= set(Settings.model_fields)
    assert {"HOST", "PORT", "MODEL_NAME"} <= set(named)
    options = re.findall(r"^  --", text, re.MULTILINE)
    assert len(named) == len(options) - 2  # all but --version and that for stdin


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command_line.parse(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"{__version__}\n")


@pytest.mark.parametrize("prefix", ["llm", "/llm/", "/a b", "//x", "http://x"])
def test_prefix_must_be_a_path_without_a_slash_at_its_end(prefix: str) -> None:
    with pytest.raises(SettingsError, match="LLM_ROOT_PATH: "):
        load_settings(root_path=prefix)
    assert load_settings(root_path="/llm/v2").root_path == "/llm/v2"
