"""The contract of ConversationStore, which every store keeps."""

import base64
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from app.core.errors import ConversationBusy, ConversationNotFound, InvalidRequest, MessageNotFound
from app.models.conversation import Conversation, Message, ReplyFacts, chained, text_message
from app.models.schemas import (
    Parameters,
    TextPart,
    ThinkingPart,
    Timings,
    ToolCallPart,
    ToolResultPart,
    Usage,
)
from app.models.storage.search import matches, search_words
from app.models.storage.store import ConversationStore, PageRequest
from tests.models.storage.conftest import Run

OWNER = "tests"
PARAMETERS = Parameters(
    max_tokens=None,
    temperature=0.7,
    top_p=1.0,
    top_k=0,
    min_p=0.1,
    repetition_penalty=1.0,
    presence_penalty=0.0,
    frequency_penalty=0.0,
    seed=2**63 - 1,
    stop=["\n"],
)


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


def test_a_conversation_keeps_its_metadata_and_its_deleted_replies(run: Run) -> None:
    async def scenario(store: ConversationStore) -> None:
        conversation = await stored(store, "hi")
        conversation = replace(conversation, metadata={"é": "a\0\\b"}, deleted_replies=("msg_1", "msg_2"))
        await store.commit(conversation)
        assert await store.get(OWNER, conversation.id) == conversation

    run(scenario)


@pytest.mark.parametrize("owner", [OWNER, "somebody"])
def test_the_id_of_a_stored_conversation_cannot_be_reserved_again(run: Run, owner: str) -> None:
    async def scenario(store: ConversationStore) -> None:
        conversation = await stored(store, "hi")
        with pytest.raises(ConversationBusy):
            await store.reserve(Conversation(owner=owner, id=conversation.id))
        assert await store.get(OWNER, conversation.id) == conversation

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


@pytest.mark.parametrize(
    ("text", "query", "is_found"),
    [
        ("Straße", "strasse", True),
        ("Straße", "STRASS", True),
        ("caf\u00e9", "cafe\u0301", True),
        ("cafe\u0301 au lait", "CAF\u00c9", True),
        ("café", "cafe", False),
        ("天気がいいから、散歩しましょう", "散歩", True),
        ("天気がいいから、散歩しましょう", "いい", True),
        ("天気がいいから、散歩しましょう", "雨", False),
        ("Пусть всегда будет солнце", "СОЛН", True),
        ("snake_case and kebab-case", "snake_case", True),
        ("snake_case and kebab-case", "case", True),
        ("snake_case only", "case", False),
        ("\uff32\uff21\uff29\uff2e", "rain", True),
        ("a\0b", "b", True),
        ("it's", "s' | b", False),
        ("100% OR nothing", 'or" 100% AND', False),
        ("100% OR nothing", "or -100%", True),
        ("rain NEAR spain", "near(spain, 2)", False),
        ("a:b & c!", "a:* & !c", True),
        ("x" * 150, "X" * 120, True),
        ("x" * 150, "x" * 99 + "y", False),
        ("😀 smile", "😀 smil", True),
        ("१२ रुपये", "१२", True),
    ],
)
def test_stores_agree_on_what_a_word_is(text: str, query: str, is_found: bool, run: Run) -> None:
    async def scenario(store: ConversationStore) -> None:
        found = await stored(store, text, "Oh"), await stored(store, "Oh", title=text)
        page = await store.page(OWNER, PageRequest(limit=10, query=query))
        assert {each.id for each in page.conversations} == (
            {each.id for each in found} if is_found else set()
        )

    run(scenario)


def test_a_search_follows_the_title_and_the_deletion(run: Run) -> None:
    async def scenario(store: ConversationStore) -> None:
        async def count(query: str) -> int | None:
            return (await store.page(OWNER, PageRequest(limit=1, query=query))).total

        conversation = await stored(store, "rain", title="weather")
        await store.commit(replace(conversation, title="climate"))
        assert [await count(word) for word in ("weather", "climate", "rain")] == [0, 1, 1]
        await store.commit(replace(conversation, title=None))
        assert await count("climate") == 0
        await store.delete(conversation)
        assert await count("rain") == 0

    run(scenario)


def test_a_page_of_a_search_continues_with_its_cursor(run: Run) -> None:
    async def scenario(store: ConversationStore) -> None:
        made = [await stored(store, f"rain {number}") for number in range(3)]
        await stored(store, "sun")
        first = await store.page(OWNER, PageRequest(limit=2, query="rain"))
        assert (first.conversations, first.total) == ((made[2], made[1]), 3)
        rest = await store.page(OWNER, PageRequest(limit=2, query="rain", cursor=first.cursor))
        assert (rest.conversations, rest.total, rest.cursor) == ((made[0],), 3, None)

    run(scenario)


@pytest.mark.parametrize("query", ["rain", "RAI spain", "r", "title", "spain money", "it's", "% _ *", "ab"])
def test_a_search_that_finds_many_finds_the_same(query: str, run_broad: Run) -> None:
    texts = ("Rain in Spain", "rain, rarely", "money from spain", "it's raining", "100% a_b", "ab ba")

    async def scenario(store: ConversationStore) -> None:
        for number in range(30):
            title = "The title" if number % 7 == 0 else None
            await stored(store, texts[number % 6], texts[number * 5 // 7 % 6], title=title)
        await store.commit(Conversation(owner="somebody", title="rain title"))
        expected = await found_by_reading(store, query)
        for offset in (0, 2):
            request, found = PageRequest(limit=4, query=query, offset=offset), list[str]()
            while True:
                page = await store.page(OWNER, request)
                assert page.total == (None if expected else 0)
                found += [each.id for each in page.conversations]
                if page.cursor is None:
                    break
                request = PageRequest(limit=4, query=query, cursor=page.cursor)
            assert found == expected[offset:]

    run_broad(scenario)


async def found_by_reading(store: ConversationStore, query: str) -> list[str]:
    """The ids of the conversations with the words, the most recently changed first."""
    page, words = await store.page(OWNER, PageRequest(limit=100)), search_words(query)
    return [each.id for each in page.conversations if matches(each.title, await store.messages(each), words)]


def test_messages_keep_every_part_and_fact(run: Run) -> None:
    reply = ReplyFacts(
        model_name="m",
        model_id="org/m",
        finish_reason="stop",
        usage=Usage(prompt_tokens=1, completion_tokens=2, cached_tokens=0),
        timings=Timings(queue_s=0.1, first_token_s=1 / 3, total_s=2.5, tokens_per_second=None),
        parameters=PARAMETERS,
        omitted_messages=3,
    )
    parts = (
        ThinkingPart(text="hm\0\\0"),
        TextPart(text="a\0b 😀 \\"),
        ToolCallPart(id="1", name="f", arguments='{"a":'),
        ToolResultPart(id="1", content=""),
    )
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901, timezone(timedelta(hours=14)))
    message = Message("assistant", parts, reply=reply, timestamp=moment)

    async def scenario(store: ConversationStore) -> None:
        conversation = Conversation(
            owner=OWNER, title="\0 \\0 \\\\", system_prompt="\0", model_name="m"
        ).with_messages(message)
        await store.commit(conversation, [message])
        assert await store.get(OWNER, conversation.id) == conversation
        assert await store.messages(conversation) == (message,)
        assert await store.branch(conversation, message.id) == (message,)

    run(scenario)


@pytest.mark.parametrize("moment", [datetime.min, datetime.max])
def test_a_transcript_may_have_any_time(moment: datetime, run: Run) -> None:
    message = replace(
        text_message("user", "hi"), timestamp=moment.replace(tzinfo=timezone(timedelta(hours=-9)))
    )

    async def scenario(store: ConversationStore) -> None:
        conversation = Conversation(owner=OWNER).with_messages(message)
        await store.commit(conversation, [message])
        (found,) = await store.messages(conversation)
        assert abs(found.timestamp.replace(tzinfo=None) - moment) <= timedelta(hours=9)

    run(scenario)


@pytest.mark.parametrize("wrong", ["", "conv_\0", "conv_é", "conv_\ud800", "' OR 1=1 --"])
def test_an_id_from_elsewhere_finds_nothing(wrong: str, run: Run) -> None:
    async def scenario(store: ConversationStore) -> None:
        conversation = await stored(store, "hi", "Oh")
        with pytest.raises(ConversationNotFound):
            await store.get(OWNER, wrong)
        with pytest.raises(MessageNotFound):
            await store.branch(conversation, wrong)

    run(scenario)


@pytest.mark.parametrize(
    "position", ["0001-01-01T00:00:00+14:00 conv_1", "2026-01-01T00:00:00+00:00 conv_\0", "9999-12-31 a"]
)
def test_a_made_up_cursor_is_refused_or_leads_nowhere(position: str, run: Run) -> None:
    cursor = base64.urlsafe_b64encode(position.encode()).decode().rstrip("=")

    async def scenario(store: ConversationStore) -> None:
        await stored(store, "a")
        with pytest.raises(InvalidRequest, match="cursor"):
            await store.page(OWNER, PageRequest(limit=2, cursor=cursor))

    run(scenario)
