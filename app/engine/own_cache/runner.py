"""Runs a model's own forward pass: for several sequences that decode together, or for one after the other."""

import inspect
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from app.engine.device import on_device
from app.engine.own_cache.joint_cache import Joining, JointCache, groups_to_join
from app.engine.own_cache.sequence_state import SequenceState, cache_argument
from app.engine.scheduling.sequence import Chunk, TokenSequence

_POSITIONS = "position_ids"  # the argument with the position of each id


@dataclass(frozen=True, slots=True)
class PassOptions:
    """How a model's forward pass is called. The check at load finds out what is right.

    `gives_positions`: some architectures count the ids of each pass from 0 unless they are given positions.
    """

    joining: Joining = Joining.NEVER  # whether one pass may read one id of each of several sequences
    gives_positions: bool = False


_PLAIN = PassOptions()


class OwnForward:
    """`model` takes and returns a cache: see `cache_argument`."""

    def __init__(self, model: PreTrainedModel, options: PassOptions = _PLAIN) -> None:
        argument = cache_argument(model)
        assert argument is not None, "the check at load refuses models without a cache"
        self._model = model
        self._argument = argument
        self._options = options
        parameters = set(inspect.signature(model.forward).parameters)
        self._takes = parameters if options.joining is Joining.PADDED else set[str]()
        self._gives_positions = options.gives_positions and _POSITIONS in parameters
        self.device = model.device

    @torch.inference_mode()
    def logits(self, chunks: Sequence[tuple[Chunk, SequenceState]]) -> Tensor:
        """Returns the `logits_rows` of each chunk in order. The states have then read the chunks."""
        rows: dict[int, Tensor] = {}
        for places in self._passes(chunks):
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

    def _passes(self, chunks: Sequence[tuple[Chunk, SequenceState]]) -> list[list[int]]:
        """Returns the places of the chunks of each pass."""
        lengths = {
            place: chunk.sequence.computed
            for place, (chunk, _) in enumerate(chunks)
            if chunk.count == 1 and chunk.sequence.computed > 0
        }
        alone = [[place] for place in range(len(chunks)) if place not in lengths]
        groups = groups_to_join(list(lengths.values()), self._options.joining)
        return [*alone, *([list(lengths)[each] for each in group] for group in groups)]

    def _forward(self, chunk: Chunk, state: SequenceState) -> Tensor:
        """Returns the logits of at least one of the chunk's rows."""
        start = chunk.sequence.computed
        ids = list(chunk.sequence.ids[start : start + chunk.count])
        cache = {} if state.cache is None else {self._argument: state.cache}
        if self._gives_positions:
            cache[_POSITIONS] = on_device([range(start, start + chunk.count)], self.device)
        output = self._model(
            input_ids=on_device([ids], self.device),
            use_cache=True,
            logits_to_keep=max(chunk.logits_rows, 1),  # 0 would mean all
            **cache,
        )
        state.cache = getattr(output, self._argument)
        logits: Tensor = output.logits[0]
        return logits[-max(chunk.logits_rows, 1) :]

    def _joint_forward(self, chunks: Sequence[tuple[Chunk, SequenceState]]) -> Tensor:
        """Returns the logits `[chunks, 1, vocabulary]` of chunks of one id, computed in one pass."""
        sequences, states = [chunk.sequence for chunk, _ in chunks], [state for _, state in chunks]
        joint = _joint_of(states) or JointCache(states, [sequence.computed for sequence in sequences])
        options = {"attention_mask": joint.mask(self.device), _POSITIONS: joint.positions(self.device)}
        output = self._model(
            input_ids=on_device([[sequence.ids[sequence.computed]] for sequence in sequences], self.device),
            use_cache=True,
            logits_to_keep=1,
            **{self._argument: joint.cache},
            **{name: value for name, value in options.items() if name in self._takes},
        )
        joint.advance()
        logits: Tensor = output.logits
        return logits[:, -1:]


def _joint_of(states: Sequence[SequenceState]) -> JointCache | None:
    """Returns the cache that these states already share; None if there is none."""
    joint = states[0].joint
    return joint if isinstance(joint, JointCache) and joint.is_of(states) else None
