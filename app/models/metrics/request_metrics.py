"""Measures requests to models: their tokens, times and ends, under the names that vLLM gives them."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram

from app.core.telemetry.request_usage import RequestUsage, current_usage
from app.core.telemetry.tracer import Tracer
from app.engine.backend import GenerationEvent
from app.engine.ipc.messages import Accepted, Delta, Finished
from app.models.metrics.activity import Activity, OpenRequest
from app.models.metrics.labels import ModelLabels

_MODEL = ("model_name",)
_ABORT, _ERROR = "abort", "error"  # vLLM's reasons for requests that end in no other way

# The bounds of the buckets are vLLM's, and the shortest times have two more: small models take them.
_FIRST_TOKEN_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_TOKEN_S = (
    *(0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0),
)
_REQUEST_S = (
    *(0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)


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
        self.activity = Activity(clock)
        self._tokens: dict[str, ModelTokens] = {}
        self.clock = clock

        def counter(name: str, text: str, names: tuple[str, ...] = _MODEL) -> Counter:
            return Counter(name, text, names, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, text, _MODEL, buckets=buckets, registry=registry)

        self.prompt_tokens = counter("vllm:prompt_tokens", "Tokens of the prompts of accepted requests.")
        self.generation_tokens = counter("vllm:generation_tokens", "Tokens generated.")
        self.cache_queries = counter(
            "vllm:prefix_cache_queries", "Prompt tokens of ended requests, looked up in the prefix cache."
        )
        self.cache_hits = counter("vllm:prefix_cache_hits", "Those of them that the prefix cache held.")
        self.ends = counter(
            "vllm:request_success",
            "Ended requests: stop, length, abort (stopped, or its client left), or error.",
            (*_MODEL, "finished_reason"),
        )
        self.failures = counter("llm_request_failures", "Requests to models that failed.", ("code",))
        self.queue_s = histogram(
            "vllm:request_queue_time_seconds", "Time between arrival and first step.", _REQUEST_S
        )
        self.prefill_s = histogram(
            "vllm:request_prefill_time_seconds", "Time between first step and first token.", _REQUEST_S
        )
        self.decode_s = histogram(
            "vllm:request_decode_time_seconds", "Time between first and last token.", _REQUEST_S
        )
        self.first_token_s = histogram(
            "vllm:time_to_first_token_seconds", "Time to the first token, without loads.", _FIRST_TOKEN_S
        )
        self.token_s = histogram(
            "vllm:inter_token_latency_seconds", "Time between the pieces of a reply.", _TOKEN_S
        )
        self.total_s = histogram(
            "vllm:e2e_request_latency_seconds", "Time of a whole request, without loads.", _REQUEST_S
        )

    def tokens_of(self, label: str) -> ModelTokens:
        return self._tokens.setdefault(label, ModelTokens())

    @contextmanager
    def track(self, owner: str, model_name: str | None) -> Iterator[OpenRequest]:
        """Shows a request as open until this is left, and counts the error with which it is left."""
        request = self.activity.begin(owner, model_name)
        try:
            yield request
        except Exception as error:
            self.failures.labels(self.activity.fail(request, error).code).inc()
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
        self._metrics.ends.labels(self._label, reason).inc()
        self._metrics.total_s.labels(self._label).observe(self._metrics.clock() - self._began)

    def _count_prompt(self, tokens: int | None) -> None:
        """Counts the prompt once. A remote engine says only at the end how long it was."""
        if tokens is None or self._has_counted_prompt:
            return
        self._has_counted_prompt = True
        self._metrics.prompt_tokens.labels(self._label).inc(tokens)
        self._metrics.tokens_of(self._label).prompt += tokens
        self._usage.prompt_tokens += tokens
        self._request.prompt_tokens = tokens

    def _count(self, tokens: int) -> None:
        if tokens == self._tokens:
            return
        metrics, now = self._metrics, self._metrics.clock()
        self._add_tokens(tokens - self._tokens)
        if self._last is None:
            metrics.first_token_s.labels(self._label).observe(now - self._began)
        else:
            metrics.token_s.labels(self._label).observe(now - self._last)
        self._tokens, self._last = tokens, now

    def _add_tokens(self, tokens: int) -> None:
        self._metrics.generation_tokens.labels(self._label).inc(tokens)
        self._usage.completion_tokens += tokens
        self._request.completion_tokens += tokens
        self._request.stage = "reply"
        self._metrics.tokens_of(self._label).generated += tokens

    def _finish(self, finished: Finished) -> None:
        metrics, usage, times = self._metrics, finished.usage, finished.timings
        self._add_tokens(usage.completion_tokens - self._tokens)
        self._count_prompt(usage.prompt_tokens)
        self._usage.cached_tokens += usage.cached_tokens
        self._usage.add_times(times.queue_s, times.first_token_s)
        metrics.tracer.reply(self._model_name, times.queue_s, times.first_token_s, times.total_s)
        metrics.cache_queries.labels(self._label).inc(usage.prompt_tokens)
        metrics.cache_hits.labels(self._label).inc(usage.cached_tokens)
        metrics.queue_s.labels(self._label).observe(times.queue_s)
        metrics.prefill_s.labels(self._label).observe(times.first_token_s - times.queue_s)
        metrics.decode_s.labels(self._label).observe(times.total_s - times.first_token_s)
        is_abort = finished.finish_reason in ("cancelled", "interrupted")
        self.end(_ABORT if is_abort else finished.finish_reason)
