import os
from pathlib import Path

import pytest

from app.cli.conversation.sampling_settings import SamplingSettings
from app.cli.errors import ConfigError
from app.cli.options import Options
from app.cli.paths import config_file
from app.cli.preferences import Preferences, load_preferences, resolve, save_settings


def _write(text: str) -> Path:
    path = config_file()
    assert path is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_resolve_prefers_option_then_environment_then_file() -> None:
    file = Preferences(url="file", model="file", system="file", plain=True)
    options = resolve(Options(url="flag"), {"CHAT_URL": "environment", "CHAT_MODEL": "environment"}, file)
    assert (options.url, options.model, options.system) == ("flag", "environment", "file")
    assert (options.api_key, options.plain, options.no_color) == (None, True, False)
    assert resolve(Options(system=""), {"CHAT_SYSTEM": "x"}, file).system == ""


@pytest.mark.parametrize(
    ("url", "environ", "setting"),
    [("flag", {"CHAT_URL": "environment"}, "--url"), (None, {"CHAT_URL": "environment"}, "CHAT_URL")],
)
def test_resolve_says_where_the_address_is_from(
    url: str | None, environ: dict[str, str], setting: str
) -> None:
    assert resolve(Options(url=url), environ, Preferences(url="file")).url_setting == setting
    assert resolve(Options(), {}, Preferences(url="file")).url_setting == str(config_file())


def test_load_preferences_reads_sampling_settings() -> None:
    assert load_preferences() == Preferences()
    _write('thinking = "fold"\n[sampling]\ntemperature = 0\nstop = ["END"]\n')
    preferences = load_preferences()
    assert preferences.thinking == "fold"
    assert preferences.settings.values == {"temperature": 0, "stop": ["END"]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("colour = 1", "colour: Extra"),
        ("[sampling]\ntemperature = 9", "sampling.temperature: Input should be less"),
        ("plain = 'yes'", "plain: Input should be a valid boolean"),
        ("= 1", "not valid TOML"),
    ],
)
def test_load_preferences_names_the_invalid_line(text: str, expected: str) -> None:
    _write(text)
    with pytest.raises(ConfigError, match=expected):
        load_preferences()


def test_save_settings_keeps_the_rest_of_the_file() -> None:
    path = _write('# mine\nmodel = "gpt2"\n\n[sampling]\ntop_k = 1\n')
    settings = SamplingSettings()
    settings.set("stop", r"\nUser: ü \x7f")
    settings.set("temperature", "0")
    assert save_settings(settings) == path
    assert (
        path.read_text().startswith('# mine\nmodel = "gpt2"\n\n[sampling]\n')
        and "top_k" not in path.read_text()
    )
    assert load_preferences().settings.values == settings.values
    save_settings(SamplingSettings())
    left = load_preferences()
    assert (left.model, left.settings.values) == ("gpt2", {})


@pytest.mark.parametrize(
    "text",
    [
        "[ sampling ]\ntop_k = 1\n",
        "[sampling]",
        'model = "gpt2"\n[sampling]',
        "[sampling]\r\ntop_k = 1\r\n",
        '["sampling"]\ntop_k = 1',
        "sampling = {top_k = 1}",
        "sampling = {}",
        'sampling.top_k = 1\nmodel = "gpt2"\n',
        "# only a comment",
        "[sampling] # note\ntop_k = 1 # mine\n\n# end",
        "\ufeff[sampling]\n",
    ],
)
def test_save_settings_finds_the_table_however_it_is_written(text: str) -> None:
    path = _write(text)
    before = load_preferences()
    settings = SamplingSettings()
    settings.set("temperature", "0.5")
    save_settings(settings)
    save_settings(settings)
    after = load_preferences()
    assert (after.model, after.settings.values) == (before.model, {"temperature": 0.5})
    assert path.read_text().count("sampling") == 1 and ("#" in text) == ("#" in path.read_text())


@pytest.mark.parametrize(
    "content", [b"sampling = 3", b"[[sampling]]\ntop_k = 1", b"[sampling\n", b"# \xff", b"a = 1\na = 2"]
)
def test_save_settings_reports_a_file_that_it_cannot_change(content: bytes) -> None:
    path = _write("")
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="config.toml"):
        save_settings(SamplingSettings())
    assert path.read_bytes() == content


def test_pipe_instead_of_the_file_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="it is not a regular file"):
        load_preferences(path)
    with pytest.raises(ConfigError, match="it is not a regular file"):
        save_settings(SamplingSettings(), path)
