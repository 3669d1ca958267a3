"""Finds models in the Hugging Face cache, GGUF files in folders, and files of installed packages.

The cache has a folder for each repository, with a snapshot of each commit, whose files are links to blobs.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

from huggingface_hub import constants

from app.core.catalogue import Source
from app.core.gguf_names import gguf_among, gguf_paths
from app.core.model_folder import PICKLE, is_complete

_CONVERTED = "converted"


class SourceFolders:
    """The places on this disk where the files of a source may be. Most need not exist."""

    def __init__(self, cache_dir: Path) -> None:
        """`cache_dir` is this server's own cache, which comes before the user's."""
        self._cache_dir = cache_dir

    def conversion(self, source: Source) -> Path:
        """Returns the folder for safetensors made from the source's pickle."""
        return self._cache_dir / _CONVERTED / source.location

    def candidates(self, source: Source) -> Iterator[Path]:
        """Yields the folders or files that may be the source's, the preferred ones first."""
        if source.package_file is not None:
            yield from package_file(source.package_file)
        elif source.is_local:
            yield Path(source.location)
        elif source.gguf_name is not None:
            yield from gguf_files(self._of_repository(source), source.gguf_name)
        else:
            yield from self._of_repository(source)

    def forget_pickle(self, source: Source) -> None:
        """See Hub."""
        is_shared = self._cache_dir.resolve() == Path(constants.HF_HUB_CACHE).resolve()
        if is_shared or not is_complete(self.conversion(source)):
            return
        for snapshot in snapshots(self._cache_dir / cache_name(source.location)):
            pointer = snapshot / PICKLE
            with suppress(OSError):
                pointer.resolve(strict=True).unlink()
                pointer.unlink(missing_ok=True)

    def _of_repository(self, source: Source) -> Iterator[Path]:
        if source.takes_pickle:
            yield self.conversion(source)
        if source.revision is None:
            yield self._cache_dir / source.repository
        for cache in (self._cache_dir, Path(constants.HF_HUB_CACHE)):
            yield from snapshots(cache / cache_name(source.repository), source.revision)


def cache_name(location: str) -> str:
    """Returns the name of a repository's folder in the cache."""
    return "models--" + location.replace("/", "--")


def snapshots(repository: Path, revision: str | None = None) -> Iterator[Path]:
    """Yields the snapshot of the revision. Without a revision, yields that of `main`, then all others."""
    commit = _commit(repository / "refs" / (revision or "main"))
    if commit is not None:
        yield repository / "snapshots" / commit
    with suppress(OSError):  # a cache that this user may not read counts as empty
        if revision is not None:
            yield repository / "snapshots" / revision
        elif (repository / "snapshots").is_dir():
            yield from sorted((repository / "snapshots").iterdir())


def place(
    blob: Path, pointer: Path, make_link: Callable[[Path, str], None], *, keeps_blob: bool = False
) -> None:
    """Links `pointer` to the blob. Where the file system has no links, it moves the blob there.

    With `keeps_blob` it is copied instead, for other files with the same content.
    """
    try:
        make_link(pointer, os.path.relpath(blob, pointer.parent))
    except OSError:
        try:
            os.replace(_copied(blob) if keeps_blob else blob, pointer)
        except FileNotFoundError:
            if not pointer.exists():  # otherwise another download has moved it
                raise


def _copied(blob: Path) -> Path:
    fresh = blob.with_name(f"tmp_{uuid4()}")  # a name that `sweep` removes
    shutil.copyfile(blob, fresh)
    return fresh


def replace_link(pointer: Path, target: str) -> None:
    """Creates the link atomically, because another download may create the same one at the same time."""
    fresh = pointer.with_name(f".{pointer.name}.{uuid4().hex}")
    fresh.symlink_to(target)
    os.replace(fresh, pointer)


def gguf_files(folders: Iterable[Path], wanted: str) -> Iterator[Path]:
    """Yields the GGUF file with that name, or end of a name, of each folder that has one."""
    for folder in folders:
        with suppress(OSError):
            found = gguf_among((path.relative_to(folder).as_posix() for path in gguf_paths(folder)), wanted)
            if found is not None:
                yield folder / found


def package_file(name: str) -> Iterator[Path]:
    """Yields the path of `package/file`, if that package is installed. The package is not imported."""
    package, _, file = name.partition("/")
    found = find_spec(package)
    for folder in (found.submodule_search_locations or ()) if found is not None else ():
        yield Path(folder) / file


def _commit(reference: Path) -> str | None:
    try:
        return reference.read_text(encoding="ascii").strip() if reference.is_file() else None
    except (OSError, UnicodeDecodeError):
        return None
