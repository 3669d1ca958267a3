"""Downloads a repository's files into the layout of the Hub's cache.

After a kill, huggingface_hub downloads a file again from the start, and it checks only the size. This module
resumes each file, compares it with the Hub's checksum, and only then gives it its final name.
"""

import asyncio
import errno
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from huggingface_hub import get_session, hf_hub_url, hf_raise_for_status
from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]  # its HTTP client's
from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]  # exported at run time only

from app.core.errors import ModelCorrupt
from app.models.hub.cache import cache_name, place, replace_link
from app.models.hub.checksums import Cancelled, Checksums, matches
from app.models.hub.downloads.repository import RemoteFile, Repository
from app.models.hub.downloads.unfinished_files import Lock, UnfinishedFiles
from app.models.hub.errors import disk_full
from app.models.hub.progress import Meter
from app.models.hub.threads import NetworkTimeouts, in_thread

_PARALLEL = 4
_MAX_FAILURES = 6  # in a row, without a byte of progress


@dataclass(frozen=True, slots=True)
class Download:
    """Downloads one repository into `cache_dir`. `headers`, with the token, are sent with each request."""

    repository: Repository
    cache_dir: Path
    endpoint: str
    headers: dict[str, str]
    meter: Meter
    timeouts: NetworkTimeouts
    checksums: Checksums
    make_link: Callable[[Path, str], None] = replace_link  # raises OSError if the disk has no links
    lock: Lock = WeakFileLock  # raises OSError if the disk has no locks
    is_cancelled: threading.Event = field(default_factory=threading.Event)

    async def run(self) -> Path:
        """Returns the folder of the complete snapshot. After a cancellation its threads end by themselves.

        Raises:
            DiskFull, ModelCorrupt, OSError, and the Hub client's errors.
        """
        slots = asyncio.Semaphore(_PARALLEL)

        async def fetch(file: RemoteFile) -> None:
            async with slots:
                await in_thread(lambda: self._fetch(file))

        try:
            await in_thread(self._prepare)
            fetches = [asyncio.ensure_future(fetch(file)) for file in self.repository.files]
            try:
                await asyncio.gather(*fetches)
            finally:
                for task in fetches:
                    task.cancel()
                await asyncio.gather(*fetches, return_exceptions=True)
            return await in_thread(self._link)
        except OSError as error:
            if error.errno == errno.ENOSPC:  # a quota has other errors, and more free space than it allows
                await in_thread(self._check_space)
            raise
        finally:
            self.is_cancelled.set()

    @property
    def _folder(self) -> Path:
        return self.cache_dir / cache_name(self.repository.source.repository)

    @property
    def _snapshot(self) -> Path:
        return self._folder / "snapshots" / self.repository.commit

    @property
    def _blobs(self) -> Path:
        return self._folder / "blobs"

    @property
    def _locks(self) -> Path:
        return self.cache_dir / ".locks" / self._folder.name

    @property
    def _unfinished(self) -> UnfinishedFiles:
        return UnfinishedFiles(self._blobs, self._locks, self.lock)

    def _prepare(self) -> None:
        self._blobs.mkdir(parents=True, exist_ok=True)
        self._locks.mkdir(parents=True, exist_ok=True)
        for file in self.repository.files:
            self.meter.set_done(file.name, self._on_disk(file))
        self._check_space()

    def _check_space(self) -> None:
        """Raises DiskFull if the disk has too little room for what is missing."""
        missing = sum(file.size - self._on_disk(file) for file in self.repository.files)
        free = shutil.disk_usage(self._blobs).free
        if missing > free:
            raise disk_full(self.repository.source, missing, free)

    def _on_disk(self, file: RemoteFile) -> int:
        if self._is_here(file):
            return file.size
        return min(file.size, self._unfinished.size(file.digest))

    def _is_here(self, file: RemoteFile) -> bool:
        return (self._blobs / file.digest).exists() or (self._snapshot / file.name).exists()

    def _fetch(self, file: RemoteFile) -> None:
        blob = self._blobs / file.digest
        with self._unfinished.hold(file.digest, self._stop_if_cancelled) as partial:
            if self._is_here(file):
                self.meter.set_done(file.name, file.size)
                return
            for _ in range(2):  # a byte that was corrupted on the way is usually right the second time
                self._complete(file, partial)
                if matches(partial, file.digest):
                    os.replace(partial, blob)
                    self.checksums.remember(blob)
                    return
                partial.unlink()
        raise self._corrupt(file)

    def _corrupt(self, file: RemoteFile) -> ModelCorrupt:
        return ModelCorrupt(
            f"{file.name} of {self.repository.source.location} does not match the Hub's checksum.",
            hint="Try again later, or over another network.",
        )

    def _complete(self, file: RemoteFile, partial: Path) -> None:
        """Appends the missing bytes. It retries if the connection breaks or stalls, or if the Hub fails."""
        failures = 0
        with partial.open("ab") as out:
            while (start := out.tell()) < file.size:
                try:
                    self._append(file, start, out)
                except (HTTPError, OSError) as error:
                    failures = 1 if out.tell() > start else failures + 1
                    if failures == _MAX_FAILURES or not _may_pass(error):
                        raise
                    self.is_cancelled.wait(self.timeouts.retry_s * failures)
                self._stop_if_cancelled()

    def _append(self, file: RemoteFile, start: int, out: BinaryIO) -> None:
        repository = self.repository
        url = hf_hub_url(
            repository.source.repository, file.name, revision=repository.commit, endpoint=self.endpoint
        )
        # Without compression, because the range must count the same bytes as the file on the disk.
        headers = self.headers | {"Accept-Encoding": "identity", "Range": f"bytes={start}-"}
        with get_session().stream("GET", url, headers=headers, timeout=self.timeouts.read_s) as response:
            hf_raise_for_status(response)
            if response.status_code != 206 and start:
                out.truncate(0)
                out.seek(0)
            self.meter.set_done(file.name, out.tell())
            for chunk in response.iter_bytes():
                self._stop_if_cancelled()
                if out.tell() + len(chunk) > file.size:
                    raise self._corrupt(file)
                out.write(chunk)
                self.meter.add(file.name, len(chunk))
        if out.tell() < file.size:
            raise ConnectionError("the Hub ended the file early")

    def _link(self) -> Path:
        """Links the files into the snapshot, weights last, so that a snapshot with weights is complete."""
        users = Counter(file.digest for file in self.repository.files)
        for file in self.repository.files:
            pointer, blob = self._snapshot / file.name, self._blobs / file.digest
            pointer.parent.mkdir(parents=True, exist_ok=True)
            if not pointer.exists():
                place(blob, pointer, self.make_link, keeps_blob=users[file.digest] > 1)
        ref = self._folder / "refs" / (self.repository.source.revision or "main")
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(self.repository.commit, encoding="utf-8")
        return self._snapshot

    def _stop_if_cancelled(self) -> None:
        if self.is_cancelled.is_set():
            raise Cancelled


def _may_pass(error: Exception) -> bool:
    """Returns whether a retry may help.

    It may after a broken or silent connection or an error in the Hub, but not after a refusal or with a full
    disk.
    """
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500
    return not (isinstance(error, OSError) and error.errno)
