"""Measures what speculation gains or costs in the engine: `python -m tests.benchmarks.speculation`.

The model has random weights, but its replies are real text: after each pass, the token of a prescribed reply
gets the greatest logit. The built-in model's tokenizer tokenises the texts, and each token becomes one word
of the generated model. With `--draft RIGHT`, a draft model makes the draft tokens. It computes every pass as
well, and is right with the given probability.

"""

import argparse
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from app.core.catalogue import BUILTIN_PATH
from app.engine.core import EngineCore
from app.engine.execution.model_runner import ModelRunner
from app.engine.ipc.messages import SamplingParams, Submit, WorkerSpec
from app.engine.scheduling.sequence import Chunk
from app.engine.startup import build_engine
from tests.benchmarks import folders
from tests.benchmarks.shapes import DISTILGPT2, FULL, GPT2
from tests.benchmarks.vocabulary import FIRST_WORD, make_tokenizer
from tests.engine.tiny import packed_decoder

_PROJECT = Path(__file__).resolve().parents[2]
_CACHE = Path.home() / ".cache" / "llm-server-benchmarks"
_KV_BYTES = 2**30
_REPETITIONS = 3
_PROMPT_TOKENS, _REPLY_TOKENS = 480, 160  # longer texts are cut


@dataclass(frozen=True)
class Text:
    name: str
    prompt: str
    reply: str


def texts() -> list[Text]:
    code = (_PROJECT / "app/engine/scheduling/prefill_budget.py").read_text()
    changes = (_PROJECT / "CHANGELOG.md").read_text()[:1500]
    notes = [
        line for line in (_PROJECT / "tests/benchmarks/README.md").read_text().splitlines() if len(line) > 80
    ]
    summary = "\n".join(f"It says that {line[:90]}, which we may quote." for line in notes[:8])
    return [
        Text("code, one name changed", code, code.replace("seconds", "duration_s")),
        Text("summary with quotes", "\n".join(notes[:8]), summary),
        Text("nothing repeated", code[:1500], changes),
    ]


@dataclass
class Prescription:
    """The reply that all runners give. It starts after the prompt of the first sequence they see."""

    reply: Sequence[int] = ()
    start: int | None = None
    has_begun: bool = False
    right: float = 1.0  # the probability that a draft token is the prescribed one
    chance: random.Random = field(default_factory=lambda: random.Random(0))

    def prescribe(self, reply: Sequence[int]) -> None:
        self.reply, self.start, self.has_begun = reply, None, False

    def token_at(self, position: int) -> int | None:
        assert self.start is not None
        index = position - self.start
        return self.reply[index] if 0 <= index < len(self.reply) else None


class PrescribedRunner(ModelRunner):
    """Runs another runner's model, and gives the prescribed tokens the greatest logits."""

    def __init__(self, runner: ModelRunner, prescription: Prescription, *, is_draft: bool) -> None:
        vars(self).update(vars(runner))  # the same model, pool and captured graphs
        self.prescription = prescription
        self.is_draft = is_draft

    def forward(self, chunks: Sequence[Chunk]) -> Tensor:
        if self.prescription.start is None:
            self.prescription.start = len(chunks[0].sequence.ids)
        positions = [
            chunk.sequence.computed + chunk.count + row
            for chunk in chunks
            if chunk.is_last
            for row in range(1 + len(chunk.draft_ids))
        ]
        self.prescription.has_begun |= bool(positions) and not self.is_draft
        logits = super().forward(chunks).clone()
        for row, position in zip(logits, positions, strict=True):
            token = self.prescription.token_at(position)
            if token is not None and self._is_right():
                row[token] = torch.inf
        return logits

    def _is_right(self) -> bool:
        return not self.is_draft or self.prescription.chance.random() < self.prescription.right


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.benchmarks.speculation")
    parser.add_argument("--model", choices=sorted(FULL), default=GPT2.name)
    parser.add_argument(
        "--draft",
        type=float,
        metavar="RIGHT",
        help="use distilgpt2 as a draft model for gpt2 that is right with this probability",
    )
    options = parser.parse_args()
    engine = _engine(options.model, options.draft is not None)
    prescription = Prescription(right=1.0 if options.draft is None else options.draft)
    decoder = packed_decoder(engine)
    decoder.runner = PrescribedRunner(decoder.runner, prescription, is_draft=False)
    if options.draft is not None:
        draft = decoder.proposer.draft_model
        assert draft is not None, "the draft model was refused; the log says why"
        draft.runner = PrescribedRunner(draft.runner, prescription, is_draft=True)
    columns = ("text", "tokens", "plain, tok/s", "speculative, tok/s", "ratio", "tokens per step")
    table = Table(*columns, title=options.model)
    tokenizer = make_tokenizer(FULL[options.model].vocabulary)
    for text in texts():
        table.add_row(*_measure(engine, prescription, tokenizer, text))
    Console().print(decoder.proposer.cost, table)
    return 0


def _engine(model: str, has_draft: bool) -> EngineCore:
    folder = str(folders.ensure(FULL[model], _CACHE / "full"))
    draft = str(folders.ensure(DISTILGPT2, _CACHE / "drafts")) if has_draft else None
    spec = WorkerSpec(folder, model, kv_cache_bytes=_KV_BYTES, draft_path=draft, draft_name=DISTILGPT2.name)
    return build_engine(spec, lambda event: None).engine


def _measure(
    engine: EngineCore, prescription: Prescription, tokenizer: PreTrainedTokenizerFast, text: Text
) -> tuple[str, ...]:
    """The row of the table for one text."""
    text_tokenizer = AutoTokenizer.from_pretrained(BUILTIN_PATH)
    prompt_ids, reply_ids = (
        [FIRST_WORD + token for token in text_tokenizer(part, add_special_tokens=False).input_ids][:most]
        for part, most in ((text.prompt, _PROMPT_TOKENS), (text.reply, _REPLY_TOKENS))
    )
    prompt = str(tokenizer.decode(prompt_ids))
    plain, speculative, steps = [], [], 0
    for _ in range(_REPETITIONS):
        prescription.prescribe(reply_ids)
        plain.append(_decode_s(engine, prescription, prompt, rows=0)[0])
        prescription.prescribe(reply_ids)
        took_s, steps = _decode_s(engine, prescription, prompt, rows=8)
        speculative.append(took_s)
    count = len(reply_ids) - 1
    ratio = min(plain) / min(speculative)
    figures = (count / min(plain), count / min(speculative), ratio, count / steps)
    return (text.name, str(len(reply_ids)), *(f"{figure:.2f}" for figure in figures))


def _decode_s(engine: EngineCore, prescription: Prescription, prompt: str, rows: int) -> tuple[float, int]:
    """Seconds from the first token to the last, and the number of steps between them."""
    engine.limits = replace(engine.limits, speculation_rows=rows)
    engine.cache.forget_finished()
    sampling = SamplingParams(max_tokens=len(prescription.reply), temperature=0)
    engine.submit(Submit("text", sampling, prompt=prompt))
    while not prescription.has_begun:
        engine.step()
    began, first = time.perf_counter(), engine.steps
    while not engine.is_idle:
        engine.step()
    return time.perf_counter() - began, engine.steps - first


if __name__ == "__main__":
    sys.exit(main())
