"""Reads `LLM_MODELS_FILE`: a TOML file that adds models to the catalogue and changes those in it.

models.example.toml explains every field to users.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.core.catalogue import ModelProfile, RemoteEngine, SamplingDefaults, Source
from app.core.config import DEFAULT_CONTEXT_LENGTH, NO_MODEL, SettingsError
from app.core.literals import QuantizationSetting
from app.core.paths import absolute, expand, is_path, read_regular
from app.core.sampling import MAX_TOKENS, MIN_P, REPETITION_PENALTY, TEMPERATURE, TOP_K, TOP_P

_ALIAS = re.compile(r"[\w:@-][\w.:@-]*(/[\w:@-][\w.:@-]*)*")
_BARE_KEY = re.compile(r"[\w-]+", re.ASCII)


def _check_name(name: str) -> str:
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name == NO_MODEL:
        raise ValueError("a name consists of letters, digits, . _ - and at most one /, and is not `none`")
    return name


def _check_alias(alias: str) -> str:
    if not _ALIAS.fullmatch(alias) or alias == NO_MODEL:
        raise ValueError("an alias consists of letters, digits and . _ - : @ /, and is not `none`")
    return alias


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Sampling(_Table):
    max_tokens: Annotated[int | None, MAX_TOKENS] = None
    temperature: Annotated[float | None, TEMPERATURE] = None
    top_p: Annotated[float | None, TOP_P] = None
    top_k: Annotated[int | None, TOP_K] = None
    min_p: Annotated[float | None, MIN_P] = None
    repetition_penalty: Annotated[float | None, REPETITION_PENALTY] = None


def _check_location(text: str) -> str:
    if is_path(text):
        expand(text)
    return text


Location = Annotated[str, Field(min_length=1), AfterValidator(_check_location)]


class _Source(_Table):
    location: Location
    revision: str | None = Field(None, min_length=1)
    chat_template: str | None = None
    stop: list[str] = Field(default_factory=list)
    takes_pickle: bool = False


def _check_base_url(text: str) -> str:
    url = urlsplit(text)
    if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment:
        raise ValueError("it must be an address such as http://127.0.0.1:8000/v1")
    if url.username is not None or url.password is not None:
        raise ValueError("it must not hold a name or a password; use api_key_env")
    return text.rstrip("/")


class _Model(_Table):
    display_name: str | None = None
    description: str | None = None
    source: Location | None = None
    sources: list[_Source] | None = Field(None, min_length=1)
    context_length: int | None = Field(None, ge=16, le=100_000_000)
    size_bytes: int | None = Field(None, ge=0)
    memory_bytes: int | None = Field(None, ge=0)
    is_pinned: bool | None = None
    draft: str | None = Field(None, min_length=1)
    quantization: QuantizationSetting | None = None
    adapter: Location | None = None
    aliases: list[Annotated[str, AfterValidator(_check_alias)]] | None = None
    sampling: _Sampling | None = None
    engine: Literal["openai"] | None = None
    base_url: Annotated[str, AfterValidator(_check_base_url)] | None = None
    model: str | None = Field(None, min_length=1)
    api_key_env: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")

    @model_validator(mode="after")
    def _engine_is_whole(self) -> "_Model":
        if self.engine is None and (self.base_url or self.model or self.api_key_env):
            raise ValueError('base_url, model and api_key_env belong to engine = "openai"')
        if self.engine is not None and self.base_url is None:
            raise ValueError('engine = "openai" needs a base_url')
        of_weights = (self.source, self.sources, self.draft, self.quantization, self.adapter, self.is_pinned)
        if self.engine is not None and any(value is not None for value in of_weights):
            raise ValueError(
                "a remote engine has no source, sources, draft, quantization, adapter or is_pinned"
            )
        return self


class _File(_Table):
    models: dict[Annotated[str, AfterValidator(_check_name)], _Model] = Field(default_factory=dict)


def with_models_of(
    path: Path | None,
    catalogue: Mapping[str, ModelProfile],
    context_length: int = DEFAULT_CONTEXT_LENGTH,
) -> Mapping[str, ModelProfile]:
    """Returns the catalogue with the file's models added and changed; without a file, the catalogue itself.

    A new model for which the file names no `context_length` has the given one.

    Raises:
        SettingsError: the file cannot be read or used. Each line of the message describes one mistake, with
            its TOML key or, for a syntax error, its line.
    """
    if path is None:
        return catalogue
    described = _read(path)
    folder = path.parent
    new = [name for name, model in described.items() if name not in catalogue and not _has_source(model)]
    if new:
        raise _error(path, [(("models", name), "this model is new, so it needs a source") for name in new])
    added = {
        name: _profile(folder, model, catalogue.get(name) or _new_profile(name, context_length))
        for name, model in described.items()
    }
    every = {**catalogue, **added}
    wrong = [
        name
        for name, profile in added.items()
        if profile.draft == name or profile.draft not in {*every, None}
    ]
    if wrong:
        raise _error(path, [(("models", name, "draft"), "it must name another model") for name in wrong])
    if mistakes := list(_taken_aliases(every)):
        raise _error(path, mistakes)
    return every


def _taken_aliases(
    catalogue: Mapping[str, ModelProfile],
) -> Iterable[tuple[tuple[str | int, ...], str]]:
    """Yields the aliases that are names of models as well, or aliases of two."""
    taken = set(catalogue)
    for name, profile in catalogue.items():
        for index, alias in enumerate(profile.aliases):
            if alias in taken:
                yield ("models", name, "aliases", index), "another model has this name or alias"
            taken.add(alias)


def _read(path: Path) -> dict[str, _Model]:
    try:
        return _File.model_validate(tomllib.loads(read_regular(path).decode())).models
    except ValidationError as error:
        raise _error(
            path, [(problem["loc"], _cause(problem["type"], problem["msg"])) for problem in error.errors()]
        ) from None
    except tomllib.TOMLDecodeError as error:  # its message has the line
        raise SettingsError(f"LLM_MODELS_FILE: {path}: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsError(f"LLM_MODELS_FILE: {path} cannot be read: {reason}") from None


def _has_source(model: _Model) -> bool:
    return model.source is not None or model.sources is not None or model.engine is not None


def _new_profile(name: str, context_length: int) -> ModelProfile:
    return ModelProfile(name, name, "", (), context_length, size_bytes=None, memory_bytes=None)


def _profile(folder: Path, model: _Model, known: ModelProfile) -> ModelProfile:
    """Returns the model as the file changes it. A new one is `known` without sources and a description."""
    remote = _remote(known.name, model)
    sources = _sources(folder, model) if remote is None else (Source(remote.model),)
    profile = replace(known, description=known.description or sources[0].location)
    if sources:  # the catalogue's figures belong to other weights
        profile = replace(profile, sources=sources, remote=remote, size_bytes=None, memory_bytes=None)
    sampling = {} if model.sampling is None else model.sampling.model_dump(exclude_none=True)
    changes = {
        field.name: value
        for field in fields(profile)
        if field.name not in ("sources", "sampling", "adapter", "aliases")
        and (value := getattr(model, field.name, None)) is not None
    }
    if model.adapter is not None:
        adapter = Source(_location(folder, model.adapter))
        own = sources or profile.sources[:1]  # an adapter does not fit the alternatives of the catalogue
        profile = replace(profile, sources=own, adapter=adapter)
    if model.aliases is not None:
        changes["aliases"] = tuple(model.aliases)
    return replace(profile, **changes, sampling=SamplingDefaults(**(asdict(profile.sampling) | sampling)))


def _remote(name: str, model: _Model) -> RemoteEngine | None:
    if model.base_url is None:
        return None
    return RemoteEngine(model.base_url, model.model or name, model.api_key_env)


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
    """Returns a source's location. A relative path starts from the folder of the models file."""
    return str(absolute(written, folder)) if is_path(written) else written


def _error(path: Path, mistakes: Iterable[tuple[tuple[str | int, ...], str]]) -> SettingsError:
    lines = [f"LLM_MODELS_FILE: {path}: {_toml_path(keys)}: {cause}" for keys, cause in mistakes]
    return SettingsError("\n".join(lines))


def _cause(kind: str, message: str) -> str:
    return "no such field" if kind == "extra_forbidden" else message.removeprefix("Value error, ")


def _toml_path(keys: Iterable[str | int]) -> str:
    """Returns the keys in TOML's notation, such as `models."qwen3-0.6b".sources[1].location`."""
    path = ""
    for key in keys:
        if isinstance(key, int):
            path += f"[{key}]"
        elif key != "[key]":  # pydantic's mark for a mistake in the key itself
            path += ("." if path else "") + (key if _BARE_KEY.fullmatch(key) else f'"{key}"')
    return path
