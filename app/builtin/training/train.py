"""Trains the built-in model: `python -m app.builtin.training.train`. The same seed gives the same model.

Runs one process per core. Each computes some rows of every batch, and they synchronise once per step.
"""

import argparse
import logging
import os
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn
from transformers import PreTrainedTokenizerFast

from app.builtin.training.answering import WEIGHTS, Answerer
from app.builtin.training.tokenizer import train_tokenizer
from app.builtin.training.trainer import SECOND_STAGE, Recipe, Trainer

log = logging.getLogger("app.builtin.training.train")

SAMPLES = (
    "Hello, how are you today?",
    "What is the capital of Portugal?",
    "what is 27 + 46?",
    "A function that calculates the factorial of a number",
    "How do you spell lantern?",
    "Who won the football match yesterday?",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """One training run: the recipe, where the results go, and the number of processes."""

    recipe: Recipe
    out: Path
    checkpoint: Path
    is_resumed: bool
    processes: int
    start: Path | None = None
    every: int = 150


def _show_samples(trainer: Trainer) -> None:
    answerer = Answerer(trainer.averaged_model(), trainer.tokenizer)
    replies = answerer.replies([[{"role": "user", "content": text}] for text in SAMPLES])
    for text, reply in zip(SAMPLES, replies, strict=True):
        log.info("  %s -> %s", text, reply.replace("\n", "\\n"))


def train(trainer: Trainer, plan: Plan) -> None:
    """Trains to the recipe's last step. Saves a checkpoint and exports the model regularly and at the end."""
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


def _tokenizer(plan: Plan) -> PreTrainedTokenizerFast:
    """Returns a newly trained tokenizer, or that of the weights that training continues from."""
    kept = plan.out if plan.is_resumed else plan.start
    if kept is None:
        return train_tokenizer(plan.recipe.seed)
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(kept)
    return tokenizer


def _run(rank: int, plan: Plan, store: str) -> None:
    """The main function of one training process."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=plan.processes)
    trainer = Trainer(plan.recipe, _tokenizer(plan))
    if plan.is_resumed:
        trainer.load(plan.checkpoint)
    elif plan.start is not None:
        trainer.begin_with(plan.start)
    train(trainer, plan)
    dist.destroy_process_group()


def main() -> None:
    """Parses the command line and starts the training processes."""
    parser = argparse.ArgumentParser(description="Train the built-in model.")
    parser.add_argument("--seed", type=int, help="the random seed (default: 1, or 2 with --start)")
    parser.add_argument("--steps", type=int, help="the number of steps (default: that of the recipe)")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="the folder for model and tokenizer")
    parser.add_argument("--checkpoint", type=Path, default=Path("models/builtin-training.pt"))
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint")
    parser.add_argument(
        "--start", type=Path, help="a folder of weights to start from, for a second stage of training"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    stage = Recipe() if given.start is None else SECOND_STAGE
    chosen = {"seed": given.seed, "steps": given.steps}
    recipe = replace(stage, **{key: value for key, value in chosen.items() if value is not None})
    plan = Plan(recipe, given.out, given.checkpoint, given.resume, given.processes, given.start)
    with tempfile.TemporaryDirectory() as folder:
        spawn(  # type: ignore[no-untyped-call]  # torch leaves it untyped
            _run, (plan, f"{folder}/store"), nprocs=plan.processes
        )


if __name__ == "__main__":
    main()
