"""Reads the API keys: who may call the server, and under which name."""

import hashlib
import hmac
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.core.config import Settings, SettingsError
from app.core.paths import read_regular

# The owner for requests without a key and for LLM_API_KEY. It is the same, so that an operator who sets a key
# later loses no conversation.
DEFAULT_OWNER = "default"

MAX_KEYS = 1_000  # each request is compared with all of them
MAX_KEY_BYTES = 4_096  # far below what the headers of a request may hold
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HASH = re.compile(r"sha256:([0-9a-fA-F]{64})")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """The SHA-256 of a key, the name of its owner, and the place in the settings where it is."""

    owner: str
    digest: bytes
    place: str


class KeyRing:
    """All keys of the server. `reload` replaces them while it runs."""

    def __init__(self, settings: Settings) -> None:
        """Reads the keys.

        Raises:
            SettingsError: see `read_keys`, or an administrator has no key.
        """
        self._settings = settings
        self._keys = read_keys(settings)
        self.admins = frozenset(settings.admins)
        if not self.admins <= {key.owner for key in self._keys}:
            raise SettingsError("LLM_ADMINS: at least one of these names belongs to no key.")

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def is_from_file(self) -> bool:
        """Whether some keys come from a file, so that they may change."""
        return self._settings.api_keys_file is not None

    def reload(self) -> None:
        """Reads the keys again. If it raises SettingsError, the old keys stay."""
        self._keys = read_keys(self._settings)

    def owner_of(self, given: bytes) -> str | None:
        """Returns the owner of the key; None if no key is equal to it.

        It compares the hashes of all keys, each in constant time, so that the time it takes reveals nothing.
        """
        digest = hashlib.sha256(given).digest()
        owner = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                owner = key.owner
        return owner


def read_keys(settings: Settings) -> tuple[ApiKey, ...]:
    """Returns the keys of all settings together. LLM_API_KEY may repeat a named key and then adds none.

    Raises:
        SettingsError: a key or name is wrong or used twice, or the file cannot be read. The message names the
            place. It shows neither keys nor names, because a name may be a key in the wrong place.
    """
    keys: list[ApiKey] = []
    if settings.api_keys is not None:
        keys += _keys_of_setting(settings.api_keys.get_secret_value())
    if settings.api_keys_file is not None:
        keys += _keys_of_file(_read(settings.api_keys_file))
    if settings.api_key is not None:
        digest = hashlib.sha256(settings.api_key.get_secret_value().encode()).digest()
        if all(key.digest != digest for key in keys):
            keys.append(ApiKey(DEFAULT_OWNER, digest, "LLM_API_KEY"))
    _check(keys)
    return tuple(keys)


def _keys_of_setting(text: str) -> list[ApiKey]:
    """Returns the keys of `name:key,name:key`. A name contains no colon, so a key may."""
    keys = []
    for number, entry in enumerate(text.split(","), 1):
        place = f"LLM_API_KEYS, entry {number}"
        name, colon, key = entry.partition(":")
        if colon:
            keys.append(ApiKey(_checked_name(name.strip(), place), _digest(key.strip(), place), place))
        elif entry.strip():
            raise SettingsError(
                f"{place}: write it as name:key. A key that contains a comma belongs in LLM_API_KEYS_FILE."
            )
    if not keys:
        raise SettingsError("LLM_API_KEYS: it contains no key.")
    return keys


def _keys_of_file(text: str) -> list[ApiKey]:
    """Returns the keys of lines `name key`. Empty lines and lines that begin with # do not count."""
    keys = []
    for place, line in _lines(text):
        name, *key = line.split(maxsplit=1)
        if not key:
            raise SettingsError(f"{place}: write it as a name, a blank and a key.")
        keys.append(ApiKey(_checked_name(name, place), _digest(key[0], place), place))
    if not keys:
        raise SettingsError("LLM_API_KEYS_FILE: it contains no key.")
    return keys


def _lines(text: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip() and not line.strip().startswith("#"):
            yield f"LLM_API_KEYS_FILE, line {number}", line.strip()


def _read(path: Path) -> str:
    try:
        return read_regular(path).decode("utf-8-sig")
    except OSError as error:
        reason = error.strerror or error
        raise SettingsError(f"LLM_API_KEYS_FILE: it cannot be read: {reason}.") from None
    except UnicodeDecodeError:
        raise SettingsError("LLM_API_KEYS_FILE: it is not UTF-8 text.") from None


def _checked_name(name: str, place: str) -> str:
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"{place}: a name has 1 to 64 characters: A to Z, a to z, 0 to 9, `.`, `_` and `-`."
        )
    return name


def _digest(key: str, place: str) -> bytes:
    """Returns the SHA-256 of a key, which may also be given in its place."""
    if (written := _HASH.fullmatch(key)) is not None:
        return bytes.fromhex(written[1])
    if key.startswith("sha256:"):
        raise SettingsError(f"{place}: after sha256: there must be 64 hexadecimal digits.")
    if not key:
        raise SettingsError(f"{place}: the key is empty.")
    if any(unicodedata.category(character) == "Cc" for character in key):
        raise SettingsError(f"{place}: the key contains a control character, which no header can carry.")
    if len(key.encode()) > MAX_KEY_BYTES:
        raise SettingsError(f"{place}: the key is longer than {MAX_KEY_BYTES:,} bytes.")
    return hashlib.sha256(key.encode()).digest()


def _check(keys: Sequence[ApiKey]) -> None:
    """Raises SettingsError if there are too many keys, or if two entries share a name or a key."""
    if len(keys) > MAX_KEYS:
        raise SettingsError(f"LLM_API_KEYS, LLM_API_KEYS_FILE: there are more than {MAX_KEYS:,} keys.")
    names: dict[str, ApiKey] = {}
    digests: dict[bytes, ApiKey] = {}
    for key in keys:
        if (other := names.setdefault(key.owner, key)) is not key:
            raise SettingsError(f"{key.place}: its name is also that of {other.place}.")
        if (other := digests.setdefault(key.digest, key)) is not key:
            raise SettingsError(f"{key.place}: its key is also that of {other.place}.")
