"""Undoes how llama.cpp's converter reorders and changes some weights before it stores them."""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from app.engine.gguf.header import corrupt

# Whose rotary positions llama.cpp stores in another order: it pairs neighbours, not the halves of a head.
_NEIGHBOURS = ("llama", "granite", "granitemoe", "granitehybrid", "smollm3")
_SHIFTED = ("gemma2", "gemma3")
_DELTA_NETS = ("qwen35", "qwen35moe")
# Of a delta net, the tensors that have a row for each of its heads for values, or for a part of one.
_ROW_FOR_HEAD = ("in_proj_a", "in_proj_b", "A_log", "dt_bias")
_ROW_FOR_PART = ("in_proj_z",)
_ROWS_BEHIND_KEYS = ("in_proj_qkv", "conv1d")


@dataclass(frozen=True, slots=True)
class StoredForm:
    """The form in which the weights of one model are stored. Names are those of transformers."""

    architecture: str
    config: PreTrainedConfig

    def row_order(self, name: str) -> Tensor | None:
        """Returns the indices of the stored rows in the order in which transformers has them."""
        parts = name.split(".")
        module = parts[-2] if parts[-1] in ("weight", "bias") else parts[-1]
        if self.architecture in _NEIGHBOURS:
            return self._halves(module)
        return self._value_heads(module) if self.architecture in _DELTA_NETS else None

    def column_order(self, name: str) -> Tensor | None:
        """Returns the indices of the stored columns in the order in which transformers has them."""
        if self.architecture in _DELTA_NETS and name.endswith("linear_attn.out_proj.weight"):
            return self._untiled(self.config.linear_value_head_dim)
        return None

    def original(self, name: str, values: Tensor) -> Tensor:
        """Returns the values as transformers has them. `values` are in float32."""
        if name.endswith(".A_log"):
            return torch.log(-values)
        return values - 1 if self._is_shifted(name) else values

    def _is_shifted(self, name: str) -> bool:
        """Returns whether 1 was added to a norm's weights."""
        if not name.endswith("norm.weight"):
            return False
        is_delta_net = self.architecture in _DELTA_NETS and not name.endswith("linear_attn.norm.weight")
        return is_delta_net or self.architecture in _SHIFTED

    def _halves(self, module: str) -> Tensor | None:
        config = self.config
        counts = {"q_proj": int(config.num_attention_heads), "k_proj": int(config.num_key_value_heads)}
        heads = counts.get(module)
        if heads is None:
            return None
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        if head_dim % 2:
            raise corrupt("its heads have an odd width, but rotary positions need pairs")
        return torch.arange(heads * head_dim).view(heads, -1, 2).transpose(1, 2).flatten()

    def _value_heads(self, module: str) -> Tensor | None:
        config = self.config
        if module in _ROW_FOR_HEAD:
            return self._untiled(1)
        if module in _ROW_FOR_PART:
            return self._untiled(config.linear_value_head_dim)
        if module not in _ROWS_BEHIND_KEYS:
            return None
        order = self._untiled(config.linear_value_head_dim)
        keys = 2 * config.linear_num_key_heads * config.linear_key_head_dim  # and queries
        return None if order is None else torch.cat((torch.arange(keys), keys + order))

    def _untiled(self, size: int) -> Tensor | None:
        """Returns the order of heads for values that lie together if they share a key.

        llama.cpp stores the first one of each key, then the second ones. A head has `size` rows or columns.
        """
        keys, values = int(self.config.linear_num_key_heads), int(self.config.linear_num_value_heads)
        if keys == values:
            return None
        return torch.arange(values * size).view(values // keys, keys, size).transpose(0, 1).flatten()
