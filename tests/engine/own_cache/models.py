"""Tiny models with random weights whose architectures the packed path does not compute."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CpmAntConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from app.core.literals import Device
from app.engine.core import EngineCore, EngineLimits
from app.engine.decoders import decoder_for, sequence_bytes
from app.engine.ipc.messages import WorkerSpec
from app.engine.loading.load import LoadedModel
from app.engine.loading.serving_path import CheckedModel, load_checked
from app.engine.own_cache.check import OwnPath, check_unchanged
from app.engine.own_cache.passes import Joining
from app.engine.own_cache.runner import OwnForward
from tests.engine.tiny import DEVICE, InlineExecutor, new_model, shared_grammar_sandbox, shared_sandbox

WINDOW = 256  # tokens of context
SCAN_CHUNK = 16  # tokens that a state space layer computes together

_SHAPE: dict[str, Any] = {  # arguments that most of these configs take
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": WINDOW,
    "pad_token_id": 0,
    "initializer_range": 0.3,  # enough that greedy replies vary
}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
_DELTA_NET = {
    "head_dim": 16,
    "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_MAMBA_2 = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 16,
    "mamba_n_groups": 1,
    "mamba_chunk_size": SCAN_CHUNK,
}
_OLD = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": WINDOW, "initializer_range": 0.3}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "qwen3_5_text": {**_SHAPE, **_DELTA_NET},
    "qwen3_next": {
        **_SHAPE,
        **_DELTA_NET,
        **_EXPERTS,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
    "lfm2": {**_SHAPE, "layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "granitemoehybrid": {
        **_SHAPE,
        **_MAMBA_2,
        "layer_types": ["mamba", "attention", "mamba", "mamba"],
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 32,
    },
    "bamba": {**_SHAPE, **_MAMBA_2, "attn_layer_indices": [1, 3]},
    "falcon_h1": {**_SHAPE, **_MAMBA_2, "mamba_d_ssm": 64},
    "jamba": {
        **_SHAPE,
        **_EXPERTS,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "mamba_d_state": 16,
        "mamba_dt_rank": 8,
        "use_mamba_kernels": False,
    },
    "nemotron_h": {
        **_SHAPE,
        "hybrid_override_pattern": "M*-M",
        "mamba_num_heads": 8,
        "mamba_head_dim": 8,
        "ssm_state_size": 16,
        "n_groups": 1,
        "chunk_size": SCAN_CHUNK,
        "head_dim": 8,
        "initializer_range": 0.1,
    },
    "mamba": {"hidden_size": 32, "state_size": 16, "num_hidden_layers": 3, "initializer_range": 0.3},
    "mamba2": {
        "hidden_size": 32,
        "state_size": 16,
        "num_hidden_layers": 3,
        "num_heads": 8,
        "head_dim": 8,
        "n_groups": 1,
        "chunk_size": SCAN_CHUNK,
        "initializer_range": 0.3,
    },
    "deepseek_v3": {
        **_SHAPE,
        "num_key_value_heads": 4,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 8,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 2,
        "topk_group": 1,
        "moe_intermediate_size": 16,
        "first_k_dense_replace": 1,
    },
    "stablelm": _SHAPE,
    "bloom": {"hidden_size": 32, "n_layer": 3, "n_head": 4, "initializer_range": 0.3},
    "gptj": {**_OLD, "rotary_dim": 4},
    "codegen": {**_OLD, "rotary_dim": 4},
    "gpt_neo": {
        "max_position_embeddings": WINDOW,
        "hidden_size": 32,
        "num_layers": 4,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 2]],
        "window_size": 8,
        "initializer_range": 0.3,
    },
    "recurrent_gemma": {
        **_SHAPE,
        "attention_window_size": 16,
        "w_init_variance_scale": 3.0,
    },
    "rwkv": {
        "context_length": WINDOW,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "attention_hidden_size": 32,
        "intermediate_size": 48,
    },
    "falcon": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "initializer_range": 0.3},
    "nemotron": _SHAPE,
    "diffllama": {**_SHAPE, "head_dim": 8},
    "xglm": {
        "max_position_embeddings": WINDOW,
        "d_model": 32,
        "ffn_dim": 48,
        "num_layers": 3,
        "attention_heads": 4,
        "init_std": 0.3,
    },
}

RECOMPUTED: dict[str, dict[str, Any]] = {"openai-gpt": _OLD}  # it has no cache
PACKED: dict[str, dict[str, Any]] = {"olmoe": {**_SHAPE, **_EXPERTS}}  # though others of the kind are not


@dataclass(frozen=True)
class OwnCacheModel:
    """The same weights twice: `reference` generates as transformers does, `served` serves the engine."""

    reference: PreTrainedModel
    served: CheckedModel
    tokenizer: PreTrainedTokenizerFast

    @property
    def forward(self) -> OwnForward:
        """Of each sequence alone."""
        return OwnForward(self.served.loaded.model, replace(self.path.options, joining=Joining.NEVER))

    @property
    def path(self) -> OwnPath:
        assert isinstance(self.served.path, OwnPath)
        return self.served.path

    def engine(
        self,
        *,
        sequences: float = 16,
        step_tokens: int = 24,
        max_active_requests: int = 8,
        overlaps_steps: bool = DEVICE.type == "cuda",
    ) -> EngineCore:
        """With room for so many sequences of the longest kind."""
        size = sequence_bytes(self.served)
        limits = EngineLimits(
            context_length=WINDOW,
            kv_cache_bytes=int(sequences * size.of(WINDOW)),
            max_active_requests=max_active_requests,
            step_tokens=step_tokens,
            overlaps_steps=overlaps_steps,
        )
        return EngineCore(
            self.served.loaded,
            decoder_for(self.served, limits, size),
            limits,
            sandbox=shared_sandbox(),
            grammar_sandbox=shared_grammar_sandbox(),
            admission_executor=InlineExecutor(),
        )

    def generate(self, prompt: str, max_tokens: int, **options: float) -> str:
        """Returns the greedy reply of transformers. If cut off, it ends with its last whole character."""
        ids = self.tokenizer(prompt, return_tensors="pt").input_ids.to(DEVICE)
        output = self.reference.generate(  # type: ignore[operator]  # a method, which torch hides
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=max_tokens,
            eos_token_id=1,
            pad_token_id=0,
            **options,
        )
        reply = output[0, ids.shape[1] :].tolist()
        text = self.tokenizer.decode(reply, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text if reply[-1] == 1 else text.removesuffix("\ufffd")


def cpm_ant(vocabulary: int) -> CpmAntConfig:
    """Its cached pass fails with the new ids alone, and its tokens attend to later ones."""
    config = CpmAntConfig(vocab_size=vocabulary, hidden_size=32, num_attention_heads=4, num_hidden_layers=2)
    config.dim_head, config.dim_ff, config.init_std = 8, 48, 0.3
    return config


def save(architecture: str, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a tiny model of the architecture, with its tokenizer."""
    options = {
        **(ARCHITECTURES | RECOMPUTED | PACKED)[architecture],
        "vocab_size": len(tokenizer),
        "bos_token_id": 0,
    }
    config = AutoConfig.for_model(architecture, **options, eos_token_id=1)
    new_model(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def load_own(architecture: str, tokenizer: PreTrainedTokenizerFast, folder: Path) -> OwnCacheModel:
    save(architecture, tokenizer, folder)
    reference = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    reference.to(DEVICE).train(False)  # type: ignore[arg-type]  # transformers wraps `to` and loses its type
    device: Device = "cuda" if DEVICE.type == "cuda" else "cpu"
    spec = WorkerSpec(str(folder), architecture, device=device, dtype="float32")
    return OwnCacheModel(reference, load_checked(spec, lambda *stage: None), tokenizer)


def unpacked(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast) -> OwnCacheModel:
    """Returns a model that is served with own caches though it could be packed."""
    model = new_model(config)
    path = check_unchanged(model, "it is not packed in this test")
    loaded = LoadedModel(model, tokenizer, WINDOW)
    return OwnCacheModel(new_model(config), CheckedModel(loaded, model.num_parameters(), path), tokenizer)
