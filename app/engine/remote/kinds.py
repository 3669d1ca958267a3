"""Says what each kind of remote engine can do beyond OpenAI's API, and under which names."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

_NOTHING: Mapping[str, Any] = MappingProxyType({})  # Any: JSON values

# The fields of SamplingParams that OpenAI's API has under the same names.
OPENAI_FIELDS = (
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "stop",
    "logit_bias",
)


@dataclass(frozen=True, slots=True)
class EngineKind:
    """A kind of server. `owner` is what it writes into `owned_by` of its list of models.

    `sampling` has the names there of the fields of SamplingParams that OpenAI's API lacks, and `refused` the
    fields of OpenAI's API that this kind does not honour. `grammars` are the forms of replies that it holds.
    `continues` are the fields that make the reply continue the last message; None if nothing does.
    `tool_choice` says what it does with a choice: all of it, all but the name of a tool, or nothing.
    """

    name: str
    owner: str | None = None
    sampling: Mapping[str, str] = field(default_factory=dict)
    refused: frozenset[str] = frozenset()
    grammars: frozenset[str] = frozenset({"json_schema", "json"})
    thinking: Literal["template", "effort"] | None = None  # the switch: `enable_thinking`, `reasoning_effort`
    takes_effort_as_hint: bool = False  # a model that cannot think refuses the switch, and ignores an effort
    continues: Mapping[str, Any] | None = None  # Any: JSON values
    counting: Literal["tokenize", "apply-template", "count"] | None = None  # its route that counts a prompt
    has_tools: bool = True
    takes_token_ids: bool = True  # as the prompt of a completion
    tool_choice: Literal["all", "no names", "none"] = "all"
    least_top_logprobs: int = 0  # with fewer it reports no log-probabilities at all
    health_path: str = "models"  # whose success means that it serves
    lists_models: bool = True  # all that it serves


def _same(*names: str) -> Mapping[str, str]:
    return MappingProxyType({name: name for name in names})


_VLLM_FIELDS = (
    "top_k",
    "min_p",
    "repetition_penalty",
    "min_tokens",
    "ignore_eos",
    "stop_token_ids",
    "include_stop_str_in_output",
    "bad_words",
)
_VLLM_CONTINUES = MappingProxyType({"continue_final_message": True, "add_generation_prompt": False})

GENERIC = EngineKind("OpenAI's API")
VLLM = EngineKind(
    "vLLM",
    "vllm",
    _same(*_VLLM_FIELDS),
    grammars=frozenset({"json_schema", "json", "regex", "choice"}),
    thinking="template",
    continues=_VLLM_CONTINUES,
    counting="tokenize",
    health_path="/health",
)
SGLANG = EngineKind(
    "SGLang",
    "sglang",
    _same("top_k", "min_p", "repetition_penalty", "min_tokens", "ignore_eos", "stop_token_ids"),
    grammars=frozenset({"json_schema", "json", "regex"}),
    thinking="template",
    continues={"continue_final_message": True},
    health_path="/health",
)
LLAMA_SERVER = EngineKind(
    "llama-server",
    "llamacpp",
    {**_same("top_k", "min_p", "ignore_eos"), "repetition_penalty": "repeat_penalty"},
    grammars=frozenset({"json_schema", "json", "choice"}),
    thinking="template",
    continues=_VLLM_CONTINUES,  # without them it continues, too, but repeats the message first
    counting="apply-template",
    tool_choice="no names",
    least_top_logprobs=1,
    health_path="/health",
)
OLLAMA = EngineKind(
    "Ollama",
    "library",
    refused=frozenset({"logit_bias", "parallel_tool_calls"}),
    thinking="effort",
    tool_choice="none",
    takes_token_ids=False,
)
LM_STUDIO = EngineKind(
    "LM Studio",
    "organization_owner",
    {"top_k": "top_k", "repetition_penalty": "repeat_penalty"},
    refused=frozenset({"top_logprobs"}),
    takes_token_ids=False,
)
TGI = EngineKind(
    "TGI",
    refused=frozenset({"logit_bias", "parallel_tool_calls"}),
    grammars=frozenset({"json_schema", "regex"}),
    health_path="/health",
    takes_token_ids=False,
)
TRANSFORMERS = EngineKind(
    "transformers serve",
    refused=frozenset({"presence_penalty", "frequency_penalty", "top_logprobs", "parallel_tool_calls"}),
    grammars=frozenset(),
    thinking="template",
    tool_choice="none",
    health_path="/health",
    lists_models=False,  # only those of the Hub's cache
    takes_token_ids=False,
)
THIS_SERVER = EngineKind(
    "LLM server",
    "llm-serving",
    _same(*_VLLM_FIELDS),
    thinking="template",
    takes_effort_as_hint=True,
    continues=_NOTHING,  # it always continues an assistant's last message
    counting="count",
)

KINDS = (VLLM, SGLANG, LLAMA_SERVER, OLLAMA, LM_STUDIO, TGI, TRANSFORMERS, THIS_SERVER)


def kind_of(owner: str | None) -> EngineKind | None:
    """Returns the kind of a server that names this owner of its models; None if it names nothing known."""
    return next((kind for kind in KINDS if owner is not None and kind.owner == owner), None)
