import os
from pathlib import Path

import pytest

from app.core.catalogue import CATALOGUE, DEFAULT_SAMPLING, RemoteEngine, Source, find_profile
from app.core.config import SettingsError
from app.core.errors import ModelNotFound
from app.core.models_file import with_models_of

EXAMPLE = Path(__file__).resolve().parents[2] / "models.example.toml"


def write(folder: Path, text: str) -> Path:
    path = folder / "models.toml"
    path.write_text(text)
    return path


def test_without_a_file_the_catalogue_is_unchanged() -> None:
    assert with_models_of(None, CATALOGUE) is CATALOGUE


def test_example_shows_every_default() -> None:
    models = with_models_of(EXAMPLE, CATALOGUE)
    assert list(models)[: len(CATALOGUE)] == list(CATALOGUE)
    folder, repository = models["my-model"].sources
    assert folder.location == str(EXAMPLE.parent / "my-model")
    assert (repository.location, repository.revision, repository.stop) == (
        "owner/my-model",
        "v1.2",
        ("\nuser:",),
    )
    assert models["my-model"].sampling == DEFAULT_SAMPLING
    assert models["my-model"].context_length == models["phi4-mini"].context_length
    assert models["phi4-mini"].size_bytes is None
    pinned, known = models["qwen3-0.6b"], CATALOGUE["qwen3-0.6b"]
    assert pinned.is_pinned and not known.is_pinned
    assert (pinned.sources, pinned.sampling, pinned.size_bytes) == (
        known.sources,
        known.sampling,
        known.size_bytes,
    )


def test_new_model_has_the_context_length_of_the_settings_unless_the_file_says_otherwise(
    tmp_path: Path,
) -> None:
    text = '[models.new]\nsource = "a/b"\n[models.long]\nsource = "a/b"\ncontext_length = 70_000\n'
    models = with_models_of(write(tmp_path, text), CATALOGUE, context_length=40_000)
    assert (models["new"].context_length, models["long"].context_length) == (40_000, 70_000)


def test_example_has_a_remote_engine() -> None:
    big = with_models_of(EXAMPLE, CATALOGUE)["big"]
    assert big.remote == RemoteEngine("http://127.0.0.1:8001/v1", "Qwen/Qwen3-32B")
    assert [source.model_id for source in big.sources] == ["Qwen/Qwen3-32B"]


REMOTE = '[models.far]\nengine = "openai"\n'


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        (REMOTE, 'models.far: engine = "openai" needs a base_url'),
        (REMOTE + 'base_url = "ftp://host"', "models.far.base_url: it must be an address"),
        (REMOTE + 'base_url = "http://me:secret@host/v1"', "models.far.base_url: it must not hold a name"),
        (REMOTE + 'base_url = "http://host/v1"\nsource = "a/b"', "models.far: a remote engine has no source"),
        (
            REMOTE + 'base_url = "http://host/v1"\nadapter = "a/b"',
            "models.far: a remote engine has no source",
        ),
        (REMOTE + 'base_url = "http://host/v1"\napi_key_env = "sk-1"', "models.far.api_key_env"),
        ('[models.far]\nsource = "a/b"\nbase_url = "http://host/v1"', "models.far: base_url, model and"),
    ],
)
def test_mistakes_about_a_remote_engine_are_named(tmp_path: Path, text: str, mistake: str) -> None:
    with pytest.raises(SettingsError) as caught:
        with_models_of(write(tmp_path, text), CATALOGUE)
    assert mistake in str(caught.value)


def test_adapter_is_a_source_of_its_own(tmp_path: Path) -> None:
    text = '[models.mine]\nsource = "a/b"\nadapter = "./lora"\n[models."llama3-1b"]\nadapter = "owner/lora"\n'
    models = with_models_of(write(tmp_path, text), CATALOGUE)
    assert models["mine"].adapter == Source(str(tmp_path / "lora"))
    assert models["mine"].sources == (Source("a/b"),)
    assert models["llama3-1b"].adapter == Source("owner/lora")
    assert models["llama3-1b"].sources == CATALOGUE["llama3-1b"].sources[:1]


def test_other_weights_have_another_size(tmp_path: Path) -> None:
    path = write(tmp_path, '[models.gpt2]\nsource = "~/gpt2"\nsampling = {temperature = 0}\n')
    gpt2 = with_models_of(path, CATALOGUE)["gpt2"]
    assert gpt2.sources[0].location == str(Path.home() / "gpt2")
    assert gpt2.size_bytes is None
    assert gpt2.sampling.temperature == 0
    assert gpt2.sampling.max_tokens == CATALOGUE["gpt2"].sampling.max_tokens


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("[models.a]\nsource = \n", "line 2"),
        ('[models.a]\nsource = "b/c"\ncontext_lenght = 5\n', "models.a.context_lenght: no such field"),
        ('[models.a]\nsource = "b/c"\n[models.a.sampling]\ntop_k = 5\ntemperature = 9\n',
         "models.a.sampling.temperature: Input should be less than or equal to 2"),
        ('[models.a]\ncontext_length = "long"\n', "models.a.context_length: Input should be a valid integer"),
        ('[models.a]\n[[models.a.sources]]\nlocation = "b/c"\n[[models.a.sources]]\nlocation = 1\n',
         "models.a.sources[1].location: Input should be a valid string"),
        ('[models."a b"]\nsource = "b/c"\n', 'models."a b": a name consists of letters'),
        ('[models.none]\nsource = "b/c"\n', "models.none: a name consists of letters"),
        ('[models.a]\ndescription = "x"\n', "models.a: this model is new, so it needs a source"),
        ("[model.a]\n", "model: no such field"),
        ("[models.'a.b']\nsource = 'b/c'\nsampling = {top_k = -1}\n", 'models."a.b".sampling.top_k: '),
        ('[models.a]\nsource = "~nobody-has-this-name/x"\n', "models.a.source: this machine does not"),
        ('[models.a]\n[[models.a.sources]]\nlocation = "/a\\u0000b"\n', "models.a.sources[0].location: a pa"),
        ("models = 5\n", "models: Input should be a valid dictionary"),
    ],
)  # fmt: skip
def test_mistake_is_named_with_its_toml_path(tmp_path: Path, text: str, mistake: str) -> None:
    with pytest.raises(SettingsError) as caught:
        with_models_of(write(tmp_path, text), CATALOGUE)
    assert mistake in str(caught.value)
    assert str(caught.value).startswith(f"LLM_MODELS_FILE: {tmp_path / 'models.toml'}: ")


def test_every_mistake_has_a_line(tmp_path: Path) -> None:
    path = write(tmp_path, "[models.a]\nsource = 1\nsize_bytes = -1\n[models.b]\nx = 1\n")
    with pytest.raises(SettingsError) as caught:
        with_models_of(path, CATALOGUE)
    assert len(str(caught.value).splitlines()) == 3


def test_unreadable_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        with_models_of(tmp_path / "nothing.toml", CATALOGUE)
    (tmp_path / "models.toml").write_bytes(b"\xff")
    with pytest.raises(SettingsError, match="not UTF-8"):
        with_models_of(tmp_path / "models.toml", CATALOGUE)


def test_pipe_and_device_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(SettingsError, match=f"LLM_MODELS_FILE: {path} .*: it is not a regular file"):
            with_models_of(path, CATALOGUE)


@pytest.mark.parametrize("draft", ["nobody", "small"])
def test_draft_must_be_another_model(tmp_path: Path, draft: str) -> None:
    path = write(tmp_path, f'[models.small]\nsource = "./small"\ndraft = "{draft}"\n')
    with pytest.raises(SettingsError, match=r"models.small.draft: it must name another model"):
        with_models_of(path, CATALOGUE)


def test_alias_is_another_name_of_a_model(tmp_path: Path) -> None:
    aliases = ["gpt-4o", "openai/gpt-4o", "claude-sonnet-4-5@20250929"]
    models = with_models_of(write(tmp_path, f"[models.gpt2]\naliases = {aliases}\n"), CATALOGUE)
    for alias in aliases:
        assert find_profile(models, alias).name == "gpt2"
    with pytest.raises(ModelNotFound) as caught:
        find_profile(models, "gpt-4")
    assert "gpt-4o" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("[models.gpt2]\naliases = ['builtin']", "models.gpt2.aliases[0]: another model has this name"),
        ("[models.gpt2]\naliases = ['a', 'a']", "models.gpt2.aliases[1]: another model has this name"),
        ("[models.gpt2]\naliases = ['a']\n[models.distilgpt2]\naliases = ['b', 'a']", "aliases[1]: another"),
        ("[models.gpt2]\naliases = ['a b']", "models.gpt2.aliases[0]: an alias consists of"),
        ("[models.gpt2]\naliases = ['./a']", "models.gpt2.aliases[0]: an alias consists of"),
    ],
)
def test_alias_that_is_no_name_or_taken_is_a_mistake(tmp_path: Path, text: str, mistake: str) -> None:
    with pytest.raises(SettingsError) as caught:
        with_models_of(write(tmp_path, text), CATALOGUE)
    assert mistake in str(caught.value)


def test_drafts_of_the_catalogue_are_in_it() -> None:
    named = {profile.draft for profile in CATALOGUE.values()} - {None}
    assert named and named <= set(CATALOGUE)
