import pytest

from app.cli.conversation.sampling_settings import KEYS, SamplingSettings, SettingError, range_of


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
def test_settings_parse_typed_values(key: str, text: str, value: object) -> None:
    settings = SamplingSettings()
    settings.set(key, text)
    assert settings.values == {key: value}


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("temperature", "3", "temperature must be from 0 to 2"),
        ("temperature", "warm", "temperature must be from 0 to 2"),
        ("temperature", "true", "temperature must be from 0 to 2"),
        ("temperature", "nan", "temperature must be from 0 to 2"),
        ("top_p", "0", "top_p must be above 0 and at most 1"),
        ("top_k", "1.5", "top_k must be from 0 to 1,000,000"),
        ("stop", "[broken", "not valid JSON"),
        ("stop", "[1]", "stop must be a string"),
        ("heat", "1", "No setting is called 'heat'"),
    ],
)
def test_settings_reject_values_that_the_server_rejects(key: str, text: str, expected: str) -> None:
    settings = SamplingSettings()
    with pytest.raises(SettingError, match=expected):
        settings.set(key, text)
    assert settings.values == {}


def test_reset_restores_the_default() -> None:
    settings = SamplingSettings()
    settings.set("seed", "1")
    settings.reset("seed")
    settings.reset("seed")
    assert settings.values == {}


def test_every_setting_has_a_range() -> None:
    assert all(range_of(key) for key in KEYS)
