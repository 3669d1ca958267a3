"""Measures requests to models: their tokens, times and ends, under the names that vLLM gives them."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from app.core.telemetry.request_usage import RequestUsage, current_usage
from app.core.telemetry.tracer import Tracer
from app.engine.backend import GenerationEvent
from app.engine.ipc.messages import Accepted, Delta, Finished
from app.models.metrics.activity import Activity, OpenRequest
from app.models.metrics.labels import ModelLabels
from app.models.metrics.request_families import RequestCounters, RequestTimes

_ABORT, _ERROR = "abort", "error"  # vLLM's reasons for requests that end in no other way


@dataclass(slots=True)
class ModelTokens:
    """The tokens of one model since the server's start."""

    prompt: int = 0
    generated: int = 0


class RequestMetrics:
    """The figures of all requests. One over HTTP for several replies makes several requests to the model."""

    def __init__(
        self,
        registry: CollectorRegistry,
        labels: ModelLabels,
        tracer: Tracer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.labels = labels
        self.tracer = tracer
        self.clock = clock
        self.activity = Activity(clock)
        self.counters, self.times = RequestCounters(registry), RequestTimes(registry)
        self._tokens: dict[str, ModelTokens] = {}

    def tokens_of(self, label: str) -> ModelTokens:
        return self._tokens.setdefault(label, ModelTokens())

    @contextmanager
    def track(self, owner: str, model_name: str | None) -> Iterator[OpenRequest]:
        """Shows a request as open until this is left, and counts the error with which it is left."""
        request = self.activity.begin(owner, model_name)
        try:
            yield request
        except Exception as error:
            self.counters.failures.labels(self.activity.fail(request, error).code).inc()
            raise
        finally:
            self.activity.end(request)

    @contextmanager
    def measure(self, model_name: str, request: OpenRequest) -> Iterator["ReplyMeter"]:
        """Measures a request from its submission to a model on. Record its events while this is open."""
        meter = ReplyMeter(self, model_name, request)
        try:
            yield meter
        except (GeneratorExit, asyncio.CancelledError):
            meter.end(_ABORT)
            raise
        except BaseException:
            meter.end(_ERROR)
            raise
        meter.end(_ERROR)  # unless the last event has already ended it


class ReplyMeter:
    """Measures one request by its events."""

    def __init__(self, metrics: RequestMetrics, model_name: str, request: OpenRequest) -> None:
        self._metrics = metrics
        self._label = metrics.labels.of(model_name)
        self._usage = current_usage.get() or RequestUsage()
        self._usage.models.add(model_name)
        self._request = request
        self._request.model_name, self._request.stage = model_name, "prompt"
        self._model_name = model_name
        # Bound once, because each token needs them.
        self._generated = metrics.counters.generation_tokens.labels(self._label)
        self._token_s = metrics.times.token.labels(self._label)
        self._totals = metrics.tokens_of(self._label)
        self._began = metrics.clock()
        self._last: float | None = None  # when the newest tokens came
        self._tokens = 0
        self._has_ended = self._has_counted_prompt = False

    def record(self, event: GenerationEvent) -> None:
        """Call it with each event before the event is passed on."""
        match event:
            case Accepted(prompt_tokens=tokens):
                self._count_prompt(tokens)
            case Delta(tokens=tokens):
                self._count(tokens)
            case Finished():
                self._finish(event)

    def end(self, reason: str) -> None:
        """Counts the end of the request. Later calls change nothing."""
        if self._has_ended:
            return
        self._has_ended = True
        self._usage.finish_reasons.add(reason)
        self._metrics.counters.ends.labels(self._label, reason).inc()
        self._metrics.times.total.labels(self._label).observe(self._metrics.clock() - self._began)

    def _count_prompt(self, tokens: int | None) -> None:
        """Counts the prompt once. A remote engine says only at the end how long it was."""
        if tokens is None or self._has_counted_prompt:
            return
        self._has_counted_prompt = True
        self._metrics.counters.prompt_tokens.labels(self._label).inc(tokens)
        self._totals.prompt += tokens
        self._usage.prompt_tokens += tokens
        self._request.prompt_tokens = tokens

    def _count(self, tokens: int) -> None:
        if (
            tokens <= self._tokens
        ):  # fewer if a remote engine, whose pieces were counted, reports its own count
            return
        metrics, now = self._metrics, self._metrics.clock()
        self._add_tokens(tokens - self._tokens)
        if self._last is None:
            metrics.times.first_token.labels(self._label).observe(now - self._began)
        else:
            self._token_s.observe(now - self._last)
        self._tokens, self._last = tokens, now

    def _add_tokens(self, tokens: int) -> None:
        self._generated.inc(tokens)
        self._usage.completion_tokens += tokens
        self._request.completion_tokens += tokens
        self._request.stage = "reply"
        self._totals.generated += tokens

    def _finish(self, finished: Finished) -> None:
        metrics, usage, times = self._metrics, finished.usage, finished.timings
        self._add_tokens(max(0, usage.completion_tokens - self._tokens))
        self._count_prompt(usage.prompt_tokens)
        self._usage.cached_tokens += usage.cached_tokens
        self._usage.add_times(times.queue_s, times.first_token_s)
        metrics.tracer.reply(self._model_name, times.queue_s, times.first_token_s, times.total_s)
        metrics.counters.cache_queries.labels(self._label).inc(usage.prompt_tokens)
        metrics.counters.cache_hits.labels(self._label).inc(usage.cached_tokens)
        metrics.times.queue.labels(self._label).observe(times.queue_s)
        metrics.times.prefill.labels(self._label).observe(times.first_token_s - times.queue_s)
        metrics.times.decode.labels(self._label).observe(times.total_s - times.first_token_s)
        is_abort = finished.finish_reason in ("cancelled", "interrupted")
        self.end(_ABORT if is_abort else finished.finish_reason)
