"""The forward pass of common models without transformers' own wrappers.

On a small model, these wrappers cost a tenth of a decode step. The self-check compares the logits at every
load.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from app.engine.execution.attention.interface import AttentionBatch
from app.engine.layers.fused import RotaryLayer

# Models that consist of an embedding, decoder layers, a norm and an output layer, and compute nothing beside.
_MODELS = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")


@dataclass(frozen=True, slots=True)
class DirectPass:
    """The parts of a model, called one after the other."""

    embeddings: nn.Module
    rotary: nn.Module
    layers: Sequence[nn.Module]
    norm: nn.Module
    output: nn.Module

    @classmethod
    def of(cls, model: PreTrainedModel) -> "DirectPass | None":
        """Returns the parts of a model with fused layers; None if it may compute something else."""
        body: Any = getattr(model, "model", None)  # of these models, the part below the output layer
        if type(model).__name__ not in _MODELS or not all(type(x) is RotaryLayer for x in body.layers):
            return None
        head: Any = model.lm_head
        return cls(body.embed_tokens, body.rotary_emb, tuple(body.layers), body.norm, head)

    def logits(self, ids: Tensor, positions: Tensor, rows: Tensor, batch: AttentionBatch) -> Tensor:
        """Returns the logits `[rows, vocabulary]` after these rows of the tokens, which are `[1, tokens]`."""
        hidden: Tensor = self.embeddings(ids)
        rope = self.rotary(hidden, positions)
        for layer in self.layers:
            hidden = layer(hidden, position_embeddings=rope, attention_batch=batch)
        logits: Tensor = self.output(self.norm(hidden.index_select(1, rows)))[0]
        return logits
