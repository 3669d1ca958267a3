"""Owns how replies are drawn, as the user set it with /set: typed and range-checked by the wire models."""

import contextlib
import json
from typing import Any

from annotated_types import Interval
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from app.models.schemas import SamplingFields

KEYS = tuple(SamplingFields.model_fields)


class SettingError(ValueError):
    """A key that does not exist, or a value that it cannot have."""


def field_of(key: str) -> FieldInfo:
    if key not in SamplingFields.model_fields:
        raise SettingError(f"There is no setting {key!r}; there are {', '.join(KEYS)}.")
    return SamplingFields.model_fields[key]


def range_of(key: str) -> str:
    """What values it takes, in words: `0 to 2`."""
    if key == "stop":
        return "a text, or several as a JSON list"
    (bounds,) = (part for part in field_of(key).metadata if isinstance(part, Interval))
    lower = f"{bounds.ge:,}" if bounds.ge is not None else f"above {bounds.gt:,}"
    return f"{lower} to {bounds.le:,}"


class SamplingSettings:
    """The settings that differ from the model's own defaults."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}  # Any: as SamplingFields types each key

    def set(self, key: str, text: str) -> None:
        """Sets a value as it was typed.

        Raises:
            SettingError: saying what the key takes.
        """
        field_of(key)
        value = _stop_strings(text) if key == "stop" else _number(text)
        try:
            self.values[key] = getattr(SamplingFields.model_validate({key: value}), key)
        except ValidationError:
            raise SettingError(f"{key} takes {range_of(key)}, not {text!r}.") from None

    def reset(self, key: str) -> None:
        field_of(key)
        self.values.pop(key, None)


def _number(text: str) -> int | float | str:
    """The number that was typed; text that is none stays, and the wire model refuses it."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _stop_strings(text: str) -> Any:  # Any: what JSON holds; the wire model judges it
    """A JSON list or string; anything else is the text itself, with \\n and \\t as they are meant."""
    if text.startswith(("[", '"')):
        try:
            return json.loads(text)
        except ValueError:
            raise SettingError(f"stop takes {range_of('stop')}; this is no JSON: {text}") from None
    return text.replace("\\n", "\n").replace("\\t", "\t")
