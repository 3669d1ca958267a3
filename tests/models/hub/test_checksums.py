"""Files that other programs put into the Hub's cache are checked once before they are used."""

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.core.errors import ModelCorrupt
from app.models.hub.checksums import Cancelled, Checksums
from app.models.hub.client import Hub
from tests.hub.standin import StandInHub, git_id, running
from tests.models.hub.requests import HASTY, TINY, fetch, hub_of, profile

COMMIT = "a" * 40
WEIGHTS = TINY["model.safetensors"]
DIGEST = hashlib.sha256(WEIGHTS).hexdigest()


@pytest.fixture
def standin() -> Iterator[StandInHub]:
    with running(StandInHub(repositories={"owner/tiny": dict(TINY)})) as hub:
        yield hub


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    """A cache into which another program put the tiny repository."""
    repository = tmp_path / "models--owner--tiny"
    for folder in ("blobs", "refs", f"snapshots/{COMMIT}"):
        (repository / folder).mkdir(parents=True)
    for name, content in TINY.items():
        blob = hashlib.sha256(content).hexdigest() if name == "model.safetensors" else git_id(content)
        (repository / "blobs" / blob).write_bytes(content)
        (repository / "snapshots" / COMMIT / name).symlink_to(f"../../blobs/{blob}")
    (repository / "refs" / "main").write_text(COMMIT)
    return tmp_path


def weights(cache: Path) -> Path:
    return cache / "models--owner--tiny" / "blobs" / DIGEST


def flip(path: Path) -> None:
    """Changes the last byte of the file."""
    path.write_bytes(path.read_bytes()[:-1] + b"!")


def offline(cache: Path) -> Hub:
    return Hub(cache, endpoint="http://127.0.0.1:9", timeouts=HASTY)


def test_files_are_read_once_and_again_after_a_change(cached: Path) -> None:
    first = fetch(offline(cached), profile("owner/tiny"))[1].stages
    assert first[-1] == ("verify", 1.0)
    assert fetch(offline(cached), profile("owner/tiny"))[1].stages == []
    os.utime(weights(cached))
    assert fetch(offline(cached), profile("owner/tiny"))[1].stages == [("verify", 1.0)]


def test_damaged_file_is_an_error_without_a_network(cached: Path) -> None:
    fetch(offline(cached), profile("owner/tiny"))
    flip(weights(cached))
    with pytest.raises(ModelCorrupt, match="owner/tiny is damaged") as caught:
        fetch(offline(cached), profile("owner/tiny"))
    assert "downloaded again" in (caught.value.hint or "")


def test_damaged_file_alone_is_fetched_again(cached: Path, standin: StandInHub) -> None:
    flip(weights(cached))
    found, _ = fetch(hub_of(standin, cached), profile("owner/tiny"))
    assert (found.path / "model.safetensors").read_bytes() == WEIGHTS
    assert standin.bytes_sent == len(WEIGHTS)
    assert fetch(hub_of(standin, cached), profile("owner/tiny"))[0] == found


def test_damaged_file_of_an_earlier_download_is_found(cached: Path, standin: StandInHub) -> None:
    (cached / "models--owner--tiny" / "snapshots" / COMMIT / "config.json").unlink()
    flip(weights(cached))
    with pytest.raises(ModelCorrupt):
        fetch(hub_of(standin, cached), profile("owner/tiny"))
    found, _ = fetch(hub_of(standin, cached), profile("owner/tiny"))
    assert (found.path / "model.safetensors").read_bytes() == WEIGHTS


def test_only_files_of_the_model_are_checked(cached: Path) -> None:
    other = cached / "models--owner--tiny" / "snapshots" / COMMIT / "model.onnx"
    (weights(cached).parent / ("0" * 64)).write_bytes(b"the same in another format")
    other.symlink_to("../../blobs/" + "0" * 64)
    assert fetch(offline(cached), profile("owner/tiny"))[0].path == other.parent


def test_files_whose_names_are_no_checksums_are_not_checked(cached: Path) -> None:
    snapshot = cached / "models--owner--tiny" / "snapshots" / COMMIT
    (cached / "vocabulary.json").write_bytes(b"{}")
    (snapshot / "vocab.json").symlink_to(cached / "vocabulary.json")
    (snapshot / "merges.txt").write_bytes(b"no link at all")
    assert fetch(offline(cached), profile("owner/tiny"))[0].path == snapshot


def test_own_downloads_are_not_read_again(tmp_path: Path, standin: StandInHub) -> None:
    fetch(hub_of(standin, tmp_path), profile("owner/tiny"))
    assert fetch(hub_of(standin, tmp_path), profile("owner/tiny"))[1].stages == []


def test_cache_without_records_is_read_every_time(cached: Path) -> None:
    (cached / ".checked").write_text("in the way")
    for _ in range(2):
        assert fetch(offline(cached), profile("owner/tiny"))[1].stages[-1] == ("verify", 1.0)


def test_check_ends_when_cancelled(cached: Path) -> None:
    is_cancelled = threading.Event()
    is_cancelled.set()
    snapshot = cached / "models--owner--tiny" / "snapshots" / COMMIT
    with pytest.raises(Cancelled):
        Checksums(cached / ".checked").find_damaged(snapshot, lambda _: None, is_cancelled)


@pytest.mark.parametrize("reference", [b"\xff", b"a\0b", b"", b"../.."])
def test_damaged_reference_does_not_hide_the_snapshots(cached: Path, reference: bytes) -> None:
    (cached / "models--owner--tiny" / "refs" / "main").write_bytes(reference)
    found = offline(cached).find(profile("owner/tiny"))
    assert found is not None and found.path.name == COMMIT
