"""Shows where the time of a step goes: kernels of the device, and Python's functions."""

import cProfile
import pstats
import sys
from collections.abc import Callable

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from app.engine.startup import ReadyEngine
from tests.benchmarks.vocabulary import Words
from tests.gpu.engines import built, folder_of, greedy, shape_of
from tests.gpu.figures import Figures
from tests.gpu.speed import parser, spec_of, timed

_STEPS = 20
_WARM_UPS = 10


def main() -> None:
    options = parser().parse_args()
    figures = Figures()
    shape = shape_of(options.model, small=options.small)
    words = Words(shape.vocabulary)
    with built(spec_of(folder_of(shape, options.cache), options.device, 8192)) as ready:
        for count in (1, 64):
            _profile_decode(ready, words, count, figures)
        _profile_prefill(ready, words, figures)


def _profile_decode(ready: ReadyEngine, words: Words, count: int, figures: Figures) -> None:
    engine = ready.engine
    for number in range(count):
        engine.submit(greedy(f"{count}-{number}", words.message(128), 200))
    while engine.waiting:
        engine.step()
    for _ in range(_WARM_UPS):
        engine.step()
    figures.add(f"{count} sequences: a step, ms", 1000 * timed(lambda: _steps(ready)) / _STEPS)
    kernels = _show_kernels(f"{count} sequences", lambda: _steps(ready))
    figures.add(f"{count} sequences: kernels of a step, ms", kernels / _STEPS)
    _show_functions(lambda: _steps(ready))
    engine.cancel_all()
    while not engine.is_idle:
        engine.step()


def _profile_prefill(ready: ReadyEngine, words: Words, figures: Figures) -> None:
    def prefill() -> None:
        ready.engine.submit(greedy("prefill", words.message(4000), 1))
        while not ready.engine.is_idle:
            ready.engine.step()

    prefill()
    kernels = _show_kernels("prefill of 4000 tokens", prefill)
    figures.add("prefill of 4000 tokens: kernels, ms", kernels)
    figures.add("prefill of 4000 tokens, ms", 1000 * timed(prefill))
    _show_functions(prefill)


def _steps(ready: ReadyEngine) -> None:
    for _ in range(_STEPS):
        ready.engine.step()


def _show_functions(call: Callable[[], None]) -> None:
    """Prints the Python functions that take longest in this thread."""
    profiler = cProfile.Profile()
    profiler.runcall(call)
    pstats.Stats(profiler, stream=sys.stdout).sort_stats("tottime").print_stats(25)


def _show_kernels(name: str, call: Callable[[], None]) -> float:
    """Prints the longest kernels. Returns the milliseconds of all."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    averages = profiled.key_averages()
    by_device = torch.cuda.is_available()
    key = "self_device_time_total" if by_device else "self_cpu_time_total"
    sys.stdout.write(f"{name}\n{averages.table(sort_by=key, row_limit=30, max_name_column_width=90)}\n")
    # An operation's own time is that of its kernels, which are events themselves.
    kind = DeviceType.CUDA if by_device else DeviceType.CPU
    return float(sum(getattr(event, key) for event in averages if event.device_type == kind)) / 1000


if __name__ == "__main__":
    main()
