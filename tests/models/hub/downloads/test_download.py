"""Downloads are complete or fail, whatever the network, the Hub, the disk or a kill does."""

import asyncio
import errno
import hashlib
import json
import os
import random
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]  # exported at run time only

from app.core.errors import DiskFull, HubUnreachable, ModelCorrupt, RateLimited
from app.models.hub.cache import place, replace_link
from app.models.hub.checksums import Checksums
from app.models.hub.downloads.download import Download
from app.models.hub.downloads.repository import look_up
from app.models.hub.downloads.unfinished_files import sweep
from app.models.hub.progress import Meter, Transfer
from tests.hub.standin import Mishap, Refusal, StandInHub, git_id, running
from tests.models.hub.requests import (
    FETCH_TIMEOUT_S,
    HASTY,
    SECRET,
    TINY,
    Reports,
    fetch,
    hub_of,
    make_folder,
    profile,
)
from tests.server import ROOT
from tests.waiting import LIMIT_S, until

WEIGHTS = TINY["model.safetensors"]
DIGEST = hashlib.sha256(WEIGHTS).hexdigest()
KILLED = ROOT / "tests" / "hub" / "killed.py"


@pytest.fixture
def standin() -> Iterator[StandInHub]:
    with running(StandInHub(repositories={"owner/tiny": dict(TINY)})) as hub:
        yield hub


def blobs(cache: Path) -> Path:
    return cache / "models--owner--tiny" / "blobs"


def test_fetch_downloads_once_and_then_finds_it(tmp_path: Path, standin: StandInHub) -> None:
    standin.repositories["owner/tiny"] |= {
        "evil.py": b"boom",
        "pytorch_model.bin": b"pickle",
        "onnx/model.safetensors": b"another format",
        "consolidated.safetensors": b"the same again",
        "additional_chat_templates/tools.jinja": b"tools",
    }
    hub = hub_of(standin, tmp_path)
    weights, reports = fetch(hub, profile("owner/tiny"))
    assert (weights.path / "model.safetensors").read_bytes() == WEIGHTS
    names = {str(path.relative_to(weights.path)) for path in weights.path.rglob("*.*")}
    assert names == {*TINY, "additional_chat_templates/tools.jinja"}
    assert (blobs(tmp_path) / git_id(b"tools")).read_bytes() == b"tools"
    assert set(standin.tokens) == {SECRET}
    asked = len(standin.requests)
    assert hub.find(profile("owner/tiny")) == weights
    assert fetch(hub, profile("owner/tiny"))[0] == weights
    assert len(standin.requests) == asked


def test_shards_are_fetched_with_their_index(tmp_path: Path, standin: StandInHub) -> None:
    shards = {f"model-0000{n}-of-00002.safetensors": bytes([n]) * 999 for n in (1, 2)}
    index = json.dumps({"weight_map": dict(zip("ab", shards, strict=True))}).encode()
    files = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors.index.json": index}
    standin.repositories["owner/tiny"] = files | shards
    weights, _ = fetch(hub_of(standin, tmp_path), profile("owner/tiny"))
    assert {name: (weights.path / name).read_bytes() for name in shards} == shards


def test_progress_is_bytes_over_bytes(tmp_path: Path, standin: StandInHub) -> None:
    standin.mishaps["model.safetensors"] = Mishap("trickle")
    _, reports = fetch(hub_of(standin, tmp_path), profile("owner/tiny"))
    stages = list(dict.fromkeys(stage for stage, _ in reports.stages))
    assert stages == ["resolve", "download"]
    done = [transfer.done_bytes for transfer in reports.transfers]
    assert done == sorted(done) and len(set(done)) > 3
    last = reports.transfers[-1]
    assert last.done_bytes == last.total_bytes == sum(map(len, TINY.values()))
    assert {file.name: file.total_bytes for file in last.files} == {n: len(c) for n, c in TINY.items()}
    assert last.bytes_per_s is not None and last.bytes_per_s > 0
    assert last.seconds_left == 0


def test_meter_measures_the_rate_of_the_last_seconds() -> None:
    now, transfers = [0.0], list[Transfer]()
    meter = Meter(lambda _, __, transfer=None: transfers.append(transfer), {"a": 1000}, lambda: now[0])
    meter.set_done("a", 200)
    assert transfers[-1].bytes_per_s is None and transfers[-1].seconds_left is None
    for _ in range(10):
        now[0] += 1
        meter.add("a", 10)
    assert transfers[-1].bytes_per_s == pytest.approx(10)
    assert transfers[-1].seconds_left == pytest.approx(70)
    assert transfers[-1].fraction == 0.3
    reports = len(transfers)
    meter.add("a", 1)
    assert len(transfers) == reports  # the next report comes later


@pytest.mark.parametrize("kind", ["cut", "stall", "flip", "error", "no range"])
def test_download_survives_a_passing_mishap(tmp_path: Path, standin: StandInHub, kind: str) -> None:
    standin.mishaps["model.safetensors"] = Mishap(kind, times=1)
    weights, reports = fetch(hub_of(standin, tmp_path), profile("owner/tiny"))
    assert (weights.path / "model.safetensors").read_bytes() == WEIGHTS
    assert max(fraction for _, fraction in reports.stages) == 1


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("error", HubUnreachable),
        ("short", HubUnreachable),
        ("flip", ModelCorrupt),
        ("endless", ModelCorrupt),
    ],
)
def test_lasting_mishap_fails_the_download(
    tmp_path: Path, standin: StandInHub, kind: str, error: type[Exception]
) -> None:
    if kind == "short":  # less than the Hub lists, however often it is asked for
        standin.lies["model.safetensors"] = {"lfs": {"sha256": DIGEST, "size": 10**5, "pointerSize": 1}}
    standin.mishaps["model.safetensors"] = Mishap(kind)
    hub = hub_of(standin, tmp_path)
    with pytest.raises(error):
        fetch(hub, profile("owner/tiny"))
    assert hub.find(profile("owner/tiny")) is None
    assert not (blobs(tmp_path) / DIGEST).exists()


def test_download_is_resumed(tmp_path: Path, standin: StandInHub) -> None:
    blobs(tmp_path).mkdir(parents=True)
    (blobs(tmp_path) / f"{DIGEST}.incomplete").write_bytes(WEIGHTS[:-1000])
    fetch(hub_of(standin, tmp_path), profile("owner/tiny"))
    assert standin.bytes_sent < 2000


@pytest.mark.parametrize("wrong", [b"x" * 100, b"x" * 100_000])
def test_wrong_beginning_is_replaced(tmp_path: Path, standin: StandInHub, wrong: bytes) -> None:
    blobs(tmp_path).mkdir(parents=True)
    (blobs(tmp_path) / f"{DIGEST}.incomplete").write_bytes(wrong)
    weights, _ = fetch(hub_of(standin, tmp_path), profile("owner/tiny"))
    assert (weights.path / "model.safetensors").read_bytes() == WEIGHTS


def test_simultaneous_fetches_share_one_download(tmp_path: Path, standin: StandInHub) -> None:
    standin.mishaps["model.safetensors"] = Mishap("trickle")

    async def thrice() -> None:
        hubs = [hub_of(standin, tmp_path) for _ in range(3)]
        await asyncio.gather(*(hub.fetch(profile("owner/tiny"), Reports()) for hub in hubs))

    asyncio.run(thrice())
    assert standin.bytes_sent < len(WEIGHTS) * 1.5


def test_link_that_exists_already_is_replaced(tmp_path: Path) -> None:
    pointer = tmp_path / "model.safetensors"
    for _ in range(2):
        replace_link(pointer, "../blobs/digest")
    assert os.readlink(pointer) == "../blobs/digest"
    assert list(tmp_path.iterdir()) == [pointer]


def refuse_link(pointer: Path, target: str) -> None:
    """Does what a file system without symbolic links does."""
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(pointer))


def refuse_lock(path: Path, *, timeout: float) -> AbstractContextManager[object]:
    """Does what a file system without locks does."""
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK), str(path))


def download_onto(
    standin: StandInHub,
    cache: Path,
    make_link: Callable[[Path, str], None] = replace_link,
    lock: Callable[..., AbstractContextManager[object]] = WeakFileLock,
) -> tuple[Path, Reports]:
    """Returns the snapshot and the progress of a download onto a disk that may lack links or locks."""
    source, reports = profile("owner/tiny").sources[0], Reports()
    repository = look_up(HfApi(endpoint=standin.url, token=SECRET), source)
    meter = Meter(reports, {file.name: file.size for file in repository.files})
    download = Download(
        repository,
        cache,
        standin.url,
        {"authorization": f"Bearer {SECRET}"},
        meter,
        HASTY,
        Checksums(cache / ".checked"),
        make_link,
        lock,
    )
    return asyncio.run(asyncio.wait_for(download.run(), FETCH_TIMEOUT_S)), reports


def test_disk_without_links_holds_the_files_themselves(tmp_path: Path, standin: StandInHub) -> None:
    snapshot, _ = download_onto(standin, tmp_path, refuse_link)
    assert {path.name: path.read_bytes() for path in snapshot.iterdir()} == TINY
    assert not (blobs(tmp_path) / DIGEST).exists()
    asked = len(standin.requests)
    weights, _ = fetch(hub_of(standin, tmp_path), profile("owner/tiny"))
    assert weights.path == snapshot
    assert len(standin.requests) == asked


def test_disk_without_locks_takes_downloads(tmp_path: Path, standin: StandInHub) -> None:
    snapshot, _ = download_onto(standin, tmp_path, lock=refuse_lock)
    assert {path.name: path.read_bytes() for path in snapshot.iterdir()} == TINY


def test_disk_without_links_keeps_what_was_placed_before(tmp_path: Path, standin: StandInHub) -> None:
    snapshot, _ = download_onto(standin, tmp_path, refuse_link)
    (snapshot / "config.json").unlink()
    sent = standin.bytes_sent
    download_onto(standin, tmp_path, refuse_link)
    assert (snapshot / "config.json").read_bytes() == TINY["config.json"]
    assert standin.bytes_sent - sent < len(WEIGHTS)


def test_blob_that_another_download_has_placed_is_not_missed(tmp_path: Path) -> None:
    pointer = tmp_path / "model.safetensors"
    with pytest.raises(FileNotFoundError):
        place(tmp_path / "blob", pointer, refuse_link)
    pointer.write_bytes(WEIGHTS)
    place(tmp_path / "blob", pointer, refuse_link)
    assert pointer.read_bytes() == WEIGHTS


def test_token_does_not_follow_to_another_host(tmp_path: Path, standin: StandInHub) -> None:
    with running(StandInHub(repositories={"owner/tiny": dict(TINY)})) as other:
        standin.other_host = other.url
        weights, _ = fetch(hub_of(standin, tmp_path), profile("owner/tiny"))
    assert (weights.path / "model.safetensors").read_bytes() == WEIGHTS
    assert other.tokens == [None]


@pytest.mark.parametrize(
    "lie",
    [
        {"lfs": {"sha256": "../../../../evil", "size": 1, "pointerSize": 1}},
        {"lfs": {"sha256": DIGEST, "size": -1, "pointerSize": 1}},
        {"lfs": {"sha256": "0" * 64, "size": len(WEIGHTS), "pointerSize": 1}},
        {"lfs": {"sha256": DIGEST, "size": 5, "pointerSize": 1}},
    ],
)
def test_listing_of_the_hub_is_checked(tmp_path: Path, standin: StandInHub, lie: dict[str, object]) -> None:
    standin.lies["model.safetensors"] = lie
    with pytest.raises((HubUnreachable, ModelCorrupt)):
        fetch(hub_of(standin, tmp_path / "cache"), profile("owner/tiny"))
    assert {path.name for path in tmp_path.iterdir()} <= {"cache"}


@pytest.mark.parametrize("name", ["../evil.json", "/etc/evil.json", "a\\..\\evil.json", "..json/../x.json"])
def test_names_that_lead_elsewhere_are_not_fetched(tmp_path: Path, standin: StandInHub, name: str) -> None:
    standin.repositories["owner/tiny"][name] = b"{}"
    weights, _ = fetch(hub_of(standin, tmp_path), profile("owner/tiny"))
    assert not any("evil" in request or "x.json" in request for request in standin.requests)


def test_too_small_disk_is_an_error_before_the_first_byte(tmp_path: Path, standin: StandInHub) -> None:
    standin.lies["model.safetensors"] = {"lfs": {"sha256": DIGEST, "size": 10**16, "pointerSize": 1}}
    with pytest.raises(DiskFull, match=r"needs 10,000,000.00 GB more .* has [\d,.]+ GB free"):
        fetch(hub_of(standin, tmp_path), profile("owner/tiny"))
    assert standin.bytes_sent == 0


def test_full_disk_is_an_error_and_keeps_the_received_bytes(tmp_path: Path, standin: StandInHub) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # a quota
    try:
        with pytest.raises(DiskFull):
            fetch(hub_of(standin, tmp_path), profile("owner/tiny"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    sent = standin.bytes_sent
    weights, _ = fetch(hub_of(standin, tmp_path), profile("owner/tiny"))
    assert (weights.path / "model.safetensors").read_bytes() == WEIGHTS
    assert standin.bytes_sent - sent < len(WEIGHTS)


def test_disk_that_fills_up_during_a_download_is_an_error_with_the_missing_bytes(
    small_disk: Path, standin: StandInHub
) -> None:
    cache = small_disk / "cache"

    def fill(stage: str, fraction: float, transfer: Transfer | None = None) -> None:
        if stage == "download" and not rest.exists():
            with suppress(OSError), rest.open("wb", buffering=0) as file:
                while True:
                    file.write(b"x" * 4096)

    rest = small_disk / "rest"
    with pytest.raises(DiskFull, match=r"owner/tiny needs [\d,]+ bytes more .* has 0 bytes free"):
        asyncio.run(hub_of(standin, cache).fetch(profile("owner/tiny"), fill))
    assert hub_of(standin, cache).find(profile("owner/tiny")) is None
    rest.unlink()
    weights, _ = fetch(hub_of(standin, cache), profile("owner/tiny"))
    assert (weights.path / "model.safetensors").read_bytes() == WEIGHTS


def test_rate_limit_during_a_download_fails_it_at_once(tmp_path: Path, standin: StandInHub) -> None:
    async def limited() -> None:
        task = asyncio.create_task(hub_of(standin, tmp_path).fetch(profile("owner/tiny"), Reports()))
        await until(lambda: standin.bytes_sent, "the download to begin")
        standin.refusals["owner/tiny"] = Refusal(429, headers={"Retry-After": "5"})
        await task

    standin.mishaps["model.safetensors"] = Mishap("stall")
    with pytest.raises(RateLimited):
        asyncio.run(limited())


def test_cancelled_download_ends_its_threads(tmp_path: Path, standin: StandInHub) -> None:
    standin.mishaps["model.safetensors"] = Mishap("trickle")

    async def leave() -> None:
        task = asyncio.create_task(hub_of(standin, tmp_path).fetch(profile("owner/tiny"), Reports()))
        await until(lambda: standin.bytes_sent >= 3000, "the download to begin")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    for thread in [thread for thread in threading.enumerate() if thread.name == "hub"]:
        assert thread.daemon
        thread.join(LIMIT_S)
        assert not thread.is_alive()


def test_sweep_on_a_disk_without_locks_removes_files_that_nobody_has_written_to_for_days(
    tmp_path: Path,
) -> None:
    names = [f"{DIGEST}.{number}a1b2c3d.incomplete" for number in range(2)]
    make_folder(blobs(tmp_path), dict.fromkeys(names, b"we"))
    make_folder(tmp_path / ".locks" / "models--owner--tiny", {f"{DIGEST}.lock": b""})
    os.utime(blobs(tmp_path) / names[0], (1, 1))
    sweep(tmp_path, refuse_lock)
    assert [path.name for path in blobs(tmp_path).iterdir()] == names[1:]


def test_sweep_removes_files_that_cannot_be_resumed(tmp_path: Path, standin: StandInHub) -> None:
    make_folder(blobs(tmp_path), {f"{DIGEST}.0a1b2c3d.incomplete": b"", f"{DIGEST}.incomplete": b"we"})
    done = "d" * 64
    for name in (done, f"{done}.incomplete", "tmp_01234567-0123-0123-0123-0123456789ab"):
        (blobs(tmp_path) / name).touch()
    asyncio.run(hub_of(standin, tmp_path).sweep())
    assert {path.name for path in blobs(tmp_path).iterdir()} == {done, f"{DIGEST}.incomplete"}


def test_download_killed_fifty_times_ends_with_the_right_bytes(tmp_path: Path, standin: StandInHub) -> None:
    content = random.Random(0).randbytes(3_000_000)
    standin.repositories["owner/tiny"] = TINY | {"model.safetensors": content}
    command = [sys.executable, str(KILLED), standin.url, str(tmp_path), "50"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) == 50
    weights, _ = fetch(hub_of(standin, tmp_path), profile("owner/tiny"))
    assert (weights.path / "model.safetensors").read_bytes() == content
    asyncio.run(hub_of(standin, tmp_path).sweep())
    assert {path.name for path in weights.path.iterdir()} == set(TINY)
    assert len(list(blobs(tmp_path).iterdir())) <= len(TINY)
