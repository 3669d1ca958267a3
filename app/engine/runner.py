"""Owns the model: the only caller of its forward pass, and what differs between devices.

One pass over the packed tokens of a step; only rows that a next token is wanted from pay for the vocabulary.
"""

from collections.abc import Sequence as Many

import torch
from torch import Tensor
from transformers import PreTrainedModel

from app.engine.attention import Span, Step
from app.engine.scheduler import Chunk


class Runner:
    """`model` attends through `attention.attend`; its layers are numbered in slots from `first_layer` on."""

    def __init__(self, model: PreTrainedModel, first_layer: int = 0) -> None:
        self._model = model
        self._first_layer = first_layer
        self.device = model.device

    @torch.inference_mode()
    def forward(self, chunks: Many[Chunk]) -> Tensor:
        """Logits `[rows, vocabulary]`: of each chunk that is its sequence's last, in order, the row of its
        last id and of every guessed one.

        Writes keys and values into the slots; that they are computed is for the caller to note.
        """
        ids: list[int] = []
        positions: list[int] = []
        spans: list[Span] = []
        wanted: list[int] = []
        for chunk in chunks:
            sequence, start = chunk.sequence, chunk.sequence.computed
            spans.append(Span(sequence.slot, len(ids), len(ids) + chunk.rows, start))
            ids += sequence.ids[start : start + chunk.count]
            ids += chunk.guess
            positions += range(start, start + chunk.rows)
            if chunk.is_last:
                wanted += range(len(ids) - 1 - len(chunk.guess), len(ids))
        return self._logits(ids, positions, wanted, Step(spans, self._first_layer))

    def recover(self) -> None:
        """After a failed pass: give unused device memory back."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _logits(self, ids: list[int], positions: list[int], wanted: list[int], step: Step) -> Tensor:
        output = self._model(
            input_ids=torch.tensor([ids], device=self.device),
            position_ids=torch.tensor([positions], device=self.device),
            logits_to_keep=torch.tensor(wanted, dtype=torch.long, device=self.device),
            use_cache=False,
            step=step,
        )
        logits: Tensor = output.logits[0]
        return logits
