"""Runs a model's own forward pass: for several sequences together, or for one after the other."""

import inspect
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor
from transformers import PreTrainedModel

from app.engine.device import on_device
from app.engine.own_cache.joint_cache import JointCache
from app.engine.own_cache.module_states import ModuleCache
from app.engine.own_cache.passes import NO_LIMITS, Joining, PassLimits, passes_of
from app.engine.own_cache.sequence_state import SequenceState, cache_argument
from app.engine.scheduling.sequence import Chunk, TokenSequence

Arguments = dict[str, Tensor | int]

_POSITIONS = "position_ids"  # the argument with the position of each id
_PADDING = 0  # any id, as its place is masked
_KEPT_LOGITS = "logits_to_keep"  # the argument with the number of rows; all are computed without it


class CachePlace(Enum):
    """Where a model's forward pass leaves what later passes need."""

    OUTPUT = "output"
    MODULES = "modules"  # in attributes of its layers, beside a cache that it was given
    NOWHERE = "nowhere"  # each pass computes the whole sequence again


@dataclass(frozen=True, slots=True)
class PassOptions:
    """How a model's forward pass is called. The check at load finds the options that are right.

    `gives_positions`: some architectures count the ids of each pass from 0 unless they are given positions.
    """

    joining: Joining = Joining.NEVER  # whether one pass may read one id of each of several sequences
    joins_prompts: bool = False  # whether passes over several ids of each may be joint, too
    gives_positions: bool = False
    place: CachePlace = CachePlace.OUTPUT


_PLAIN = PassOptions()


class OwnForward:
    """Calls `model` as the options say. The next pass gets the cache that the model returned."""

    def __init__(self, model: PreTrainedModel, options: PassOptions = _PLAIN) -> None:
        self._model = model
        self._argument = cache_argument(model)
        self._options = options
        self._takes = set(inspect.signature(model.forward).parameters)
        self.device = model.device

    def passes(self, chunks: Sequence[Chunk], limits: PassLimits = NO_LIMITS) -> list[list[int]]:
        """Returns the places of the chunks that each pass reads."""
        return passes_of(chunks, self._options.joining, self._options.joins_prompts, limits)

    @torch.inference_mode()
    def logits(
        self, chunks: Sequence[tuple[Chunk, SequenceState]], passes: Sequence[Sequence[int]] | None = None
    ) -> Tensor:
        """Returns the `logits_rows` of each chunk in order. The states have then read the chunks.

        `passes` is one result of `passes`; by default, sequences are joined whatever padding that takes.
        """
        rows: dict[int, Tensor] = {}
        for places in self.passes([chunk for chunk, _ in chunks]) if passes is None else passes:
            together = [chunks[place] for place in places]
            logits = self._forward(*together[0]) if len(together) == 1 else self._joint_forward(together)
            rows |= zip(places, logits if len(together) > 1 else [logits], strict=True)
        return torch.cat([rows[place][: chunk.logits_rows] for place, (chunk, _) in enumerate(chunks)])

    def single_cost(self, count: int) -> float:
        """Returns the measured time of a pass over one id, in ids of a pass over `count` of them."""
        sequence, state = TokenSequence("calibration", [0] * (count + 1)), SequenceState()
        whole_s = self._pass_s(Chunk(sequence, count), state)
        sequence.advance(count)
        return count * self._pass_s(Chunk(sequence, 1), state) / whole_s

    def _pass_s(self, chunk: Chunk, state: SequenceState) -> float:
        began = time.perf_counter()
        self.logits([(chunk, state)]).sum().item()  # waits for the device
        return time.perf_counter() - began

    def _forward(self, chunk: Chunk, state: SequenceState) -> Tensor:
        """Returns the logits of at least one of the chunk's rows."""
        match self._options.place:
            case CachePlace.OUTPUT:
                logits = self._pass_with_cache(chunk, state)
            case CachePlace.MODULES:
                logits = self._pass_with_modules(chunk, state)
            case CachePlace.NOWHERE:
                logits = self._whole_pass(chunk)
        return logits[0, -max(chunk.logits_rows, 1) :]

    def _pass_with_cache(self, chunk: Chunk, state: SequenceState) -> Tensor:
        assert self._argument is not None, "the check at load found a cache"
        cache = {} if state.cache is None else {self._argument: state.cache}
        if self._options.gives_positions:
            cache |= self._only_known({_POSITIONS: self._positions(chunk)})
        output = self._model(
            **self._arguments(chunk, chunk.sequence.computed),
            use_cache=True,
            **cache,
        )
        state.cache = getattr(output, self._argument)
        logits: Tensor = output.logits
        return logits

    def _pass_with_modules(self, chunk: Chunk, state: SequenceState) -> Tensor:
        assert self._argument is not None, "the check at load found a cache"
        cache: ModuleCache = state.cache or ModuleCache.empty(self._model.config)
        with cache.in_place(self._model):
            logits: Tensor = self._model(
                **self._arguments(chunk, chunk.sequence.computed),
                use_cache=True,
                **{self._argument: cache.attention, _POSITIONS: self._positions(chunk)},
            ).logits
        state.cache = cache
        return logits

    def _whole_pass(self, chunk: Chunk) -> Tensor:
        output = self._model(**self._arguments(chunk, 0), **self._only_known({"use_cache": False}))
        logits: Tensor = output.logits
        return logits

    def _arguments(self, chunk: Chunk, start: int) -> Arguments:
        """Returns the ids from `start` to the chunk's end, and how many rows of logits are needed."""
        ids = chunk.sequence.ids[start : chunk.sequence.computed + chunk.count]
        kept = self._only_known({_KEPT_LOGITS: max(chunk.logits_rows, 1)})  # 0 would mean all
        return {"input_ids": on_device([list(ids)], self.device), **kept}

    def _positions(self, chunk: Chunk) -> Tensor:
        start = chunk.sequence.computed
        return on_device([range(start, start + chunk.count)], self.device)

    def _only_known(self, arguments: Arguments) -> Arguments:
        """Returns those of the arguments that the model takes."""
        return {name: value for name, value in arguments.items() if name in self._takes}

    def _joint_forward(self, chunks: Sequence[tuple[Chunk, SequenceState]]) -> Tensor:
        """Returns the last logits `[chunks, 1, vocabulary]` of each chunk, computed in one pass.

        They are all new prompts, or have the same number of ids.
        """
        assert self._argument is not None, "the check at load found a cache"
        states, joint = [state for _, state in chunks], _joint_of(chunks)
        count = max(chunk.count for chunk, _ in chunks)
        options: Arguments = {_KEPT_LOGITS: 1}
        if self._options.joining is Joining.PADDED or joint.cache is None:
            options |= {
                "attention_mask": joint.mask(count, self.device),
                _POSITIONS: joint.positions(count, self.device),
            }
        output = self._model(
            input_ids=on_device([_padded_ids(chunk, count) for chunk, _ in chunks], self.device),
            use_cache=True,
            **({} if joint.cache is None else {self._argument: joint.cache}),
            **self._only_known(options),
        )
        joint.cache = getattr(output, self._argument)
        joint.advance(count)
        joint.hold(states)
        logits: Tensor = output.logits
        return logits[:, -1:]


def _joint_of(chunks: Sequence[tuple[Chunk, SequenceState]]) -> JointCache:
    """Returns the cache that the chunks' states already share, or a new one."""
    states = [state for _, state in chunks]
    if chunks[0][0].sequence.computed == 0:
        return JointCache.of_prompts(states, [chunk.count for chunk, _ in chunks])
    joint = states[0].joint
    if isinstance(joint, JointCache) and joint.is_of(states):
        return joint
    return JointCache.joining(states, [chunk.sequence.computed for chunk, _ in chunks])


def _padded_ids(chunk: Chunk, count: int) -> list[int]:
    start = chunk.sequence.computed
    return [_PADDING] * (count - chunk.count) + list(chunk.sequence.ids[start : start + chunk.count])
