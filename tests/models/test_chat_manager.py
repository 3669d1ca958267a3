import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from app.core.errors import (
    ContextOverflow,
    ConversationBusy,
    ConversationFull,
    ConversationNotFound,
    InvalidRequest,
    NothingToDo,
    QueueFull,
)
from app.models.schemas import (
    ChatRequest,
    ChatResponse,
    ContinueRequest,
    DeltaEvent,
    NewChatRequest,
    RegenerateRequest,
    StartEvent,
    TranscriptMessage,
)
from tests.models.conftest import World, soon


def contents(world: World, conversation_id: str) -> list[str]:
    return [message.content for message in world.run(world.chats.get(conversation_id)).messages]


def test_chat_streams_the_text_that_it_returns(world: World) -> None:
    world.collect(world.models.switch("tiny-a"))  # another test may have unloaded it
    start, *deltas, done = world.collect(
        world.chats.chat(ChatRequest(message="hello", temperature=0), soon())
    )
    assert isinstance(start, StartEvent)
    assert isinstance(done, ChatResponse)
    assert start.conversation_id == done.conversation_id
    assert start.message_id == done.message_id
    assert "".join(delta.text for delta in deltas if isinstance(delta, DeltaEvent)) == done.response
    assert done.message_count == 2
    assert done.usage.prompt_tokens == start.prompt_tokens
    assert done.parameters.temperature == 0


def test_chat_reuses_the_cached_tokens_of_earlier_turns(world: World) -> None:
    first = world.chat("hello " * 8)
    second = world.chat("and now?", first.conversation_id)
    assert second.usage.cached_tokens > first.usage.prompt_tokens / 2
    assert second.message_count == 4


def test_chat_reports_the_turn_limit_and_keeps_the_whole_history(world: World) -> None:
    conversation_id = None
    for number in range(4):
        reply = world.chat(f"q{number}", conversation_id, max_tokens=2)
        conversation_id = reply.conversation_id
    assert reply.omitted_messages == 2
    assert reply.message_count == 8


def test_chat_that_fails_leaves_the_conversation_as_it_was(world: World) -> None:
    kept = world.chat("hello")
    with pytest.raises(ContextOverflow, match="maximum context length"):
        world.chat("word " * 300, kept.conversation_id)
    assert contents(world, kept.conversation_id) == ["hello", kept.response]


def test_chat_left_early_keeps_a_reply_that_can_be_continued(world: World) -> None:
    async def leave() -> tuple[str, str]:
        request = ChatRequest(message="hello", max_tokens=100, temperature=0)
        async with aclosing(world.chats.chat(request, soon())) as events:
            async for event in events:
                if isinstance(event, StartEvent):
                    conversation_id = event.conversation_id
                if isinstance(event, DeltaEvent):
                    return str(conversation_id), event.text
        raise AssertionError

    conversation_id, text = world.run(leave())
    history = world.run(world.chats.get(conversation_id))
    assert [message.content for message in history.messages] == ["hello", text]
    assert history.messages[-1].finish_reason == "interrupted"
    longer = world.last(
        world.chats.continue_reply(conversation_id, ContinueRequest(max_tokens=4, temperature=0), soon())
    )
    assert longer.response.startswith(text)
    assert len(longer.response) > len(text)
    assert longer.message_count == 2


def test_chat_allows_one_turn_at_a_time(world: World) -> None:
    kept = world.chat("hello")

    async def twice() -> None:
        request = ChatRequest(message="go", conversation_id=kept.conversation_id, max_tokens=50)
        async with aclosing(world.chats.chat(request, soon())) as events:
            await anext(events)
            with pytest.raises(ConversationBusy):
                await anext(world.chats.chat(request, soon()))
            with pytest.raises(ConversationBusy):
                await world.chats.undo(kept.conversation_id, 1)

    world.run(twice())
    assert world.chat("again", kept.conversation_id).message_count >= 4


def test_chat_sees_a_turn_that_ended_after_it_was_called(world: World) -> None:
    kept = world.chat("hello")
    request = ChatRequest(message="later", conversation_id=kept.conversation_id, max_tokens=4)
    called_early = world.chats.chat(request, soon())
    world.chat("sooner", kept.conversation_id)
    assert world.last(called_early).message_count == 6


def test_continue_reply_uses_the_current_model_if_the_old_one_is_gone(world: World) -> None:
    reply = TranscriptMessage(role="assistant", content="hi", model_name="no-longer-there")
    messages = [TranscriptMessage(role="user", content="hello"), reply]
    made = world.run(world.chats.new(NewChatRequest(messages=messages)))
    request = ContinueRequest(max_tokens=4, temperature=0)
    longer = world.last(world.chats.continue_reply(made.conversation_id, request, soon()))
    assert longer.model_name == "tiny-a"
    assert longer.response.startswith("hi")


def test_regenerate_reports_busy_before_any_other_error(world: World) -> None:
    made = world.run(world.chats.new(NewChatRequest()))
    request = ChatRequest(message="go", max_tokens=50, conversation_id=made.conversation_id)

    async def regenerate_too_early() -> None:
        async with aclosing(world.chats.chat(request, soon())) as events:
            await anext(events)
            with pytest.raises(ConversationBusy):
                await anext(world.chats.regenerate(made.conversation_id, RegenerateRequest(), soon()))

    world.run(regenerate_too_early())


def test_regenerate_replaces_the_reply(world: World) -> None:
    first = world.chat("hello")
    again = world.last(
        world.chats.regenerate(
            first.conversation_id, RegenerateRequest(temperature=2, seed=5, max_tokens=8), soon()
        )
    )
    assert again.message_count == 2
    assert again.response != first.response
    assert contents(world, first.conversation_id) == ["hello", again.response]


def test_undo_drops_turns_until_none_is_left(world: World) -> None:
    first = world.chat("hello")
    world.chat("more", first.conversation_id)
    assert world.run(world.chats.undo(first.conversation_id, 1)).removed_messages == 2
    assert contents(world, first.conversation_id) == ["hello", first.response]
    world.run(world.chats.undo(first.conversation_id, 1))
    with pytest.raises(NothingToDo):
        world.run(world.chats.undo(first.conversation_id, 1))
    with pytest.raises(NothingToDo):
        world.last(world.chats.regenerate(first.conversation_id, RegenerateRequest(), soon()))


def test_new_restores_a_transcript_that_can_be_continued(world: World) -> None:
    messages = [
        TranscriptMessage(role="user", content="hello"),
        TranscriptMessage(role="assistant", content="hi", finish_reason="length"),
    ]
    request = NewChatRequest(messages=messages, system_prompt="be brief", title="old", model_name="tiny-a")
    made = world.run(world.chats.new(request))
    assert made.message == "New conversation started"
    assert world.chat("more", made.conversation_id).message_count == 4
    kept = world.run(world.chats.get(made.conversation_id))
    assert (kept.title, kept.system_prompt, kept.messages[1].finish_reason) == ("old", "be brief", "length")


@pytest.mark.parametrize("roles", [["assistant"], ["user"], ["user", "user"], ["user", "assistant", "user"]])
def test_new_refuses_a_transcript_out_of_order(roles: list[Any], world: World) -> None:
    messages = [TranscriptMessage(role=role, content="x") for role in roles]
    with pytest.raises(InvalidRequest, match="messages"):
        world.run(world.chats.new(NewChatRequest(messages=messages)))


def test_chat_reports_the_time_that_the_conversation_keeps(world: World) -> None:
    reply = world.chat("hello")
    history = world.run(world.chats.get(reply.conversation_id))
    assert reply.timestamp == history.messages[-1].timestamp


def test_chat_refuses_a_conversation_that_would_be_too_large(world: World) -> None:
    kept = world.chat("hello")
    with pytest.raises(ConversationFull, match="2,000 bytes"):
        world.chat("x" * 2_000, kept.conversation_id)
    assert contents(world, kept.conversation_id)[0] == "hello"


def test_new_counts_system_prompt_and_title_towards_the_size(world: World) -> None:
    with pytest.raises(ConversationFull, match="2,000 bytes"):
        world.run(world.chats.new(NewChatRequest(system_prompt="x" * 1_900, title="y" * 101)))
    kept = world.chat("hello")
    with pytest.raises(ConversationFull, match="2,000 bytes"):
        world.chat("hello", kept.conversation_id, system_prompt="x" * 2_000)


def test_list_shows_a_preview_and_delete_removes_the_conversation(world: World) -> None:
    reply = world.chat("find me  \n in the list")
    page = world.run(world.chats.list(limit=1, offset=0))
    assert page.conversations[0].conversation_id == reply.conversation_id
    assert page.conversations[0].preview == "find me in the list"
    world.run(world.chats.delete(reply.conversation_id))
    with pytest.raises(ConversationNotFound):
        world.run(world.chats.get(reply.conversation_id))


def test_chat_refuses_too_many_requests_and_answers_the_others(world: World) -> None:
    async def flood() -> list[Any]:
        async def one() -> ChatResponse:
            request = ChatRequest(message="hello", temperature=0, max_tokens=40)
            async for event in world.chats.chat(request, soon()):
                last = event
            assert isinstance(last, ChatResponse)
            return last

        return await asyncio.gather(*(one() for _ in range(8)), return_exceptions=True)

    outcomes = world.run(flood())
    refused = [outcome for outcome in outcomes if isinstance(outcome, QueueFull)]
    answered = [outcome for outcome in outcomes if isinstance(outcome, ChatResponse)]
    assert (len(refused), len(answered)) == (2, 6)
    assert all(error.retry_after for error in refused)
    assert len({reply.response for reply in answered}) == 1
