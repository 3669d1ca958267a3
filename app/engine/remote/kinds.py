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
    fields of OpenAI's API that this kind does not honour. `continues` are the fields that make the reply
    continue the last message; None if nothing does.
    """

    name: str
    owner: str | None = None
    sampling: Mapping[str, str] = field(default_factory=dict)
    refused: frozenset[str] = frozenset()
    grammars: frozenset[str] = frozenset({"json_schema", "json"})
    has_thinking_switch: bool = False  # `enable_thinking` among the variables of its chat template
    continues: Mapping[str, Any] | None = None  # Any: JSON values
    counting: Literal["tokenize", "apply-template", "count"] | None = None  # its route that counts a prompt


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
_VLLM_CONTINUES = {"continue_final_message": True, "add_generation_prompt": False}

GENERIC = EngineKind("OpenAI's API")
VLLM = EngineKind(
    "vLLM",
    "vllm",
    _same(*_VLLM_FIELDS),
    grammars=frozenset({"json_schema", "json", "regex", "choice"}),
    has_thinking_switch=True,
    continues=_VLLM_CONTINUES,
    counting="tokenize",
)
SGLANG = EngineKind(
    "SGLang",
    "sglang",
    _same("top_k", "min_p", "repetition_penalty", "min_tokens", "ignore_eos", "stop_token_ids"),
    grammars=frozenset({"json_schema", "json", "regex"}),
    has_thinking_switch=True,
    continues={"continue_final_message": True},
)
LLAMA_SERVER = EngineKind(
    "llama-server",
    "llamacpp",
    {**_same("top_k", "min_p", "ignore_eos"), "repetition_penalty": "repeat_penalty"},
    has_thinking_switch=True,
    continues=_NOTHING,  # it always continues an assistant's last message
    counting="apply-template",
)
OLLAMA = EngineKind("Ollama", "library", refused=frozenset({"logit_bias", "tool_choice"}))
LM_STUDIO = EngineKind(
    "LM Studio",
    "organization_owner",
    {"top_k": "top_k", "repetition_penalty": "repeat_penalty"},
    refused=frozenset({"top_logprobs"}),
)
THIS_SERVER = EngineKind(
    "LLM server",
    "llm-serving",
    _same(*_VLLM_FIELDS),
    has_thinking_switch=True,
    continues=_NOTHING,  # it always continues an assistant's last message
    counting="count",
)

KINDS = (VLLM, SGLANG, LLAMA_SERVER, OLLAMA, LM_STUDIO, THIS_SERVER)


def kind_of(owner: str | None) -> EngineKind:
    """Returns the kind of a server that names this owner of its models."""
    return next((kind for kind in KINDS if kind.owner == owner), GENERIC)
