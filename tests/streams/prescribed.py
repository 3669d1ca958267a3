"""A server whose tiny model says prescribed texts, token by token, through the real engine."""

import json
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from app.core.catalogue import ModelProfile, SamplingDefaults, Source
from app.core.config import Settings
from app.core.deadline import Deadline
from app.engine.backend import BackendStats, EngineBackend, GenerationEvent, ModelInput
from app.engine.ipc.messages import Grammar, ModelInfo, SamplingParams, Tokens
from app.main import create_app
from app.models.branches import ConversationBranches
from app.models.chat.completion import TextGenerator
from app.models.chat.conversations import ConversationManager
from app.models.chat.generation import ChatGenerator, ModelLeases
from app.models.chat.token_counter import TokenCounter
from app.models.chat_manager import ChatModelManager
from app.models.choices import ChoiceGenerator
from app.models.hub.client import Hub
from app.models.lifecycle.served_model import ServedModel
from app.models.model_manager import ModelManager
from app.models.schemas import LoadProgress
from app.models.storage.storage import choose_storage
from app.models.turns.turn_registry import TurnRegistry
from app.services import Services
from tests.api.fakes import Scripted, scripted_services, serving
from tests.engine.tiny import configs, make_tokenizer

NAME = "tiny"
THINKING_TOKENS = 6
_WINDOW = 1000  # tokens
_TEMPLATE = (
    "{% if tools %}{% for t in tools %}{{ t | tojson }}{% endfor %}{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% if enable_thinking %}<think>\n{% endif %}"
    "{% endif %}"
)


def save_model(folder: Path) -> None:
    """Writes a tiny llama with random weights, whose template knows tools and thinking."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = _TEMPLATE
    config = configs(len(tokenizer))["llama"]
    config.max_position_embeddings = _WINDOW
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)  # type: ignore[no-untyped-call]
    tokenizer.save_pretrained(folder)


@dataclass
class PrescribedBackend:
    """Has the backend say the text that the prompt names, if the request itself demands no form.

    A grammar of that one text does it, so that all else is as for a model that would say it by itself.
    """

    backend: EngineBackend
    texts: Mapping[str, str]

    @property
    def info(self) -> ModelInfo:
        return self.backend.info

    @property
    def stats(self) -> BackendStats:
        return self.backend.stats

    @property
    def is_alive(self) -> bool:
        return self.backend.is_alive

    @property
    def failure(self) -> str | None:
        return self.backend.failure

    def generate(
        self, model_input: ModelInput, sampling: SamplingParams, deadline: Deadline
    ) -> AsyncGenerator[GenerationEvent, None]:
        if model_input.wants_thinking:
            model_input = replace(model_input, thinking_budget=THINKING_TOKENS)
        use = model_input.tool_use
        must_call = use is not None and (use.choice == "required" or use.name is not None)
        if model_input.grammar is None and not must_call:
            asked = model_input.messages[-1].content if model_input.messages else model_input.prompt
            text = json.dumps([self.texts[str(asked or "")]])
            model_input = replace(model_input, grammar=Grammar("choice", text))
        return self.backend.generate(model_input, sampling, deadline)

    async def tokenize(self, text: str, deadline: Deadline, *, adds_special_tokens: bool = True) -> Tokens:
        return await self.backend.tokenize(text, deadline, adds_special_tokens=adds_special_tokens)

    async def detokenize(
        self, token_ids: Sequence[int], deadline: Deadline, *, skips_special_tokens: bool = False
    ) -> str:
        return await self.backend.detokenize(token_ids, deadline, skips_special_tokens=skips_special_tokens)

    async def count_tokens(self, model_input: ModelInput, deadline: Deadline) -> int:
        return await self.backend.count_tokens(model_input, deadline)

    async def close(self) -> None:
        await self.backend.close()


@dataclass
class PrescribedModels:
    """Lends real models, whose backends say prescribed texts."""

    models: ModelManager
    texts: Mapping[str, str]

    async def lease(
        self, name: str | None, deadline: Deadline
    ) -> AsyncGenerator[LoadProgress | ServedModel, None]:
        async with aclosing(self.models.lease(name, deadline)) as lease:
            async for leased in lease:
                if isinstance(leased, ServedModel):
                    yield replace(leased, backend=PrescribedBackend(leased.backend, self.texts))
                else:
                    yield leased


def _lends_models(prescribed: PrescribedModels) -> ModelLeases:
    return prescribed


@contextmanager
def prescribed_server(folder: Path, fork_server: Path, texts: Mapping[str, str]) -> Iterator[str]:
    """The URL of a server that answers each message or prompt in `texts` with its text."""
    save_model(folder)
    sampling = SamplingDefaults(max_tokens=200)
    catalogue = {NAME: ModelProfile(NAME, NAME, "", (Source(str(folder)),), _WINDOW, 1, 1, sampling)}

    def build(settings: Settings) -> Services:
        manager = ModelManager(settings, catalogue, Hub(folder / "cache"))
        models, storage = PrescribedModels(manager, texts), choose_storage(settings)
        store, locks, generator = storage.store, storage.locks, ChatGenerator(models)
        choices = ChoiceGenerator(settings, generator)
        return replace(
            scripted_services(Scripted(), settings),
            models=manager,
            chats=ChatModelManager(settings, store, locks, generator, TurnRegistry(), storage.key_records),
            conversations=ConversationManager(settings, store, locks, manager),
            branches=ConversationBranches(settings, store, locks),
            tokens=TokenCounter(models),
            choices=choices,
            generator=TextGenerator(choices),
            storage=storage,
        )

    settings = Settings(
        model_name="none",
        dtype="float32",
        threads=1,
        fork_server=fork_server,
        log_level="WARNING",
        _env_file=None,
    )
    with serving(create_app(settings, build)) as url:
        yield url
