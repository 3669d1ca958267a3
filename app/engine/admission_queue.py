"""Prepares requests in threads beside the step loop, and keeps their order."""

from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from typing import Any

from llguidance import LLMatcher

from app.engine.admission import Admission, AdmissionOutcome
from app.engine.ipc.messages import Failed, Submit, TokenQuestion
from app.engine.request import Request


class AdmissionQueue:
    """Admits requests one after the other, in order of arrival, while the step loop runs.

    Those with a grammar join the order when it is compiled, in a thread of its own. Only the thread of the
    step loop may call it.
    """

    def __init__(self, admission: Admission, executor: Executor | None = None) -> None:
        """`executor` must run one call at a time. By default, each kind of work has a thread of its own."""
        self._admission = admission
        self._executor = ThreadPoolExecutor(1, "admission") if executor is None else executor
        self._compiler = ThreadPoolExecutor(1, "grammars") if executor is None else executor
        self._compiling: dict[str, tuple[Submit, float, Future[LLMatcher | Failed | None]]] = {}
        self._futures: dict[str, Future[AdmissionOutcome]] = {}  # by request id, in order of arrival

    def __len__(self) -> int:
        return len(self._futures) + len(self._compiling)

    def __iter__(self) -> Iterator[str]:
        return iter((*self._futures, *self._compiling))

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._futures or request_id in self._compiling

    def add(self, submit: Submit, arrived: float) -> None:
        if submit.grammar is None and submit.tool_use is None:
            self._admit(submit, arrived, None)
        else:
            future = self._compiler.submit(self._admission.compile, submit)
            self._compiling[submit.request_id] = (submit, arrived, future)

    def ask(self, question: TokenQuestion) -> None:
        """Have the question answered in the order of requests."""
        self._futures[question.request_id] = self._executor.submit(self._admission.answer, question)

    def keep_reply(self, request: Request) -> None:
        """Let requests that are added later have the ids of this one's reply where they contain its text."""
        sequence = request.sequence
        if sequence.is_kept and request.reply_ids:
            prompt_ids = sequence.ids[: request.prompt_tokens]
            self._executor.submit(self._admission.keep_reply, prompt_ids, request.reply_ids, sequence.scope)

    def cancel(self, request_id: str) -> None:
        """Drops the request. A thread may still finish preparing it, but the outcome is ignored."""
        if request_id in self._compiling:
            _, _, compiling = self._compiling.pop(request_id)
            compiling.cancel()
        else:
            self._futures.pop(request_id).cancel()

    def wait(self, timeout_s: float) -> None:
        """Waits until a request may have progressed, if there is one."""
        pending: list[Future[Any]] = list(self._futures.values())[:1]  # Any: their results are not read
        pending += [future for _, _, future in self._compiling.values()]
        wait(pending, timeout_s, FIRST_COMPLETED)

    def take_prepared(self) -> list[AdmissionOutcome]:
        """Returns the outcomes of the oldest requests, up to the first that is not prepared yet."""
        outcomes = self._take_compiled()
        while self._futures and (oldest := next(iter(self._futures.values()))).done():
            outcomes.append(oldest.result())
            del self._futures[next(iter(self._futures))]
        return outcomes

    def _take_compiled(self) -> list[AdmissionOutcome]:
        """Passes on the requests whose grammars are compiled. Returns the failures of the others."""
        failures: list[AdmissionOutcome] = []
        for submit, arrived, future in list(self._compiling.values()):
            if future.done():
                del self._compiling[submit.request_id]
                match future.result():
                    case Failed() as failed:
                        failures.append(failed)
                    case matcher:
                        self._admit(submit, arrived, matcher)
        return failures

    def _admit(self, submit: Submit, arrived: float, matcher: LLMatcher | None) -> None:
        self._futures[submit.request_id] = self._executor.submit(
            self._admission.admit, submit, arrived, matcher
        )
