"""Passes the messages of a worker to its open requests, and to those that wait for its model."""

from app.core.errors import error_for_code
from app.engine.backend import BackendStats, EngineTotals
from app.engine.ipc.event_queue import RequestQueues
from app.engine.ipc.heartbeat import Beat, Liveness
from app.engine.ipc.load_outcome import LoadOutcome
from app.engine.ipc.messages import (
    Accepted,
    Deltas,
    DetokenizedText,
    Failed,
    Finished,
    LoadFailed,
    Outbound,
    Progress,
    PromptLogprobs,
    Ready,
    SendProgress,
    Stats,
    TokenCount,
    Tokens,
)


class Inbox:
    """Takes the messages of one worker."""

    def __init__(
        self, requests: RequestQueues, load: LoadOutcome, liveness: Liveness, report: SendProgress
    ) -> None:
        """`report` is called with the progress of loading."""
        self._requests = requests
        self._load = load
        self._liveness = liveness
        self._report = report
        self._stats: Stats | None = None

    @property
    def stats(self) -> BackendStats:
        """The newest figures of the engine, once its model is loaded."""
        stats, open_requests = self._stats, len(self._requests)
        if stats is None:
            return BackendStats(open_requests, self._load.info.memory_bytes)
        return BackendStats(
            open_requests,
            stats.memory_bytes,
            min(stats.running, open_requests),
            stats.kv_used_bytes,
            stats.kv_cache_bytes,
            EngineTotals(stats.preemptions, stats.drafts, stats.draft_tokens, stats.accepted_tokens),
        )

    def put(self, message: Outbound) -> None:
        """Passes the message on. One of a request that was cancelled meanwhile is dropped."""
        self._load.heard()
        match message:
            case Deltas(items):
                for delta in items:
                    self._requests.put(delta.request_id, delta)
            case Accepted() | PromptLogprobs():
                self._requests.put(message.request_id, message)
            case Finished() | Tokens() | DetokenizedText() | TokenCount():
                self._requests.put_last(message.request_id, message)
            case Failed(request_id, code, text, hint):
                self._requests.put_last(request_id, error_for_code(code, text, hint=hint))
            case Stats():
                self._stats = message
            case Progress():
                self._report(message)
            case Ready(info):
                self._liveness.record(Beat(0.0, 0))  # loading has limits of its own
                self._load.settle(info)
            case LoadFailed(code, text, hint, retry_after):
                self._load.settle(error_for_code(code, text, hint=hint, retry_after=retry_after))
