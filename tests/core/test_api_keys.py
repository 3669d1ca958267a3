"""Keys from settings and files: who owns them, what is refused, and what a message shows."""

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from app.core.api_keys import DEFAULT_OWNER, MAX_KEY_BYTES, MAX_KEYS, KeyRing
from app.core.config import Settings, SettingsError

SECRET = "hunter2"
HASHED = f"sha256:{hashlib.sha256(SECRET.encode()).hexdigest()}"


def keys_of(**settings: Any) -> KeyRing:  # Any: as Settings types them
    return KeyRing(Settings(_env_file=None, **settings))


def keys_in(folder: Path, content: str | bytes, **settings: Any) -> KeyRing:  # Any: as Settings types them
    return keys_of(api_keys_file=write(folder, content), **settings)


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "keys"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refusal(**settings: Any) -> str:  # Any: as Settings types them
    with pytest.raises(SettingsError) as caught:
        keys_of(**settings)
    return str(caught.value)


def test_without_keys_the_ring_is_empty() -> None:
    assert len(keys_of()) == 0
    assert keys_of().owner_of(b"") is None


def test_single_key_belongs_to_the_default_owner() -> None:
    assert keys_of(api_key=SECRET).owner_of(SECRET.encode()) == DEFAULT_OWNER


@pytest.mark.parametrize(
    ("written", "given", "owner"),
    [
        ("alice:a,bob:b", "b", "bob"),
        (" alice : a , bob : b ,", "a", "alice"),
        ("alice:a:b:c", "a:b:c", "alice"),
        ("alice:two words", "two words", "alice"),
        ("alice:schlüssel", "schlüssel", "alice"),
        ("default:a", "a", DEFAULT_OWNER),
        (f"alice:{HASHED}", SECRET, "alice"),
        (f"alice:{HASHED.upper().replace('SHA', 'sha')}", SECRET, "alice"),
        (f"alice:{HASHED}", HASHED, None),
        ("alice:a", "alice", None),
        ("alice:a", "", None),
    ],
)
def test_owner_of_a_key_in_the_setting(written: str, given: str, owner: str | None) -> None:
    assert keys_of(api_keys=written).owner_of(given.encode()) == owner


@pytest.mark.parametrize(
    ("line", "given"),
    [
        ("alice a", "a"),
        ("\talice \t a\r", "a"),
        ("alice a,b:c # d", "a,b:c # d"),
        (f"alice {HASHED}", SECRET),
    ],
)
def test_owner_of_a_key_in_the_file(line: str, given: str, tmp_path: Path) -> None:
    keys = keys_in(tmp_path, f"\ufeff# our keys\n\n{line}\n  # bob left\nbob b\n")
    assert (keys.owner_of(given.encode()), keys.owner_of(b"b"), len(keys)) == ("alice", "bob", 2)


def test_keys_of_all_settings_are_combined(tmp_path: Path) -> None:
    keys = keys_in(tmp_path, "bob b", api_keys="alice:a", api_key="c")
    assert [keys.owner_of(given) for given in (b"a", b"b", b"c", b"d")] == [
        "alice",
        "bob",
        DEFAULT_OWNER,
        None,
    ]


def test_single_key_may_repeat_a_named_one() -> None:
    """The terminal client sends LLM_API_KEY, which it reads from the server's own `.env`."""
    keys = keys_of(api_keys=f"alice:{HASHED}", api_key=SECRET)
    assert (keys.owner_of(SECRET.encode()), len(keys)) == ("alice", 1)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (",", "LLM_API_KEYS: it contains no key."),
        ("hunter2", "LLM_API_KEYS, entry 1: write it as name:key."),
        ("alice:a,hunter2", "LLM_API_KEYS, entry 2: write it as name:key."),
        ("alice:", "LLM_API_KEYS, entry 1: the key is empty."),
        (":hunter2", "LLM_API_KEYS, entry 1: a name has"),
        ("hunter2 or so:a", "LLM_API_KEYS, entry 1: a name has"),
        (f"{'hunter2' * 10}:a", "LLM_API_KEYS, entry 1: a name has"),
        ("höhle:hunter2", "LLM_API_KEYS, entry 1: a name has"),
        ("alice:sha256:hunter2", "LLM_API_KEYS, entry 1: after sha256: there must be 64"),
        (f"alice:{HASHED}0", "LLM_API_KEYS, entry 1: after sha256: there must be 64"),
        (f"alice:{'hunter2' * MAX_KEY_BYTES}", "LLM_API_KEYS, entry 1: the key is longer"),
        (
            "hunter2:a,bob:b,hunter2:c",
            "LLM_API_KEYS, entry 3: its name is also that of LLM_API_KEYS, entry 1.",
        ),
        (
            "alice:hunter2,bob:hunter2",
            "LLM_API_KEYS, entry 2: its key is also that of LLM_API_KEYS, entry 1.",
        ),
        (f"alice:hunter2,bob:{HASHED}", "LLM_API_KEYS, entry 2: its key is also that of"),
    ],
)
def test_wrong_setting_is_refused_with_its_place_and_without_a_key(written: str, message: str) -> None:
    refused = refusal(api_keys=written)
    assert refused.startswith(message)
    assert SECRET not in refused and HASHED not in refused


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "LLM_API_KEYS_FILE: it contains no key."),
        ("# alice hunter2\n", "LLM_API_KEYS_FILE: it contains no key."),
        ("alice a\nhunter2\n", "LLM_API_KEYS_FILE, line 2: write it as a name, a blank and a key."),
        ("\nalice hunter2\x1b\n", "LLM_API_KEYS_FILE, line 2: the key contains a control character"),
        ("alice a\n\nalice hunter2", "LLM_API_KEYS_FILE, line 3: its name is also that of"),
        (b"alice hunter2\xff", "LLM_API_KEYS_FILE: it is not UTF-8 text."),
        ("".join(f"name-{i} {i}\n" for i in range(MAX_KEYS + 1)), "LLM_API_KEYS, LLM_API_KEYS_FILE: there"),
    ],
)
def test_wrong_file_is_refused_with_its_line_and_without_a_key(
    content: str | bytes, message: str, tmp_path: Path
) -> None:
    refused = refusal(api_keys_file=write(tmp_path, content))
    assert refused.startswith(message)
    assert SECRET not in refused


def test_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert refusal(api_keys_file=tmp_path / "none").endswith("cannot be read: No such file or directory.")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        assert refusal(api_keys_file=path).startswith("LLM_API_KEYS_FILE: it cannot be read: ")


def test_named_key_of_the_default_owner_and_another_single_key_are_refused() -> None:
    assert refusal(api_keys="default:a", api_key="b").startswith("LLM_API_KEY: its name is also that of")


def test_reload_replaces_the_keys_of_the_file(tmp_path: Path) -> None:
    keys = keys_in(tmp_path, "alice a\nbob b", api_key="c")
    write(tmp_path, "alice new")
    keys.reload()
    assert [keys.owner_of(given) for given in (b"a", b"b", b"new", b"c")] == [
        None,
        None,
        "alice",
        DEFAULT_OWNER,
    ]


def test_reload_keeps_the_keys_when_the_file_is_wrong(tmp_path: Path) -> None:
    keys = keys_in(tmp_path, "alice a")
    for content in ("alice", "", "alice a\nbob a"):
        write(tmp_path, content)
        with pytest.raises(SettingsError):
            keys.reload()
    assert keys.owner_of(b"a") == "alice"
