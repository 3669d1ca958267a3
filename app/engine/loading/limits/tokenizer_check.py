"""Checks a tokenizer's files before a library reads them: how much they hold, and what their patterns take.

Regular expressions may take years for a short text. They are tried out in a process that may be killed.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from transformers.tokenization_utils_base import get_fast_tokenizer_file

from app.core.errors import ModelCorrupt, ModelRefused
from app.core.model_folder import TOKENIZER, read_json
from app.core.paths import read_regular
from app.engine.gguf.pre_tokenizers import RULES
from app.engine.loading.folder_check import AGAIN, library_errors_as
from app.engine.sandbox.tokenizer_sandbox import TokenizerOutOfBounds, TokenizerSandbox

MOST_TOKENS = 1_000_000  # the largest vocabularies, Gemma's, have 262,144
_MOST_ADDED = 100_000  # tokens beside the vocabulary; Gemma has 6,414
_CONFIG = "tokenizer_config.json"
_PATTERN_PARTS = ("normalizer", "pre_tokenizer", "decoder")
_RUN = 40  # equal characters or words; enough for a pattern that takes twice as long for each of them
_KNOWN = frozenset(pattern for rule in RULES.values() for pattern in rule.patterns)  # those of most models
_USUAL = "aA1 .\n\té日_"
_MOST_PARTS = 200  # that are not tried out; the largest tokenizers have a few dozen
_MOST_CHARACTERS = 200  # of the patterns that are tried out in runs


class _Model(msgspec.Struct):
    """The part of a tokenizer.json that has the vocabulary."""

    vocab: dict[str, int] | list[tuple[str, float]] = msgspec.field(default_factory=dict)


class _AddedToken(msgspec.Struct):
    content: str


class _TokenizerFile(msgspec.Struct):
    model: _Model
    added_tokens: list[_AddedToken] = []
    normalizer: Any = None  # any JSON, as are the next two
    pre_tokenizer: Any = None
    decoder: Any = None

    @property
    def parts(self) -> dict[str, Any]:  # any JSON
        return {name: getattr(self, name) for name in _PATTERN_PARTS}


def refuse_hostile_tokenizer(folder: Path) -> None:
    """Refuses a tokenizer that would take very long, or much memory, to read or to use.

    Raises ModelRefused, or ModelCorrupt if a file cannot be read.
    """
    path = _path(folder)
    if not path.is_file():
        return
    try:
        file = msgspec.json.decode(read_regular(path), type=_TokenizerFile)
    except (OSError, ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise ModelCorrupt(f"{path.name} cannot be read: {error}", hint=AGAIN) from error
    tokens = _tokens(file)
    patterns = [pattern for pattern in _patterns(file.parts) if pattern not in _KNOWN]
    if patterns or may_multiply(file.parts):
        added = [token.content for token in file.added_tokens]
        decoded = tokens if any(_patterns(file.decoder)) else []
        _try_out(file.parts, [*trial_texts(patterns), *added, *decoded])


def too_many_tokens() -> ModelRefused:
    return ModelRefused(
        f"the tokenizer has more than {MOST_TOKENS:,} tokens, several times as many as any known model",
        hint="Choose a model of another author.",
    )


def _path(folder: Path) -> Path:
    """Returns the file that transformers reads: the folder may have others for versions of transformers."""
    if not (folder / _CONFIG).is_file():
        return folder / TOKENIZER
    with library_errors_as(lambda error: ModelCorrupt(f"{_CONFIG} cannot be read: {error}", hint=AGAIN)):
        name = get_fast_tokenizer_file(read_json(folder / _CONFIG).get("fast_tokenizer_files", []))
    if Path(name).name != name:
        raise ModelRefused(f"{_CONFIG} names a tokenizer outside the model's folder")
    return folder / name


def _tokens(file: _TokenizerFile) -> list[str]:
    """Returns the vocabulary. Raises ModelRefused if it is too large to be one."""
    vocabulary = file.model.vocab
    if len(vocabulary) > MOST_TOKENS or len(file.added_tokens) > _MOST_ADDED:
        raise too_many_tokens()
    return [token if isinstance(token, str) else token[0] for token in vocabulary]


def _patterns(part: Any) -> Iterator[str]:  # any JSON
    """Yields the regular expressions in it."""
    for found in _objects(part):
        if isinstance(pattern := found.get("Regex"), str):
            yield pattern


def _objects(part: Any) -> Iterator[dict[str, Any]]:  # any JSON
    """Yields the objects in it, at any depth."""
    pending = [part]
    while pending:
        match pending.pop():
            case dict() as found:
                yield found
                pending.extend(found.values())
            case list() as items:
                pending.extend(items)


def may_multiply(parts: dict[str, Any]) -> bool:  # any JSON
    """Returns whether a text could become far longer by these parts, or be read very often."""
    objects = list(_objects(parts))
    if len(objects) > _MOST_PARTS:
        return True
    return any(_is_longer(found) for found in objects)


def _is_longer(part: dict[str, Any]) -> bool:  # any JSON
    """Returns whether a part puts a longer text in the place of a shorter one, or in front of each."""
    match part:
        case {"pattern": {"String": str(old)}, "content": str(new)}:
            return len(new) > len(old)
        case {"prepend": str(new)}:
            return len(new) > 1
    return False


def trial_texts(patterns: Sequence[str]) -> list[str]:
    """Returns short texts on which patterns that backtrack without end do so.

    They are runs of one character, and repeated words of the patterns, followed by one that may not match.
    """
    characters = list(dict.fromkeys(_USUAL + "".join(patterns)))[:_MOST_CHARACTERS]
    words = [word for pattern in patterns for word in re.findall(r"\w{2,20}", pattern)][:_MOST_CHARACTERS]
    runs = [character * _RUN for character in characters]
    runs += [word * _RUN for word in dict.fromkeys(words)]
    return [run + end for run in runs for end in ("", "!", "\x01")]


def _try_out(parts: dict[str, Any], texts: Sequence[str]) -> None:  # any JSON
    sandbox = TokenizerSandbox()
    try:
        sandbox.try_out(parts, texts)
    except TokenizerOutOfBounds as error:
        raise ModelRefused(
            "the tokenizer's patterns fail or take too long on short texts, so one request could block it",
            hint="Choose a model of another author.",
        ) from error
    finally:
        sandbox.close()
