"""Only the keys that LLM_ADMINS names may change which models are loaded, if it names any."""

import pytest
from fastapi.testclient import TestClient

from app.core.config import SettingsError
from tests.api.fakes import Scripted, fake_app

KEYS = "alice:key-a,bob:key-b"
ALL = ("/chat/switch-model", "/load-model", "/unload-model")
BODY = {"model_name": "tiny"}


def status(path: str, key: str | None, **settings: str) -> int:
    with TestClient(fake_app(Scripted(), **settings), base_url="http://localhost") as client:
        headers = {} if key is None else {"X-API-Key": key}
        answer = client.post(f"/api/v1{path}", json=BODY, headers=headers)
    if answer.status_code == 403:
        assert answer.json()["error"]["code"] == "not_permitted"
    return answer.status_code


@pytest.mark.parametrize("path", ALL)
def test_models_are_changed_by_administrators_only(path: str) -> None:
    assert status(path, "key-a", api_keys=KEYS, admins="alice") == 200
    assert status(path, "key-b", api_keys=KEYS, admins="alice") == 403
    assert status(path, "wrong", api_keys=KEYS, admins="alice") == 401


@pytest.mark.parametrize("path", ALL)
def test_models_are_changed_by_all_without_administrators(path: str) -> None:
    assert status(path, "key-b", api_keys=KEYS) == 200
    assert status(path, None) == 200


def test_key_without_a_name_can_be_that_of_the_administrator() -> None:
    settings = {"api_keys": KEYS, "api_key": "mine", "admins": "default"}
    assert status("/load-model", "mine", **settings) == 200
    assert status("/load-model", "key-a", **settings) == 403


@pytest.mark.parametrize("settings", [{}, {"api_keys": KEYS}])
def test_administrator_without_a_key_is_a_wrong_setting(settings: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="LLM_ADMINS: .* belongs to no key"):
        fake_app(Scripted(), admins="alice,carol", **settings)
