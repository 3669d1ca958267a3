"""The models of Ollama, LM Studio and the Hugging Face cache are found by the names people know."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from app.composition import build_services, check_models
from app.core.catalogue import CATALOGUE, find_profile
from app.core.config import Settings, SettingsError
from app.core.errors import ModelNotFound
from app.models.hub.cache import cache_name
from app.models.hub.client import Hub
from app.models.hub.local_models import LocalModels
from app.models.model_manager import ModelManager
from tests.models.hub.requests import TINY, make_folder
from tests.models.stand_in_engines import StandInEngines

DIGEST = "ab" * 32
CAUSAL = TINY | {"config.json": b'{"architectures": ["Qwen3ForCausalLM"]}'}
MODEL = "application/vnd.ollama.image.model"
ADAPTER = "application/vnd.ollama.image.adapter"


def ollama(
    store: Path,
    name: str,
    digest: object = f"sha256:{DIGEST}",
    host: str = "registry.ollama.ai",
    beside: str = "template",
) -> Path:
    manifest = store / "manifests" / host / name
    manifest.parent.mkdir(parents=True, exist_ok=True)
    layers = [{"mediaType": beside, "digest": "sha256:0"}, {"mediaType": MODEL, "digest": digest}]
    manifest.write_text(json.dumps({"layers": layers}))
    (store / "blobs").mkdir(exist_ok=True)
    (store / "blobs" / f"sha256-{DIGEST}").write_bytes(b"GGUF")
    return store


def snapshot(cache: Path, repository: str, files: dict[str, bytes]) -> None:
    make_folder(cache / cache_name(repository) / "snapshots" / ("c" * 40), files)


def local(folder: Path) -> LocalModels:
    return LocalModels((folder / "ollama",), (folder / "studio",), folder / "hub")


def names(folder: Path) -> list[str]:
    return [profile.name for profile in local(folder).find(CATALOGUE)]


def test_nothing_is_found_without_the_programs(tmp_path: Path) -> None:
    assert names(tmp_path) == []


def test_ollamas_models_have_its_names(tmp_path: Path) -> None:
    store = ollama(tmp_path / "ollama", "library/qwen3/0.6b")
    ollama(store, "somebody/mine/latest")
    ollama(store, "owner/name/Q4_K_M", host="hf.co")
    found = local(tmp_path).find(CATALOGUE)
    names = ["hf.co/owner/name:Q4_K_M", "qwen3:0.6b", "somebody/mine:latest"]
    assert [profile.name for profile in found] == names
    assert [profile.sources[0].model_id for profile in found] == [f"ollama/{name}" for name in names]
    weights = Hub(tmp_path).find(found[0])
    assert weights is not None and weights.path == store / "blobs" / f"sha256-{DIGEST}"


@pytest.mark.parametrize(
    "digest", [None, 7, "sha256:../../../etc/passwd", f"sha256:{'0' * 64}", f"sha256:{DIGEST}/x"]
)
def test_manifest_that_leads_nowhere_is_left_out(tmp_path: Path, digest: object) -> None:
    ollama(tmp_path / "ollama", "library/evil/latest", digest)
    assert names(tmp_path) == []


def test_ollamas_model_with_an_adapter_is_left_out(tmp_path: Path) -> None:
    ollama(tmp_path / "ollama", "library/tuned/latest", beside=ADAPTER)
    assert names(tmp_path) == []


@pytest.mark.parametrize("content", ["", "[]", "{", '{"layers": 5}', '{"layers": [1, null]}'])
def test_broken_manifest_is_left_out(tmp_path: Path, content: str) -> None:
    store = ollama(tmp_path / "ollama", "library/good/latest")
    (store / "manifests" / "registry.ollama.ai" / "library" / "good" / "bad").write_text(content)
    assert names(tmp_path) == ["good:latest"]


def test_lm_studios_files_have_the_names_of_the_hub(tmp_path: Path) -> None:
    files = (
        "Q-0.6B-Q4_K_M.gguf",
        "Q-0.6B-Q8_0.gguf",
        "Q-0.6B-UD-Q8_0.gguf",
        "mmproj-Q.gguf",
        "big-00001-of-00002.gguf",
        "notes.txt",
    )
    make_folder(tmp_path / "studio" / "owner" / "Q-GGUF", dict.fromkeys(files, b"GGUF"))
    assert names(tmp_path) == [f"owner/Q-GGUF:{kind}" for kind in ("Q4_K_M", "Q8_0", "UD-Q8_0")]


@pytest.mark.parametrize(
    "name", [b"m-\xff.gguf", b"m-a\x1b[2Jb.gguf", b"m-two\nlines.gguf", "m-\u202eQ8.gguf".encode()]
)
def test_file_whose_name_cannot_be_printed_is_left_out(tmp_path: Path, name: bytes) -> None:
    folder = make_folder(tmp_path / "studio" / "owner" / "Q-GGUF", {"my model (1).gguf": b"GGUF"})
    (folder / os.fsdecode(name)).write_bytes(b"GGUF")
    assert names(tmp_path) == ["owner/Q-GGUF:my model (1)"]


def test_hub_cache_is_listed_without_what_is_known_or_does_not_chat(tmp_path: Path) -> None:
    snapshot(tmp_path / "hub", "owner/chat", CAUSAL)
    snapshot(tmp_path / "hub", "Qwen/Qwen3-0.6B", CAUSAL)  # qwen3-0.6b of the catalogue
    snapshot(tmp_path / "hub", "owner/bert", TINY | {"config.json": b'{"architectures": ["BertModel"]}'})
    snapshot(tmp_path / "hub", "owner/part", {"config.json": CAUSAL["config.json"]})
    snapshot(tmp_path / "hub", "owner/files", {"x-Q4_0.gguf": b"GGUF"})
    parts = [f"BF16/x-BF16-0000{number}-of-00002.gguf" for number in (1, 2)]
    snapshot(tmp_path / "hub", "owner/parts", dict.fromkeys(parts, b"GGUF"))
    (tmp_path / "hub" / "datasets--owner--chat").mkdir()
    assert names(tmp_path) == ["owner/chat", "owner/files:Q4_0", "owner/parts:BF16"]


def test_manager_lists_and_finds_them_until_they_are_gone(tmp_path: Path) -> None:
    async def run() -> None:
        ollama(ollama(tmp_path / "ollama", "library/qwen3/0.6b"), "library/mine/latest")
        settings = Settings(_env_file=None, model_name="none")
        manager = ModelManager(
            settings, CATALOGUE, Hub(tmp_path), engines=StandInEngines(), local=local(tmp_path)
        )
        assert "qwen3:0.6b" in await manager.on_disk()
        assert manager.find("qwen3:0.6b") in manager.states()
        assert manager.find("mine") is manager.find("mine:latest")
        assert manager.find("mine").profile.aliases == ("mine",)
        with pytest.raises(ModelNotFound) as caught:
            manager.find("qwen3:1b")
        assert "Did you mean qwen3:0.6b" in str(caught.value.hint)
        (tmp_path / "ollama" / "blobs" / f"sha256-{DIGEST}").unlink()
        await manager.on_disk()
        with pytest.raises(ModelNotFound):
            manager.find("qwen3:0.6b")
        await manager.close()

    asyncio.run(run())


def test_start_takes_the_model_of_another_program_that_the_settings_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ollama(tmp_path / "ollama", "library/qwen3/0.6b")
    monkeypatch.setenv("OLLAMA_MODELS", str(store))
    settings = Settings(_env_file=None, model_name="qwen3:0.6b")
    services = build_services(settings, engines=StandInEngines())
    assert services.status.health().current_model == "qwen3:0.6b"
    check_models(settings)
    with pytest.raises(SettingsError, match="No model has that name"):
        check_models(settings.model_copy(update={"find_local_models": False}))


def test_context_length_of_the_settings_holds_for_every_model_without_one_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", str(ollama(tmp_path / "ollama", "library/qwen3/0.6b")))
    (tmp_path / "models.toml").write_text('[models.mine]\nsource = "a/b"\ncontext_length = 70_000\n')
    settings = Settings(
        _env_file=None,
        model_name="qwen3:0.6b",
        context_length=20_000,
        models_file=tmp_path / "models.toml",
        allow_any_model=True,
    )
    services = build_services(settings, engines=StandInEngines())
    names = ["qwen3:0.6b", "llama3-1b", "gpt2", "owner/name", "mine"]
    lengths = [services.status.info(name).context_length for name in names]
    assert lengths == [20_000, 20_000, 1024, 20_000, 70_000]


def test_name_that_is_known_is_not_looked_for(tmp_path: Path) -> None:
    ollama(tmp_path / "ollama", "library/qwen3/0.6b")
    assert local(tmp_path).add_named(CATALOGUE, "gpt2") is CATALOGUE
    assert local(tmp_path).add_named(CATALOGUE, "qwen3:8b") is CATALOGUE


def test_name_of_a_known_model_is_no_alias(tmp_path: Path) -> None:
    ollama(tmp_path / "ollama", "library/gpt2/latest")
    (found,) = local(tmp_path).find(CATALOGUE)
    assert (found.name, found.aliases) == ("gpt2:latest", ())


def test_name_without_a_tag_is_that_of_the_latest(tmp_path: Path) -> None:
    ollama(tmp_path / "ollama", "library/qwen3/latest")
    known = local(tmp_path).add_named(CATALOGUE, "qwen3")
    assert find_profile(known, "qwen3").name == "qwen3:latest"
