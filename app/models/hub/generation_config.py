"""Reads the sampling parameters that a model's author recommends in generation_config.json."""

import logging
from pathlib import Path

from app.core.catalogue import SamplingDefaults
from app.core.model_folder import GENERATION_CONFIG, BrokenFile, read_json
from app.core.sampling import BOUNDS

logger = logging.getLogger(__name__)

_NAMES = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def generation_config_of(folder: Path) -> SamplingDefaults:
    """Returns the parameters in the folder's file, without those that are out of bounds. For a thread."""
    try:
        written = read_json(folder / GENERATION_CONFIG)
    except BrokenFile:
        return SamplingDefaults()
    found: dict[str, float | int] = {}
    for name in _NAMES:
        value: object = written.get(name)
        is_number = isinstance(value, int if name == "top_k" else int | float)
        if (
            isinstance(value, int | float)
            and is_number
            and not isinstance(value, bool)
            and value in BOUNDS[name]
        ):
            found[name] = value
        elif value is not None:
            logger.warning("%s: %s is ignored, because its value is not allowed", GENERATION_CONFIG, name)
    return SamplingDefaults(
        temperature=found.get("temperature"),
        top_p=found.get("top_p"),
        top_k=None if "top_k" not in found else int(found["top_k"]),
        min_p=found.get("min_p"),
        repetition_penalty=found.get("repetition_penalty"),
    )
