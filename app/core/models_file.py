"""Owns the file that a person describes models in: `LLM_MODELS_FILE`, in TOML, beside the catalogue.

What is wrong is told with its line. models.example.toml explains every field to its reader.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from app.core.catalogue import ModelProfile, SamplingDefaults, Source
from app.core.config import NO_MODEL, SettingsError
from app.core.sampling import MAX_TOKENS, MIN_P, REPETITION_PENALTY, TEMPERATURE, TOP_K, TOP_P

_WINDOW = 8192  # tokens, where a new model's entry does not say
_HEADER = re.compile(r"\s*\[\[?\s*(?P<path>[^\[\]]+?)\s*\]\]?")
_KEY = re.compile(r"""\s*(?P<key>[\w-]+|"[^"]+"|'[^']+')\s*=""")


def _fits_a_command(name: str) -> str:
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name == NO_MODEL:
        raise ValueError("a name has letters, digits, . _ - and at most one /; it is not `none`")
    return name


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Sampling(_Table):
    max_tokens: Annotated[int | None, MAX_TOKENS] = None
    temperature: Annotated[float | None, TEMPERATURE] = None
    top_p: Annotated[float | None, TOP_P] = None
    top_k: Annotated[int | None, TOP_K] = None
    min_p: Annotated[float | None, MIN_P] = None
    repetition_penalty: Annotated[float | None, REPETITION_PENALTY] = None


class _Source(_Table):
    location: str = Field(min_length=1)
    revision: str | None = Field(None, min_length=1)
    chat_template: str | None = None
    stop: list[str] = Field(default_factory=list)
    takes_pickle: bool = False


class _Model(_Table):
    display_name: str | None = None
    description: str | None = None
    source: str | None = Field(None, min_length=1)
    sources: list[_Source] | None = Field(None, min_length=1)
    context_length: int | None = Field(None, ge=16, le=100_000_000)
    size_bytes: int | None = Field(None, ge=0)
    memory_bytes: int | None = Field(None, ge=0)
    is_pinned: bool | None = None
    draft: str | None = Field(None, min_length=1)
    sampling: _Sampling | None = None


class _File(_Table):
    models: dict[Annotated[str, AfterValidator(_fits_a_command)], _Model] = Field(default_factory=dict)


def with_models_of(path: Path | None, catalogue: Mapping[str, ModelProfile]) -> Mapping[str, ModelProfile]:
    """The catalogue, with the file's models added and changed.

    Raises:
        SettingsError: the file cannot be read, or what is wrong in it, each with its line.
    """
    if path is None:
        return catalogue
    try:
        text = path.expanduser().read_text(encoding="utf-8")
        read = _File.model_validate(tomllib.loads(text))
    except ValidationError as error:
        problems = [_problem(path, text, problem) for problem in error.errors()]
        raise SettingsError("\n".join(problems)) from None
    except tomllib.TOMLDecodeError as error:  # its message has the line
        raise SettingsError(f"LLM_MODELS_FILE: {path}: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsError(f"LLM_MODELS_FILE: {path} cannot be read: {reason}") from None
    added = {name: _profile(path, text, name, model, catalogue) for name, model in read.models.items()}
    every = {**catalogue, **added}
    for name, profile in added.items():
        if profile.draft is not None and (profile.draft == name or profile.draft not in every):
            line = _line(text, ("models", name, "draft"))
            raise SettingsError(f"LLM_MODELS_FILE: {path}:{line}: {name}: draft is the name of another model")
    return every


def _profile(
    path: Path, text: str, name: str, model: _Model, catalogue: Mapping[str, ModelProfile]
) -> ModelProfile:
    sources = _sources(path.expanduser().parent, model)
    known = catalogue.get(name)
    if known is None and not sources:
        line = _line(text, ("models", name))
        raise SettingsError(f"LLM_MODELS_FILE: {path}:{line}: {name} is new, so it needs a source")
    profile = known or ModelProfile(name, name, sources[0].location, sources, _WINDOW, None, None)
    given = {
        field.name: value
        for field in fields(profile)
        if (value := getattr(model, field.name, None)) is not None
    }
    if sources and known is not None:  # what the catalogue says of other weights does not hold
        profile = replace(profile, size_bytes=None, memory_bytes=None)
    sampling = {} if model.sampling is None else model.sampling.model_dump(exclude_none=True)
    return replace(
        profile,
        **given
        | {
            "sources": sources or profile.sources,
            "sampling": SamplingDefaults(**(asdict(profile.sampling) | sampling)),
        },
    )


def _sources(folder: Path, model: _Model) -> tuple[Source, ...]:
    described = model.sources or ([] if model.source is None else [_Source(location=model.source)])
    return tuple(
        Source(
            _location(folder, source.location),
            source.chat_template,
            tuple(source.stop),
            revision=source.revision,
            takes_pickle=source.takes_pickle,
        )
        for source in described
    )


def _location(folder: Path, written: str) -> str:
    """A path begins with `/`, `./`, `../` or `~`, and is meant from the file's own folder."""
    if not written.startswith(("/", "./", "../", "~")):
        return written
    return str((folder / Path(written).expanduser()).resolve())


def _problem(path: Path, text: str, problem: Mapping[str, Any]) -> str:  # Any: pydantic's error details
    place = [part for part in problem["loc"] if part != "[key]"]
    is_unknown = problem["type"] == "extra_forbidden"
    cause = "there is no such field" if is_unknown else str(problem["msg"]).removeprefix("Value error, ")
    return f"LLM_MODELS_FILE: {path}:{_line(text, place)}: {'.'.join(map(str, place))}: {cause}"


def _line(text: str, place: Sequence[str | int]) -> int:
    """The line that the place begins in: the deepest part of it that a line of its own stands for."""
    best, table, counts = (0, 1), (), dict[tuple[str, ...], int]()
    for number, line in enumerate(text.splitlines(), start=1):
        here: tuple[str | int, ...] = table
        if header := _HEADER.match(line):
            keys = tuple(
                key.strip("\"'") for key in re.findall(r"""[\w-]+|"[^"]+"|'[^']+'""", header["path"])
            )
            table = keys
            if line.lstrip().startswith("[["):
                counts[keys] = counts.get(keys, -1) + 1
                table = (*keys, counts[keys])
            here = table
        elif key := _KEY.match(line):
            here = (*table, key["key"].strip("\"'"))
        depth = len(here)
        if depth > best[0] and tuple(place[:depth]) == here:
            best = (depth, number)
    return best[1]
