"""Turns the logits of one forward pass into the tokens, and the log-probabilities, of its requests."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from app.engine.device import on_device
from app.engine.sampling.logprobs import RowLogprobs, row_logprobs
from app.engine.sampling.sampler import RequestSampler
from app.engine.scheduling.sequence import Chunk
from app.engine.speculative.verification import sample_and_verify


@dataclass(slots=True)
class ChunkOutcome:
    """The result of a pass for one chunk: at least one token if it was the sequence's last, otherwise none.

    `prompt_logprobs` are those of the ids that follow the chunk's own, if its sequence needs all logits.
    """

    tokens: list[int] = field(default_factory=list)
    logprobs: list[RowLogprobs] = field(default_factory=list)  # of the tokens, if they are wanted
    prompt_logprobs: list[RowLogprobs] = field(default_factory=list)


def sample_step(
    logits: Tensor, chunks: Sequence[Chunk], samplers: Sequence[RequestSampler]
) -> list[ChunkOutcome]:
    """Returns the outcome of each chunk. `logits` has the rows that the chunks need, in their order."""
    outcomes = [ChunkOutcome() for _ in chunks]
    wanted = _WantedLogprobs(logits)
    drawing: list[int] = []  # indices of the chunks that are the last of their sequences
    rows: list[int] = []
    begin = 0
    for index, chunk in enumerate(chunks):
        end = begin + chunk.logits_rows
        if chunk.sequence.needs_all_logits:
            follow = chunk.sequence.computed + 1
            ids = chunk.sequence.ids[follow : follow + chunk.count]
            wanted.add(outcomes[index].prompt_logprobs, begin, ids, samplers[index])
        if chunk.is_last:
            drawing.append(index)
            rows += range(end - 1 - len(chunk.draft_ids), end)
        begin = end
    if drawing:
        own = logits if len(rows) == begin else logits.index_select(0, on_device(rows, logits.device))
        drafts = [chunks[index].draft_ids for index in drawing]
        drawn = sample_and_verify(own, [samplers[index] for index in drawing], drafts)
        place = 0
        for index, draft, tokens in zip(drawing, drafts, drawn, strict=True):
            outcomes[index].tokens = tokens
            wanted.add(outcomes[index].logprobs, rows[place], tokens, samplers[index])
            place += 1 + len(draft)
    wanted.compute()
    return outcomes


class _WantedLogprobs:
    """Collects the rows of a pass whose log-probabilities are wanted, and computes them together."""

    def __init__(self, logits: Tensor) -> None:
        self._logits = logits
        self._rows: list[int] = []
        self._tokens: list[int] = []
        self._tops: list[int] = []
        self._targets: list[list[RowLogprobs]] = []

    def add(
        self, target: list[RowLogprobs], first_row: int, tokens: Sequence[int], sampler: RequestSampler
    ) -> None:
        """The rows from `first_row` on, one for each token, belong in `target`."""
        top = sampler.params.top_logprobs
        if top is None:
            return
        self._rows += range(first_row, first_row + len(tokens))
        self._tokens += tokens
        self._tops += [top] * len(tokens)
        self._targets += [target] * len(tokens)

    def compute(self) -> None:
        found = row_logprobs(self._logits, self._rows, self._tokens, self._tops)
        for target, row in zip(self._targets, found, strict=True):
            target.append(row)
