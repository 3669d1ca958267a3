"""Finds models in the layout of the Hugging Face cache: folders of repositories, snapshots of commits."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def cache_name(location: str) -> str:
    """The name of a repository's folder in the cache."""
    return "models--" + location.replace("/", "--")


def snapshots(repository: Path, revision: str | None = None) -> Iterator[Path]:
    """The snapshot of the revision, or of `main`, and then, if no revision is asked for, every other one."""
    with suppress(OSError):  # a cache that this user may not read holds nothing for them
        ref = repository / "refs" / (revision or "main")
        if ref.is_file():
            yield repository / "snapshots" / ref.read_text(encoding="utf-8").strip()
        if revision is not None:
            yield repository / "snapshots" / revision
        elif (repository / "snapshots").is_dir():
            yield from sorted((repository / "snapshots").iterdir())
