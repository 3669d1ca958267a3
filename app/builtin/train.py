"""Trains the built-in model: `python -m app.builtin.train`, the same model again from the same seed.

Weights are bfloat16 for the arithmetic and float32 for the optimizer; their average is what is exported.
One process per core, each with its rows of every batch, waits for the others once a step only.
"""

import argparse
import logging
import math
import os
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.functional import cross_entropy
from transformers import (
    AttentionInterface,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from app.builtin.batches import IGNORED, Batch, BatchMaker
from app.builtin.tokenizer import CONTEXT_TOKENS, END, PAD, train_tokenizer

log = logging.getLogger("app.builtin.train")

WEIGHTS = Path(__file__).parent / "weights"
SAMPLES = (
    "Hello, how are you today?",
    "What is the capital of Portugal?",
    "what is 27 + 46?",
    "A function that calculates the factorial of a number",
    "How do you spell lantern?",
    "Who won the football match yesterday?",
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that, with the corpus, decides what comes out."""

    seed: int = 1
    steps: int = 3000
    layers: int = 6
    width: int = 256
    inner: int = 768
    heads: int = 4
    hidden_rate: float = 3e-3
    embedding_rate: float = 4e-3
    weight_decay: float = 0.05
    warmup_steps: int = 60
    decay_share: float = 0.45
    average: float = 0.995

    def rate(self, step: int) -> float:
        """The learning rates' factor at `step`: a warm-up, a plateau, and a fall to zero as 1 - sqrt."""
        decay_steps = int(self.steps * self.decay_share)
        left = max(0, self.steps - step)
        if left < decay_steps:
            return 1 - math.sqrt(1 - left / decay_steps)
        return min(1.0, (step + 1) / self.warmup_steps)


@dataclass(frozen=True, slots=True)
class Plan:
    """One run: what to train, where it goes, and in how many processes."""

    recipe: Recipe
    out: Path
    checkpoint: Path
    is_resumed: bool
    processes: int
    every: int = 150


def causal_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float = 1.0,
    **_: Any,  # transformers passes what other attentions need
) -> tuple[torch.Tensor, None]:
    """Attention by plain products, [rows, heads, tokens, size]; faster to train on a CPU than fused."""
    rows, heads, tokens, size = query.shape
    q, k, v = (x.reshape(rows * heads, tokens, size) for x in (query * scaling, key, value))
    future = torch.full((tokens, tokens), -1e4, dtype=q.dtype).triu(1)
    scores = torch.baddbmm(future.expand(rows * heads, tokens, tokens), q, k.transpose(1, 2))
    mixed = torch.bmm(scores.softmax(-1), v).view(rows, heads, tokens, size)
    return mixed.transpose(1, 2).contiguous(), None


def build_model(recipe: Recipe, vocabulary: int, end: int, pad: int, attention: str) -> LlamaForCausalLM:
    """A model with random weights in float32."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=recipe.width,
        intermediate_size=recipe.inner,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=pad,
        attn_implementation=attention,
    )
    return LlamaForCausalLM(config)


class Trainer:
    """The model in training: working weights, exact weights, their average and the optimizers."""

    def __init__(self, recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> None:
        self.recipe = recipe
        self.tokenizer = tokenizer
        self.step = 0
        self._batches = BatchMaker(tokenizer, recipe.seed)
        torch.manual_seed(recipe.seed)
        AttentionInterface.register("builtin_causal", causal_attention)
        model = self._model("builtin_causal")
        self._names = [name for name, _ in model.named_parameters()]
        self._exact = [torch.nn.Parameter(p.detach().clone()) for p in model.parameters()]
        self._average = [p.detach().clone() for p in self._exact]
        self._model_in_training = model.bfloat16().train()
        self._working = list(self._model_in_training.parameters())
        self._optimizers = self._make_optimizers()

    def _model(self, attention: str) -> LlamaForCausalLM:
        end, pad = self.tokenizer.convert_tokens_to_ids([END, PAD])
        return build_model(self.recipe, len(self.tokenizer), end, pad, attention)

    def _make_optimizers(self) -> list[torch.optim.Optimizer]:
        is_hidden = [
            "layers" in name and p.ndim == 2 for name, p in zip(self._names, self._exact, strict=True)
        ]
        hidden = [p for p, inside in zip(self._exact, is_hidden, strict=True) if inside]
        other = [p for p, inside in zip(self._exact, is_hidden, strict=True) if not inside]
        recipe = self.recipe
        return [
            torch.optim.Muon(
                hidden,
                lr=recipe.hidden_rate,
                weight_decay=recipe.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            ),
            torch.optim.AdamW(other, lr=recipe.embedding_rate, betas=(0.9, 0.98), weight_decay=0.0),
        ]

    def _summed_loss(self, batch: Batch) -> torch.Tensor:
        hidden = self._model_in_training.model(input_ids=batch.ids, use_cache=False).last_hidden_state
        wanted = batch.labels != IGNORED
        logits = self._model_in_training.lm_head(hidden[wanted])
        return cross_entropy(logits.float(), batch.labels[wanted], reduction="sum")

    def advance(self) -> tuple[float, int]:
        """One step, together with the other processes; its loss and the tokens that all of them saw."""
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
        """Gives the exact weights all processes' gradients, per label; the sums of both numbers."""
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
        torch._foreach_lerp_(self._average, list(self._exact), 1 - keep)

    def save(self, path: Path) -> None:
        """Everything needed to go on from this step, written whole or not at all."""
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
        """Continues where `save` left off."""
        state = torch.load(path)
        self.step = state["step"]
        for target, source in ((self._exact, state["exact"]), (self._average, state["average"])):
            torch._foreach_copy_(list(target), list(source))
        torch._foreach_copy_(self._working, self._exact)
        for optimizer, optimizer_state in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(optimizer_state)

    def averaged_model(self) -> LlamaForCausalLM:
        """The average of the weights as an ordinary model in bfloat16."""
        model = self._model("sdpa").bfloat16().eval()
        with torch.no_grad():
            torch._foreach_copy_(list(model.parameters()), self._average)
        model.generation_config = GenerationConfig(
            do_sample=True,
            temperature=0.3,
            top_p=0.9,
            max_new_tokens=256,
            eos_token_id=model.config.eos_token_id,
            pad_token_id=model.config.pad_token_id,
        )
        return model

    def export(self, out: Path) -> None:
        """Writes model and tokenizer beside their places and moves each file into it."""
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent) as folder:
            self.averaged_model().save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
            for file in Path(folder).iterdir():
                os.replace(file, out / file.name)


@torch.inference_mode()
def sample(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, text: str) -> str:
    """The greedy reply to one message."""
    messages = [{"role": "user", "content": text}]
    inputs = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    inputs.pop("token_type_ids", None)
    output = model.generate(**inputs, do_sample=False, temperature=None, top_p=None, max_new_tokens=120)
    return str(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def _show_samples(trainer: Trainer) -> None:
    model = trainer.averaged_model()
    for text in SAMPLES:
        log.info("  %s -> %s", text, sample(model, trainer.tokenizer, text).replace("\n", "\\n"))


def train(trainer: Trainer, plan: Plan) -> None:
    """Trains to the recipe's last step, with a checkpoint and an export on the way and at the end."""
    is_first = dist.get_rank() == 0
    seen, summed, started = 0, 0.0, time.perf_counter()
    while trainer.step < trainer.recipe.steps:
        loss, tokens = trainer.advance()
        seen, summed = seen + tokens, summed + loss
        if is_first and trainer.step % 25 == 0:
            speed = seen / (time.perf_counter() - started)
            log.info("step %d  loss %.4f  %.0f tokens/s", trainer.step, summed / 25, speed)
            seen, summed, started = 0, 0.0, time.perf_counter()
        if is_first and (trainer.step % plan.every == 0 or trainer.step == trainer.recipe.steps):
            trainer.save(plan.checkpoint)
            trainer.export(plan.out)
            _show_samples(trainer)


def _run(rank: int, plan: Plan, store: str) -> None:
    """One training process."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=plan.processes)
    trainer = Trainer(plan.recipe, train_tokenizer(plan.recipe.seed))
    if plan.is_resumed:
        trainer.load(plan.checkpoint)
    train(trainer, plan)
    dist.destroy_process_group()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the built-in model.")
    parser.add_argument("--seed", type=int, default=Recipe().seed)
    parser.add_argument("--steps", type=int, default=Recipe().steps)
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="where model and tokenizer go")
    parser.add_argument("--checkpoint", type=Path, default=Path("models/builtin-training.pt"))
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    recipe = replace(Recipe(), seed=given.seed, steps=given.steps)
    plan = Plan(recipe, given.out, given.checkpoint, given.resume, given.processes)
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_run, (plan, f"{folder}/store"), nprocs=plan.processes)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
