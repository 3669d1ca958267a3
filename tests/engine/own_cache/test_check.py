"""The check at load finds how an architecture can be served, or refuses it with a domain error."""

import gc
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from transformers import GenerationMixin, MambaConfig, PreTrainedTokenizerFast, XLMConfig
from transformers.models.mamba.modeling_mamba import MambaMixer

from app.core.errors import ModelUnsupported
from app.core.literals import DType, Quantization
from app.engine.ipc.messages import WorkerSpec
from app.engine.loading.serving_path import load_checked
from app.engine.own_cache.check import OwnPath, check_unchanged
from app.engine.own_cache.runner import CachePlace
from app.engine.startup import build_engine
from tests.engine.own_cache.models import OwnCacheModel, cpm_ant, load_own, save
from tests.engine.tiny import greedy, new_model, run

OwnModel = Callable[[str], OwnCacheModel]


def test_path_knows_whether_chunks_and_cropping_are_possible(own_model: OwnModel) -> None:
    found = {
        name: own_model(name).path for name in ("qwen3_5_text", "mamba2", "jamba", "deepseek_v3", "rwkv")
    }
    assert {name for name, path in found.items() if not path.is_divisible} == {"jamba"}
    assert {name for name, path in found.items() if path.can_crop} == {"deepseek_v3"}
    assert found["mamba2"].sequence_bytes.per_token == 0 < found["mamba2"].sequence_bytes.fixed
    assert found["deepseek_v3"].sequence_bytes.fixed == 0
    assert "linear_attention" in found["qwen3_5_text"].reason


def test_model_that_is_packed_stays_so(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    save("olmoe", tokenizer, tmp_path)
    built = build_engine(WorkerSpec(str(tmp_path), "olmoe", dtype="float32"), lambda event: None)
    assert (built.info.cache, built.info.cache_reason) == ("packed", None)


@pytest.mark.parametrize("name", ["bloom", "gptj"])
def test_failed_attempt_has_given_back_its_memory_before_the_next(
    name: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    save(name, tokenizer, tmp_path)
    loaded: list[int] = []
    with older_objects_apart():
        load_checked(
            WorkerSpec(str(tmp_path), name, dtype="float32"), lambda *stage: loaded.append(new_models())
        )
    assert max(loaded) == 1


@contextmanager
def older_objects_apart() -> Iterator[None]:
    """Sets apart the objects so far: other tests leave millions, and a look at all of them takes seconds."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def new_models() -> int:
    """Returns how many models in memory were not set apart."""
    return sum(issubclass(type(each), GenerationMixin) for each in gc.get_objects())


def test_info_says_which_path_serves_and_why(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    save("mamba2", tokenizer, tmp_path)
    built = build_engine(WorkerSpec(str(tmp_path), "mamba2"), lambda event: None)
    assert built.info.cache == "own"
    assert "linear_attention" in (built.info.cache_reason or "")
    assert "without draft tokens" in (built.info.cache_reason or "")
    assert len(run(built.engine, greedy("a", "the cat", 4)).texts["a"]) > 0


@pytest.mark.parametrize("name", ["falcon_h1", "mamba2", "mamba"])
@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_linear_layers_are_quantised(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, quantization: Quantization, name: str
) -> None:
    save(name, tokenizer, tmp_path)
    spec = WorkerSpec(str(tmp_path), name, dtype="float32", quantization=quantization)
    assert load_checked(spec, lambda *stage: None).path.weights.startswith(quantization)


@pytest.mark.parametrize("name", ["falcon_h1", "jamba"])
def test_weights_are_named_without_a_share_if_nearly_all_have_few_bits(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, name: str
) -> None:
    """Those of Jamba's experts are no linear layers."""
    save(name, tokenizer, tmp_path)
    spec = WorkerSpec(str(tmp_path), name, dtype="float32", quantization="int8")
    assert load_checked(spec, lambda *stage: None).path.weights == "int8"


def test_layers_that_cannot_be_quantised_are_refused_with_the_setting(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    save("bloom", tokenizer, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    reads_weights = {"pretraining_tp": 2, "slow_but_exact": True}  # itself, instead of calling its layers
    (tmp_path / "config.json").write_text(json.dumps(config | reads_weights))
    spec = WorkerSpec(str(tmp_path), "bloom", dtype="float32", quantization="int8")
    with pytest.raises(ModelUnsupported) as refusal:
        load_checked(spec, lambda *stage: None)
    assert "LLM_QUANTIZATION=none" in (refusal.value.hint or "")


@pytest.mark.parametrize("quantization", ["none", "int8", "int4"])
def test_architecture_that_cannot_be_served_is_refused_for_itself_after_one_load(
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    quantization: Quantization,
) -> None:
    new_model(cpm_ant(len(tokenizer))).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    spec = WorkerSpec(str(tmp_path), "cpm-ant", dtype="float32", quantization=quantization)
    with caplog.at_level("INFO"), pytest.raises(ModelUnsupported, match="CpmAnt") as refusal:
        load_checked(spec, lambda *stage: None)
    assert refusal.value.hint is not None and refusal.value.hint.startswith("Choose a model of another")
    assert "again" not in caplog.text


@pytest.mark.parametrize(
    "name",
    ["bloom", "gptj", "stablelm", "deepseek_v3", "falcon", "qwen3_5_text", "mamba2", "mamba", "jamba"],
)
def test_architecture_that_cannot_be_packed_is_loaded_once(
    name: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(name, tokenizer, tmp_path)
    spec = WorkerSpec(str(tmp_path), name, dtype="float32")
    with caplog.at_level("INFO"):
        assert isinstance(load_checked(spec, lambda *stage: None).path, OwnPath)
    assert "again" not in caplog.text


@pytest.mark.parametrize("name", ["lfm2", "qwen3_5_text", "falcon_h1"])
def test_16_bit_weights_that_are_computed_in_32_are_loaded_once(
    name: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Their mixers read the weights of convolutions themselves."""
    load_own(name, tokenizer, tmp_path).reference.bfloat16().save_pretrained(tmp_path)
    spec = WorkerSpec(str(tmp_path), name, dtype="float32")
    with caplog.at_level("INFO"):
        assert isinstance(load_checked(spec, lambda *stage: None).path, OwnPath)
    assert "again" not in caplog.text


def test_state_spaces_have_the_context_window_that_is_set(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    save("mamba2", tokenizer, tmp_path)
    built = build_engine(WorkerSpec(str(tmp_path), "mamba2", context_length=5000), lambda event: None)
    assert built.info.context_length == 5000


@pytest.mark.parametrize("name", ["qwen3_5_text", "mamba2", "lfm2", "granitemoehybrid", "jamba", "mamba"])
def test_ignored_caches_are_found_with_few_bits_too(
    name: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    own = load_own(name, tokenizer, tmp_path)
    own.reference.bfloat16().save_pretrained(tmp_path)
    spec = WorkerSpec(str(tmp_path), name, dtype="bfloat16")
    path = load_checked(spec, lambda *stage: None).path
    assert isinstance(path, OwnPath)
    assert path.is_divisible == (name not in ("jamba", "mamba"))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_other_dtypes_are_computed_in(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, dtype: DType
) -> None:
    for name in ("lfm2", "mamba2"):
        own = load_own(name, tokenizer, tmp_path / name)
        own.reference.bfloat16().save_pretrained(tmp_path / name)
        built = build_engine(WorkerSpec(str(tmp_path / name), name, dtype=dtype), lambda event: None)
        assert (built.info.cache, built.info.dtype) == ("own", dtype)
        assert len(run(built.engine, greedy("a", "the cat", 4)).texts["a"]) > 0


def test_unchanged_model_that_looks_ahead_is_refused_for_that() -> None:
    with pytest.raises(ModelUnsupported, match="reads a whole text at once"):
        check_unchanged(new_model(cpm_ant(300)), "its layers")


def test_model_whose_tokens_attend_to_later_ones_is_refused() -> None:
    with pytest.raises(ModelUnsupported, match="other logits"):
        check_unchanged(new_model(XLMConfig(vocab_size=300, emb_dim=32, n_heads=4, n_layers=2)), "its layers")


def test_griffin_keeps_its_states_from_one_pass_to_the_next(own_model: OwnModel) -> None:
    path = own_model("recurrent_gemma").path
    assert path.options.place is CachePlace.MODULES
    assert not path.is_divisible
    assert path.sequence_bytes.fixed > 0 < path.sequence_bytes.per_token


@pytest.mark.parametrize("quantization", ["none", "int8", "int4"])
def test_model_without_a_cache_computes_all_ids_again_for_each(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, quantization: Quantization
) -> None:
    save("openai-gpt", tokenizer, tmp_path)
    spec = WorkerSpec(str(tmp_path), "openai-gpt", dtype="float32", quantization=quantization)
    built = build_engine(spec, lambda event: None)
    assert built.info.cache == "none"
    assert "computes all earlier ones" in (built.info.cache_reason or "")
    replies = run(built.engine, greedy("a", "the cat"), greedy("b", "the cat sat on", scope="b"))
    again = run(built.engine, greedy("c", "the cat", scope="b"), greedy("d", "the cat sat on"))
    assert replies.texts == {"a": again.texts["c"], "b": again.texts["d"]}
    assert again.cached("d") == built.engine.cache.used_bytes == 0


class ForgetfulMixer(MambaMixer):
    """Keeps no state between passes."""

    def forward(self, hidden_states: torch.Tensor, *args: object, **options: object) -> torch.Tensor:
        output = super().forward(hidden_states)
        assert isinstance(output, torch.Tensor)
        return output


def test_model_whose_cache_is_wrong_is_served_without_it() -> None:
    model = new_model(MambaConfig(vocab_size=300, hidden_size=32, state_size=16, num_hidden_layers=2))
    for layer in model.get_submodule("backbone.layers").children():
        mixer = layer.get_submodule("mixer")
        mixer.__class__ = ForgetfulMixer
    path = check_unchanged(model, "its layers")
    assert path.options.place is CachePlace.NOWHERE
    assert path.sequence_bytes.of(100) == 0


def test_any_error_in_a_trial_pass_is_a_domain_error() -> None:
    model = new_model(MambaConfig(vocab_size=300, hidden_size=32, state_size=16, num_hidden_layers=2))
    torch.nn.Module.__setattr__(model.get_submodule("backbone"), "norm_f", torch.nn.Linear(7, 7))
    with pytest.raises(ModelUnsupported, match="trial pass"):
        check_unchanged(model, "its layers")
