"""Shortens the time to the first prompt: skips imports that the client never needs and postpones garbage
collection."""

import gc
import os
import sys

POSTPONED_THRESHOLD = 500_000  # objects; start-up allocates fewer
_USUAL_THRESHOLDS = gc.get_threshold()


def begin() -> None:
    """Call this before the first import of httpx and pydantic."""
    gc.set_threshold(POSTPONED_THRESHOLD)  # collecting during start-up takes a tenth of its time
    # Without this, pydantic scans the metadata of every installed package for plugins.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # httpx imports its own command line, with click and half of rich, unless that import fails.
    sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]  # None makes the import fail


def end() -> None:
    """Excludes the objects loaded so far from garbage collection, so that no key press waits for a long one.

    It does nothing if `begin` was not called, because a notebook's objects must not be frozen.
    """
    if gc.get_threshold()[0] == POSTPONED_THRESHOLD:
        gc.freeze()
        gc.set_threshold(*_USUAL_THRESHOLDS)
