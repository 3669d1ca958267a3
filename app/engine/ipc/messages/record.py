"""Defines the base class of the messages, and their encoding."""

import msgspec


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """Base of every message: immutable and tagged with its class name."""


encode = msgspec.msgpack.Encoder().encode
