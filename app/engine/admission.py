"""Owns how what was submitted becomes a request that can run: its prompt, its stops, its way to choose.

Whether there is room for it now is the scheduler's.
"""

from dataclasses import dataclass

from app.engine import sampler as sampling
from app.engine.ipc.messages import Accepted, Submit
from app.engine.loading.load import LoadedModel
from app.engine.request import Request
from app.engine.sampler import RequestSampler
from app.engine.scheduler import TokenSequence
from app.engine.speculative.prompt_lookup import PromptLookup
from app.engine.tokenization.parts import PartSplitter
from app.engine.tokenization.prompt import PromptBuilder
from app.engine.tokenization.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """How a model's chats look, beyond what its tokenizer says."""

    template: str | None = None  # Jinja; used where the tokenizer brings none
    stop: tuple[str, ...] = ()  # stop strings that belong to the format


class Admission:
    """To one model with a window of `context_length` tokens."""

    def __init__(self, loaded: LoadedModel, context_length: int, dialogue: ChatFormat) -> None:
        self._vocabulary = Vocabulary(loaded)
        self._prompts = PromptBuilder(
            loaded.tokenizer, context_length=context_length, chat_template=dialogue.template
        )
        self._stop = dialogue.stop

    def admit(self, submit: Submit, arrived: float) -> tuple[Request, Accepted]:
        """The request, and what its sender is told. Raises DomainError where it cannot be."""
        sampling.check(submit.sampling)
        prompt = self._prompts.build(submit)
        self._vocabulary.check(prompt.ids)
        stops = submit.sampling.stop + (self._stop if submit.messages is not None else ())
        joins_prompt = submit.continue_final or submit.prompt is not None
        request = Request(
            sequence=TokenSequence(submit.request_id, list(prompt.ids), submit.scope),
            prompt_tokens=len(prompt.ids),
            max_tokens=prompt.max_tokens,
            stop_ids=self._vocabulary.stop_ids,
            sampler=RequestSampler(submit.sampling, prompt.ids),
            text=self._vocabulary.reply_text(stops, joins=prompt.ids if joins_prompt else ()),
            parts=PartSplitter(prompt.thinking),
            guesser=PromptLookup(),
            arrived=arrived,
        )
        accepted = Accepted(
            submit.request_id,
            request.prompt_tokens,
            prompt.omitted_messages,
            request.max_tokens,
        )
        return request, accepted
