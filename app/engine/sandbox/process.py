"""Renders chat templates, checks grammars and tries out tokenizers in a process that holds no other data.

Templates and tokenizers are the model's author's, and grammars come from clients. Run it as a script. It
reads one JSON request per line from stdin and writes one JSON answer per line to stdout, until stdin ends. It
imports nothing but jinja2 until it needs more, so that it starts at once.
"""

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node, Scope
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

MEMORY_LIMIT_BYTES = 1 << 30  # in addition to the memory that the process has when it starts
LENGTH_LIMIT = 50_000_000  # characters of a rendered chat
# {"text": ...}, {"refused": the template's own words, or the grammar's error} or {"out_of_bounds": ""}
SandboxAnswer = dict[str, str]


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal
    _bound_memory()
    try:
        _answer_requests()
    except BrokenPipeError:  # the worker was killed meanwhile
        os._exit(0)  # the interpreter would complain that it cannot flush stdout


def _answer_requests() -> None:
    _write({"text": "ready"})
    for line in sys.stdin.buffer:
        request = json.loads(line)
        with _kill_after(request["time_limit_s"]):
            if "grammar" in request:
                answer = _check_grammar(request["grammar"])
            elif "tokenizer" in request:
                answer = _try_tokenizer(request["tokenizer"], request["texts"])
            else:
                answer = _render(request["template"], request["variables"])
        _write(answer)


def _write(answer: SandboxAnswer) -> None:
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
    sys.stdout.buffer.flush()


def _render(template: str, variables: dict[str, Any]) -> SandboxAnswer:  # any JSON
    try:
        text = _compile(template).render(**variables)
    except (MemoryError, RecursionError, OverflowError):
        return {"out_of_bounds": ""}
    except (
        Exception
    ) as error:  # a template can raise anything; its text may quote the chat and is not passed on
        own_words = str(error) if type(error) is jinja2.TemplateError else ""
        return {"refused": own_words}
    return {"text": text} if len(text) <= LENGTH_LIMIT else {"out_of_bounds": ""}


def _check_grammar(grammar: str) -> SandboxAnswer:
    """Compiles the grammar for single bytes, and looks for the first of them."""
    from llguidance import LLMatcher, LLTokenizer  # only here, because most models never need it

    matcher = LLMatcher(LLTokenizer("byte"), grammar, log_level=0)
    if not matcher.is_error():
        matcher.compute_bitmask()
    return {"refused": matcher.get_error()} if matcher.is_error() else {"text": ""}


def _try_tokenizer(parts: dict[str, Any], texts: list[str]) -> SandboxAnswer:  # any JSON
    """Encodes and decodes the texts with each of them as a token, so that all patterns see all of them."""
    from tokenizers import Tokenizer  # only here, because most requests do not need it

    vocabulary = {text: number for number, text in enumerate(dict.fromkeys(("unknown", *texts)))}
    words = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "unknown"}
    try:
        tokenizer = Tokenizer.from_str(
            json.dumps({"version": "1.0", "added_tokens": [], **parts, "model": words})
        )
        tokenizer.encode_batch(texts)
        tokenizer.decode_batch([[number] for number in vocabulary.values()])
    except BaseException as error:  # a panic of the library is not an Exception
        return {"refused": f"{type(error).__name__}: {error}"}
    return {"text": ""}


@lru_cache(4)
def _compile(template: str) -> jinja2.Template:
    """Returns the template, compiled in the same environment as in transformers."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": lambda format: datetime.now().strftime(format),
        "dict": _Dict(),
        "namespace": _Namespace,
    }
    return environment.from_string(template)


class _GenerationTag(Extension):
    """Renders the content of `{% generation %}`, which marks text for training, without a change."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> Node:
        line = next(parser.stream).lineno
        return Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


class _Dict:
    """Makes dicts, but lacks the attributes of the type `dict`, some of which lead to Python's internals."""

    def __call__(self, *args: Any, **values: Any) -> dict[Any, Any]:  # any values of a template
        return dict(*args, **values)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:  # any values of a template
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """A namespace without names that begin with an underscore, which lead to Python's internals."""

    def __init__(*args: Any, **values: Any) -> None:  # without `self`, which a template may use as a name
        self, *rest = args
        attributes = dict(*rest, **values)
        for name in attributes:
            _refuse_private(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:  # any value of a template
        _refuse_private(name)
        super().__setitem__(name, value)


def _refuse_private(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError("names in a namespace must not begin with an underscore")


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any,  # any value of a template
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Returns the value as JSON. Unlike jinja2's own filter, it does not escape for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _bound_memory() -> None:
    """Limits the address space on Linux. On other systems, only the time limit bounds the memory."""
    try:
        import resource  # Unix only

        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        wanted = used + MEMORY_LIMIT_BYTES
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    except (ImportError, OSError, ValueError):
        return


@contextmanager
def _kill_after(time_limit_s: float) -> Iterator[None]:
    """Makes the system kill this process if the block takes longer, even if the parent is gone.

    The signal has no handler, so that it also ends a loop inside C.
    """
    if not hasattr(signal, "setitimer"):
        yield  # only the parent's own limit applies
        return
    signal.setitimer(signal.ITIMER_REAL, time_limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    main()
