"""The models to measure: their folders, their places in the catalogue, and the messages for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.core.catalogue import BUILTIN_NAME, BUILTIN_PATH, CATALOGUE, Source
from app.core.model_folder import is_complete
from tests.benchmarks import folders, shapes
from tests.benchmarks.plan import Plan
from tests.benchmarks.vocabulary import Words

_CACHED_BYTES = 100_000_000  # smaller weights may stay in the processor's caches
_QUESTIONS = (
    "What can you do?",
    "Tell me a story.",
    "What is the capital of France?",
    "Tell me something about yourself.",
    "Write a poem about the sea.",
    "My name is Ada and I live in Oslo. What do you know about me?",
    "Can you help me to plan a week in Rome?",
    "What is 12 + 30?",
)


@dataclass(frozen=True)
class BenchmarkModel:
    """A model to measure. `vocabulary` is the size of a generated model's, or None for the built-in model,
    whose replies end by themselves.
    """

    name: str
    folder: Path
    source: Source
    context_length: int
    vocabulary: int | None

    @property
    def words(self) -> Words:
        """A new source of words, which gives every target the same messages."""
        assert self.vocabulary is not None
        return Words(self.vocabulary)

    def messages(self, plan: Plan) -> Sequence[str]:
        """The messages for single replies."""
        if self.vocabulary is None:
            return _QUESTIONS * plan.repetitions
        words = Words(self.vocabulary, seed=1)
        return [words.message(plan.message_tokens) for _ in range(plan.repetitions)]

    @property
    def weights_bytes(self) -> int:
        return folders.weights_bytes(self.folder)

    def limit(self, bandwidth: float, item_bytes: float) -> float | None:
        """Tokens per second of one sequence at this bandwidth; None if caches may hold the weights."""
        read = folders.bytes_per_token(self.folder, item_bytes)
        return bandwidth / read if read > _CACHED_BYTES else None


def prepare_model(name: str, cache: Path, *, is_small: bool) -> BenchmarkModel | None:
    """The model with the given name, generated if necessary. None if the built-in model has no weights."""
    if name == BUILTIN_NAME:
        profile = CATALOGUE[name]
        if not is_complete(BUILTIN_PATH):
            return None
        return BenchmarkModel(name, BUILTIN_PATH, profile.sources[0], profile.context_length, None)
    shape = (shapes.SMALL if is_small else shapes.FULL)[name]
    folder = folders.ensure(shape, cache)
    return BenchmarkModel(name, folder, shape.source, shape.context_length, shape.vocabulary)
