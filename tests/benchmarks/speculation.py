"""`python -m tests.benchmarks.speculation`: what guessing ahead gains, or costs; the engine without a server.

Every reply is prescribed, so that it is real text whatever the made model would say: all is computed, and
then the logit of the prescribed token is the greatest. Texts are cut by the built-in model's tokenizer, and
each of its tokens is one word of the made model. With `--draft RIGHT` a draft model guesses, too: its
computing is as real, and its guess is the prescribed token with that probability.
"""

import argparse
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import AutoTokenizer

from app.core.catalogue import BUILTIN_PATH
from app.engine.core import EngineCore
from app.engine.execution.model_runner import ModelRunner
from app.engine.ipc.messages import SamplingParams, Submit, WorkerSpec
from app.engine.sampler import RequestSampler
from app.engine.sequence import Chunk
from app.engine.startup import build_engine
from tests.benchmarks import folders
from tests.benchmarks.shapes import DISTILGPT2, FULL, GPT2
from tests.benchmarks.vocabulary import FIRST_WORD

_PROJECT = Path(__file__).resolve().parents[2]
_CACHE = Path.home() / ".cache" / "llm-server-benchmarks"
_GREEDY = SamplingParams(temperature=0)
_KV_BYTES = 2**30
_REPETITIONS = 3
_PROMPT_TOKENS, _REPLY_TOKENS = 480, 160  # at most


@dataclass(frozen=True)
class Text:
    name: str
    prompt: str
    reply: str


def texts() -> list[Text]:
    code = (_PROJECT / "app/engine/prefill_budget.py").read_text()
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


class Prescribed(RequestSampler):
    """Chooses the given ids, one after the other."""

    def __init__(self, ids: Sequence[int]) -> None:
        super().__init__(_GREEDY, [])
        self._ids = ids
        self._said = 0

    @property
    def penalises(self) -> bool:
        return True

    def penalise(self, logits: Tensor) -> None:
        logits[self._ids[self._said]] = torch.inf

    def count(self, token: int) -> None:
        self._said = min(self._said + 1, len(self._ids) - 1)


class PrescribedRunner(ModelRunner):
    """Of a draft model that is right with a probability. `ids` are prompt and reply."""

    ids: Sequence[int] = ()
    right = 1.0
    chance = random.Random(0)

    def forward(self, chunks: Sequence[Chunk]) -> Tensor:
        ends = [chunk.sequence.computed + chunk.count for chunk in chunks if chunk.is_last]
        logits = super().forward(chunks).clone()
        for row, end in zip(logits, ends, strict=True):
            if end < len(self.ids) and self.chance.random() < self.right:
                row[self.ids[end]] = torch.inf
        return logits


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.benchmarks.speculation")
    parser.add_argument("--model", choices=sorted(FULL), default=GPT2.name)
    parser.add_argument(
        "--draft", type=float, metavar="RIGHT", help="how often distilgpt2 is right, for gpt2"
    )
    options = parser.parse_args()
    engine = _engine(options.model, options.draft is not None)
    if options.draft is not None:
        drafting = engine.proposer.draft_model
        assert drafting is not None, "the draft model was refused; the log says why"
        drafting.runner.__class__ = PrescribedRunner
        drafting.runner.right = options.draft  # type: ignore[attr-defined]
    table = Table(
        "text", "tokens", "plain, tok/s", "guessing, tok/s", "ratio", "tokens a step", title=options.model
    )
    for text in texts():
        table.add_row(*_measure(engine, text))
    Console().print(engine.proposer.cost, table)
    return 0


def _engine(model: str, has_draft: bool) -> EngineCore:
    folder = str(folders.ensure(FULL[model], _CACHE / "full"))
    draft = str(folders.ensure(DISTILGPT2, _CACHE / "drafts")) if has_draft else None
    spec = WorkerSpec(folder, model, kv_cache_bytes=_KV_BYTES, draft_path=draft, draft_name=DISTILGPT2.name)
    return build_engine(spec, lambda event: None).engine


def _measure(engine: EngineCore, text: Text) -> tuple[str, ...]:
    tokenizer = AutoTokenizer.from_pretrained(BUILTIN_PATH)
    prompt, reply = (
        [FIRST_WORD + token for token in tokenizer(part, add_special_tokens=False).input_ids][:most]
        for part, most in ((text.prompt, _PROMPT_TOKENS), (text.reply, _REPLY_TOKENS))
    )
    plain, guessing, steps = [], [], 0
    for _ in range(_REPETITIONS):
        plain.append(_decode_s(engine, prompt, reply, rows=0)[0])
        took_s, steps = _decode_s(engine, prompt, reply, rows=8)
        guessing.append(took_s)
    count = len(reply) - 1
    ratio = min(plain) / min(guessing)
    figures = (count / min(plain), count / min(guessing), ratio, count / steps)
    return (text.name, str(len(reply)), *(f"{figure:.2f}" for figure in figures))


def _decode_s(engine: EngineCore, prompt: list[int], reply: list[int], rows: int) -> tuple[float, int]:
    """Seconds from the first token to the last, and the steps in between."""
    engine.limits = replace(engine.limits, speculation_rows=rows)
    engine.cache.forget_finished()
    words = engine._admission._vocabulary._tokenizer.decode(prompt)
    engine.submit(Submit("text", SamplingParams(max_tokens=len(reply), temperature=0), prompt=words))
    request = engine._requests["text"]
    request.sampler = Prescribed(reply)
    if engine.proposer.draft_model is not None:
        engine.proposer.draft_model.runner.ids = [*request.sequence.ids, *reply]  # type: ignore[attr-defined]
    while request.reply_tokens == 0:
        engine.step()
    began, first = time.perf_counter(), engine.steps
    while not engine.is_idle:
        engine.step()
    return time.perf_counter() - began, engine.steps - first


if __name__ == "__main__":
    sys.exit(main())
