"""Finds and downloads the weights of models: from a local folder, a cache, or the Hugging Face Hub.

It tries the sources of a profile in order. No message contains a token.
"""

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from huggingface_hub import constants

from app.core.catalogue import ModelProfile, Source
from app.core.errors import ModelCorrupt, ModelMissing, ModelOffline, ModelUnavailable, NoAccess
from app.core.model_folder import holds_all_bits, is_complete, is_in_16_bits, weight_bytes
from app.models.hub.cache import SourceFolders, gguf_files
from app.models.hub.checksums import Checksums
from app.models.hub.environment import network_address, refuse_unusable_environment
from app.models.hub.errors import (
    damaged,
    is_expected,
    not_on_disk,
    offline,
    to_model_error,
    with_package,
)
from app.models.hub.progress import LoadReporter, Meter
from app.models.hub.threads import NetworkTimeouts, ask_disk, in_thread

logger = logging.getLogger(__name__)

_CHECKED = ".checked"


@dataclass(frozen=True, slots=True)
class Weights:
    """A complete model folder or GGUF file on this disk, its source, and the size of its weights.

    `has_16_bits` says whether they are stored in 16 bits, if the configuration says so, and `holds_all_bits`
    whether a load needs as much whatever their form. `adapter` is the folder of the adapter to merge, if the
    profile has one.
    """

    source: Source
    path: Path
    size_bytes: int = field(default=0, compare=False)
    has_16_bits: bool = field(default=False, compare=False)
    holds_all_bits: bool = field(default=False, compare=False)
    adapter: Path | None = None


class Hub:
    """Finds the files of a profile, and downloads them into `cache_dir` in the layout of the Hub's cache."""

    def __init__(
        self,
        cache_dir: Path,
        *,
        token: str | None = None,
        endpoint: str = constants.ENDPOINT,
        timeouts: NetworkTimeouts | None = None,
    ) -> None:
        self._cache_dir = cache_dir
        self._folders = SourceFolders(cache_dir)
        self._checksums = Checksums(self._cache_dir / _CHECKED)
        self._token = token
        self._endpoint = endpoint
        self._timeouts = NetworkTimeouts() if timeouts is None else timeouts
        self.is_reachable: bool | None = None  # whether the Hub answered when it was last needed

    def find(self, profile: ModelProfile) -> Weights | None:
        """Returns the first source of the profile whose files are complete on this disk; None without one.

        An adapter of the profile must be complete as well. Call this in a thread, as `on_disk` does, because
        a network disk may not answer.
        """
        sources = () if profile.remote is not None else profile.sources
        found = next((weights for source in sources if (weights := self._on_disk(source))), None)
        if profile.adapter is None or found is None:
            return found
        adapter = self._on_disk(profile.adapter)
        return None if adapter is None else replace(found, adapter=adapter.path)

    async def on_disk(self, profile: ModelProfile) -> Weights | None:
        """Returns the same as `find`, in a thread and with a time limit.

        Raises:
            ModelLoadFailed: the disk does not answer.
        """
        return await ask_disk(lambda: self.find(profile), self._timeouts.disk_s)

    async def has_first_source(self, profile: ModelProfile) -> bool:
        """Returns whether the files of the profile's first source are complete on this disk.

        Raises:
            ModelLoadFailed: the disk does not answer.
        """
        preferred = replace(profile, sources=profile.sources[:1])
        return await self.on_disk(preferred) is not None

    def conversion_folder(self, source: Source) -> Path:
        """Returns the folder for safetensors made from the source's pickle."""
        return self._folders.conversion(source)

    async def forget_pickle(self, source: Source) -> None:
        """Deletes a downloaded pickle if the safetensors made from it are complete.

        The user's own cache and folders are not touched.
        """
        await in_thread(lambda: self._folders.forget_pickle(source))

    async def sweep(self) -> None:
        """Removes the remains of killed downloads."""
        await in_thread(self._sweep)

    def _sweep(self) -> None:
        from app.models.hub.downloads.unfinished_files import sweep  # imported here as in `_import_download`

        sweep(self._cache_dir)

    async def fetch(self, profile: ModelProfile, report: LoadReporter) -> Weights:
        """Returns the weights of the first available source, downloaded if they are not on this disk.

        The adapter of the profile is downloaded as well. Another source is tried only if this machine has no
        access to the previous one. If no source is available, weights from any source that are on this disk
        are used.

        Raises:
            ModelUnavailable: the first source is not available, for the reason in the subclass and message.
        """
        weights = await self._fetch(replace(profile, adapter=None), report)
        if (adapter := profile.adapter_profile) is None:
            return weights
        return replace(weights, adapter=(await self._fetch(adapter, report)).path)

    async def _fetch(self, profile: ModelProfile, report: LoadReporter) -> Weights:
        first_error: ModelUnavailable | None = None
        for source in await self._in_order(profile):
            try:
                return await self._check_weights(source, report)
            except ModelUnavailable as error:
                logger.warning("model source unavailable: source=%s code=%s", source.location, error.code)
                first_error = first_error or error
                if not isinstance(error, NoAccess):
                    break
        fallback = await self.on_disk(profile)
        if fallback is not None and await self._damage(fallback, report) is None:
            return fallback
        assert first_error is not None, "a profile has a source"
        raise with_package(first_error, profile.sources)

    async def _in_order(self, profile: ModelProfile) -> Sequence[Source]:
        """Returns the sources in the order in which they are tried.

        The file of an installed package comes before a download: it was installed to be used, it is here, and
        the same model answers with and without a network. A copy of the Hub that is here comes before it.
        """
        found = await self.on_disk(profile)
        if found is None or found.source.package_file is None:
            return profile.sources
        return (found.source, *(source for source in profile.sources if source != found.source))

    def _on_disk(self, source: Source) -> Weights | None:
        folders = self._folders.candidates(source)
        complete = (path for path in folders if is_complete(path, takes_pickle=source.takes_pickle))
        path = next(complete, None)
        if path is None:
            return None
        return Weights(source, path, weight_bytes(path), is_in_16_bits(path), holds_all_bits(path))

    async def _check_weights(self, source: Source, report: LoadReporter) -> Weights:
        """Returns the source's weights, in which every file matches its checksum."""
        weights = await ask_disk(lambda: self._on_disk(source), self._timeouts.disk_s)
        damage = None
        if weights is not None:
            damage = await self._damage(weights, report)
            if damage is None:
                return weights
        try:
            weights = Weights(source, await self._fetch_source(source, report))
        except ModelOffline as error:
            raise damage or error from None
        if damage := await self._damage(weights, report):  # in a file that an earlier download left
            raise damage
        return weights

    async def _damage(self, weights: Weights, report: LoadReporter) -> ModelCorrupt | None:
        """Returns the error for a damaged file in a Hub cache; None if no file is damaged.

        A damaged file in this server's own cache is deleted, so that it is downloaded again.
        """
        is_cancelled = threading.Event()
        try:
            blob = await in_thread(
                lambda: self._find_damaged(weights.path, partial(report, "verify"), is_cancelled)
            )
        finally:
            is_cancelled.set()
        if blob is None:
            return None
        logger.warning("file damaged: source=%s blob=%s", weights.source.location, blob.name)
        return damaged(weights.source)

    def _find_damaged(
        self, folder: Path, report: Callable[[float], None], is_cancelled: threading.Event
    ) -> Path | None:
        blob = self._checksums.find_damaged(folder, report, is_cancelled)
        if blob is not None and blob.is_relative_to(self._cache_dir.resolve()):
            blob.unlink(missing_ok=True)
        return blob

    async def _fetch_source(self, source: Source, report: LoadReporter) -> Path:
        if source.is_local or source.package_file is not None:
            raise await ask_disk(lambda: not_on_disk(source), self._timeouts.disk_s)
        report("resolve", 0.0)
        await self._probe(source)
        path = await self._download(source, report)
        if source.gguf_name is not None:
            path = next(gguf_files([path], source.gguf_name), path)
        look = partial(is_complete, path, takes_pickle=source.takes_pickle)
        if not await ask_disk(look, self._timeouts.disk_s):
            raise ModelMissing(
                f"{source.location} has no tokenizer or no config.json: it is not a complete model.",
                hint="Look for the repository that it was made from.",
            )
        return path

    async def check_reachable(self) -> None:
        """Finds out whether the Hub is reachable, within the probe's timeout."""
        self.is_reachable = not constants.HF_HUB_OFFLINE and await self._connects()

    async def _probe(self, source: Source) -> None:
        """Raises ModelOffline within the probe's timeout if the Hub is unreachable or silent."""
        if not constants.HF_HUB_OFFLINE:
            await in_thread(refuse_unusable_environment)
        await self.check_reachable()
        if not self.is_reachable:
            raise offline(source)

    async def _connects(self) -> bool:
        limit_s = self._timeouts.probe_s
        try:
            address = network_address(self._endpoint)
            # Looking up a name can take longer than the socket's own timeout.
            connecting = in_thread(lambda: socket.create_connection(address, limit_s).close())
            await asyncio.wait_for(connecting, limit_s)
        except (OSError, ValueError):  # TimeoutError, or a proxy whose port is not one
            return False
        return True

    async def _download(self, source: Source, report: LoadReporter) -> Path:
        await in_thread(_import_download)
        from huggingface_hub import HfApi
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # at run time only

        from app.models.hub.downloads.download import Download
        from app.models.hub.downloads.repository import look_up

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
        except Exception as error:  # the Hub's HTTP client raises classes of its own
            logger.warning(
                "download failed: source=%s error=%s",
                source.location,
                type(error).__name__,
                exc_info=not is_expected(error),
            )
            raise to_model_error(source, error, has_token="authorization" in headers) from None


def _import_download() -> None:
    """Imports the modules for a download. Earlier, they would double the server's start-up time."""
    import app.models.hub.downloads.download
    import app.models.hub.downloads.repository  # noqa: F401  # imported to be there
