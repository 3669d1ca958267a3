"""Turns panics inside the tokenizers library into ordinary errors.

A panic in Rust code, such as a regular expression that backtracks too long, reaches Python as an exception
that is not an `Exception`, so it would end the whole process.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from app.core.errors import InvalidRequest


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """Raises InvalidRequest instead of a panic."""
    try:
        yield
    except BaseException as error:
        if not _is_panic(error):
            raise
        raise InvalidRequest(
            "the model's tokenizer cannot handle this text", hint="Change the text, or use another model."
        ) from None  # the panic's own message may quote the prompt


def _is_panic(error: BaseException) -> bool:
    """Recognises the class by name, because it cannot be imported and each extension has its own."""
    return type(error).__module__ == "pyo3_runtime" and type(error).__name__ == "PanicException"
