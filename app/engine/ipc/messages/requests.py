"""The messages from the API process to a worker that serves a model."""

from typing import Literal

from app.core.literals import Role
from app.engine.ipc.messages.record import Record


class ToolCall(Record, frozen=True):
    """A call in an assistant's message. `arguments` is JSON text, as the model wrote it."""

    id: str
    name: str
    arguments: str


class ChatMessage(Record, frozen=True):
    """A message. One with the role `tool` has the result of the call `tool_call_id`."""

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


class Tool(Record, frozen=True):
    """A function that the model may call. `parameters` is a JSON schema, as text.

    With `is_strict` the arguments of a call validate against it also where nothing demanded the call.
    """

    name: str
    description: str = ""
    parameters: str = '{"type": "object", "properties": {}}'
    is_strict: bool = False


class ToolUse(Record, frozen=True):
    """The tools of a request, and whether the reply may, must not or must be calls of them.

    With a `name` the reply must be a call of that tool. Without `is_parallel` it has one call at most.
    """

    tools: tuple[Tool, ...]
    choice: Literal["auto", "none", "required"] = "auto"
    name: str | None = None
    is_parallel: bool = True


RawPrompt = str | tuple[int, ...]  # a text, or the ids of its tokens, to which none are added


class SamplingParams(Record, frozen=True):
    """How to sample a reply, within the bounds of core/sampling.py. `temperature` 0 means greedy sampling.
    `max_tokens` may also be 0: then the prompt is read, and nothing follows it.

    `left_to_engine` names the parameters that nobody set, for which a remote engine has defaults of its own.
    """

    max_tokens: int | None = None  # None: the rest of the context window
    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 0  # 0: off
    min_p: float = 0.0
    repetition_penalty: float = 1.0  # as in transformers and llama.cpp: over prompt and reply
    presence_penalty: float = 0.0  # as in OpenAI's API: over the reply
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()  # in addition to the model's own
    include_stop_str_in_output: bool = (
        False  # whether the reply's text includes the stop string or token that ended it
    )
    ignore_eos: bool = False  # whether the model's own stop ids have no effect
    min_tokens: int = 0  # the reply ends neither at a stop id nor at a stop string before it has these
    bad_words: tuple[str, ...] = ()  # texts that the reply never contains
    logit_bias: dict[int, float] = {}  # by token id
    top_logprobs: int | None = None  # most likely tokens reported beside each token; None: no probabilities
    left_to_engine: tuple[str, ...] = ()


class Grammar(Record, frozen=True):
    """The form of a reply's text. `source` is a JSON schema, nothing, a regular expression, a JSON list of
    texts, or a Lark grammar."""

    kind: Literal["json_schema", "json", "regex", "choice", "lark"]
    source: str = ""


class Submit(Record, frozen=True):
    """One request: chat `messages` (rendered with the template) or a raw `prompt`, exactly one of them.

    With `continue_final_message` the reply continues the last message, which is the assistant's. Keys and
    values are reused only within one `scope`. `think` None leaves a reasoning model's thinking off if its
    template has a switch. `is_kept`: whether its keys and values are kept after its end.
    """

    request_id: str
    sampling: SamplingParams
    messages: tuple[ChatMessage, ...] | None = None
    prompt: RawPrompt | None = None
    continue_final_message: bool = False
    scope: str = ""
    think: bool | None = None
    is_kept: bool = True
    prompt_logprobs: bool = False  # whether the prompt's tokens are reported as the reply's are
    grammar: Grammar | None = None  # of the text after the thinking
    tool_use: ToolUse | None = None
    thinking_budget: int | None = None  # tokens after which the thinking is closed; None: no limit
    wants_thinking: bool = False  # a hint, also of a budget, which counts only if `think` is None


class Cancel(Record, frozen=True):
    request_id: str


class Shutdown(Record, frozen=True):
    pass


class Tokenize(Record, frozen=True):
    """Asks for the tokens of a text, with those that the tokenizer adds to a prompt if wanted."""

    request_id: str
    text: str
    adds_special_tokens: bool = True


class Detokenize(Record, frozen=True):
    """Asks for the text of tokens."""

    request_id: str
    token_ids: tuple[int, ...]
    skips_special_tokens: bool = False


class CountTokens(Record, frozen=True):
    """Asks how many tokens the prompt of a request would have, as the model would see it."""

    request_id: str
    submit: Submit


TokenQuestion = Tokenize | Detokenize | CountTokens
Inbound = Submit | Cancel | Shutdown | TokenQuestion
