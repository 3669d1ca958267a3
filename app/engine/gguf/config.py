"""Makes transformers' configuration of a model from the metadata of a GGUF file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from transformers import PreTrainedConfig

from app.engine.gguf.configs import dense, gemma4, hybrids, mixtures
from app.engine.gguf.configs.fields import Fields, attention_fields, sizes, unsupported
from app.engine.gguf.file import GGUFFile
from app.engine.gguf.header import corrupt
from app.engine.loading.folder_check import library_errors_as


@dataclass(frozen=True, slots=True)
class _Architecture:
    """How the configuration of one architecture is made."""

    make: Callable[[GGUFFile, Fields], PreTrainedConfig]
    fields: Callable[[GGUFFile], Fields] = attention_fields
    may_have_experts: bool = False


def config_of(file: GGUFFile) -> PreTrainedConfig:
    """Returns the configuration.

    Raises:
        ModelUnsupported: the engine does not read this architecture from GGUF files.
        ModelCorrupt: a value is missing or makes no sense.
    """
    name = file.architecture
    architecture = _ARCHITECTURES.get(name)
    if architecture is None:
        raise unsupported(f"GGUF files of the architecture {name[:40]!r} are not supported")
    if file.metadata.get(f"{name}.expert_count", 0) and not architecture.may_have_experts:
        raise unsupported(f"GGUF files of {name} with a mixture of experts are not supported")
    if file.metadata.get(f"{name}.attention.causal", True) is not True:
        raise unsupported("the model in the GGUF file reads a whole text at once, and writes none")
    with library_errors_as(lambda error: corrupt(str(error))):  # transformers checks what it is given
        return architecture.make(file, architecture.fields(file))


_ARCHITECTURES: Mapping[str, _Architecture] = {
    "llama": _Architecture(dense.llama),
    "qwen2": _Architecture(dense.qwen2),
    "qwen3": _Architecture(dense.qwen3),
    "gemma2": _Architecture(dense.gemma2),
    "gemma3": _Architecture(dense.gemma3),
    "gemma4": _Architecture(gemma4.gemma4, sizes),
    "granite": _Architecture(dense.granite),
    "olmo2": _Architecture(dense.olmo2),
    "phi3": _Architecture(dense.phi3),
    "smollm3": _Architecture(dense.smollm3),
    "starcoder2": _Architecture(dense.starcoder2),
    "gpt2": _Architecture(dense.gpt2, sizes),
    "qwen2moe": _Architecture(mixtures.qwen2moe, may_have_experts=True),
    "qwen3moe": _Architecture(mixtures.qwen3moe, may_have_experts=True),
    "olmoe": _Architecture(mixtures.olmoe, may_have_experts=True),
    "gpt-oss": _Architecture(mixtures.gpt_oss, may_have_experts=True),
    "granitemoe": _Architecture(mixtures.granitemoe, may_have_experts=True),
    "lfm2": _Architecture(hybrids.lfm2),
    "lfm2moe": _Architecture(hybrids.lfm2moe, may_have_experts=True),
    "granitehybrid": _Architecture(hybrids.granitehybrid, may_have_experts=True),
    "qwen35": _Architecture(hybrids.qwen35),
    "qwen35moe": _Architecture(hybrids.qwen35moe, may_have_experts=True),
}
