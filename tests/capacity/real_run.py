"""Drives a real server with the conversations of a workload, and records what its clients see."""

import asyncio

import anyio
import httpx

from tests.benchmarks.targets import Dialogue, ServerTarget
from tests.benchmarks.traces import Trace
from tests.capacity.prompts import PromptText
from tests.capacity.records import TurnRecord
from tests.capacity.server_costs import ServerCosts
from tests.capacity.workload import Turns, Workload, fitting

_TOO_MANY_REQUESTS = 429


async def drive(
    target: ServerTarget, workload: Workload, costs: ServerCosts, text: PromptText
) -> list[TurnRecord]:
    """Returns the turns of all users, once every turn that began has ended."""
    began_s = anyio.current_time()
    users = [_User(user, target, workload, began_s, text) for user in range(workload.conversations)]
    await asyncio.gather(*(user.run(costs) for user in users))
    return [record for user in users for record in user.records]


class _User:
    def __init__(
        self, number: int, target: ServerTarget, workload: Workload, began_s: float, text: PromptText
    ) -> None:
        self._number = number
        self._target = target
        self._workload = workload
        self._began_s = began_s
        self._text = text
        self.records: list[TurnRecord] = []

    async def run(self, costs: ServerCosts) -> None:
        overhead = max(costs.first_overhead_tokens, costs.turn_overhead_tokens)
        for conversation in self._workload.of_user(self._number):
            await self._converse(fitting(conversation, costs.context_length, overhead))
            if self._elapsed_s() >= self._workload.duration_s:
                return

    async def _converse(self, turns: Turns) -> None:
        dialogue = self._target.dialogue()
        for turn in turns:
            await anyio.sleep_until(anyio.current_time() + turn.think_s)
            if self._elapsed_s() >= self._workload.duration_s:
                return
            await self._say(dialogue, self._text.message(turn.message_tokens), turn.reply_tokens)

    async def _say(self, dialogue: Dialogue, message: str, reply_tokens: int) -> None:
        record, trace = TurnRecord(self._number, self._elapsed_s()), Trace()
        self.records.append(record)
        try:
            await dialogue.say(message, reply_tokens, trace)
        except httpx.HTTPStatusError as error:
            if error.response.status_code != _TOO_MANY_REQUESTS:
                raise
            record.is_refused = True
        else:
            record.first_token_s = record.began_s + trace.first_token_s
            record.prompt_tokens = trace.prompt_tokens or 0
            record.cached_tokens = trace.cached_tokens or 0
            record.reply_tokens = trace.tokens
        record.ended_s = self._elapsed_s()

    def _elapsed_s(self) -> float:
        return anyio.current_time() - self._began_s
