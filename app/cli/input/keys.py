"""The key bindings of the line editor."""

from collections.abc import Callable
from functools import partial

from prompt_toolkit.application import get_app, run_in_terminal
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.filters import Condition, is_searching
from prompt_toolkit.input.ansi_escape_sequences import ANSI_SEQUENCES
from prompt_toolkit.key_binding import ConditionalKeyBindings, KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys

QUOTES = '"""'  # start and end a text of several lines
_VERSION_KEYS = (  # Alt with an arrow, which some terminals send as Alt-B or Alt-F
    (-1, "/version previous", ("left", "b")),
    (1, "/version next", ("right", "f")),
)
_SHIFT_ENTER = ("\x1b[13;2u", "\x1b[27;2;13~")  # in terminals that distinguish it from Enter


def register_shift_enter() -> None:
    """Makes Shift-Enter equal to Alt-Enter. By default prompt_toolkit treats it as Enter or ignores it."""
    for sequence in _SHIFT_ENTER:
        ANSI_SEQUENCES[sequence] = (Keys.Escape, Keys.ControlM)


def is_open(text: str) -> bool:
    """Returns whether a text of several lines was started but not ended."""
    return text.lstrip().startswith(QUOTES) and text.count(QUOTES) % 2 == 1


def readable(text: str) -> str:
    """Returns the text with the bytes that the terminal's encoding lacks read as UTF-8, or else replaced."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def unquoted(text: str) -> str:
    """Returns the text without surrounding triple quotes. Quoted text is never a command."""
    stripped = text.strip()
    if len(stripped) < 2 * len(QUOTES) or not (stripped.startswith(QUOTES) and stripped.endswith(QUOTES)):
        return text
    inner = stripped[len(QUOTES) : -len(QUOTES)].strip("\n")
    return f"/{inner}" if inner.startswith("/") else inner


def key_bindings(
    has_version: Callable[[int], bool],
    note: Callable[[str], None],
    edit: Callable[[KeyPressEvent], None],
    suspend: Callable[[KeyPressEvent], None],
) -> ConditionalKeyBindings:
    """Returns the bindings. They are inactive during a Ctrl-R search, which has its own.

    `has_version` says whether the last answer has a version 1 after or -1 before the current one.
    `note` prints a line for the user. `edit` opens the text in the editor. `suspend` stops the program.
    """
    keys = KeyBindings()
    keys.add("enter")(_send)
    keys.add("tab")(_complete)
    keys.add("escape", "enter")(_start_line)
    keys.add("c-j")(_start_line)
    keys.add("c-c")(partial(_clear_line, note))
    keys.add("c-x", "c-e")(edit)
    keys.add("c-z")(suspend)
    for step, line, sequences in _VERSION_KEYS:
        can_step = Condition(partial(_can_step, has_version, step))
        for sequence in sequences:
            keys.add("escape", sequence, filter=can_step)(_run(line))
    return ConditionalKeyBindings(keys, ~is_searching)


def _can_step(has_version: Callable[[int], bool], step: int) -> bool:
    return not get_app().current_buffer.text and has_version(step)


def _run(line: str) -> Callable[[KeyPressEvent], None]:
    """Returns a handler that runs a command as if it was typed, without leaving a trace of the prompt."""

    def run(event: KeyPressEvent) -> None:
        event.app.erase_when_done = True
        event.app.exit(result=line)

    return run


def _send(event: KeyPressEvent) -> None:
    buffer = event.current_buffer
    if buffer.complete_state is not None and buffer.complete_state.current_completion is not None:
        buffer.complete_state = None  # accepts the choice; the next Enter sends
    elif is_open(buffer.text):
        buffer.insert_text("\n")
    elif _ends_in_backslash(buffer):
        buffer.delete_before_cursor()
        buffer.insert_text("\n")
    elif buffer.text.strip():
        buffer.validate_and_handle()


def _complete(event: KeyPressEvent) -> None:
    buffer = event.current_buffer
    request = CompleteEvent(completion_requested=True)
    found = list(buffer.completer.get_completions(buffer.document, request))
    if len(found) == 1:
        buffer.apply_completion(found[0])
    elif buffer.complete_state is not None:
        buffer.complete_next()
    else:
        buffer.start_completion(insert_common_part=True)


def _start_line(event: KeyPressEvent) -> None:
    event.current_buffer.insert_text("\n")


def _clear_line(note: Callable[[str], None], event: KeyPressEvent) -> None:
    if event.current_buffer.text:
        event.current_buffer.reset()
    else:
        run_in_terminal(partial(note, "Ctrl-D leaves."))


def _ends_in_backslash(buffer: Buffer) -> bool:
    """Returns whether the text ends in a backslash that is not itself escaped."""
    before = buffer.document.text_before_cursor
    return buffer.document.is_cursor_at_the_end and (len(before) - len(before.rstrip("\\"))) % 2 == 1
