"""Makes training batches from generated conversations. Each batch depends on the seed and the step alone."""

import random
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerFast

from app.builtin.training.corpus.composition import TrainingConversation, conversation
from app.builtin.training.tokenizer import END, PAD

IGNORED = -100
_TOKENS_PER_EXCHANGE = 14

BatchShape = tuple[int, int, int]
"""Number of rows, tokens in each row, and the relative frequency of batches with this shape."""


@dataclass(frozen=True, slots=True)
class Batch:
    """`ids` and `labels`, both int64 `[rows, tokens]`. A label is the next token of a reply, or `IGNORED`."""

    ids: torch.Tensor
    labels: torch.Tensor


class BatchMaker:
    """Generates conversations and tokenises them into batches."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, shapes: tuple[BatchShape, ...], seed: int) -> None:
        self._tokenizer = tokenizer
        self._shapes = shapes
        self._seed = seed
        vocabulary = tokenizer.get_vocab()
        self._end, self._pad = vocabulary[END], vocabulary[PAD]

    def encode(self, talk: TrainingConversation) -> tuple[list[int], list[bool]]:
        """Returns the token ids as the chat template writes them, and whether each belongs to a reply."""
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
        """Returns every `parts`-th row of the batch for `step`, from row `part` on, padded on the right."""
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
