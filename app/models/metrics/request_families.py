"""Defines the figures of requests to models, under the names that vLLM gives them where it has them."""

from prometheus_client import CollectorRegistry, Counter, Histogram

_MODEL = ("model_name",)

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


class RequestCounters:
    """Tokens, ends and failures."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, labels: tuple[str, ...] = _MODEL) -> Counter:
            return Counter(name, text, labels, registry=registry)

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


class RequestTimes:
    """Times in seconds."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def histogram(name: str, text: str, buckets: tuple[float, ...] = _REQUEST_S) -> Histogram:
            return Histogram(name, text, _MODEL, buckets=buckets, registry=registry)

        self.queue = histogram("vllm:request_queue_time_seconds", "Time between arrival and first step.")
        self.prefill = histogram(
            "vllm:request_prefill_time_seconds", "Time between first step and first token."
        )
        self.decode = histogram("vllm:request_decode_time_seconds", "Time between first and last token.")
        self.first_token = histogram(
            "vllm:time_to_first_token_seconds", "Time to the first token, without loads.", _FIRST_TOKEN_S
        )
        self.token = histogram(
            "vllm:inter_token_latency_seconds", "Time between the pieces of a reply.", _TOKEN_S
        )
        self.total = histogram("vllm:e2e_request_latency_seconds", "Time of a whole request, without loads.")
