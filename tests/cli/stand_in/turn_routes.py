"""The routes of the scripted server that begin turns, follow them and stop them."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.responses import Response
from pydantic import BaseModel

from app.models import schemas as wire
from tests.cli.stand_in.conversation_routes import summary
from tests.cli.stand_in.events import stream, without_ids
from tests.cli.stand_in.log import StandInLog
from tests.cli.stand_in.state import Refusal, StandIn, StandInTurn, refuse_branches, unknown_model
from tests.cli.stand_in.tree import StandInTree
from tests.waiting import until


def add_turns(app: FastAPI, state: StandIn) -> None:
    @app.post("/api/v1/chat")
    async def chat(body: wire.ChatRequest) -> Response:
        state.requests.append(("chat", body.model_dump(exclude_unset=True)))
        _check_fields(state, body)
        if body.model_name not in (None, *state.model_ids):
            raise unknown_model(body.model_name)
        assert body.message is not None, "the client sends no `messages`"
        if body.message.startswith("refuse"):
            raise Refusal(429, "queue_full", "The queue is full.")
        conversation_id = body.conversation_id or state.begin(StandInTree())
        tree = state.tree(conversation_id)
        state.check_turn(conversation_id, body)
        if body.parent_id is not None:
            state.message(conversation_id, body.parent_id)
        parent_id = body.parent_id or tree.head_id
        return _answer(state, StandInTurn(conversation_id, body.message, True, parent_id), body)

    @app.post("/api/v1/chat/conversation/{conversation_id}/regenerate")
    async def regenerate(conversation_id: str, body: wire.RegenerateRequest) -> Response:
        state.requests.append(("regenerate", body.model_dump(exclude_unset=True)))
        _check_fields(state, body)
        state.check_turn(conversation_id, body)
        return _answer(state, _again(state, conversation_id, body.message_id), body)

    @app.post("/api/v1/chat/conversation/{conversation_id}/continue")
    async def continue_reply(conversation_id: str, body: wire.ContinueRequest) -> Response:
        state.check_turn(conversation_id, body)
        turn = _again(state, conversation_id, None)
        turn.asked = turn.asked.replace("hang", "say more of")
        turn.prefix = state.tree(conversation_id).texts[-1]
        turn.continued_id = state.tree(conversation_id).head_id
        state.requests.append(("continue", body.model_dump(exclude_unset=True)))
        _check_fields(state, body)
        return _answer(state, turn, body)

    @app.post("/api/v1/chat/conversation/{conversation_id}/edit")
    async def edit(conversation_id: str, body: wire.EditRequest) -> Response:
        refuse_branches(state)
        state.requests.append(("edit", body.model_dump(exclude_unset=True)))
        state.check_turn(conversation_id, body)
        old = state.message(conversation_id, body.message_id)
        if body.message.startswith("refuse"):
            raise Refusal(429, "queue_full", "The queue is full.")
        return _answer(state, StandInTurn(conversation_id, body.message, True, old.parent_id), body)


def add_running_turns(app: FastAPI, state: StandIn) -> None:
    @app.get("/api/v1/chat/turns")
    async def running() -> wire.RunningTurnsResponse:
        refuse_branches(state)
        found = ((turn, turn.conversation_id) for turn in running_turns(state))
        turns = [turn.as_running(summary(where, state.tree(where))) for turn, where in found]
        return wire.RunningTurnsResponse(turns=turns)

    @app.get("/api/v1/chat/turns/{message_id}/events")
    async def events(message_id: str, after: int = 0) -> Response:
        log = _log(state, message_id)
        state.requests.append(("events", {"after": after}))
        if state.refuses_events:
            raise Refusal(403, "forbidden", "You may not read this turn.")
        if isinstance(log.error, ConnectionResetError):
            raise Refusal(404, "turn_not_found", "No turn with this id is running or has just ended.")
        await until(lambda: not state.holds_events)
        return stream(_followed(state, log, after))

    @app.delete("/api/v1/chat/turns/{message_id}")
    async def stop(message_id: str) -> wire.StopTurnResponse:
        log = _log(state, message_id)
        state.requests.append(("stop", {}))
        was_running = not log.task.done()
        await log.stop()
        reply = state.stopped_reply(state.turns[message_id])
        return wire.StopTurnResponse(message_id=message_id, was_running=was_running, reply=reply)


def _answer(state: StandIn, turn: StandInTurn, body: wire.TurnFields) -> Response:
    """Begins the turn and follows it. Unless it runs in the background, it ends with the connection."""
    if state.is_old:
        return stream(without_ids(state.turn(turn)))
    state.turns[turn.message_id] = turn
    log = state.logs[turn.message_id] = StandInLog(state.turn(turn))
    return stream(_followed(state, log, 0, stops=True, is_background=body.background))


def _check_fields(state: StandIn, body: wire.TurnFields) -> None:
    """Refuses what an older server does not know, before the request changes anything."""
    if state.is_old and body.background:
        raise Refusal(422, "validation_error", "background: Extra inputs are not permitted.")


async def _followed(
    state: StandIn, log: StandInLog, after: int, stops: bool = False, is_background: bool = False
) -> AsyncIterator[tuple[int | None, BaseModel]]:
    sent = 0
    try:
        async for event_id, event in log.read(after):
            if state.cuts and sent == state.cuts[0]:
                state.cuts.pop(0)
                if state.falls_silent:
                    await asyncio.Event().wait()
                raise ConnectionResetError
            sent += 1
            yield event_id, event
    finally:
        if stops and not (is_background and log.has_begun):
            await log.stop()


def running_turns(state: StandIn) -> list[StandInTurn]:
    return [turn for message_id, turn in state.turns.items() if not state.logs[message_id].task.done()]


def _log(state: StandIn, message_id: str) -> StandInLog:
    refuse_branches(state)
    if message_id not in state.logs:
        raise Refusal(404, "turn_not_found", "No turn with this id is running or has just ended.")
    return state.logs[message_id]


def _again(state: StandIn, conversation_id: str, message_id: str | None) -> StandInTurn:
    """A turn that answers the question of a reply again."""
    tree = state.tree(conversation_id)
    reply = tree.branch[-1] if message_id is None else state.message(conversation_id, message_id)
    asked = tree.messages[str(reply.parent_id)]
    return StandInTurn(conversation_id, asked.content, asked_id=asked.id)
