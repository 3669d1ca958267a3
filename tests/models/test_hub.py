import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.core.catalogue import CATALOGUE, ModelProfile, Source
from app.core.errors import HubUnreachable, ModelGated, ModelMissing, ModelOffline, ModelRefused
from app.models.hub import Hub, Weights, _address, is_complete
from tests.hub.standin import StandInHub, running

TINY = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": b"weights" * 1000}
SECRET = "hf_secret"


@pytest.fixture
def standin() -> Iterator[StandInHub]:
    with running(StandInHub()) as hub:
        yield hub


def make_folder(folder: Path, files: dict[str, bytes] = TINY) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def profile(*locations: str) -> ModelProfile:
    return replace(CATALOGUE["gpt2"], sources=tuple(Source(location) for location in locations))


def fetch(hub: Hub, wanted: ModelProfile) -> tuple[Weights, list[float]]:
    fractions: list[float] = []
    return asyncio.run(hub.fetch(wanted, fractions.append)), fractions


def test_find_prefers_the_first_source_on_disk(tmp_path: Path) -> None:
    second = make_folder(tmp_path / "two" / "b")
    hub = Hub(tmp_path)
    assert hub.find(profile("one/a", "two/b")) == Weights(Source("two/b"), second)
    first = make_folder(tmp_path / "one" / "a")
    assert hub.find(profile("one/a", "two/b")) == Weights(Source("one/a"), first)


def test_is_complete_wants_every_shard_and_a_tokenizer(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    files = {"config.json": b"{}", "tokenizer.json": b"{}", "model-1.safetensors": b""}
    folder = make_folder(tmp_path / "m", files)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert not is_complete(folder)
    (folder / "model-2.safetensors").touch()
    assert is_complete(folder)
    (folder / "tokenizer.json").unlink()
    assert not is_complete(folder)


@pytest.mark.parametrize(
    "index",
    ["{", "[]", '{"weight_map": {"a": 5}}', '{"weight_map": {"a": "../x"}}', '{"weight_map": 3}', "{}"],
)
def test_is_complete_survives_a_broken_index(index: str, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m", {"config.json": b"{}", "tokenizer.json": b"{}"})
    (folder / "model.safetensors.index.json").write_text(index)
    assert not is_complete(folder)


def test_fetch_downloads_once_and_then_finds_it(tmp_path: Path, standin: StandInHub) -> None:
    standin.repositories["owner/tiny"] = TINY | {"evil.py": b"boom", "pytorch_model.bin": b"pickle"}
    hub = Hub(tmp_path, token=SECRET, endpoint=standin.url)
    weights, fractions = fetch(hub, profile("owner/tiny"))
    assert (weights.path / "model.safetensors").read_bytes() == TINY["model.safetensors"]
    assert not (weights.path / "evil.py").exists()
    assert not (weights.path / "pytorch_model.bin").exists()
    assert fractions == sorted(fractions) and fractions[-1] == 1
    assert f"Bearer {SECRET}" in standin.tokens
    assert hub.find(profile("owner/tiny")) == weights


def test_fetch_takes_the_open_alternative_where_the_first_is_gated(
    tmp_path: Path, standin: StandInHub
) -> None:
    standin.faults["meta/gated"] = (403, "GatedRepo")
    standin.repositories["open/alternative"] = TINY
    weights, _ = fetch(Hub(tmp_path, endpoint=standin.url), profile("meta/gated", "open/alternative"))
    assert weights.source.location == "open/alternative"


@pytest.mark.parametrize(
    ("fault", "error", "advice"),
    [
        ((403, "GatedRepo"), ModelGated, "LLM_HF_TOKEN"),
        ((401, "RepoNotFound"), ModelMissing, "name"),
        ((404, "RepoNotFound"), ModelMissing, "name"),
        ((500, ""), HubUnreachable, "again"),
    ],
)
def test_fetch_tells_failures_apart(
    fault: tuple[int, str], error: type[Exception], advice: str, tmp_path: Path, standin: StandInHub
) -> None:
    standin.faults["owner/tiny"] = fault
    with pytest.raises(error) as caught:
        fetch(Hub(tmp_path, token=SECRET, endpoint=standin.url), profile("owner/tiny"))
    assert advice in caught.value.hint  # type: ignore[attr-defined]
    assert SECRET not in str(caught.value)


def test_fetch_refuses_a_repository_without_safetensors(tmp_path: Path, standin: StandInHub) -> None:
    standin.repositories["owner/pickle"] = {"config.json": b"{}", "pytorch_model.bin": b"pickle"}
    with pytest.raises(ModelRefused, match="safetensors"):
        fetch(Hub(tmp_path, endpoint=standin.url), profile("owner/pickle"))


def test_fetch_finds_out_at_once_that_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(ModelOffline):
        fetch(Hub(tmp_path, endpoint="http://127.0.0.1:9"), profile("owner/tiny", "other/tiny"))


def test_fetch_finds_out_in_time_that_packets_vanish(tmp_path: Path) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)  # nobody accepts: the queue fills and further connections get no answer
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(3)]
        for connection in waiting:
            connection.setblocking(False)
            connection.connect_ex(address)
        began = time.monotonic()
        with pytest.raises(ModelOffline):
            endpoint = f"http://127.0.0.1:{address[1]}"
            fetch(Hub(tmp_path, endpoint=endpoint, probe_timeout_s=0.3), profile("owner/tiny"))
        assert time.monotonic() - began < 2
        for connection in waiting:
            connection.close()


def test_fetch_tells_a_download_that_breaks_off(tmp_path: Path, standin: StandInHub) -> None:
    standin.repositories["owner/tiny"] = TINY
    standin.dropped.add("model.safetensors")
    with pytest.raises(HubUnreachable, match="broke off"):
        fetch(Hub(tmp_path, endpoint=standin.url), profile("owner/tiny"))


def test_a_download_that_nobody_waits_for_ends(tmp_path: Path, standin: StandInHub) -> None:
    standin.repositories["owner/tiny"] = TINY | {"model.safetensors": b"weights" * 6_000_000}
    standin.slow.add("model.safetensors")
    hub = Hub(tmp_path, endpoint=standin.url)

    async def leave() -> None:
        task = asyncio.create_task(hub.fetch(profile("owner/tiny"), lambda fraction: None))
        while standin.pieces < 3:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    downloads = [thread for thread in threading.enumerate() if thread.name == "hub"]
    for thread in downloads:
        assert thread.daemon
        thread.join(20)
        assert not thread.is_alive()


def test_a_cache_that_may_not_be_read_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a-file"
    target.write_text("")
    assert Hub(target).find(profile("owner/tiny")) is None
    assert not is_complete(target / "below-a-file")


def test_a_proxy_is_what_must_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as proxy:
        proxy.bind(("127.0.0.1", 0))
        proxy.listen()
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        assert _address("http://hub.example") == proxy.getsockname()
    monkeypatch.setenv("no_proxy", "hub.example")
    assert _address("http://hub.example") == ("hub.example", 80)
    assert _address("https://hub.example") == ("hub.example", 443)


def test_fetch_of_a_missing_folder_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match="incomplete"):
        fetch(Hub(tmp_path), profile(str(tmp_path / "nothing")))
