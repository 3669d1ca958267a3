"""Owns what the command line can say. Light to import, as the keyboard is."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Options:
    url: str | None = None
    api_key: str | None = None
    model: str | None = None
    system: str = ""
    plain: bool = False
    no_color: bool = False
