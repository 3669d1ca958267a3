"""Runs training steps in one process, saves checkpoints and exports the model.

The optimizers use float32 weights. The model computes in bfloat16 if the processor supports it. The running
average of the weights is exported.
"""

import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from app.builtin.training.batches import IGNORED, Batch, BatchMaker, BatchShape
from app.builtin.training.model import build_model, round_parameters, sampling_defaults
from app.builtin.training.muon import Muon
from app.builtin.training.tokenizer import END, PAD


@dataclass(frozen=True, slots=True)
class Recipe:
    """The settings of a training run. Together with the corpus they determine the model."""

    seed: int = 1
    shapes: tuple[BatchShape, ...] = ((20, 256, 76), (10, 512, 18), (5, 1024, 6))
    steps: int = 3300
    hidden_rate: float = 3e-3
    embedding_rate: float = 4e-3
    weight_decay: float = 0.05
    warmup_steps: int = 60
    decay_share: float = 0.45
    average: float = 0.995

    def rate(self, step: int) -> float:
        """Returns the factor on the learning rates at `step`: warm-up, plateau, decay to zero as 1 - sqrt."""

        decay_steps = int(self.steps * self.decay_share)
        left = max(0, self.steps - step)
        if left < decay_steps:
            return 1 - math.sqrt(1 - left / decay_steps)
        return min(1.0, (step + 1) / self.warmup_steps)


SECOND_STAGE = Recipe(
    seed=2,
    shapes=((14, 256, 80), (6, 512, 16), (3, 1024, 4)),
    steps=900,
    hidden_rate=1.5e-3,
    embedding_rate=2e-3,
    warmup_steps=30,
    decay_share=0.6,
    average=0.99,
)
"""The recipe for weights that are already trained: lower learning rates and smaller batches."""


def _computes_in_bfloat16() -> bool:
    """Returns whether the processor has bfloat16 arithmetic. Emulated, it is 60 times slower than float32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


class Trainer:
    """The model in training: its working weights, float32 weights and their average, and the optimizers."""

    def __init__(self, recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> None:
        self.recipe = recipe
        self.tokenizer = tokenizer
        self.step = 0
        self._batches = BatchMaker(tokenizer, recipe.shapes, recipe.seed)
        torch.manual_seed(recipe.seed)
        self._end, self._pad = (tokenizer.get_vocab()[token] for token in (END, PAD))
        model = build_model(len(tokenizer), self._end, self._pad, is_training=True)
        self._names = [name for name, _ in model.named_parameters()]
        self._exact: list[torch.Tensor] = [torch.nn.Parameter(p.detach().clone()) for p in model.parameters()]
        self._average = [p.detach().clone() for p in self._exact]
        self._model_in_training = round_parameters(model) if _computes_in_bfloat16() else model
        self._working: list[torch.Tensor] = [*self._model_in_training.parameters()]
        self._optimizers = self._make_optimizers()

    def _make_optimizers(self) -> list[torch.optim.Optimizer]:
        is_hidden = [
            "layers" in name and p.ndim == 2 for name, p in zip(self._names, self._exact, strict=True)
        ]
        hidden = [p for p, inside in zip(self._exact, is_hidden, strict=True) if inside]
        other = [p for p, inside in zip(self._exact, is_hidden, strict=True) if not inside]
        recipe = self.recipe
        return [
            Muon(hidden, lr=recipe.hidden_rate, weight_decay=recipe.weight_decay),
            torch.optim.AdamW(other, lr=recipe.embedding_rate, betas=(0.9, 0.98), weight_decay=0.0),
        ]

    def _summed_loss(self, batch: Batch) -> torch.Tensor:
        hidden = self._model_in_training.model(input_ids=batch.ids, use_cache=False).last_hidden_state
        wanted = batch.labels != IGNORED
        logits = self._model_in_training.lm_head(hidden[wanted])
        return cross_entropy(logits.float(), batch.labels[wanted], reduction="sum")

    def advance(self) -> tuple[float, int]:
        """Runs one step with the other processes. Returns the loss and the number of tokens in all."""
        batch = self._batches.batch(self.step, dist.get_rank(), dist.get_world_size())
        loss = self._summed_loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        labels = int((batch.labels != IGNORED).sum())
        summed_loss, all_labels = self._gather_gradients(loss.item(), labels)
        self._update(self.recipe.rate(self.step))
        self.step += 1
        return summed_loss / all_labels, batch.ids.numel() * dist.get_world_size()

    @torch.no_grad()
    def _gather_gradients(self, loss: float, labels: int) -> tuple[float, float]:
        """Sets the gradients of all processes on the exact weights, per label. Returns both sums."""
        gradients = [p.grad.float().flatten() for p in self._working if p.grad is not None]
        flat = torch.cat([*gradients, torch.tensor([loss, labels])])
        dist.all_reduce(flat)
        summed_loss, all_labels = flat[-2:].tolist()
        parts = (flat[:-2] / all_labels).split([p.numel() for p in self._exact])
        for exact, working, part in zip(self._exact, self._working, parts, strict=True):
            exact.grad = part.view_as(exact)
            working.grad = None
        return summed_loss, all_labels

    @torch.no_grad()
    def _update(self, factor: float) -> None:
        torch.nn.utils.clip_grad_norm_(self._exact, 1.0)
        rates = (self.recipe.hidden_rate, self.recipe.embedding_rate)
        for optimizer, rate in zip(self._optimizers, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()
        torch._foreach_copy_(self._working, self._exact)
        keep = min(self.recipe.average, self.step / (self.step + 10))
        torch._foreach_lerp_(self._average, self._exact, 1 - keep)

    def save(self, path: Path) -> None:
        """Writes everything that is needed to continue from this step. The file is replaced atomically."""
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "step": self.step,
            "exact": self._exact,
            "average": self._average,
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
        }
        torch.save(state, path.with_suffix(".partial"))
        path.with_suffix(".partial").replace(path)

    @torch.no_grad()
    def load(self, path: Path) -> None:
        """Restores the state that `save` wrote."""
        state = torch.load(path)
        self.step = state["step"]
        torch._foreach_copy_(self._exact, state["exact"])
        torch._foreach_copy_(self._average, state["average"])
        torch._foreach_copy_(self._working, self._exact)
        for optimizer, optimizer_state in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(optimizer_state)

    @torch.no_grad()
    def begin_with(self, folder: Path) -> None:
        """Starts from exported weights with new optimizers, for a second stage of training."""
        model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
        for held in (self._exact, self._average, self._working):
            torch._foreach_copy_(held, [*model.parameters()])

    def averaged_model(self) -> LlamaForCausalLM:
        """Returns the averaged weights as an ordinary model in bfloat16."""
        model = build_model(len(self.tokenizer), self._end, self._pad, is_training=False)
        round_parameters(model)
        with torch.no_grad():
            torch._foreach_copy_([*model.parameters()], self._average)
        model.generation_config = sampling_defaults(self._end, self._pad)
        return model

    def export(self, out: Path) -> None:
        """Writes model and tokenizer to a temporary folder, then moves each file to `out`."""
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent) as folder:
            self.averaged_model().save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
            for file in Path(folder).iterdir():
                os.replace(file, out / file.name)
