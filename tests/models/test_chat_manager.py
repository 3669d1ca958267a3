import asyncio
from typing import Any

import pytest

from app.core.errors import (
    ContextOverflow,
    ConversationBusy,
    ConversationFull,
    ConversationNotFound,
    InvalidRequest,
    MessageNotFound,
    ModelNotFound,
    NothingToDo,
    QueueFull,
)
from app.models.schemas import (
    ChatRequest,
    ChatResponse,
    ContinueRequest,
    DeltaEvent,
    EditRequest,
    ForkConversationRequest,
    NewChatRequest,
    RegenerateRequest,
    SelectRequest,
    StartEvent,
    TranscriptMessage,
    UndoRequest,
    UpdateConversationRequest,
)
from app.models.storage.store import PageRequest
from tests.models.conftest import OWNER, World, events_of, read, soon


def contents(world: World, conversation_id: str) -> list[str]:
    return [
        message.content for message in world.run(world.conversations.get(OWNER, conversation_id)).messages
    ]


def test_chat_streams_the_text_that_it_returns(world: World) -> None:
    world.collect(world.models.switch("tiny-a"))  # another test may have unloaded it
    start, *deltas, done = world.turn(
        world.chats.chat(OWNER, ChatRequest(message="hello", temperature=0), soon())
    )
    assert isinstance(start, StartEvent)
    assert isinstance(done, ChatResponse)
    assert start.conversation_id == done.conversation_id
    assert start.message_id == done.message_id
    assert "".join(delta.text for delta in deltas if isinstance(delta, DeltaEvent)) == done.response
    assert done.message_count == 2
    assert done.usage is not None and done.usage.prompt_tokens == start.prompt_tokens
    assert done.parameters is not None and done.parameters.temperature == 0


def test_chat_reuses_the_cached_tokens_of_earlier_turns(world: World) -> None:
    first = world.chat("hello " * 8)
    second = world.chat("and now?", first.conversation_id)
    assert first.usage is not None and second.usage is not None
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
        async with events_of(world.chats.chat(OWNER, request, soon())) as events:
            async for event in events:
                if isinstance(event, StartEvent):
                    conversation_id = event.conversation_id
                if isinstance(event, DeltaEvent):
                    return str(conversation_id), event.text
        raise AssertionError

    conversation_id, text = world.run(leave())
    history = world.run(world.conversations.get(OWNER, conversation_id))
    question, kept = history.messages
    assert question.content == "hello"
    assert kept.content.startswith(text)  # the turn may be ahead of its reader
    assert history.messages[-1].finish_reason == "interrupted"
    longer = world.reply(
        world.chats.continue_reply(
            OWNER, conversation_id, ContinueRequest(max_tokens=4, temperature=0), soon()
        )
    )
    assert longer.response.startswith(kept.content)
    assert len(longer.response) > len(kept.content)
    assert longer.message_count == 2


def test_chat_allows_one_turn_at_a_time(world: World) -> None:
    kept = world.chat("hello")

    async def twice() -> None:
        request = ChatRequest(message="go", conversation_id=kept.conversation_id, max_tokens=50)
        async with events_of(world.chats.chat(OWNER, request, soon())) as events:
            await anext(events)
            with pytest.raises(ConversationBusy):
                await read(world.chats.chat(OWNER, request, soon()))
            with pytest.raises(ConversationBusy):
                await world.conversations.undo(OWNER, kept.conversation_id, UndoRequest(turns=1))

    world.run(twice())
    assert world.chat("again", kept.conversation_id).message_count >= 4


def test_chat_sees_a_turn_that_ended_after_it_was_called(world: World) -> None:
    kept = world.chat("hello")
    request = ChatRequest(message="later", conversation_id=kept.conversation_id, max_tokens=4)
    called_early = world.chats.chat(OWNER, request, soon())
    world.chat("sooner", kept.conversation_id)
    assert world.reply(called_early).message_count == 6


def test_continue_reply_uses_the_current_model_if_the_old_one_is_gone(world: World) -> None:
    reply = TranscriptMessage(role="assistant", content="hi", model_name="no-longer-there")
    messages = [TranscriptMessage(role="user", content="hello"), reply]
    made = world.run(world.conversations.new(OWNER, NewChatRequest(messages=messages)))
    request = ContinueRequest(max_tokens=4, temperature=0)
    longer = world.reply(world.chats.continue_reply(OWNER, made.conversation_id, request, soon()))
    assert longer.model_name == "tiny-a"
    assert longer.response.startswith("hi")


def test_regenerate_reports_busy_before_any_other_error(world: World) -> None:
    made = world.run(world.conversations.new(OWNER, NewChatRequest()))
    request = ChatRequest(message="go", max_tokens=50, conversation_id=made.conversation_id)

    async def regenerate_too_early() -> None:
        async with events_of(world.chats.chat(OWNER, request, soon())) as events:
            await anext(events)
            with pytest.raises(ConversationBusy):
                await read(world.chats.regenerate(OWNER, made.conversation_id, RegenerateRequest(), soon()))

    world.run(regenerate_too_early())


def test_regenerate_adds_a_reply_beside_the_old_one(world: World) -> None:
    first = world.chat("hello")
    again = world.reply(
        world.chats.regenerate(
            OWNER, first.conversation_id, RegenerateRequest(temperature=2, seed=5, max_tokens=8), soon()
        )
    )
    assert again.message_count == 2
    assert again.response != first.response
    assert contents(world, first.conversation_id) == ["hello", again.response]
    kept = world.run(world.conversations.get(OWNER, first.conversation_id))
    assert kept.messages[-1].siblings == [first.message_id, again.message_id]
    assert kept.messages[-1].position == 2
    chosen = world.run(
        world.conversations.select(OWNER, first.conversation_id, SelectRequest(message_id=first.message_id))
    )
    assert (chosen.head_id, chosen.message_count) == (first.message_id, 2)
    assert contents(world, first.conversation_id) == ["hello", first.response]


def test_regenerate_answers_again_in_the_middle_of_a_branch(world: World) -> None:
    first = world.chat("hello")
    world.chat("more", first.conversation_id)
    request = RegenerateRequest(message_id=first.message_id, temperature=2, seed=5, max_tokens=8)
    again = world.reply(world.chats.regenerate(OWNER, first.conversation_id, request, soon()))
    assert (again.message_count, again.parent_id) == (2, first.parent_id)
    assert contents(world, first.conversation_id) == ["hello", again.response]


def test_regenerate_and_edit_refuse_a_message_of_the_other_role(world: World) -> None:
    first = world.chat("hello")
    wrong = RegenerateRequest(message_id=first.parent_id)
    with pytest.raises(InvalidRequest, match="not a reply"):
        world.reply(world.chats.regenerate(OWNER, first.conversation_id, wrong, soon()))
    edit = EditRequest(message_id=first.message_id, message="hi")
    with pytest.raises(InvalidRequest, match="user message"):
        world.reply(world.chats.edit(OWNER, first.conversation_id, edit, soon()))
    with pytest.raises(MessageNotFound):
        gone = EditRequest(message_id="msg_none", message="hi")
        world.reply(world.chats.edit(OWNER, first.conversation_id, gone, soon()))


def test_edit_asks_a_changed_question_beside_the_old_one(world: World) -> None:
    first = world.chat("hello")
    second = world.chat("more", first.conversation_id)
    edit = EditRequest(message_id=str(second.parent_id), message="less", temperature=0, max_tokens=8)
    edited = world.reply(world.chats.edit(OWNER, first.conversation_id, edit, soon()))
    assert contents(world, first.conversation_id) == ["hello", first.response, "less", edited.response]
    root = EditRequest(message_id=str(first.parent_id), message="bye", temperature=0, max_tokens=8)
    again = world.reply(world.chats.edit(OWNER, first.conversation_id, root, soon()))
    assert contents(world, first.conversation_id) == ["bye", again.response]
    tree = world.run(world.conversations.get(OWNER, first.conversation_id, is_tree=True))
    assert [message.content for message in tree.messages if message.role == "user"] == [
        "hello",
        "more",
        "less",
        "bye",
    ]


def test_chat_answers_below_any_message(world: World) -> None:
    first = world.chat("hello")
    world.chat("more", first.conversation_id)
    branch = world.chat("else", first.conversation_id, parent_id=first.message_id)
    assert branch.message_count == 4
    assert contents(world, first.conversation_id) == ["hello", first.response, "else", branch.response]
    with pytest.raises(MessageNotFound):
        world.chat("else", first.conversation_id, parent_id=world.chat("other").message_id)


def test_fork_copies_a_branch_into_a_new_conversation(world: World) -> None:
    first = world.chat("hello")
    world.chat("more", first.conversation_id)
    request = ForkConversationRequest(message_id=first.message_id)
    copy = world.run(world.conversations.fork(OWNER, first.conversation_id, request))
    assert contents(world, copy.conversation_id) == ["hello", first.response]
    world.run(world.conversations.delete(OWNER, first.conversation_id))
    assert world.chat("else", copy.conversation_id).message_count == 4


def test_fork_keeps_title_and_metadata(world: World) -> None:
    asked = world.chat("hello")
    changes = UpdateConversationRequest(title="Greetings", metadata={"topic": "names"})
    world.run(world.conversations.update(OWNER, asked.conversation_id, changes))
    copy = world.run(world.conversations.fork(OWNER, asked.conversation_id, ForkConversationRequest()))
    kept = world.run(world.conversations.get(OWNER, copy.conversation_id))
    assert (kept.title, kept.metadata) == ("Greetings", {"topic": "names"})


def test_update_sets_and_clears_title_and_model(world: World) -> None:
    kept = world.chat("hello")

    def update(**fields: Any) -> Any:
        request = UpdateConversationRequest(**fields)
        return world.run(world.conversations.update(OWNER, kept.conversation_id, request))

    changed = update(title="Names", model_name="tiny-b")
    assert (changed.title, changed.model_name) == ("Names", "tiny-b")
    cleared = update(model_name=None)
    assert (cleared.title, cleared.model_name) == ("Names", None)
    with pytest.raises(ModelNotFound):
        update(model_name="none")
    with pytest.raises(ValueError, match="send title"):
        update()


def test_another_owner_cannot_reach_a_conversation(world: World) -> None:
    kept = world.chat("hello")
    request = ChatRequest(message="mine?", conversation_id=kept.conversation_id)
    with pytest.raises(ConversationNotFound):
        world.reply(world.chats.chat("somebody", request, soon()))
    with pytest.raises(ConversationNotFound):
        world.run(world.conversations.get("somebody", kept.conversation_id))
    assert world.run(world.conversations.list("somebody", PageRequest(limit=9))).total == 0


def test_a_message_keeps_all_that_is_needed_to_repeat_it(world: World) -> None:
    drawn = world.chat("hello", temperature=1.5)
    kept = world.run(world.conversations.get(OWNER, drawn.conversation_id)).messages[-1]
    assert (kept.usage, kept.timings, kept.parameters) == (drawn.usage, drawn.timings, drawn.parameters)
    assert kept.parameters is not None and kept.parameters.seed is not None
    again = world.chat("hello", temperature=1.5, seed=kept.parameters.seed)
    assert again.response == drawn.response


def test_undo_drops_turns_until_none_is_left(world: World) -> None:
    first = world.chat("hello")
    world.chat("more", first.conversation_id)
    assert (
        world.run(
            world.conversations.undo(OWNER, first.conversation_id, UndoRequest(turns=1))
        ).removed_messages
        == 2
    )
    assert contents(world, first.conversation_id) == ["hello", first.response]
    world.run(world.conversations.undo(OWNER, first.conversation_id, UndoRequest(turns=1)))
    with pytest.raises(NothingToDo):
        world.run(world.conversations.undo(OWNER, first.conversation_id, UndoRequest(turns=1)))
    with pytest.raises(NothingToDo):
        world.reply(world.chats.regenerate(OWNER, first.conversation_id, RegenerateRequest(), soon()))


def test_new_restores_a_transcript_that_can_be_continued(world: World) -> None:
    messages = [
        TranscriptMessage(role="user", content="hello"),
        TranscriptMessage(role="assistant", content="hi", finish_reason="length"),
    ]
    request = NewChatRequest(messages=messages, system_prompt="be brief", title="old", model_name="tiny-a")
    made = world.run(world.conversations.new(OWNER, request))
    assert made.message == "New conversation started"
    assert world.chat("more", made.conversation_id).message_count == 4
    kept = world.run(world.conversations.get(OWNER, made.conversation_id))
    assert (kept.title, kept.system_prompt, kept.messages[1].finish_reason) == ("old", "be brief", "length")


@pytest.mark.parametrize("roles", [["assistant"], ["user"], ["user", "user"], ["user", "assistant", "user"]])
def test_new_refuses_a_transcript_out_of_order(roles: list[Any], world: World) -> None:
    messages = [TranscriptMessage(role=role, content="x") for role in roles]
    with pytest.raises(InvalidRequest, match="messages"):
        world.run(world.conversations.new(OWNER, NewChatRequest(messages=messages)))


def test_chat_reports_the_time_that_the_conversation_keeps(world: World) -> None:
    reply = world.chat("hello")
    history = world.run(world.conversations.get(OWNER, reply.conversation_id))
    assert reply.timestamp == history.messages[-1].timestamp


def test_chat_refuses_a_conversation_that_would_be_too_large(world: World) -> None:
    kept = world.chat("hello")
    with pytest.raises(ConversationFull, match="2,000 bytes"):
        world.chat("x" * 2_000, kept.conversation_id)
    assert contents(world, kept.conversation_id)[0] == "hello"


def test_new_counts_system_prompt_and_title_towards_the_size(world: World) -> None:
    with pytest.raises(ConversationFull, match="2,000 bytes"):
        world.run(world.conversations.new(OWNER, NewChatRequest(system_prompt="x" * 1_900, title="y" * 101)))
    kept = world.chat("hello")
    with pytest.raises(ConversationFull, match="2,000 bytes"):
        world.chat("hello", kept.conversation_id, system_prompt="x" * 2_000)


def test_list_shows_a_preview_and_delete_removes_the_conversation(world: World) -> None:
    reply = world.chat("find me  \n in the list")
    page = world.run(world.conversations.list(OWNER, PageRequest(limit=1)))
    assert page.conversations[0].conversation_id == reply.conversation_id
    assert page.conversations[0].preview == "find me in the list"
    world.run(world.conversations.delete(OWNER, reply.conversation_id))
    with pytest.raises(ConversationNotFound):
        world.run(world.conversations.get(OWNER, reply.conversation_id))


def test_chat_refuses_too_many_requests_and_answers_the_others(world: World) -> None:
    async def flood() -> list[Any]:
        async def one() -> ChatResponse:
            request = ChatRequest(message="hello", temperature=0, max_tokens=40)
            last = (await read(world.chats.chat(OWNER, request, soon())))[-1]
            assert isinstance(last, ChatResponse)
            return last

        return await asyncio.gather(*(one() for _ in range(8)), return_exceptions=True)

    outcomes = world.run(flood())
    refused = [outcome for outcome in outcomes if isinstance(outcome, QueueFull)]
    answered = [outcome for outcome in outcomes if isinstance(outcome, ChatResponse)]
    assert (len(refused), len(answered)) == (2, 6)
    assert all(error.retry_after for error in refused)
    assert len({reply.response for reply in answered}) == 1
