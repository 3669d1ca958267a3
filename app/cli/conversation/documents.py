"""Owns a conversation as a document for other programs: Markdown, JSON or HTML, and the code in an answer."""

from collections.abc import Callable
from html import escape
from itertools import takewhile
from pathlib import Path

from markdown_it import MarkdownIt

from app.cli.conversation.transcript_file import Transcript, document_of
from app.cli.errors import TranscriptError, UsageError
from app.cli.files import keep_beside, write_whole

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }
pre { background: #f4f4f4; padding: .8rem; overflow-x: auto; } table { border-collapse: collapse; }
td, th { border: 1px solid #ccc; padding: .2rem .6rem; } h2 { font-size: 1rem; color: #666; }
@media (prefers-color-scheme: dark) {
  body { background: #1b1b1b; color: #ddd; } pre { background: #2a2a2a; }
}
"""


def document(transcript: Transcript, path: Path, is_stopped: Callable[[], bool] = lambda: False) -> bytes:
    """In the format that the path ends in. Of a long conversation it takes a second; once it is stopped it
    ends within a message, and what it gives is of no use.

    Raises:
        Missing: it ends in none that is known.
    """
    if path.suffix == ".json":
        return document_of(transcript)
    if path.suffix == ".md":
        return as_markdown(transcript).encode()
    if path.suffix == ".html":
        return as_html(transcript, is_stopped).encode()
    raise UsageError(f"{path} ends in no format that can be written.", "Use .md, .json or .html.")


def write_document(content: bytes, path: Path) -> None:
    """A file that is there is kept beside it, ending in `~`.

    Raises:
        TranscriptError: it cannot be written.
    """
    try:
        keep_beside(path)
        write_whole(path, content)
    except OSError as error:
        raise TranscriptError(f"{path} cannot be written: {error.strerror}.") from None


def as_markdown(transcript: Transcript) -> str:
    parts = [f"# {transcript.name}"]
    if transcript.system_prompt:
        parts.append(f"> {transcript.system_prompt}".replace("\n", "\n> "))
    for message in transcript.messages:
        parts.append(f"## {_speaker(message.role, message.model_name)}\n\n{message.content.rstrip()}")
    return "\n\n".join(parts) + "\n"


def as_html(transcript: Transcript, is_stopped: Callable[[], bool]) -> str:
    """One file that needs nothing else. HTML that a model wrote is shown, not obeyed."""
    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    said = "\n".join(
        f"<h2>{escape(_speaker(message.role, message.model_name))}</h2>\n{parser.render(message.content)}"
        for message in takewhile(lambda _: not is_stopped(), transcript.messages)
    )
    title = escape(transcript.name)
    told = (
        f"<blockquote>{escape(transcript.system_prompt)}</blockquote>\n" if transcript.system_prompt else ""
    )
    return (
        f'<!DOCTYPE html>\n<html><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>{title}</h1>\n{told}{said}</body></html>\n"
    )


def code_blocks(answer: str) -> list[str]:
    """What stands in the fences and indented blocks of Markdown, wherever they are nested."""
    tokens = MarkdownIt("commonmark").parse(answer)
    return [token.content for token in tokens if token.type in ("fence", "code_block")]


def _speaker(role: str, model_name: str | None) -> str:
    if role == "user":
        return "You"
    return "Assistant" if model_name is None else f"Assistant ({model_name})"
