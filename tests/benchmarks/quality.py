"""Measures the effect of 8-bit weights on quality: `python -m tests.benchmarks.quality`.

Prints the built-in model's perplexity on held-out replies, and how often both forms of the weights would
choose the same next token.
"""

import random
import sys

import torch
from rich.console import Console
from rich.table import Table

from app.builtin.training.batches import BatchMaker
from app.builtin.training.corpus.composition import conversation
from app.core.catalogue import BUILTIN_PATH
from app.core.literals import Quantization
from app.engine.execution.model_runner import ModelRunner
from app.engine.ipc.messages import WorkerSpec
from app.engine.kv.slot import Slot
from app.engine.loading.load import LoadedModel, load
from app.engine.loading.self_check import check_packed_path
from app.engine.scheduling.sequence import Chunk, TokenSequence

_CONVERSATIONS = 300
_EXCHANGES = 8
_SEED = 7

Talk = tuple[list[int], list[bool]]  # ids, and whether each belongs to a reply


def main() -> int:
    plain, talks = _loaded("none")
    own = [_logits(plain, talk) for talk in talks]
    quantised, _ = _loaded("int8")
    eight = [_logits(quantised, talk) for talk in talks]
    targets = torch.cat([_targets(talk) for talk in talks])
    table = Table(title=f"{len(targets):,} reply tokens of {_CONVERSATIONS} held-out conversations")
    for heading in ("weights", "perplexity", "same choice"):
        table.add_column(heading, justify="right")
    chosen = torch.cat(own).argmax(-1)
    for name, logits in (("as stored", torch.cat(own)), ("int8", torch.cat(eight))):
        loss = torch.nn.functional.cross_entropy(logits, targets)
        same = (logits.argmax(-1) == chosen).float().mean()
        table.add_row(name, f"{loss.exp():.4f}", f"{same:.2%}")
    Console().print(table)
    return 0


def _loaded(quantization: Quantization) -> tuple[LoadedModel, list[Talk]]:
    loaded = load(WorkerSpec(str(BUILTIN_PATH), "builtin"), lambda *_: None)
    maker = BatchMaker(loaded.tokenizer, (), _SEED)  # type: ignore[arg-type]  # it is a fast tokenizer
    rng = random.Random(_SEED)
    talks = [maker.encode(conversation(rng, _EXCHANGES, held_out=True)) for _ in range(_CONVERSATIONS)]
    check_packed_path(loaded.model, loaded.dtype, quantization)
    return loaded, talks


def _logits(loaded: LoadedModel, talk: Talk) -> torch.Tensor:
    """The logits for each token of the replies, `[reply tokens, vocabulary]`, from one pass."""
    ids, is_reply = talk
    sequence = TokenSequence("talk", ids[:1], slot=Slot(len(ids)))
    logits = ModelRunner(loaded.model).forward([Chunk(sequence, 1, tuple(ids[1:]))])
    return logits[:-1][torch.tensor(is_reply[1:])].float()


def _targets(talk: Talk) -> torch.Tensor:
    ids, is_reply = talk
    return torch.tensor(ids[1:])[torch.tensor(is_reply[1:])]


if __name__ == "__main__":
    sys.exit(main())
