"""Loads a model and its tokenizer from a local folder or GGUF file.

Nothing is fetched, and no code from the folder runs.
"""

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from app.core.errors import (
    ModelCorrupt,
    ModelUnavailable,
    ModelUnsupported,
)
from app.core.gguf_names import is_gguf
from app.core.model_folder import CONFIG, PICKLE, has_tokenizer, read_json
from app.engine.gguf.chat_templates import usual_template
from app.engine.gguf.config import config_of
from app.engine.gguf.file import read
from app.engine.gguf.model import build_model
from app.engine.gguf.tokenizer import build_tokenizer, ending_ids
from app.engine.ipc.messages import Stage, WorkerSpec
from app.engine.loading.adapter import merge_adapter
from app.engine.loading.device_choice import loaded_dtype, pick_device, pick_dtype
from app.engine.loading.folder_check import AGAIN, library_errors_as, refuse_strange_files, refuse_unsafe
from app.engine.loading.limits.config_check import refuse_wrong_sizes, refuse_wrong_token_ids
from app.engine.loading.pickle_to_safetensors import convert
from app.engine.loading.stored_tensors import stored_dtype
from app.engine.loading.tokenizer import load_tokenizer, refuse_growth
from app.engine.own_cache.state_space import shorten_scans

_log = logging.getLogger(__name__)

ReportStage = Callable[[Stage, float], None]

_UNLIMITED_WINDOW = 2048  # tokens; of state spaces and others without a limit, unless a setting says more
_DRAFTS = "_assistant"  # how the types of models end that draft for another one


@dataclass(frozen=True, slots=True)
class LoadedModel:
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    context_length: int  # tokens
    dtype: torch.dtype = torch.float32  # in which it computes; weights with fewer bits keep their own
    guessed_template: str | None = None  # the family whose chat template it has, because its file has none

    @property
    def stop_ids(self) -> frozenset[int]:
        """The ids that end a reply, from the generation config, the model's config and the tokenizer.

        Ids that the model has no token for, such as -1, are left out.
        """
        model = self.model
        sources = (model.generation_config, model.config, model.config.get_text_config(), self.tokenizer)
        return self._known(token_id for source in sources for token_id in _ids(source, "eos_token_id"))

    @property
    def suppressed_ids(self) -> tuple[frozenset[int], frozenset[int]]:
        """The ids that the generation config bans from a reply, and those that it bans from its beginning."""
        given = self.model.generation_config
        first = self._known(_ids(given, "begin_suppress_tokens"))
        return self._known(_ids(given, "suppress_tokens")), first

    def _known(self, ids: Iterable[int]) -> frozenset[int]:
        size = int(self.model.config.get_text_config().vocab_size)
        return frozenset(token_id for token_id in ids if 0 <= token_id < size)


def _ids(source: object, name: str) -> Sequence[int]:
    """Returns the ids in an attribute, which may be one id, several or missing."""
    ids = getattr(source, name, None)
    return ids if isinstance(ids, list | tuple) else () if ids is None else (ids,)


def load(spec: WorkerSpec, report: ReportStage, *, widens: bool = False) -> LoadedModel:
    """Returns the model of the spec. `report` is called with each stage and the share of it that is done.

    `widens`: whether all weights have the dtype in which the model computes, not the stored one.

    Raises ModelUnavailable if the model is missing, corrupt, refused or unsupported, or fails to load.
    """
    if is_gguf(spec.model_path):
        return _load_gguf(spec, report)
    folder = _convert_pickle(Path(spec.model_path), spec.converts_to, report)
    refuse_unsafe(folder)
    device = pick_device(spec.device)
    refuse_wrong_token_ids(folder)
    config = _config(folder)
    refuse_wrong_sizes(config, folder)
    stored = stored_dtype(folder)
    dtype = pick_dtype(spec.dtype, device, stored)
    report("load", 0.0)  # transformers may take seconds to import the model's code
    with _weights_progress(lambda fraction: report("load", fraction)):
        model = _model(folder, config, dtype if widens else loaded_dtype(stored, dtype, device))
    adapter = None if spec.adapter_path is None else Path(spec.adapter_path)
    if adapter is not None:
        model = merge_adapter(model, adapter)
    tokenizer = load_tokenizer(folder if adapter is None or not has_tokenizer(adapter) else adapter)
    model.to(device).eval()  # type: ignore[arg-type]  # transformers wraps `to` and loses its type
    if device.type == "cpu":
        shorten_scans(model)
    return LoadedModel(model, tokenizer, _context_length(config, spec.context_length), dtype)


def _load_gguf(spec: WorkerSpec, report: ReportStage) -> LoadedModel:
    if spec.adapter_path is not None:
        raise ModelUnsupported(
            "an adapter cannot be merged into a GGUF file", hint="Name a base model with safetensors."
        )
    report("load", 0.0)
    file = read(Path(spec.model_path))
    config, device = config_of(file), pick_device(spec.device)
    config.eos_token_id = ending_ids(file)
    dtype = pick_dtype(spec.dtype, device, torch.bfloat16)  # quantised weights are no more precise
    tokenizer = build_tokenizer(file)
    guessed = None if tokenizer.chat_template or spec.chat_template else usual_template(tokenizer)
    if guessed is not None:
        tokenizer.chat_template = guessed.text
        _log.warning("the GGUF file has no chat template; that of %s is used", guessed.family)
    if len(tokenizer) > config.vocab_size:
        raise ModelCorrupt("the GGUF file has more tokens than rows of its embedding", hint=AGAIN)
    refuse_growth(tokenizer)
    model = build_model(
        file,
        config,
        dtype,
        keeps_blocks=device.type == "cpu",
        report=lambda fraction: report("load", fraction),
    )
    model.to(device)  # type: ignore[arg-type]  # as below
    family = None if guessed is None else guessed.family
    return LoadedModel(model, tokenizer, _context_length(config, spec.context_length), dtype, family)


def _convert_pickle(folder: Path, target: str | None, report: ReportStage) -> Path:
    """Returns the folder; if its weights are a pickle that may be read, `target` with safetensors instead."""
    if target is None or not (folder / PICKLE).is_file() or (folder / "model.safetensors").exists():
        return folder
    refuse_strange_files(folder)
    report("convert", 0.0)
    converted = convert(folder, Path(target))
    report("convert", 1.0)
    return converted


def _config(folder: Path) -> PreTrainedConfig:
    unknown = "transformers does not know the model in config.json"
    with library_errors_as(lambda error: ModelUnsupported(f"{unknown}: {error}")):
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    if config.is_encoder_decoder:
        raise ModelUnsupported(f"{config.model_type} is not a causal language model")
    if config.model_type.endswith(_DRAFTS):
        raise ModelUnsupported(
            f"{config.model_type} only drafts tokens for another model, whose keys and values it reads",
            hint="Choose the model that it drafts for.",
        )
    _forget_default_endings(config, read_json(folder / CONFIG))
    return config


def _forget_default_endings(config: PreTrainedConfig, written: dict[str, Any]) -> None:  # any JSON
    """Removes the ids of the end of the text that come from the config's class, not from config.json.

    The ids of another model of the same architecture are ordinary tokens of this one.
    """
    text = config.get_text_config()
    parts = ((name, value) for name, value in written.items() if isinstance(value, dict))
    nested = (value for name, value in parts if getattr(config, name, None) is text)
    for part, values in ((config, written), (text, next(nested, written))):
        if "eos_token_id" not in values:
            part.eos_token_id = None


def _model(folder: Path, config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:

    def describe(error: Exception) -> ModelUnavailable:
        if isinstance(error, ImportError):
            return _missing_packages(config.model_type, error)
        if isinstance(error, ValueError):
            return ModelUnsupported(f"{config.model_type} is not a causal language model: {error}")
        return ModelCorrupt(f"the weights cannot be read: {error}", hint=AGAIN)

    with library_errors_as(describe):
        loaded: Any = AutoModelForCausalLM.from_pretrained(  # a pair, though its annotation says otherwise
            folder,
            config=config,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            attn_implementation="eager",  # config.json may name another one, even kernels to download
            local_files_only=True,
            output_loading_info=True,
        )
    model, found = loaded
    if found["missing_keys"]:
        raise ModelCorrupt(f"{len(found['missing_keys'])} weights are missing", hint=AGAIN)
    assert isinstance(model, PreTrainedModel)
    return model


def _missing_packages(model_type: str, error: ImportError) -> ModelUnsupported:
    """Returns the error of an architecture that needs more packages, which transformers names."""
    found = " ".join(dict.fromkeys(re.findall(r"pip install ([\w.-]+)`", str(error))))
    if not found:
        return ModelUnsupported(f"{model_type} needs a package that is not installed: {error}")
    return ModelUnsupported(
        f"{model_type} needs packages that are not installed: {found}", hint=f"pip install {found}"
    )


def _context_length(config: PreTrainedConfig, wanted: int | None) -> int:
    text = config.get_text_config()
    limit = int(getattr(text, "max_position_embeddings", None) or 0)
    window = limit if limit > 0 else wanted or _UNLIMITED_WINDOW  # -1 means none, too
    rope = getattr(text, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("dynamic", "longrope"):
        # Beyond this length they rotate all positions by the longest sequence of the pass, so that packed
        # sequences would change each other's positions.
        window = int(rope.get("original_max_position_embeddings") or window)
    return window if wanted is None else min(window, wanted)


@contextmanager
def _weights_progress(report: Callable[[float], None]) -> Iterator[None]:
    """Makes transformers' loop over the weights report its progress instead of drawing a bar."""

    def watch(
        factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:  # stands in for tqdm
        items = args[0] if args else ()
        return (
            _reporting(items, report) if kwargs.get("desc") == "Loading weights" else factory(*args, **kwargs)
        )

    previous = transformers_logging.set_tqdm_hook(watch)
    try:
        yield
    finally:
        transformers_logging.set_tqdm_hook(previous)


def _reporting(items: Sequence[Any], report: Callable[[float], None]) -> Iterator[Any]:
    for done, item in enumerate(items, start=1):
        yield item
        report(done / len(items))
