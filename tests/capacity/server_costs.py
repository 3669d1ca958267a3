"""What a server spends, by measurement: steps of its engine, and the work of its processes around them."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.capacity.step_times import Curve, StepTimes


@dataclass(frozen=True, slots=True)
class HostCosts:
    """Processor seconds outside the steps. The client's are only of load tests on the server's machine."""

    request_s: float = 0.0  # of the API process, for each request, before its first token
    finish_s: float = 0.0  # of the API process, for each request, at its end
    token_s: float = 0.0  # of the API process, for each token of a reply
    loop_s: float = 0.0  # of the worker, for each step, to receive and send messages
    prepare_s: float = 0.0  # of the worker's admission thread, for each request
    prepare_token_s: float = 0.0  # of the worker's admission thread, for each token of a prompt
    prepare_share: float = 0.0  # of these two, by which steps take longer: one interpreter runs both
    client_request_s: float = 0.0
    client_token_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ServerCosts:
    """One server with one model on one machine. `source` says where the figures come from."""

    model: str
    source: str
    step: StepTimes
    bytes_per_token: int  # of keys and values
    context_length: int  # tokens
    weights_bytes: int
    cores: int
    threads: int  # that a step uses
    step_tokens: int = 512
    unnoticed_step_s: float = 0.0
    first_overhead_tokens: int = 0  # of the chat template, in the first turn
    turn_overhead_tokens: int = 0  # of the chat template, in each later turn
    host: HostCosts = HostCosts()
    machine: dict[str, object] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> "ServerCosts":
        fields = json.loads(path.read_text())
        return cls(**fields | {"step": _step_times(fields["step"]), "host": HostCosts(**fields["host"])})


def _step_times(fields: dict[str, Any]) -> StepTimes:  # Any: a JSON document
    curves = {name: _curve(fields[name]) for name in ("rows", "prefill") if fields[name] is not None}
    return StepTimes(**fields | curves)


def _curve(fields: dict[str, Any]) -> Curve:  # Any: a JSON document
    return Curve(tuple(fields["rows"]), tuple(fields["seconds"]))
