"""Generates replies to many conversations at once with transformers, for training and evaluation."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

TrainingMessage = dict[str, str]
"""A message as chat templates take it: its `role` and its `content`."""

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
_REPLY_TOKENS = 220
_BATCH = 32


class Answerer:
    """Generates replies in batches, and counts how many of them ended with the end token.

    `model` is a causal language model of transformers; mypy cannot match the type of its `generate`.
    """

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerFast, is_greedy: bool = True) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._greedy = {"do_sample": False, "temperature": None, "top_p": None} if is_greedy else {}
        self.ended = 0
        self.asked = 0

    @classmethod
    def from_folder(cls, folder: Path, is_greedy: bool = True) -> "Answerer":
        """Loads the model and the tokenizer saved in `folder`, in float32."""
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return cls(model, PreTrainedTokenizerFast.from_pretrained(folder), is_greedy)

    def replies(self, conversations: list[list[TrainingMessage]]) -> list[str]:
        """Returns one reply to each conversation, in the order of `conversations`."""
        prompts = [
            str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
            for messages in conversations
        ]
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        found: dict[int, str] = {}
        for start in range(0, len(order), _BATCH):
            chosen = order[start : start + _BATCH]
            found.update(zip(chosen, self._generate([prompts[i] for i in chosen]), strict=True))
        return [found[i] for i in range(len(prompts))]

    @torch.inference_mode()
    def _generate(self, prompts: list[str]) -> list[str]:
        inputs = self._tokenizer(
            prompts, return_tensors="pt", padding=True, padding_side="left", return_token_type_ids=False
        )
        output = self._model.generate(**inputs, max_new_tokens=_REPLY_TOKENS, **self._greedy)
        replies = output[:, inputs["input_ids"].shape[1] :]
        self.asked += len(prompts)
        self.ended += int((replies == self._tokenizer.eos_token_id).any(dim=1).sum())
        return [str(text) for text in self._tokenizer.batch_decode(replies, skip_special_tokens=True)]
