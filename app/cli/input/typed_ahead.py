"""Reads the keys that are pressed between prompts, to show them and to pass them to the next prompt."""

import asyncio
import contextlib
from collections.abc import Iterator

from prompt_toolkit.input import Input
from prompt_toolkit.input.typeahead import get_typeahead, store_typeahead
from prompt_toolkit.key_binding.key_processor import KeyPress
from prompt_toolkit.keys import Keys


class TypedAhead:
    """Reads the keyboard between `begin` and `end`."""

    def __init__(self, keyboard: Input) -> None:
        self._keyboard = keyboard
        self._keys: list[KeyPress] = []
        self._key_pressed = asyncio.Event()

    def begin(self) -> None:
        """Starts reading. Call `end` before a prompt reads the keyboard."""
        self._keys = get_typeahead(self._keyboard)
        if not self._keyboard.closed:
            asyncio.get_running_loop().add_reader(self._keyboard.fileno(), self._read)

    def end(self) -> bool:
        """Passes all keys to the next prompt. Returns whether they contain text; a draft must not be mixed
        with it, but an Enter alone sends the draft."""
        if not self._keyboard.closed:
            asyncio.get_running_loop().remove_reader(self._keyboard.fileno())
        keys = [*self._keys, *get_typeahead(self._keyboard), *self._keyboard.read_keys()]
        self._keys = []
        store_typeahead(self._keyboard, keys)
        first = next((key.key for key in keys if key.key is not Keys.CPRResponse), Keys.Enter)
        return first is not Keys.Enter

    def hold(self) -> bool:
        """Joins the lines typed so far to one text, which the prompt offers instead of sending them.

        Returns whether there were any.
        """
        lines = sum(key.key is Keys.Enter for key in self._keys)
        while self._keys and self._keys[-1].key is Keys.Enter:
            self._keys.pop()
        new_line = KeyPress(Keys.ControlJ, "\n")
        self._keys = [new_line if key.key is Keys.Enter else key for key in self._keys]
        return lines > 0 and bool(self._keys)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stops reading while another program uses the keyboard."""
        loop = asyncio.get_running_loop()
        was_reading = loop.remove_reader(self._keyboard.fileno())
        try:
            yield
        finally:
            if was_reading:
                loop.add_reader(self._keyboard.fileno(), self._read)

    async def wait_for_key(self) -> None:
        """Waits until the next key is read."""
        self._key_pressed.clear()
        await self._key_pressed.wait()

    async def next_key(self) -> str:
        """Waits for a key and takes it. Empty if the keyboard was closed."""
        while True:
            while self._keys:
                key = self._keys.pop(0)
                if key.key is not Keys.CPRResponse:  # by the terminal, not the user
                    return key.data
            if self._keyboard.closed:
                return ""
            await self.wait_for_key()

    @property
    def text(self) -> str:
        """The text of the keys so far, on one line."""
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
        self._key_pressed.set()
