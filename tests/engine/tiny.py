"""Tiny real models with random weights, and a real byte-level tokenizer, for the engine's tests."""

import copy
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ParamSpec, TypeVar

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from app.engine.admission import ChatFormat
from app.engine.core import EngineCore, EngineLimits
from app.engine.execution.packed_decoder import PackedDecoder
from app.engine.ipc.messages import (
    Accepted,
    Deltas,
    Failed,
    Finished,
    Outbound,
    SamplingParams,
    Submit,
)
from app.engine.kv.pool import KVPool
from app.engine.loading.load import LoadedModel
from app.engine.loading.self_check import check_packed_path
from app.engine.sandbox.grammar_sandbox import GrammarSandbox
from app.engine.sandbox.template_sandbox import TemplateSandbox
from app.engine.speculative.cost import SpeculationCost
from app.engine.tokenization.bounded_calls import CALL_LIMIT_S

P = ParamSpec("P")
T = TypeVar("T")

DEVICE = torch.device(os.environ.get("TEST_DEVICE", "cpu"))  # `tests.gpu` sets it
WINDOW = 160  # tokens of context
SLIDING = 8  # tokens; less than the prompts
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]

_SHAPE: dict[str, Any] = {  # arguments that the configs of all these architectures take
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": WINDOW,
    "initializer_range": 0.3,  # enough that greedy replies vary
}
_MIXED_LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]


class InlineExecutor(Executor):
    """Runs each call at once, so that what a test submits is prepared before its next line."""

    def submit(self, call: Callable[P, T], /, *args: P.args, **options: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        future.set_result(call(*args, **options))
        return future


@cache
def shared_sandbox() -> TemplateSandbox:
    """One process for all tests, because starting one takes longer than most tests."""
    return TemplateSandbox()


@cache
def shared_grammar_sandbox() -> GrammarSandbox:
    """With time enough to check a grammar on a busy machine."""
    return GrammarSandbox(time_limit_s=60)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, so that random ids make broken and whole multi-byte characters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the cat sat on the mat, 日本語 and é 👍 too"] * 3, trainer)
    return wrap(tokenizer, bos_token="<|bos|>", eos_token="<|end|>", chat_template=TEMPLATE)


def wrap(tokenizer: Tokenizer, **options: str) -> PreTrainedTokenizerFast:
    """Returns transformers' tokenizer around one of the tokenizers library."""
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options)  # type: ignore[no-untyped-call]


def token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    found = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(found, int)
    return found


def decode(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int], *, skips_special: bool = False) -> str:
    text = tokenizer.decode(list(ids), skip_special_tokens=skips_special, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


def new_model(config: PreTrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Returns a model with the same random weights at every call."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
        config, dtype=dtype, attn_implementation="eager"
    )
    assert isinstance(model, PreTrainedModel)
    model.to(DEVICE).train(False)  # type: ignore[arg-type]  # transformers wraps `to` and loses its type
    return model


def configs(vocabulary: int) -> dict[str, PreTrainedConfig]:
    shape = {**_SHAPE, "vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
    return {
        "gpt2": GPT2Config(
            vocab_size=vocabulary,
            n_positions=WINDOW,
            n_embd=32,
            n_layer=3,
            n_head=4,
            initializer_range=0.3,
            bos_token_id=0,
            eos_token_id=1,
        ),
        "llama": LlamaConfig(**shape),
        "qwen3": Qwen3Config(**shape),
        "mistral": MistralConfig(**shape, sliding_window=SLIDING),
        "gemma2": Gemma2Config(
            **shape, sliding_window=SLIDING, layer_types=_MIXED_LAYERS, query_pre_attn_scalar=8
        ),
        "gemma3": Gemma3TextConfig(
            **shape, sliding_window=SLIDING, layer_types=_MIXED_LAYERS, query_pre_attn_scalar=8
        ),
    }


@dataclass(frozen=True)
class TinyModel:
    """The same weights twice: `reference` generates as transformers does, `packed` serves the engine."""

    reference: PreTrainedModel
    packed: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    bytes_per_token: int
    uses_pool: bool = False  # whether its engines have a pool and overlap steps, as on a GPU
    replies: dict[tuple[str, int], str] = field(default_factory=dict)  # cached, of the reference

    @classmethod
    def build(cls, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast) -> "TinyModel":
        reference = new_model(config)
        packed = copy.deepcopy(reference)
        return cls(reference, packed, tokenizer, check_packed_path(packed).bytes_per_token)

    def engine(
        self,
        *,
        cache_tokens: int = 4096,
        step_tokens: int = 64,
        max_active_requests: int = 8,
        speculation_rows: int = 8,
        pool: KVPool | None = None,
        draft: LoadedModel | None = None,
        chat_format: ChatFormat | None = None,
        speculation_cost: SpeculationCost | None = None,
        admission_executor: Executor | None = None,
        grammar_sandbox: GrammarSandbox | None = None,
        context_length: int = WINDOW,
        tokenizer_s: float = CALL_LIMIT_S,
    ) -> EngineCore:
        """With no `admission_executor` requests are prepared when they are submitted."""
        limits = EngineLimits(
            context_length=context_length,
            kv_cache_bytes=cache_tokens * self.bytes_per_token,
            max_active_requests=max_active_requests,
            step_tokens=step_tokens,
            speculation_rows=speculation_rows,
            tokenizer_s=tokenizer_s,
            overlaps_steps=self.uses_pool,
        )
        if self.uses_pool and pool is None:
            pool = KVPool(cache_tokens, first=64)
        loaded = LoadedModel(self.packed, self.tokenizer, context_length)
        decoder = PackedDecoder(
            loaded,
            kv_cache_bytes=limits.kv_cache_bytes,
            bytes_per_token=self.bytes_per_token,
            context_length=context_length,
            pool=pool,
            draft=draft,
            speculation_cost=speculation_cost,
        )
        return EngineCore(
            loaded,
            decoder,
            limits,
            chat_format=chat_format or ChatFormat(),
            sandbox=shared_sandbox(),
            grammar_sandbox=grammar_sandbox or shared_grammar_sandbox(),
            admission_executor=admission_executor or InlineExecutor(),
        )

    def generate(self, prompt: str, max_tokens: int) -> str:
        """Returns the greedy reply of transformers. If cut off, it ends with its last whole character."""
        if (prompt, max_tokens) not in self.replies:
            self.replies[prompt, max_tokens] = self._generated(prompt, max_tokens)
        return self.replies[prompt, max_tokens]

    def _generated(self, prompt: str, max_tokens: int) -> str:
        reply = self.generate_ids(prompt, max_tokens)
        text = self.decode(reply)
        return text if reply[-1] == 1 else text.removesuffix("\ufffd")

    def generate_ids(self, prompt: str, max_tokens: int) -> list[int]:
        """Returns the greedy reply of transformers as token ids, the stop id included."""
        ids = self.tokenizer(prompt, return_tensors="pt").input_ids.to(DEVICE)
        output = self.reference.generate(  # type: ignore[operator]  # a method, which torch hides
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=max_tokens,
            eos_token_id=1,
            pad_token_id=0,
        )
        reply: list[int] = output[0, ids.shape[1] :].tolist()
        return reply

    def decode(self, ids: list[int]) -> str:
        return decode(self.tokenizer, ids, skips_special=True)


def greedy(request_id: str, prompt: str, max_tokens: int = 24, scope: str = "") -> Submit:
    return Submit(
        request_id, SamplingParams(max_tokens=max_tokens, temperature=0), prompt=prompt, scope=scope
    )


@dataclass
class Collected:
    """The text, acceptance and end of each request."""

    texts: dict[str, str] = field(default_factory=dict)
    accepted: dict[str, Accepted] = field(default_factory=dict)
    ends: dict[str, Finished | Failed] = field(default_factory=dict)

    def take(self, messages: Iterable[Outbound]) -> None:
        for message in messages:
            match message:
                case Accepted():
                    self.accepted[message.request_id] = message
                    self.texts[message.request_id] = ""
                case Deltas():
                    for delta in message.items:
                        assert delta.request_id not in self.ends, "text after the end"
                        self.texts[delta.request_id] += delta.text
                case Finished() | Failed():
                    assert message.request_id not in self.ends, "a second end"
                    self.ends[message.request_id] = message

    def cached(self, request_id: str) -> int:
        return ended(self, request_id).usage.cached_tokens


def run(engine: EngineCore, *submits: Submit) -> Collected:
    """Submit the requests and step until the engine is idle."""
    collected = Collected()
    for submit in submits:
        engine.submit(submit)
    finish(engine, collected)
    return collected


def ended(collected: Collected, request_id: str = "a") -> Finished:
    """Returns the end of a request, which must not have failed."""
    end = collected.ends[request_id]
    assert isinstance(end, Finished)
    return end


def packed_decoder(engine: EngineCore) -> PackedDecoder:
    """Returns the decoder of an engine that serves a packed model."""
    assert isinstance(engine.decoder, PackedDecoder)
    return engine.decoder


def finish(engine: EngineCore, collected: Collected) -> None:
    """Step until the engine is idle, then check that nothing has leaked."""
    for _ in range(5000):
        if engine.is_idle:
            engine.cache.check_integrity()
            match engine.decoder:
                case PackedDecoder(pool=KVPool() as pool, cache=cache):
                    pool.check_integrity()
                    assert set(pool.slots) == set(cache.finished_slots), "a slot has leaked"
            return
        collected.take(engine.step())
    raise AssertionError("the engine does not become idle")
