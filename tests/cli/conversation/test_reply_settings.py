import pytest

from app.cli.conversation.reply_settings import KEYS, SamplingSettings, SettingError, range_of


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("temperature", "0", 0.0),
        ("temperature", ".5", 0.5),
        ("top_k", "40", 40),
        ("seed", "7", 7),
        ("stop", "END", "END"),
        ("stop", r"\nUser:", "\nUser:"),
        ("stop", '["a", "b"]', ["a", "b"]),
    ],
)
def test_settings_take_typed_values(key: str, text: str, value: object) -> None:
    settings = SamplingSettings()
    settings.set(key, text)
    assert settings.values == {key: value}


@pytest.mark.parametrize(
    ("key", "text", "told"),
    [
        ("temperature", "3", "temperature takes 0 to 2"),
        ("temperature", "warm", "temperature takes 0 to 2"),
        ("temperature", "true", "temperature takes 0 to 2"),
        ("temperature", "nan", "temperature takes 0 to 2"),
        ("top_p", "0", "top_p takes above 0 to 1"),
        ("top_k", "1.5", "top_k takes 0 to 1,000,000"),
        ("stop", "[broken", "no JSON"),
        ("stop", "[1]", "stop takes a text"),
        ("heat", "1", "no setting 'heat'"),
    ],
)
def test_settings_refuse_what_the_server_would(key: str, text: str, told: str) -> None:
    settings = SamplingSettings()
    with pytest.raises(SettingError, match=told):
        settings.set(key, text)
    assert settings.values == {}


def test_reset_gives_the_models_default_back() -> None:
    settings = SamplingSettings()
    settings.set("seed", "1")
    settings.reset("seed")
    settings.reset("seed")
    assert settings.values == {}


def test_every_setting_says_its_range() -> None:
    assert all(range_of(key) for key in KEYS)
