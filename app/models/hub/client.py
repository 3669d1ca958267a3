"""Owns where weights come from: a local folder, the cache, the Hub; the sources of a profile in order.

Knows nothing of workers. Never imports torch; never lets a token into a message.
"""

import asyncio
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from huggingface_hub import constants

from app.core.catalogue import ModelProfile, Source
from app.core.errors import ModelCorrupt, ModelMissing, ModelOffline, ModelUnavailable, NoAccess
from app.core.model_folder import PICKLE, is_complete
from app.models.hub.cache import cache_name, snapshots
from app.models.hub.checksums import Checksums
from app.models.hub.errors import damaged, offline, to_model_error
from app.models.hub.progress import Meter, ReportProgress
from app.models.hub.threads import NetworkTimeouts, in_thread

logger = logging.getLogger(__name__)

_CONVERTED = "converted"
_CHECKED = ".checked"


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
        timeouts: NetworkTimeouts | None = None,
    ) -> None:
        self._cache_dir = cache_dir.expanduser()
        self._checksums = Checksums(self._cache_dir / _CHECKED)
        self._token = token
        self._endpoint = endpoint
        self._timeouts = NetworkTimeouts() if timeouts is None else timeouts

    def find(self, profile: ModelProfile) -> Weights | None:
        """The first source of the profile whose files are complete on this disk."""
        return next((weights for source in profile.sources if (weights := self._on_disk(source))), None)

    def has_first_source(self, profile: ModelProfile) -> bool:
        """Whether the profile would be served from where it is meant to come from, and at once."""
        return self._on_disk(profile.sources[0]) is not None

    def converted(self, source: Source) -> Path:
        """Where weights that came as a pickle are kept as safetensors."""
        return self._cache_dir / _CONVERTED / source.location

    async def forget_pickle(self, source: Source) -> None:
        """Gives the room of a pickle back, once what was made of it has shown that it serves.

        Only what was downloaded here: the user's own cache and folders are nobody else's to change.
        """
        await in_thread(lambda: self._forget_pickle(source))

    def _forget_pickle(self, source: Source) -> None:
        is_shared = self._cache_dir.resolve() == Path(constants.HF_HUB_CACHE).resolve()
        if is_shared or not is_complete(self.converted(source)):
            return
        for snapshot in snapshots(self._cache_dir / cache_name(source.location)):
            pointer = snapshot / PICKLE
            with suppress(OSError):
                pointer.resolve(strict=True).unlink()
                pointer.unlink(missing_ok=True)

    async def sweep(self) -> None:
        """Removes what killed downloads left behind."""
        from app.models.hub.download import sweep  # here, like below

        await in_thread(lambda: sweep(self._cache_dir))

    async def fetch(self, profile: ModelProfile, report: ReportProgress) -> Weights:
        """The weights of the first source that can be had, fetched if they must be.

        The next source takes the place of one that this machine may not have, and of no other.

        Raises:
            ModelUnavailable: the subclass and the message of the first source say why none could be had.
        """
        first_error: ModelUnavailable | None = None
        for source in profile.sources:
            try:
                return await self._have(source, report)
            except ModelUnavailable as error:
                logger.warning("model source unavailable: source=%s code=%s", source.location, error.code)
                first_error = first_error or error
                if not isinstance(error, NoAccess):
                    break
        on_disk_anyway = self.find(profile)
        if on_disk_anyway is not None and await self._damage(on_disk_anyway, report) is None:
            return on_disk_anyway
        assert first_error is not None, "a profile has a source"
        raise first_error

    def _on_disk(self, source: Source) -> Weights | None:
        complete = (p for p in self._places(source) if is_complete(p, takes_pickle=source.takes_pickle))
        return next((Weights(source, folder) for folder in complete), None)

    def _places(self, source: Source) -> Iterator[Path]:
        if source.is_local:
            yield Path(source.location)
            return
        if source.takes_pickle:
            yield self.converted(source)
        if source.revision is None:
            yield self._cache_dir / source.location
        for cache in (self._cache_dir, Path(constants.HF_HUB_CACHE)):
            yield from snapshots(cache / cache_name(source.location), source.revision)

    async def _have(self, source: Source, report: ReportProgress) -> Weights:
        """The source's weights, every file of which was compared with its checksum."""
        weights, damage = self._on_disk(source), None
        if weights is not None:
            damage = await self._damage(weights, report)
            if damage is None:
                return weights
        try:
            weights = Weights(source, await self._fetch_source(source, report))
        except ModelOffline as error:
            raise damage or error from None
        if damage := await self._damage(weights, report):  # in a file that was there before
            raise damage
        return weights

    async def _damage(self, weights: Weights, report: ReportProgress) -> ModelCorrupt | None:
        """What is wrong with files in a Hub's cache. This cache's own make way for being fetched again."""
        is_cancelled = threading.Event()
        try:
            blob = await in_thread(
                lambda: self._checksums.damaged(weights.path, partial(report, "verify"), is_cancelled)
            )
        finally:
            is_cancelled.set()
        if blob is None:
            return None
        logger.warning("file damaged: source=%s blob=%s", weights.source.location, blob.name)
        if blob.is_relative_to(self._cache_dir.resolve()):
            blob.unlink(missing_ok=True)
        return damaged(weights.source)

    async def _fetch_source(self, source: Source, report: ReportProgress) -> Path:
        if source.is_local:
            raise ModelMissing(
                f"The folder of {source.location} is missing or incomplete.",
                hint="It needs config.json, a tokenizer and *.safetensors.",
            )
        report("resolve", 0.0)
        await self._probe(source)
        path = await self._download(source, report)
        if not is_complete(path, takes_pickle=source.takes_pickle):
            raise ModelMissing(
                f"{source.location} has no tokenizer or no config.json: it is no whole model.",
                hint="Look for the repository that it was made from.",
            )
        return path

    async def _probe(self, source: Source) -> None:
        """Finds out within the probe's time that there is no network, also where packets vanish."""
        if constants.HF_HUB_OFFLINE:
            raise offline(source)
        address, limit_s = _address(self._endpoint), self._timeouts.probe_s
        try:
            # Given up on from outside: to look a name up can take longer than a socket's own timeout.
            connecting = in_thread(lambda: socket.create_connection(address, limit_s).close())
            await asyncio.wait_for(connecting, limit_s)
        except OSError:  # TimeoutError is one
            raise offline(source) from None

    async def _download(self, source: Source, report: ReportProgress) -> Path:
        # Here: these imports would double the start of the server.
        from huggingface_hub import HfApi
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # at run time only

        from app.models.hub.download import Download
        from app.models.hub.repository import look_up

        headers: dict[str, str] = {}
        try:
            headers = await in_thread(lambda: build_hf_headers(token=self._token))
            api = HfApi(endpoint=self._endpoint, token=self._token)
            repository = await in_thread(lambda: look_up(api, source))
            report("resolve", 1.0)
            meter = Meter(report, {file.name: file.size for file in repository.files})
            download = Download(
                repository, self._cache_dir, self._endpoint, headers, meter, self._timeouts, self._checksums
            )
            return await download.run()
        except Exception as error:  # a broken connection has a class of the Hub's own client
            logger.warning("download failed: source=%s error=%s", source.location, type(error).__name__)
            raise to_model_error(source, error, has_token="authorization" in headers) from None


def _address(endpoint: str) -> tuple[str, int]:
    """Host and port that a connection to the Hub is made to: its own, or those of a proxy."""
    url = urlsplit(endpoint)
    proxy = getproxies().get(url.scheme)
    if proxy and url.hostname and not proxy_bypass(url.hostname):
        url = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    return url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
