"""Owns where weights come from: a local folder, the cache, the Hub; each way to fail is its own error.

Knows nothing of workers. Never imports torch; never lets a token into a message.
"""

import asyncio
import io
import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from tqdm.auto import tqdm

from app.core.catalogue import ModelProfile, Source
from app.core.errors import (
    DomainError,
    HubUnreachable,
    ModelGated,
    ModelMissing,
    ModelOffline,
    ModelRefused,
    ModelUnavailable,
)

logger = logging.getLogger(__name__)

FILES = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
Report = Callable[[float], None]  # a measured fraction of the bytes
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Weights:
    """A complete local folder, and the source it came from."""

    source: Source
    path: Path


class Hub:
    """Finds the files of a profile and fetches them into `cache_dir`, in the layout of the Hub's cache."""

    def __init__(
        self,
        cache_dir: Path,
        *,
        token: str | None = None,
        endpoint: str = constants.ENDPOINT,
        probe_timeout_s: float = 3.0,
    ) -> None:
        self._cache_dir = cache_dir.expanduser()
        self._token = token
        self._endpoint = endpoint
        self._probe_timeout_s = probe_timeout_s

    def find(self, profile: ModelProfile) -> Weights | None:
        """The first source of the profile whose files are complete on this disk."""
        for source in profile.sources:
            for folder in self._places(source):
                if is_complete(folder):
                    return Weights(source, folder)
        return None

    def has_first_source(self, profile: ModelProfile) -> bool:
        """Whether the profile would be served from where it is meant to come from, and at once."""
        return any(map(is_complete, self._places(profile.sources[0])))

    async def fetch(self, profile: ModelProfile, report: Report) -> Weights:
        """The weights of the first source that can be had, fetched if they must be.

        Raises:
            ModelUnavailable: the subclass and the message of the first source say why none could be had.
        """
        errors: list[DomainError] = []
        for source in profile.sources:
            on_disk = next(filter(is_complete, self._places(source)), None)
            if on_disk is not None:
                return Weights(source, on_disk)
            try:
                return Weights(source, await self._fetch_source(source, report))
            except ModelUnavailable as error:
                logger.warning("model source unavailable: source=%s code=%s", source.location, error.code)
                errors.append(error)
                if isinstance(error, ModelOffline):
                    break  # the other sources are behind the same network
        on_disk_anyway = self.find(profile)
        if on_disk_anyway is not None:
            return on_disk_anyway
        raise errors[0]

    def _places(self, source: Source) -> Iterator[Path]:
        if source.is_local:
            yield Path(source.location)
            return
        yield self._cache_dir / source.location
        folder = "models--" + source.location.replace("/", "--")
        for cache in (self._cache_dir, Path(constants.HF_HUB_CACHE)):
            yield from _snapshots(cache / folder)

    async def _fetch_source(self, source: Source, report: Report) -> Path:
        if source.is_local:
            raise ModelMissing(
                f"The folder of {source.location} is missing or incomplete.",
                hint="It needs config.json, a tokenizer and *.safetensors.",
            )
        await self._probe(source)
        path = await self._download(source, report)
        if not is_complete(path):
            raise ModelRefused(
                f"{source.location} has no weights in the safetensors format.",
                hint="Other formats can run code when they are opened, so they are not read.",
            )
        return path

    async def _probe(self, source: Source) -> None:
        """Finds out within the probe's time that there is no network, also where packets vanish."""
        offline = ModelOffline(
            f"{source.location} is not on this machine and the Hugging Face Hub cannot be reached.",
            hint="Connect to the network and try again, or use the built-in model.",
        )
        if constants.HF_HUB_OFFLINE:
            raise offline
        address = _address(self._endpoint)
        try:
            # Given up on from outside: to look a name up can take longer than a socket's own timeout.
            connecting = in_thread(lambda: socket.create_connection(address, self._probe_timeout_s).close())
            await asyncio.wait_for(connecting, self._probe_timeout_s)
        except OSError:  # TimeoutError is one
            raise offline from None

    async def _download(self, source: Source, report: Report) -> Path:
        """Raises ModelUnavailable. Once this is cancelled the download ends with its next 10 MB."""
        is_cancelled = threading.Event()
        try:
            return await in_thread(lambda: self._snapshot(source, _progress_bar(report, is_cancelled)))
        finally:
            is_cancelled.set()

    def _snapshot(self, source: Source, progress_bar: "type[tqdm[Any]]") -> Path:  # Any: see _progress_bar
        from huggingface_hub import snapshot_download  # here: its import would double the start of the server

        try:
            folder = snapshot_download(
                source.location,
                cache_dir=self._cache_dir,
                token=self._token,
                endpoint=self._endpoint,
                allow_patterns=list(FILES),
                tqdm_class=progress_bar,
            )
        except (
            Exception
        ) as error:  # the thread's root; a broken connection has a class of the Hub's own client
            logger.warning("download failed: source=%s error=%s", source.location, type(error).__name__)
            raise _explain(source, error) from None
        return Path(folder)


async def in_thread(work: Callable[[], T]) -> T:
    """Runs `work` in a daemon thread: unlike asyncio's own, one that hangs does not keep the process."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(settle_with: Callable[[Any], None], outcome: Any) -> None:  # Any: a result or an exception
        if not future.done():
            settle_with(outcome)

    def run() -> None:
        try:
            outcome: tuple[Callable[[Any], None], Any] = (future.set_result, work())
        except Exception as error:  # the thread's root: it is raised where the thread is waited for
            outcome = (future.set_exception, error)
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=run, name="hub", daemon=True).start()
    return await future


def _address(endpoint: str) -> tuple[str, int]:
    """Host and port that a connection to the Hub is made to: its own, or those of a proxy."""
    url = urlsplit(endpoint)
    proxy = getproxies().get(url.scheme)
    if proxy and url.hostname and not proxy_bypass(url.hostname):
        url = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    return url.hostname or "", url.port or (443 if url.scheme == "https" else 80)


def _progress_bar(
    report: Report, is_cancelled: threading.Event
) -> "type[tqdm[Any]]":  # Any: what a bar iterates over; here nothing
    """A class for `snapshot_download` to report its bytes with: tqdm's arithmetic without its drawing."""

    class Bar(tqdm):  # type: ignore[type-arg]  # generic in its stubs only
        def __init__(self, *args: Any, **kwargs: Any) -> None:  # Any: tqdm's own signature
            self.counts_bytes = kwargs.get("unit") == "B"
            super().__init__(*args, **(kwargs | {"file": io.StringIO()}))

        def update(self, n: float | None = 1) -> bool | None:
            if is_cancelled.is_set():
                raise InterruptedError("nobody waits for the download any more")
            is_drawn: bool | None = super().update(n)
            if self.counts_bytes and self.total:
                report(min(1.0, self.n / self.total))
            return is_drawn

    return Bar


def _explain(source: Source, error: Exception) -> ModelUnavailable:
    """The domain error for one of the Hub's. Subclasses come before their parents."""
    name = source.location
    if isinstance(error, GatedRepoError):
        return ModelGated(
            f"{name} is gated: this machine's token may not read it.",
            hint=f"Accept its licence at https://huggingface.co/{name} and set LLM_HF_TOKEN.",
        )
    if isinstance(error, RepositoryNotFoundError):
        return ModelMissing(
            f"{name} was not found on the Hub, or needs a token to be seen.",
            hint="Check the name, or set LLM_HF_TOKEN.",
        )
    if isinstance(error, LocalEntryNotFoundError):
        if isinstance(error.__cause__, HfHubHTTPError):
            return _explain(source, error.__cause__)
        return ModelOffline(f"{name} is not on this machine and could not be fetched from the Hub.")
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status == 429:
            return HubUnreachable(
                "The Hub asks to come back later (429).", hint="Wait some minutes and try again."
            )
        if status in (401, 403):
            return ModelGated(f"The Hub refused to give {name} ({status}).", hint="Check LLM_HF_TOKEN.")
        return HubUnreachable(f"The Hub answered {status} for {name}.", hint="Try again later.")
    if isinstance(error, HFValidationError):
        return ModelMissing(f"{name} is no valid name of a repository.")
    if isinstance(error, OSError) and error.errno:
        return HubUnreachable(
            f"{name} could not be stored: {os.strerror(error.errno)}.",
            hint="Check the disk space and the permissions of LLM_MODEL_CACHE_DIR, then try again.",
        )
    return HubUnreachable(f"Fetching {name} broke off.", hint="Try again: it goes on where it stopped.")


def _snapshots(folder: Path) -> Iterator[Path]:
    """The snapshot that `main` points to, then any other, in the layout of the Hub's cache."""
    main = folder / "refs" / "main"
    with suppress(OSError):  # a cache that this user may not read holds nothing for them
        if main.is_file():
            yield folder / "snapshots" / main.read_text(encoding="utf-8").strip()
        if (folder / "snapshots").is_dir():
            yield from sorted((folder / "snapshots").iterdir())


def is_complete(folder: Path) -> bool:
    """Whether the folder holds a configuration, a tokenizer and every shard of the weights."""
    try:
        has_tokenizer = any((folder / name).is_file() for name in TOKENIZER_FILES)
        if not has_tokenizer or not (folder / "config.json").is_file():
            return False
        return (folder / "model.safetensors").is_file() or _has_every_shard(folder)
    except OSError:
        return False


def _has_every_shard(folder: Path) -> bool:
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
        shards = set(index["weight_map"].values())
        return bool(shards) and all(
            Path(shard).name == shard and (folder / shard).is_file() for shard in shards
        )
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False
