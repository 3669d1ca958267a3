"""Finds the models that other programs keep on this machine: Ollama, LM Studio and the Hugging Face cache.

Their folders are only read. Nothing in them is trusted: names and numbers of entries are bounded.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from huggingface_hub import constants

from app.core.catalogue import ModelProfile, Source, aliases_of
from app.core.config import DEFAULT_CONTEXT_LENGTH
from app.core.gguf_names import gguf_by_kind, gguf_paths
from app.core.model_folder import CONFIG, BrokenFile, is_complete, read_json
from app.models.hub.cache import snapshots

_MOST = 200  # models that are listed
_MOST_ENTRIES = 10_000  # that are looked at in one store
_NAME = re.compile(r"[\w-][\w.-]{0,95}")
_OLLAMA_HOST = "registry.ollama.ai"
_OLLAMA_MODEL = "application/vnd.ollama.image.model"
_OLLAMA_ADAPTER = "application/vnd.ollama.image.adapter"
_OLLAMA_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_CAUSAL = ("ForCausalLM", "LMHeadModel")


def _ollama_stores() -> tuple[Path, ...]:
    chosen = os.environ.get("OLLAMA_MODELS")
    usual = (Path.home() / ".ollama" / "models", Path("/usr/share/ollama/.ollama/models"))
    return (Path(chosen),) if chosen else usual


def _lm_studio_folders() -> tuple[Path, ...]:
    return (Path.home() / ".lmstudio" / "models", Path.home() / ".cache" / "lm-studio" / "models")


@dataclass(frozen=True, slots=True)
class LocalModels:
    """The folders of other programs. Any of them may be missing.

    Their models have windows of `context_length` tokens, or their own if those are shorter.
    """

    ollama: tuple[Path, ...] = field(default_factory=_ollama_stores)
    lm_studio: tuple[Path, ...] = field(default_factory=_lm_studio_folders)
    hub_cache: Path = Path(constants.HF_HUB_CACHE)
    context_length: int = DEFAULT_CONTEXT_LENGTH

    def find(self, known: Mapping[str, ModelProfile]) -> list[ModelProfile]:
        """Returns the models that `known` lacks, by the names that people know them by. For a thread."""
        locations = {source.location for profile in known.values() for source in profile.sources}
        found: dict[str, ModelProfile] = {}
        for profile in self._all():
            if profile.name not in known and profile.sources[0].location not in locations:
                aliases = tuple(alias for alias in profile.aliases if alias not in known)
                found.setdefault(
                    profile.name, replace(profile, aliases=aliases, context_length=self.context_length)
                )
        return [found[name] for name in sorted(found)[:_MOST]]

    def add_named(self, known: Mapping[str, ModelProfile], name: str) -> Mapping[str, ModelProfile]:
        """Returns the known models and, if they lack this name, the model of another program that has it."""
        if name in known or name in aliases_of(known):
            return known
        found = {profile.name: profile for profile in self.find(known)}
        name = name if name in found else aliases_of(found).get(name, name)
        return {**known, name: found[name]} if name in found else known

    def _all(self) -> Iterator[ModelProfile]:
        for store in self.ollama:
            yield from _in_ollama(store)
        for folder in self.lm_studio:
            yield from _in_lm_studio(folder)
        yield from _in_hub_cache(self.hub_cache)


def _in_ollama(store: Path) -> Iterator[ModelProfile]:
    """Yields the models of an Ollama store, such as `qwen3:0.6b` or `hf.co/owner/name:Q4_K_M`.

    As in Ollama, `qwen3` alone is another name of `qwen3:latest`.
    """
    for manifest in _entries(store / "manifests", 4):
        parts = manifest.relative_to(store / "manifests").parts
        blob = _model_blob(manifest, store)
        if blob is not None and all(map(_NAME.fullmatch, parts)):
            known_as = _ollama_name(*parts)
            profile = _profile(known_as, Source(str(blob), label=f"ollama/{known_as}"), "Ollama's store")
            short, _, tag = known_as.rpartition(":")
            yield replace(profile, aliases=(short,)) if tag == "latest" else profile


def _ollama_name(host: str, owner: str, name: str, tag: str) -> str:
    """Returns the name that `ollama list` shows."""
    if host != _OLLAMA_HOST:
        return f"{host}/{owner}/{name}:{tag}"
    return f"{name}:{tag}" if owner == "library" else f"{owner}/{name}:{tag}"


def _model_blob(manifest: Path, store: Path) -> Path | None:
    """Returns the GGUF file that a manifest names; None if there is none, or if an adapter belongs to it."""
    digests: dict[object, str] = {}
    with suppress(BrokenFile):
        layers = read_json(manifest).get("layers")
        for layer in layers if isinstance(layers, list) else ():
            if isinstance(layer, dict):
                digests.setdefault(str(layer.get("mediaType")), str(layer.get("digest")))
    digest = _OLLAMA_DIGEST.fullmatch(digests.get(_OLLAMA_MODEL, ""))
    if digest is None or _OLLAMA_ADAPTER in digests:
        return None
    blob = store / "blobs" / f"sha256-{digest[1]}"
    return blob if is_complete(blob) else None


def _in_lm_studio(folder: Path) -> Iterator[ModelProfile]:
    """Yields the files of LM Studio's folder under the Hub's names for them, such as `owner/name:Q4_K_M`."""
    for model in (child for owner in _children(folder) for child in _children(owner)):
        owner, name = model.relative_to(folder).parts
        if _NAME.fullmatch(owner) and _NAME.fullmatch(name):
            for kind, file in _gguf_models(model):
                known_as = f"{owner}/{name}:{kind}"
                source = Source(str(file), label=f"lm-studio/{known_as}")
                yield _profile(known_as, source, "LM Studio's folder")


def _in_hub_cache(cache: Path) -> Iterator[ModelProfile]:
    for repository in _children(cache):
        kind, *parts = repository.name.split("--")
        if kind != "models" or len(parts) != 2 or not all(map(_NAME.fullmatch, parts)):
            continue
        name = "/".join(parts)
        for snapshot in islice(snapshots(repository), 10):
            if _is_causal(snapshot) and is_complete(snapshot):
                yield _profile(name, Source(name), "the Hugging Face cache")
            for kind, _ in _gguf_models(snapshot):
                yield _profile(f"{name}:{kind}", Source(f"{name}:{kind}"), "the Hugging Face cache")


def _gguf_models(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yields the complete GGUF files of language models with the names that find them, such as `Q4_K_M`."""
    try:
        paths = sorted(gguf_paths(folder))[:_MOST_ENTRIES]
    except OSError:  # a folder that this user may not read counts as empty
        return
    for kind, path in gguf_by_kind(path.relative_to(folder).as_posix() for path in paths).items():
        if kind.isprintable() and is_complete(folder / path):  # for lists and logs
            yield kind, folder / path


def _is_causal(snapshot: Path) -> bool:
    with suppress(BrokenFile):
        names = read_json(snapshot / CONFIG).get("architectures")
        return isinstance(names, list) and any(str(name).endswith(_CAUSAL) for name in names)
    return False


def _profile(name: str, source: Source, place: str) -> ModelProfile:
    return ModelProfile(
        name,
        name,
        f"Found in {place}",
        (source,),
        context_length=DEFAULT_CONTEXT_LENGTH,
        size_bytes=None,
        memory_bytes=None,
    )


def _entries(folder: Path, depth: int) -> Iterator[Path]:
    """Yields the files that lie so many folders deep."""
    level: Iterable[Path] = (folder,)
    for _ in range(depth):
        level = [child for parent in level for child in _children(parent)][:_MOST_ENTRIES]
    yield from (path for path in level if path.is_file())


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())[:_MOST_ENTRIES]
    except OSError:  # no such folder, or not for this user
        return []
