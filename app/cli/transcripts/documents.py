"""Exports a conversation as Markdown, JSON or HTML, and extracts the code blocks of an answer."""

import threading
from html import escape
from itertools import takewhile
from pathlib import Path

from markdown_it import MarkdownIt

from app.cli.errors import TranscriptError, UsageError
from app.cli.files import write_atomically
from app.cli.transcripts.transcript_file import Transcript, to_json

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }
pre { background: #f4f4f4; padding: .8rem; overflow-x: auto; } table { border-collapse: collapse; }
td, th { border: 1px solid #ccc; padding: .2rem .6rem; } h2 { font-size: 1rem; color: #666; }
@media (prefers-color-scheme: dark) {
  body { background: #1b1b1b; color: #ddd; } pre { background: #2a2a2a; }
}
"""


def document(transcript: Transcript, path: Path, stopped: threading.Event | None = None) -> bytes:
    """Returns the conversation in the format of the path's suffix.

    A long conversation takes a second or more. Setting `stopped` in another thread ends the work after the
    current message; the result is incomplete then.

    Raises:
        UsageError: the suffix is not .md, .json or .html.
    """
    if path.suffix == ".json":
        return to_json(transcript)
    if path.suffix == ".md":
        return as_markdown(transcript).encode()
    if path.suffix == ".html":
        return as_html(transcript, stopped or threading.Event()).encode()
    raise UsageError(f"{path} does not end in a known format.", "Use .md, .json or .html.")


def write_document(content: bytes, path: Path) -> None:
    """Writes the file.

    Raises:
        TranscriptError: the file cannot be written.
    """
    try:
        write_atomically(path, content)
    except OSError as error:
        raise TranscriptError(f"{path} cannot be written: {error.strerror}.") from None
    except ValueError as error:  # a NUL in the path
        raise TranscriptError(f"{str(path)!r} cannot be written: {error}.") from None


def as_markdown(transcript: Transcript) -> str:
    parts = [f"# {transcript.name}"]
    if transcript.system_prompt:
        parts.append(f"> {transcript.system_prompt}".replace("\n", "\n> "))
    for message in transcript.messages:
        parts.append(f"## {_speaker(message.role, message.model_name)}\n\n{message.shown.rstrip()}")
    return "\n\n".join(parts) + "\n"


def as_html(transcript: Transcript, stopped: threading.Event) -> str:
    """Returns a page that needs no other files. HTML in messages is escaped."""
    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    messages = "\n".join(
        f"<h2>{escape(_speaker(message.role, message.model_name))}</h2>\n{parser.render(message.shown)}"
        for message in takewhile(lambda _: not stopped.is_set(), transcript.messages)
    )
    title = escape(transcript.name)
    system_prompt = (
        f"<blockquote>{escape(transcript.system_prompt)}</blockquote>\n" if transcript.system_prompt else ""
    )
    return (
        f'<!DOCTYPE html>\n<html><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>{title}</h1>\n{system_prompt}{messages}</body></html>\n"
    )


def code_blocks(answer: str) -> list[str]:
    """Returns the contents of all fenced and indented code blocks, nested ones included."""
    tokens = MarkdownIt("commonmark").parse(answer)
    return [token.content for token in tokens if token.type in ("fence", "code_block")]


def _speaker(role: str, model_name: str | None) -> str:
    if role in ("user", "tool"):
        return "You" if role == "user" else "Tool"
    return "Assistant" if model_name is None else f"Assistant ({model_name})"
