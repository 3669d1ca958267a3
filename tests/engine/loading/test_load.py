"""Folders that are refused, and what is read from those that are not."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # ships no types
import pytest
import torch
from transformers import (
    Gemma3Config,
    Gemma4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from app.core.errors import (
    DomainError,
    ModelCorrupt,
    ModelLoadFailed,
    ModelMissing,
    ModelRefused,
    ModelUnsupported,
)
from app.engine.ipc.messages import Grammar, Progress, SamplingParams, Submit, WorkerSpec
from app.engine.loading.device_choice import pick_device
from app.engine.loading.folder_check import refuse_unsafe
from app.engine.loading.load import load
from app.engine.loading.self_check import check_packed_path
from app.engine.startup import build_engine
from tests.engine.tiny import configs, decode, ended, greedy, new_model, run


@pytest.fixture
def folder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A tiny Llama on disk."""
    new_model(configs(len(tokenizer))["llama"]).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def spec(folder: Path, **options: Any) -> WorkerSpec:  # any field
    return WorkerSpec(str(folder), "tiny", **options)


def test_load_reports_a_growing_share_of_the_weights(folder: Path) -> None:
    fractions: list[float] = []
    loaded = load(spec(folder), lambda _, fraction: fractions.append(fraction))
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert loaded.context_length == 160
    assert loaded.stop_ids == {1}


def test_load_takes_no_end_of_text_from_the_class_of_the_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["eos_token_id"]  # LlamaConfig's own is 2
    (folder / "config.json").write_text(json.dumps(config))
    edit(folder / "generation_config.json", eos_token_id=[7, 9])
    assert load(spec(folder), lambda *_: None).stop_ids == {1, 7, 9}  # 1 is the tokenizer's
    (folder / "generation_config.json").unlink()
    assert load(spec(folder), lambda *_: None).stop_ids == {1}


@pytest.mark.parametrize("unknown", [-1, 10**6])
def test_end_of_text_that_the_model_has_no_token_for_ends_nothing(folder: Path, unknown: int) -> None:
    edit(folder / "generation_config.json", eos_token_id=[1, unknown])
    engine = build_engine(spec(folder), lambda _: None).engine
    sampling = SamplingParams(max_tokens=4, min_tokens=2, temperature=0)
    plain = Submit("plain", sampling, prompt="the cat")
    ruled = Submit("ruled", sampling, prompt="the cat", grammar=Grammar("regex", "a{9}"))
    collected = run(engine, plain, ruled)
    assert ended(collected, "plain").usage.completion_tokens >= 2
    assert collected.texts["ruled"].startswith("a")


def test_load_takes_no_end_of_text_from_the_class_of_a_nested_config(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    text = configs(len(tokenizer))["gemma3"]
    new_model(Gemma3Config(text_config=text)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["text_config"]["eos_token_id"]  # Gemma3TextConfig's own is 1
    (tmp_path / "config.json").write_text(json.dumps(config | {"eos_token_id": 9}))
    (tmp_path / "generation_config.json").unlink()
    loaded = load(spec(tmp_path), lambda *_: None)
    assert loaded.model.config.get_text_config().eos_token_id is None
    assert 9 in loaded.stop_ids


def test_service_starts_and_serves(folder: Path) -> None:
    reports: list[Progress] = []
    service = build_engine(spec(folder, context_length=100, threads=torch.get_num_threads()), reports.append)
    stages = list(dict.fromkeys(report.stage for report in reports))
    assert stages == ["load", "check", "pack", "warm up"]
    assert reports[0] == Progress("load", 0.0)  # at once: transformers is slow to import on a busy machine
    assert (service.info.architecture, service.info.context_length) == ("LlamaForCausalLM", 100)
    assert len(run(service.engine, greedy("a", "the cat", 4)).texts["a"]) > 0
    assert service.stats().running == 0
    assert service.stats().kv_used_bytes > 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux can limit it")
def test_engine_in_a_process_with_other_work_does_not_limit_its_memory(folder: Path) -> None:
    before = psutil.Process().rlimit(psutil.RLIMIT_DATA)
    build_engine(spec(folder), lambda _: None).close()
    assert psutil.Process().rlimit(psutil.RLIMIT_DATA) == before


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_service_counts_every_parameter(folder: Path, dtype: str) -> None:
    service = build_engine(spec(folder, dtype=dtype), lambda _: None)
    assert service.info.parameters == LlamaForCausalLM.from_pretrained(folder).num_parameters()
    assert service.info.dtype == dtype


def test_service_window_shrinks_to_the_cache_and_says_so(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bytes_per_token = 3 * 2 * 2 * 8 * 4
    service = build_engine(spec(folder, kv_cache_bytes=50 * bytes_per_token), lambda _: None)
    assert service.info.context_length == 50
    assert "50 tokens instead of 160" in caplog.text
    with pytest.raises(ModelLoadFailed, match="holds 5 tokens"):
        build_engine(spec(folder, kv_cache_bytes=5 * bytes_per_token), lambda _: None)


def test_load_refuses_code_of_the_repository(folder: Path) -> None:
    edit(folder / "config.json", nested={"auto_map": {"AutoModel": "evil.py"}})
    with pytest.raises(ModelRefused, match="auto_map"):
        load(spec(folder), lambda *_: None)


def test_load_refuses_unsafe_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelRefused, match="safetensors"):
        load(spec(folder), lambda *_: None)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a\\b.safetensors", "..", 7])
def test_load_refuses_weights_outside_of_the_folder(folder: Path, name: object) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(ModelRefused, match="outside|lists no"):
        load(spec(folder), lambda *_: None)


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer.json", "chat_template.jinja"])
def test_load_refuses_what_is_no_regular_file(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(ModelRefused, match="not a regular file"):
        load(spec(folder), lambda *_: None)


@pytest.mark.parametrize("depth", [500, 900, 10_000])
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_load_refuses_deeply_nested_files(folder: Path, name: str, depth: int) -> None:
    written = (folder / name).read_text().rstrip().removesuffix("}")
    (folder / name).write_text(f'{written}, "nested": {"[" * depth}{"]" * depth}}}')
    with pytest.raises((ModelCorrupt, ModelUnsupported), match="recursion"):
        load(spec(folder), lambda *_: None)


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt", "chat_template.jinja", "tokenizer.model"])
def test_load_refuses_a_file_that_would_fill_the_memory(folder: Path, name: str) -> None:
    with (folder / name).open("ab") as file:
        file.truncate(100_000_001)
    with pytest.raises(ModelRefused, match=rf"{name} has more than \d+ MB") as refused:
        load(spec(folder), lambda *_: None)
    assert refused.value.hint == "Move it out of the folder if it is not part of the model."


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "additional_chat_templates"])
def test_load_refuses_links_that_leave_the_folder(folder: Path, name: str) -> None:
    outside = folder.with_name(f"{folder.name}-outside")
    outside.mkdir()
    target = outside / name
    if (folder / name).exists():
        (folder / name).rename(target)
    else:
        target.mkdir()
    (folder / name).symlink_to(target)
    with pytest.raises(ModelRefused, match="leaves the model's folder"):
        load(spec(folder), lambda *_: None)


def test_load_follows_links_within_a_repository_of_the_hubs_cache(folder: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--a--b"
    blobs, snapshot = repository / "blobs", repository / "snapshots" / "c0ffee"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate([path for path in folder.iterdir() if path.is_file()]):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    assert load(spec(snapshot), lambda *_: None).context_length == 160
    (snapshot / "notes.txt").symlink_to("../../../elsewhere")
    with pytest.raises(ModelRefused, match="leaves"):
        load(spec(snapshot), lambda *_: None)


@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation"])
def test_load_takes_no_attention_from_the_config(folder: Path, name: str) -> None:
    edit(folder / "config.json", **{name: "kernels-community/flash-mla"})
    loaded = load(spec(folder), lambda *_: None)
    assert loaded.model.config._attn_implementation == "eager"  # noqa: SLF001 (transformers has no other name for it)


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda folder: (folder / "config.json").unlink(), ModelMissing),
        (lambda folder: (folder / "config.json").write_text("{"), ModelLoadFailed),
        (lambda folder: (folder / "config.json").write_text("[]"), ModelLoadFailed),
        (lambda folder: edit(folder / "config.json", model_type="unheard-of"), ModelUnsupported),
        (lambda folder: edit(folder / "config.json", model_type="t5"), ModelUnsupported),
        (lambda folder: edit(folder / "config.json", num_hidden_layers=5), ModelLoadFailed),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"half"), ModelLoadFailed),
        (lambda folder: (folder / "tokenizer.json").unlink(), ModelLoadFailed),
    ],
)
def test_load_says_what_is_wrong_with_a_folder(
    folder: Path, damage: object, error: type[DomainError]
) -> None:
    assert callable(damage)
    damage(folder)
    with pytest.raises(error):
        load(spec(folder), lambda *_: None)


def test_refuse_unsafe_takes_a_sound_folder(folder: Path) -> None:
    refuse_unsafe(folder)


def test_model_whose_layers_differ_in_size_is_served(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    options: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "vocab_size_per_layer_input": len(tokenizer),
        "hidden_size": 32,
        "hidden_size_per_layer_input": 8,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_kv_shared_layers": 0,
        "head_dim": 8,
        "global_head_dim": 16,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "max_position_embeddings": 160,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    config = Gemma4TextConfig(**options)
    with pytest.raises(RuntimeError, match="per-layer"):
        _ = config.head_dim
    new_model(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    ready = build_engine(spec(tmp_path), lambda _: None)
    reference: Any = new_model(config)
    ids = tokenizer("the cat sat", return_tensors="pt").input_ids
    expected = reference.generate(ids, do_sample=False, max_new_tokens=16, eos_token_id=1)[0, ids.shape[1] :]
    text = run(ready.engine, greedy("a", "the cat sat", 16)).texts["a"]
    assert text.rstrip("\ufffd") == decode(tokenizer, expected.tolist(), skips_special=True).rstrip("\ufffd")


def test_check_refuses_layers_of_another_kind() -> None:
    config = LlamaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
    model = new_model(config)
    model.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(ModelUnsupported, match="linear_attention"):
        check_packed_path(model)


def test_pick_device_refuses_what_is_not_there() -> None:
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type in ("cuda", "mps", "cpu")
    if not torch.cuda.is_available():
        with pytest.raises(ModelLoadFailed, match="cuda is not available"):
            pick_device("cuda")
    with pytest.raises(ModelLoadFailed, match="abacus is not available"):
        pick_device("abacus")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"max_position_embeddings": -5}, "config.json: max_position_embeddings is -5"),
        ({"max_position_embeddings": 0}, "config.json: max_position_embeddings is 0"),
        ({"vocab_size": -1}, "vocab_size"),
        ({"eos_token_id": [[1]]}, "config.json: eos_token_id must be a number or a list of numbers"),
        ({"suppress_tokens": ["1"]}, "config.json: suppress_tokens must be a number or a list of numbers"),
        ({"eos_token_id": "</s>"}, "config.json: eos_token_id"),
        ({"bos_token_id": {"a": 1}}, "config.json: bos_token_id"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers is 1000000, more than 1,000"),
        ({"num_hidden_layers": 1000}, "num_hidden_layers is 1000, but the weights are only"),
        (
            {"head_dim": 10**6},
            r"does not fit the weights: model.layers.0.self_attn.q_proj.weight is \[32, 32\]",
        ),
        ({"hidden_size": 64}, "does not fit the weights"),
        ({"intermediate_size": 10**8}, "does not fit the weights"),
        ({"vocab_size": 10**9}, "does not fit the weights"),
    ],
)
def test_load_refuses_a_config_that_does_not_fit_before_it_builds(
    folder: Path, changes: dict[str, object], says: str
) -> None:
    edit(folder / "config.json", **changes)
    stages: list[str] = []
    with pytest.raises(DomainError, match=says):
        load(spec(folder), lambda stage, _: stages.append(stage))
    assert stages == []


def test_load_refuses_a_stop_token_that_is_no_number(folder: Path) -> None:
    edit(folder / "generation_config.json", eos_token_id=[[1]])
    with pytest.raises(DomainError, match="generation_config.json: eos_token_id"):
        load(spec(folder), lambda *_: None)


def test_load_hints_at_the_target_of_links(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    links = tmp_path_factory.mktemp("links")
    for path in folder.iterdir():
        (links / path.name).symlink_to(path)
    with pytest.raises(ModelRefused) as caught:
        load(spec(links), lambda *_: None)
    assert "cp -rL" in (caught.value.hint or "")
