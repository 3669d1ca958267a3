"""Refuses files that hold far more than those of any real model, before a library reads them whole.

A text of a hundred megabytes, or a million weights, would take a library minutes and gigabytes.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from app.core.errors import ModelCorrupt, ModelRefused
from app.core.model_folder import MOST_VALUES, TOKENIZER
from app.core.paths import read_regular

# The most bytes by the end of a file's name. The largest tokenizer.json has 33 MB, the index of a thousand
# files ten, other forms of vocabularies five.
_MOST_BYTES = {
    ".json": 64_000_000,
    ".txt": 20_000_000,
    ".jinja": 5_000_000,
    ".model": 10_000_000,
    ".tiktoken": 10_000_000,
}
_SEPARATORS = {".json": b",", ".txt": b"\n"}  # of the values in it
_MOST_OF_TOKENIZER = 4_000_000  # with merges; Gemma's has 1.4 million
MOST_LAYERS = 1000  # the deepest models have 126; each layer takes milliseconds even without weights
_LENGTH_BYTES = 8  # size of the number in front of the header of a safetensors file
_MOST_HEADER_BYTES = 32_000_000
_MOST_TENSORS = 200_000  # in all files of a model; the largest have 100,000
_MOVE_IT = "Move it out of the folder if it is not part of the model."


def refuse_large_text(path: Path) -> None:
    """Raises ModelRefused if this is a text that libraries read whole, and it is too large for that.

    Raises ModelCorrupt if it cannot be read.
    """
    most = _MOST_BYTES.get(path.suffix)
    if most is None or not path.is_file():
        return
    size = path.stat().st_size
    if size > most:
        raise ModelRefused(f"{path.name} has more than {most // 10**6} MB", hint=_MOVE_IT)
    separator = _SEPARATORS.get(path.suffix)
    values = _MOST_OF_TOKENIZER if path.name == TOKENIZER else MOST_VALUES
    if separator is None or size <= values:
        return
    with _reading(path):
        count = read_regular(path).count(separator)
    if count > values:
        raise ModelRefused(f"{path.name} has more than {values:,} values", hint=_MOVE_IT)


def refuse_many_tensors(paths: Iterable[Path]) -> None:
    """Raises ModelRefused if the safetensors files of a model announce too many weights.

    Raises ModelCorrupt if one cannot be read.
    """
    count = 0
    for path in paths:
        count += _header(path).count(b"{")  # each weight has its own, which no escape can replace
        if count > _MOST_TENSORS:
            raise ModelRefused(
                f"the weights are more than {_MOST_TENSORS:,} tensors, more than any known model has",
                hint="Choose a model of another author.",
            )


def _header(path: Path) -> bytes:
    """Returns the header of the file, or the part of it that is there."""
    with _reading(path), path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if _MOST_HEADER_BYTES < length < path.stat().st_size:
            raise ModelRefused(f"the header of {path.name} has more than {_MOST_HEADER_BYTES // 10**6} MB")
        return file.read(min(length, _MOST_HEADER_BYTES))


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raises ModelCorrupt if the system cannot read the file."""
    try:
        yield
    except OSError as error:
        raise ModelCorrupt(
            f"{path.name} cannot be read: {error.strerror}",
            hint="Check the file's permissions, or fetch the model again.",
        ) from error
