"""The contract of ConversationStore, which every store keeps."""

import pytest

from app.core.errors import ConversationNotFound, InvalidRequest, MessageNotFound
from app.models.conversation import Conversation, Message, chained, text_message
from app.models.storage.store import ConversationStore, PageRequest
from tests.models.storage.conftest import Run

OWNER = "tests"


def turns(*texts: str) -> tuple[Message, ...]:
    """Messages of user and assistant in turn, as one branch."""
    return chained(
        text_message("assistant" if index % 2 else "user", text) for index, text in enumerate(texts)
    )


async def stored(store: ConversationStore, *texts: str, title: str | None = None) -> Conversation:
    messages = turns(*texts)
    conversation = Conversation(owner=OWNER, title=title)
    conversation = conversation.with_messages(*messages) if messages else conversation
    await store.commit(conversation, messages)
    return conversation


def contents(messages: tuple[Message, ...]) -> list[str]:
    return [message.content for message in messages]


def test_get_returns_what_was_committed(run: Run) -> None:
    async def scenario(store: ConversationStore) -> None:
        conversation = await stored(store, "hi", "Oh", title="é")
        assert await store.get(OWNER, conversation.id) == conversation
        assert contents(await store.messages(conversation)) == ["hi", "Oh"]

    run(scenario)


def test_a_conversation_does_not_exist_for_another_owner(run: Run) -> None:
    async def scenario(store: ConversationStore) -> None:
        conversation = await stored(store, "hi", "Oh")
        with pytest.raises(ConversationNotFound) as foreign:
            await store.get("somebody", conversation.id)
        with pytest.raises(ConversationNotFound) as unknown:
            await store.get(OWNER, "conv_none")
        assert (foreign.value.message, foreign.value.hint) == (unknown.value.message, unknown.value.hint)
        page = await store.page("somebody", PageRequest(limit=10))
        assert (page.conversations, page.total) == ((), 0)
        assert (await store.page("somebody", PageRequest(limit=10, query="hi"))).total == 0

    run(scenario)


def test_commit_adds_messages_and_keeps_all_branches(run: Run) -> None:
    async def scenario(store: ConversationStore) -> None:
        conversation = await stored(store, "hi", "old")
        question, old = await store.messages(conversation)
        new = text_message("assistant", "new").below(question)
        changed = conversation.with_messages(new)
        await store.commit(changed, [new])
        assert await store.get(OWNER, conversation.id) == changed
        assert contents(await store.branch(changed, changed.head_id)) == ["hi", "new"]
        assert contents(await store.branch(changed, old.id)) == ["hi", "old"]
        assert contents(await store.messages(changed)) == ["hi", "old", "new"]

    run(scenario)


@pytest.mark.parametrize(("count", "kept"), [(0, 0), (1, 2), (2, 4), (3, 6), (9, 6)])
def test_branch_returns_whole_turns_from_the_end(count: int, kept: int, run: Run) -> None:
    async def scenario(store: ConversationStore) -> None:
        texts = ("a", "b", "c", "d", "e", "f")
        conversation = await stored(store, *texts)
        branch = await store.branch(conversation, conversation.head_id, turns=count)
        assert contents(branch) == list(texts[len(texts) - kept :])

    run(scenario)


def test_branch_counts_a_message_without_reply_as_a_turn(run: Run) -> None:
    async def scenario(store: ConversationStore) -> None:
        conversation = await stored(store, "a", "b", "c")
        assert contents(await store.branch(conversation, conversation.head_id, turns=1)) == ["c"]
        assert await store.branch(conversation, None) == ()

    run(scenario)


def test_branch_does_not_find_messages_of_another_conversation(run: Run) -> None:
    async def scenario(store: ConversationStore) -> None:
        conversation, other = await stored(store, "a", "b"), await stored(store, "c", "d")
        for wrong in (other.head_id, "msg_none"):
            with pytest.raises(MessageNotFound):
                await store.branch(conversation, wrong)

    run(scenario)


def test_delete_removes_a_conversation_with_its_messages(run: Run) -> None:
    async def scenario(store: ConversationStore) -> None:
        conversation, other = await stored(store, "a", "b"), await stored(store, "c", "d")
        await store.delete(conversation)
        with pytest.raises(ConversationNotFound):
            await store.get(OWNER, conversation.id)
        assert await store.messages(conversation) == ()
        assert contents(await store.messages(other)) == ["c", "d"]

    run(scenario)


def test_page_lists_the_most_recently_changed_first(run: Run) -> None:
    async def scenario(store: ConversationStore) -> None:
        first, second, third = [await stored(store, text, "Oh") for text in ("1", "2", "3")]
        message = text_message("user", "again")
        first = first.with_messages(message)
        await store.commit(first, [message])
        page = await store.page(OWNER, PageRequest(limit=2))
        assert (page.conversations, page.total) == ((first, third), 3)
        assert (await store.page(OWNER, PageRequest(limit=2, offset=2))).conversations == (second,)

    run(scenario)


def test_a_cursor_continues_the_list_although_conversations_were_added(run: Run) -> None:
    async def scenario(store: ConversationStore) -> None:
        made = [await stored(store, str(number)) for number in range(5)]
        page = await store.page(OWNER, PageRequest(limit=2))
        assert page.cursor is not None
        await stored(store, "new")
        following = await store.page(OWNER, PageRequest(limit=2, cursor=page.cursor))
        assert following.conversations == (made[2], made[1])
        last = await store.page(OWNER, PageRequest(limit=2, cursor=following.cursor))
        assert (last.conversations, last.cursor) == ((made[0],), None)

    run(scenario)


@pytest.mark.parametrize("cursor", ["", "x", "AAAA", "%%%", "eA", "MjAyNi0wMS0wMSBjb252"])
def test_a_cursor_from_elsewhere_is_refused(cursor: str, run: Run) -> None:
    async def scenario(store: ConversationStore) -> None:
        await stored(store, "a")
        with pytest.raises(InvalidRequest, match="cursor"):
            await store.page(OWNER, PageRequest(limit=2, cursor=cursor))

    run(scenario)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("rain", ["weather", "garden"]),
        ("RAIN spain", ["weather"]),
        ("mon", ["weather", "money"]),
        ("title", ["money"]),
        ("spain money", []),
        ("ain", []),
        ("l'été", ["garden"]),
        ('% _ * " OR', []),
    ],
)
def test_page_finds_words_in_titles_and_texts(query: str, found: list[str], run: Run) -> None:
    async def scenario(store: ConversationStore) -> None:
        names = {
            (await stored(store, "Will it rain on Monday?", "In Spain, rain is rare.")).id: "weather",
            (await stored(store, "a", "b", title="The title: money")).id: "money",
            (await stored(store, "Pendant l'été", "Rain, please.")).id: "garden",
        }
        page = await store.page(OWNER, PageRequest(limit=10, query=query))
        assert sorted(names[each.id] for each in page.conversations) == sorted(found)
        assert page.total == len(found)

    run(scenario)


@pytest.mark.parametrize("query", ["", "  ", "?!", " ".join(map(str, range(17)))])
def test_a_query_without_words_or_with_too_many_is_refused(query: str, run: Run) -> None:
    async def scenario(store: ConversationStore) -> None:
        with pytest.raises(InvalidRequest, match="query"):
            await store.page(OWNER, PageRequest(limit=10, query=query))

    run(scenario)
