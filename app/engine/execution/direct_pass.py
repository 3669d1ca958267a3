"""The forward pass of common models without transformers' own wrappers.

On a small model, these wrappers cost a tenth of a decode step. The self-check compares the logits at every
load.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn
from transformers import PreTrainedModel

from app.engine.execution.attention.interface import AttentionBatch
from app.engine.layers.fused import GPT2Layer, RotaryLayer

# Models that consist of an embedding, decoder layers, a norm and an output layer, and compute nothing beside.
_ROTARY_MODELS = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
_GPT2 = "GPT2LMHeadModel"


@dataclass(frozen=True, slots=True)
class DirectPass:
    """The parts of a model, called one after the other."""

    embeddings: nn.Module
    positions: nn.Module  # rotary angles, or GPT-2's table of vectors, which are added to the embeddings
    layers: Sequence[nn.Module]
    norm: nn.Module
    output: nn.Module
    is_rotary: bool

    @classmethod
    def of(cls, model: PreTrainedModel) -> "DirectPass | None":
        """Returns the parts of a model with fused layers; None if it may compute something else."""
        kind, whole = type(model).__name__, cast(Any, model)  # each of these models has the parts below
        if kind in _ROTARY_MODELS and _are(RotaryLayer, whole.model.layers):
            body = whole.model
            embeddings, positions, layers, norm = body.embed_tokens, body.rotary_emb, body.layers, body.norm
        elif kind == _GPT2 and _are(GPT2Layer, whole.transformer.h):
            body = whole.transformer
            embeddings, positions, layers, norm = body.wte, body.wpe, body.h, body.ln_f
        else:
            return None
        return cls(embeddings, positions, tuple(layers), norm, whole.lm_head, kind != _GPT2)

    def logits(self, ids: Tensor, positions: Tensor, rows: Tensor, batch: AttentionBatch) -> Tensor:
        """Returns the logits `[rows, vocabulary]` after these rows of the tokens, which are `[1, tokens]`."""
        hidden: Tensor = self.embeddings(ids)
        arguments: dict[str, Any] = {"attention_batch": batch}  # of the layers, which take different ones
        if self.is_rotary:
            arguments["position_embeddings"] = self.positions(hidden, positions)
        else:
            hidden = hidden + self.positions(positions)
        for layer in self.layers:
            hidden = layer(hidden, **arguments)
        logits: Tensor = self.output(self.norm(hidden.index_select(1, rows)))[0]
        return logits


def _are(kind: type[nn.Module], layers: Sequence[nn.Module]) -> bool:
    return all(type(layer) is kind for layer in layers)
