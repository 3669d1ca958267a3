"""Finds models in the Hugging Face cache, GGUF files in folders, and files of installed packages.

The cache has a folder for each repository, with a snapshot of each commit.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from app.core.model_folder import gguf_among


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


def gguf_files(folders: Iterable[Path], wanted: str) -> Iterator[Path]:
    """Yields the GGUF file with that name, or end of a name, of each folder that has one."""
    for folder in folders:
        with suppress(OSError):
            found = gguf_among((path.name for path in folder.iterdir()), wanted)
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
