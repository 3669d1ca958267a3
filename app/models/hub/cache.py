"""Finds models in the layout of the Hugging Face cache: folders for repositories, snapshots of commits."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


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


def _commit(reference: Path) -> str | None:
    try:
        return reference.read_text(encoding="ascii").strip() if reference.is_file() else None
    except (OSError, UnicodeDecodeError):
        return None
