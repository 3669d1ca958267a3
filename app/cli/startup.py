"""Owns when the client looks for garbage: never among what it loads at its start, for that stays."""

import gc

STARTING_OBJECTS = 500_000  # more than a start makes
_USUAL = gc.get_threshold()


def put_off() -> None:
    """To look through what is being loaded takes a tenth of the start."""
    gc.set_threshold(STARTING_OBJECTS)


def settle() -> None:
    """All is loaded: from here on only what is made anew is looked through, which keeps no key waiting. Does
    nothing in a program that did not `put_off`: what that has loaded is not for us to keep."""
    if gc.get_threshold()[0] == STARTING_OBJECTS:
        gc.freeze()
        gc.set_threshold(*_USUAL)
