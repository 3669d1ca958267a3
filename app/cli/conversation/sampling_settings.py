"""The sampling settings that the user changes with /set. The API's own models check types and ranges."""

import contextlib
import json
from typing import Any

from annotated_types import Interval
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from app.models.schemas import SamplingFields

KEYS = tuple(
    name
    for name, field in SamplingFields.model_fields.items()
    if name == "stop"
    or (name != "top_logprobs" and any(isinstance(part, Interval) for part in field.metadata))
)


class SettingError(ValueError):
    """The key does not exist, or the value is not allowed."""


def field_of(key: str) -> FieldInfo:
    """Returns the definition of a setting: its type, bounds and description.

    Raises:
        SettingError: no setting has that name.
    """
    if key not in KEYS:
        raise SettingError(f"No setting is called {key!r}. The settings are {', '.join(KEYS)}.")
    return SamplingFields.model_fields[key]


def range_of(key: str) -> str:
    """Returns the allowed values in words, such as `from 0 to 2`."""
    if key == "stop":
        return "a string, or a JSON list of strings"
    (bounds,) = (part for part in field_of(key).metadata if isinstance(part, Interval))
    upper = "2^63 - 1" if bounds.le == 2**63 - 1 else f"{bounds.le:,}"
    if bounds.ge is None:
        return f"above {bounds.gt:,} and at most {upper}"
    return f"from {bounds.ge:,} to {upper}"


class SamplingSettings:
    """The settings that differ from the model's defaults."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}  # Any: as SamplingFields types each key

    def set(self, key: str, text: str) -> None:
        """Sets a value from the text that was typed.

        Raises:
            SettingError: the key does not exist, or the value is not allowed.
        """
        field_of(key)
        value = _parse_stop(text) if key == "stop" else _parse_number(text)
        try:
            self.values[key] = getattr(SamplingFields.model_validate({key: value}), key)
        except ValidationError:
            raise SettingError(f"{key} must be {range_of(key)}, not {text!r}.") from None

    def reset(self, key: str) -> None:
        """Returns to the model's default.

        Raises:
            SettingError: the key does not exist.
        """
        field_of(key)
        self.values.pop(key, None)


def _parse_number(text: str) -> int | float | str:
    """Returns the number; text that is not a number is returned unchanged, and validation rejects it."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _parse_stop(text: str) -> Any:  # Any: JSON, which is validated afterwards
    """Returns a JSON list or string. Other text is the stop string itself, with \\n and \\t as escapes."""
    if text.startswith(("[", '"')):
        try:
            return json.loads(text)
        except ValueError:
            raise SettingError(f"stop must be {range_of('stop')}. This is not valid JSON: {text}") from None
    return text.replace("\\n", "\n").replace("\\t", "\t")
