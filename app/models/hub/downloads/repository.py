"""Asks the Hub for a repository's commit and for the files that belong to a model.

The Hub's answers become file names on this disk, so all of them are checked.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.hf_api import RepoSibling

from app.core.catalogue import Source
from app.core.errors import HubUnreachable, ModelMissing, ModelRefused
from app.core.gguf_names import gguf_among, gguf_by_kind, gguf_parts
from app.core.model_folder import INDEX, TEMPLATE_FOLDER, is_text, weights_among

LOOKUP_TIMEOUT_S = 10.0
_NAME = re.compile(rf"({TEMPLATE_FOLDER}/)?[\w-][\w.+-]*")
_GGUF_NAME = re.compile(r"([\w-][\w.+-]*/)?[\w-][\w.+-]*\.gguf", re.IGNORECASE)
_USUAL = "Q4_K_M"
_HEX = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on the Hub. `digest`, its name in the cache, is the SHA-256 if it is large, else git's id."""

    name: str
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class Repository:
    source: Source
    commit: str
    files: tuple[RemoteFile, ...]  # the smallest first, the weights last


def look_up(api: HfApi, source: Source) -> Repository:
    """Returns the repository's files, after checking that this machine may read them.

    Raises:
        ModelRefused: the repository has no weights in a safe format.
        HubUnreachable: the answer makes no sense.
        HfHubHTTPError: see HfApi.model_info.
    """
    info = api.model_info(
        source.repository, revision=source.revision, files_metadata=True, timeout=LOOKUP_TIMEOUT_S
    )
    if info.gated:
        api.auth_check(source.repository)
    offered = {sibling.rfilename: sibling for sibling in info.siblings or () if _is_wanted(sibling.rfilename)}
    weights = _weights(offered, source)
    names = {name for name in offered if is_text(name)} - {INDEX} if source.gguf_name is None else set()
    files = [_file(offered[name], source) for name in names] + [_file(offered[n], source) for n in weights]
    is_weight = set(weights)
    files.sort(key=lambda file: (file.name in is_weight, file.size))
    return Repository(source, _check_hex(info.sha, source), tuple(files))


def _is_wanted(name: str) -> bool:
    return any(pattern.fullmatch(name) for pattern in (_NAME, _GGUF_NAME))


def _weights(names: Iterable[str], source: Source) -> list[str]:
    if source.gguf_name is not None:
        parts = {path.as_posix() for path in gguf_parts(Path(_gguf(names, source)))}
        return sorted(parts.intersection(names))
    weights = weights_among(names, source.takes_pickle)
    if weights:
        return weights
    if kinds := gguf_by_kind(names):
        raise ModelRefused(
            f"{source.location} has no safetensors, only GGUF files.",
            hint=f"Name one of them, such as {source.location}:{_usual(kinds)}. {_listed(kinds)}",
        )
    raise ModelRefused(
        f"{source.location} has no weights in the safetensors format.",
        hint="Other formats can run code when they are opened, so they are never read.",
    )


def _gguf(names: Iterable[str], source: Source) -> str:
    assert source.gguf_name is not None
    found = gguf_among(names, source.gguf_name)
    if found is None:
        kinds = gguf_by_kind(names)
        raise ModelMissing(
            f"{source.repository} has no GGUF file called {source.gguf_name}.",
            hint=_listed(kinds) if kinds else "It has no GGUF files at all.",
        )
    return found


def _usual(kinds: Iterable[str]) -> str:
    """Returns the kind that llama.cpp and Ollama choose if there is one, else the first."""
    return min(kinds, key=lambda kind: kind.upper() != _USUAL)


def _listed(kinds: Iterable[str]) -> str:
    return f"It has {', '.join(kinds)}."


def _file(sibling: RepoSibling, source: Source) -> RemoteFile:
    large = sibling.lfs
    digest = sibling.blob_id if large is None else large.sha256
    size = sibling.size if large is None else large.size
    if not isinstance(size, int) or size < 0:
        raise _invalid_answer(source)
    return RemoteFile(sibling.rfilename, size, _check_hex(digest, source))


def _check_hex(digest: str | None, source: Source) -> str:
    if digest is None or not _HEX.fullmatch(digest):
        raise _invalid_answer(source)
    return digest


def _invalid_answer(source: Source) -> HubUnreachable:
    return HubUnreachable(
        f"The Hub's answer about {source.location} makes no sense.",
        hint="Check that HF_ENDPOINT is the address of a Hub.",
    )
