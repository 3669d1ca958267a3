import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from app.core.catalogue import CATALOGUE, Source
from app.core.errors import ModelMissing, ModelNotFound
from app.models.hub.client import Hub
from app.models.lifecycle.registry import ModelRegistry


@pytest.mark.parametrize(
    "name",
    [
        "Qwen/Qwen3-4B",
        "Qwen/Q-GGUF:Q4_K_M",
        "Qwen/Q-GGUF:Q8_0/model",
        "./folder",
        "/srv/model",
        "~/model",
        "./x.gguf",
    ],
)
def test_any_model_is_found_if_allowed(name: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        ModelRegistry(CATALOGUE, allows_any=False).find(name)
    assert "LLM_ALLOW_ANY_MODEL=true" in str(caught.value.hint)
    registry = ModelRegistry(CATALOGUE, allows_any=True)
    found = registry.find(name)
    assert registry.find(name) is found
    assert found.profile.name == name
    assert found.profile.sources[0].is_local == (not name.startswith("Qwen"))
    if name == "./folder":
        assert found.profile.sources[0].location == str(Path("folder").resolve())


def test_model_outside_the_catalogue_has_the_context_length_of_the_settings() -> None:
    registry = ModelRegistry(CATALOGUE, allows_any=True, context_length=40_000)
    assert registry.find("owner/name").profile.context_length == 40_000
    assert registry.find("owner/base+owner/lora").profile.context_length == 40_000


@pytest.mark.parametrize("host", ["hf.co", "huggingface.co"])
def test_file_of_the_hub_is_found_under_ollamas_name(host: str) -> None:
    registry = ModelRegistry(CATALOGUE, allows_any=True)
    profile = registry.find(f"{host}/Qwen/Q-GGUF:Q4_K_M").profile
    assert profile.sources == (Source("Qwen/Q-GGUF:Q4_K_M"),)


@pytest.mark.parametrize(
    ("name", "sources", "adapter"),
    [
        ("llama3-1b+owner/lora", CATALOGUE["llama3-1b"].sources[:1], "owner/lora"),
        ("owner/base+owner/lora", (Source("owner/base"),), "owner/lora"),
        ("owner/base+/srv/lora", (Source("owner/base"),), "/srv/lora"),
        ("/srv/base+/srv/lora", (Source("/srv/base"),), "/srv/lora"),
        ("/srv/c++", (Source("/srv/c++"),), None),
        ("/srv/a+b", (Source("/srv/a+b"),), None),
    ],
)
def test_base_and_adapter_make_a_model(name: str, sources: tuple[Source, ...], adapter: str | None) -> None:
    with pytest.raises(ModelNotFound) as caught:
        ModelRegistry(CATALOGUE, allows_any=False).find(name)
    assert "LLM_ALLOW_ANY_MODEL=true" in str(caught.value.hint)
    profile = ModelRegistry(CATALOGUE, allows_any=True).find(name).profile
    assert (profile.name, profile.sources) == (name, sources)
    assert profile.adapter == (None if adapter is None else Source(adapter))


PLUS_NAMES = ["a+b/model", "c++", "a+b+c", "with space+and more", "C:\\a+b", "m+q4.gguf", "+x", "~x+y"]


@pytest.mark.parametrize("name", PLUS_NAMES)
def test_path_that_exists_is_no_base_with_an_adapter(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, home = tmp_path / "folder", tmp_path / "home"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(home))
    for parent in (folder, home):
        (parent / name).mkdir(parents=True)
    registry = ModelRegistry(CATALOGUE, allows_any=True)
    for path, parent in ((f"./folder/{name}", folder), (f"{folder}/{name}", folder), (f"~/{name}", home)):
        profile = registry.find(path).profile
        assert (profile.sources[0].location, profile.adapter) == (str(parent / name), None)
        for adapter in ("owner/lora", "./lo+ra", "/srv/lo ra"):
            profile = registry.find(f"{path}+{adapter}").profile
            assert profile.sources[0].location == str(parent / name)
            expected = adapter if adapter == "owner/lora" else os.path.abspath(adapter)
            assert profile.adapter == Source(expected)


def test_names_as_windows_has_them_are_not_found(tmp_path: Path) -> None:
    registry = ModelRegistry(CATALOGUE, allows_any=True)
    for name in ("C:\\models\\a+b", "C:/models/a+b", "..\\a+owner/lora", "\\\\host\\share+x/y"):
        with pytest.raises(ModelNotFound):
            registry.find(name)


@pytest.mark.parametrize(
    "name",
    ["gpt3", "a/b/c", "https://evil/x", "a/..", "owner/", "a b/c", "owner/x:", "owner/x:../y", "a:b"]
    + ["gpt2+", "gpt2+lora", "+a/b", "nothing+a/b", "a/b+c/d+e/f"]
    + ["~nobody-has-this-name/x", "~nobody-has-this-name", "/a\0b", "./\0", "owner/a\0b"],
)
def test_names_that_are_no_repository_and_no_path_are_not_found(name: str) -> None:
    with pytest.raises(ModelNotFound):
        ModelRegistry(CATALOGUE, allows_any=True).find(name)


def test_alias_is_found_before_a_repository_of_that_name() -> None:
    catalogue = {**CATALOGUE, "gpt2": replace(CATALOGUE["gpt2"], aliases=("gpt-4o", "openai/gpt-4o"))}
    registry = ModelRegistry(catalogue, allows_any=True)
    assert registry.find("gpt-4o") is registry.find("openai/gpt-4o") is registry.find("gpt2")


def test_link_to_itself_is_a_folder_without_a_model(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    for name in (f"{tmp_path}/circle", f"{tmp_path}/circle/x"):
        found = ModelRegistry(CATALOGUE, allows_any=True).find(name)
        assert Hub(tmp_path).find(found.profile) is None


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200),
    st.sampled_from(["", "/", "~"]),
)
def test_every_name_is_found_or_not_found(text: str, prefix: str) -> None:
    with suppress(ModelNotFound):
        found = ModelRegistry(CATALOGUE, allows_any=True).find(prefix + text)
        assert found.name in CATALOGUE or Hub(Path("/nonexistent")).find(found.profile) is None


def test_model_of_another_program_is_where_that_keeps_it_now() -> None:
    registry = ModelRegistry(CATALOGUE, allows_any=True)
    of_the_hub = registry.find("hf.co/owner/name:Q8_0").profile
    for location in ("/store/one", "/store/two"):  # as after `ollama pull`
        registry.set_found([replace(of_the_hub, sources=(Source(location),))])
        found = registry.find("hf.co/owner/name:Q8_0")
        assert found.profile.sources == (Source(location),)
    registry.current = found
    registry.set_found([of_the_hub])
    assert registry.find("hf.co/owner/name:Q8_0") is found


def test_unused_models_beyond_the_catalogue_are_forgotten() -> None:
    registry = ModelRegistry(CATALOGUE, allows_any=True)
    used = registry.find("used/one")
    used.pins = 1
    for number in range(200):
        registry.find(f"owner/model-{number}")
    assert len(registry.all()) <= len(CATALOGUE) + 32
    assert registry.find("used/one") is used


def test_names_that_led_to_nothing_are_not_listed() -> None:
    registry = ModelRegistry(CATALOGUE, allows_any=True)
    for number in range(12):
        registry.find(f"owner/typo-{number}").error = ModelMissing("Not found.")
    served, loading = registry.find("owner/served"), registry.find("owner/loading")
    served.measured_bytes, loading.pins = 1, 1
    assert registry.all()[len(CATALOGUE) :] == [served, loading]
    assert registry.find("owner/typo-11").error is not None  # it still can say why
    loading.pins = 0
    served.error = ModelMissing("Not found any more.")
    assert len(registry.all()) == len(CATALOGUE)
    registry.current = served
    assert registry.all()[-1] is served
