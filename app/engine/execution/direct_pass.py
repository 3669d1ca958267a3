"""The forward pass of common models without transformers' own wrappers.

On a small model, these wrappers cost a tenth of a decode step. The self-check compares the logits at every
load.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from app.engine.device import on_device
from app.engine.execution.attention.interface import AttentionBatch
from app.engine.execution.attention.rope import RopeTable
from app.engine.layers.fused import GPT2Layer, RotaryLayer

# Models that consist of an embedding, decoder layers, a norm and an output layer, and compute nothing beside.
_ROTARY_MODELS = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
_GPT2 = "GPT2LMHeadModel"


@dataclass(frozen=True, slots=True)
class DirectPass:
    """The parts of a model, called one after the other."""

    embeddings: nn.Module
    positions: RopeTable | nn.Module  # the latter are GPT-2's vectors, which are added to the embeddings
    layers: Sequence[Callable[..., Tensor]]
    modules: Sequence[RotaryLayer | GPT2Layer]  # of the layers
    norm: nn.Module
    output: nn.Module
    device: torch.device

    @classmethod
    def of(cls, model: PreTrainedModel) -> "DirectPass | None":
        """Returns the parts of a model with fused layers; None if it may compute something else."""
        kind, whole = type(model).__name__, cast(Any, model)  # each of these models has the parts below
        if kind in _ROTARY_MODELS and _are(RotaryLayer, whole.model.layers):
            body = whole.model
            positions = RopeTable(body.rotary_emb)
            embeddings, layers, norm = body.embed_tokens, body.layers, body.norm
        elif kind == _GPT2 and _are(GPT2Layer, whole.transformer.h):
            body = whole.transformer
            embeddings, positions, layers, norm = body.wte, body.wpe, body.h, body.ln_f
        else:
            return None
        computations = tuple(layer.forward for layer in layers)  # without the checks for hooks
        return cls(embeddings, positions, computations, layers, norm, whole.lm_head, model.device)

    def logits(self, ids: list[int], positions: list[int], rows: list[int], batch: AttentionBatch) -> Tensor:
        """Returns the logits `[rows, vocabulary]` after these rows of the tokens."""
        hidden: Tensor = self.embeddings(on_device([ids], self.device))
        if isinstance(self.positions, RopeTable):
            batch.rope = self.positions.rows(positions, hidden)
        else:
            hidden = hidden + self.positions(on_device([positions], self.device))
        for layer in self.layers:
            hidden = layer(hidden, attention_batch=batch)
        if len(rows) < len(ids):
            hidden = hidden.index_select(1, on_device(rows, self.device))
        logits: Tensor = self.output(self.norm(hidden))[0]
        return logits


def _are(kind: type[nn.Module], layers: Sequence[nn.Module]) -> bool:
    return all(type(layer) is kind for layer in layers)
