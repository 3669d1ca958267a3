"""Owns the keys that are pressed while no prompt is up: they are shown, and given to the next prompt."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from prompt_toolkit.input import Input
from prompt_toolkit.input.typeahead import get_typeahead, store_typeahead
from prompt_toolkit.key_binding.key_processor import KeyPress
from prompt_toolkit.keys import Keys


class TypedAhead:
    """Between two prompts it reads the keyboard. `show`, if there is one, is told what they come to."""

    def __init__(self, keyboard: Input) -> None:
        self.show: Callable[[str], None] | None = None
        self._keyboard = keyboard
        self._keys: list[KeyPress] = []

    def begin(self) -> None:
        """From here on, until `end`, which must come before a prompt reads the keyboard itself."""
        self._keys = get_typeahead(self._keyboard)
        if not self._keyboard.closed:
            asyncio.get_running_loop().add_reader(self._keyboard.fileno(), self._read)

    def end(self) -> bool:
        """Hands all to the prompt. Whether it is text, which a draft must not be mixed with: an Enter alone
        sends the draft."""
        if not self._keyboard.closed:
            asyncio.get_running_loop().remove_reader(self._keyboard.fileno())
        keys = [*self._keys, *get_typeahead(self._keyboard), *self._keyboard.read_keys()]
        self._keys = []
        store_typeahead(self._keyboard, keys)
        first = next((key.key for key in keys if key.key is not Keys.CPRResponse), Keys.Enter)
        return first is not Keys.Enter

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """While another program has the keyboard."""
        loop = asyncio.get_running_loop()
        was_reading = loop.remove_reader(self._keyboard.fileno())
        try:
            yield
        finally:
            if was_reading:
                loop.add_reader(self._keyboard.fileno(), self._read)

    @property
    def text(self) -> str:
        """What was typed, as far as keys are characters."""
        text = ""
        for key in self._keys:
            if key.key is Keys.Enter:
                text += "⏎ "
            elif key.key is Keys.Backspace:
                text = text[:-1]
            elif key.key is Keys.BracketedPaste or len(key.key) == 1:
                text += " ".join(key.data.split("\r"))
        return text

    def _read(self) -> None:
        self._keys += self._keyboard.read_keys()
        if self._keyboard.closed:
            asyncio.get_running_loop().remove_reader(self._keyboard.fileno())
        if self.show is not None:
            self.show(self.text)
