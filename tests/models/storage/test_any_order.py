"""Any order of changes gives the same tree of messages in every store, also after a restart."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pydantic import SecretStr

from app.core.config import Settings
from app.core.deadline import Deadline
from app.core.errors import ConversationNotFound, InvalidRequest, NothingToDo
from app.engine.ipc.messages import Accepted, Delta, Finished, RequestTimings, TokenCounts
from app.models.chat.conversations import ConversationManager
from app.models.chat.generation import ChatGenerator
from app.models.chat_manager import ChatModelManager
from app.models.schemas import (
    ChatRequest,
    ChatResponse,
    ConversationResponse,
    EditRequest,
    ForkConversationRequest,
    NewChatRequest,
    RegenerateRequest,
    SelectRequest,
    UndoRequest,
)
from app.models.storage.storage import choose_storage
from app.models.turns.turn_registry import TurnRegistry
from tests.models.conftest import read
from tests.models.stand_in import StandInBackend, StandInModels
from tests.postgres import PostgresServer
from tests.waiting import LIMIT_S

OWNER = "tests"
T = TypeVar("T")
NewUrl = Callable[[], SecretStr | None]


@dataclass
class Tree:
    """The model: for each message its parent and its text, the oldest first, and the head."""

    texts: dict[str, str] = field(default_factory=dict)
    parents: dict[str, str | None] = field(default_factory=dict)
    head: str | None = None

    def add(self, message_id: str, parent_id: str | None, text: str) -> None:
        self.texts[message_id], self.parents[message_id], self.head = text, parent_id, message_id

    def siblings(self, message_id: str) -> list[str]:
        parent = self.parents[message_id]
        return [each for each, above in self.parents.items() if above == parent]

    def branch(self, leaf: str | None) -> list[str]:
        return [] if leaf is None else [*self.branch(self.parents[leaf]), leaf]

    def newest_leaf(self, message_id: str) -> str:
        children = [each for each, above in self.parents.items() if above == message_id]
        return self.newest_leaf(children[-1]) if children else message_id


class AnyOrder(RuleBasedStateMachine):
    """A server's chats and conversations on one store."""

    new_url: NewUrl

    def __init__(self) -> None:
        super().__init__()
        self.settings = Settings(database_url=self.new_url(), _env_file=None)
        self.runner = asyncio.Runner()
        self.backend = StandInBackend()
        self.trees: dict[str, Tree] = {}
        self.replies = 0
        self.start()

    def start(self) -> None:
        self.storage = choose_storage(self.settings)
        self.run(self.storage.start())
        models = StandInModels(self.backend)
        store, locks = self.storage.store, self.storage.locks
        generator, keys = ChatGenerator(models), self.storage.key_records
        self.chats = ChatModelManager(self.settings, store, locks, generator, TurnRegistry(), keys)
        self.conversations = ConversationManager(self.settings, store, locks, models)

    def teardown(self) -> None:
        self.stop()
        self.runner.close()

    def stop(self) -> None:
        self.run(self.chats.close())
        self.run(self.storage.close())

    def run(self, work: Coroutine[None, None, T]) -> T:
        return self.runner.run(asyncio.wait_for(work, LIMIT_S))

    def answer(self, method: str, *arguments: object) -> ChatResponse:
        """The response of a turn, in which the model says something new."""
        self.replies += 1
        self.backend.reply = (
            Accepted("r", prompt_tokens=3, omitted_messages=0, max_tokens=20),
            Delta("r", f"reply {self.replies}", 1),
            Finished("r", "stop", TokenCounts(3, 1, 0), RequestTimings(0.0, 0.5, 2.0)),
        )

        async def collect() -> ChatResponse:
            reader = getattr(self.chats, method)(OWNER, *arguments, Deadline.after(LIMIT_S))
            *_, last = await read(reader)
            assert isinstance(last, ChatResponse)
            return last

        return self.run(collect())

    def record_turn(self, tree: Tree, response: ChatResponse, parent: str | None, text: str | None) -> None:
        """Adds the reply, and below `parent` the user's message if there is a new one."""
        if text is not None:
            assert response.parent_id is not None
            tree.add(response.parent_id, parent, text)
        tree.add(response.message_id, response.parent_id, response.response)

    conversation_ids = Bundle("conversation_ids")

    @rule(target=conversation_ids)
    def new(self) -> str:
        started = self.run(self.conversations.new(OWNER, NewChatRequest()))
        self.trees[started.conversation_id] = Tree()
        return started.conversation_id

    @rule(target=conversation_ids, text=st.text(min_size=1, max_size=5).filter(str.strip))
    def chat(self, text: str) -> str:
        response = self.answer("chat", ChatRequest(message=text))
        self.record_turn(self.trees.setdefault(response.conversation_id, Tree()), response, None, text)
        return response.conversation_id

    @rule(conversation_id=conversation_ids)
    def send(self, conversation_id: str) -> None:
        tree = self.trees[conversation_id]
        request = ChatRequest(message="more", conversation_id=conversation_id)
        self.record_turn(tree, self.answer("chat", request), tree.head, "more")

    @rule(conversation_id=conversation_ids, data=st.data())
    def send_below(self, conversation_id: str, data: st.DataObject) -> None:
        if (parent := self.draw_message(conversation_id, data)) is not None:
            request = ChatRequest(message="branch", conversation_id=conversation_id, parent_id=parent)
            self.record_turn(self.trees[conversation_id], self.answer("chat", request), parent, "branch")

    @rule(conversation_id=conversation_ids, data=st.data())
    def edit(self, conversation_id: str, data: st.DataObject) -> None:
        if (message := self.draw_message(conversation_id, data)) is not None:
            tree, request = self.trees[conversation_id], EditRequest(message_id=message, message="changed")
            with suppress(InvalidRequest):  # a reply
                response = self.answer("edit", conversation_id, request)
                self.record_turn(tree, response, tree.parents[message], "changed")

    @rule(conversation_id=conversation_ids, data=st.data())
    def regenerate(self, conversation_id: str, data: st.DataObject) -> None:
        if (message := self.draw_message(conversation_id, data)) is not None:
            with suppress(InvalidRequest):  # a message of the user
                request = RegenerateRequest(message_id=message)
                response = self.answer("regenerate", conversation_id, request)
                self.record_turn(self.trees[conversation_id], response, response.parent_id, None)

    @rule(conversation_id=conversation_ids, turns=st.integers(1, 3))
    def undo(self, conversation_id: str, turns: int) -> None:
        tree = self.trees[conversation_id]
        with suppress(NothingToDo):
            undone = self.run(self.conversations.undo(OWNER, conversation_id, UndoRequest(turns=turns)))
            assert undone.head_id in (None, *tree.branch(tree.head))
            tree.head = undone.head_id

    @rule(conversation_id=conversation_ids, data=st.data())
    def select(self, conversation_id: str, data: st.DataObject) -> None:
        if (message := self.draw_message(conversation_id, data)) is not None:
            self.run(self.conversations.select(OWNER, conversation_id, SelectRequest(message_id=message)))
            self.trees[conversation_id].head = self.trees[conversation_id].newest_leaf(message)

    @rule(target=conversation_ids, conversation_id=conversation_ids)
    def fork(self, conversation_id: str) -> str:
        tree, copy = self.trees[conversation_id], Tree()
        forked = self.run(self.conversations.fork(OWNER, conversation_id, ForkConversationRequest()))
        texts = [tree.texts[each] for each in tree.branch(tree.head)]
        for message, text in zip(self.get(forked.conversation_id).messages, texts, strict=True):
            copy.add(message.id, copy.head, text)
        self.trees[forked.conversation_id] = copy
        return forked.conversation_id

    @rule(conversation_id=consumes(conversation_ids))
    def delete(self, conversation_id: str) -> None:
        self.run(self.conversations.delete(OWNER, conversation_id))
        del self.trees[conversation_id]
        with pytest.raises(ConversationNotFound):
            self.get(conversation_id)

    @precondition(lambda self: self.settings.database_url is not None)
    @rule()
    def restart(self) -> None:
        self.stop()
        self.start()

    @invariant()
    def stored_trees_are_those_of_the_model(self) -> None:
        for conversation_id, tree in self.trees.items():
            whole = self.get(conversation_id, is_tree=True)
            assert {each.id: each.content for each in whole.messages} == tree.texts
            assert {each.id: each.parent_id for each in whole.messages} == tree.parents
            assert whole.head_id == tree.head
            for each in whole.messages:
                assert list(each.siblings) == tree.siblings(each.id)
            branch = [each.id for each in self.get(conversation_id).messages]
            assert branch == tree.branch(tree.head)
            assert whole.message_count == len(branch)

    def get(self, conversation_id: str, *, is_tree: bool = False) -> ConversationResponse:
        return self.run(self.conversations.get(OWNER, conversation_id, is_tree=is_tree))

    def draw_message(self, conversation_id: str, data: st.DataObject) -> str | None:
        """Any message of the conversation; None if it has none."""
        found = list(self.trees[conversation_id].texts)
        return data.draw(st.sampled_from(found)) if found else None


def check(url: NewUrl, examples: int) -> None:
    class OnStore(AnyOrder):
        new_url = staticmethod(url)

    run_state_machine_as_test(
        OnStore,
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_any_order_in_memory() -> None:
    check(lambda: None, examples=15)


def test_any_order_in_sqlite(tmp_path_factory: pytest.TempPathFactory) -> None:
    def new_url() -> SecretStr:
        return SecretStr(f"sqlite:///{tmp_path_factory.mktemp('conversations')}/conversations.db")

    check(new_url, examples=5)


def test_any_order_in_postgresql(postgres: PostgresServer) -> None:
    check(lambda: SecretStr(postgres.url(postgres.new_database())), examples=5)
