"""Training batches: rows of tokens cut from endless conversations, each a function of seed and step alone."""

import random
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerFast

from app.builtin.training.corpus.composition import Conversation, conversation
from app.builtin.training.tokenizer import END, PAD

IGNORED = -100
_TOKENS_PER_EXCHANGE = 14


Shape = tuple[int, int, int]
"""Rows, tokens in each, and how often batches have this shape in relation to the others."""


@dataclass(frozen=True, slots=True)
class Batch:
    """`ids` and `labels`, both int64 [rows, tokens]; a label is the next token of a reply, or `IGNORED`."""

    ids: torch.Tensor
    labels: torch.Tensor


class BatchMaker:
    """Turns conversations into batches with one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, shapes: tuple[Shape, ...], seed: int) -> None:
        self._tokenizer = tokenizer
        self._shapes = shapes
        self._seed = seed
        vocabulary = tokenizer.get_vocab()
        self._end, self._pad = vocabulary[END], vocabulary[PAD]

    def encode(self, talk: Conversation) -> tuple[list[int], list[bool]]:
        """The conversation as the chat template writes it, and which tokens belong to replies."""
        messages = talk.messages()
        texts = [f"<|{message['role']}|>{message['content']}" for message in messages]
        encoded = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        ids: list[int] = []
        is_reply: list[bool] = []
        for message, tokens in zip(messages, encoded, strict=True):
            ids += [*tokens, self._end]
            answered = message["role"] == "assistant"
            is_reply += [False] + [answered] * len(tokens)
        return ids, is_reply

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        """Every `parts`-th row of the batch of `step`, right-padded; all parts are the whole batch."""
        weights = [weight for *_, weight in self._shapes]
        rows, length, _ = random.Random(f"{self._seed} {step}").choices(self._shapes, weights)[0]
        ids, labels = zip(*(self._row(step, row, length) for row in range(part, rows, parts)), strict=True)
        return Batch(torch.stack(ids), torch.stack(labels))

    def _row(self, step: int, row: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = random.Random(f"{self._seed} {step} {row}")
        tokens, is_reply = self.encode(conversation(rng, length // _TOKENS_PER_EXCHANGE))
        filled = min(length, len(tokens))
        ids = torch.full((length,), self._pad)
        ids[:filled] = torch.tensor(tokens[:filled])
        following = [token if wanted else IGNORED for token, wanted in zip(tokens, is_reply, strict=True)]
        labels = torch.full((length,), IGNORED)
        labels[: filled - 1] = torch.tensor(following[1:filled])
        return ids, labels
