"""The queries of the store for branches of messages and pages of conversations."""

from sqlalchemy import ColumnElement, Integer, ScalarSelect, Select, case, func, literal, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from app.models.conversation import Conversation
from app.models.storage.page_cursor import position_of
from app.models.storage.sql.rows import CONVERSATION_COLUMNS, MESSAGE_COLUMNS
from app.models.storage.sql.tables import conversations, messages
from app.models.storage.store import PageRequest

_NO_LIMIT = 2**31 - 1  # turns of a whole branch


def may_be_id(text: str) -> bool:
    """Whether a text from a request can be compared with ids; PostgreSQL takes no null characters."""
    return text.isascii() and text.isprintable()


def number_of(conversation: Conversation) -> ScalarSelect[int]:
    """Selects the number under which the tables have the conversation."""
    return select(conversations.c.number).where(conversations.c.id == conversation.id).scalar_subquery()


def branch_query(conversation: Conversation, leaf_id: str, turns: int | None) -> Select[tuple[object, ...]]:
    """Follows the parents from the leaf on, up to and with so many user messages; None: to the first one."""
    is_user = case((messages.c.role == "user", 1), else_=0)
    columns = (messages.c.conversation, messages.c.position, messages.c.parent_id)
    branch = (
        select(*columns, is_user.label("users"))
        .where(messages.c.conversation == number_of(conversation), messages.c.id == leaf_id)
        .cte("branch", recursive=True)
    )
    parents = (
        select(*columns, branch.c.users + is_user)
        .join(
            branch,
            (messages.c.conversation == branch.c.conversation) & (messages.c.id == branch.c.parent_id),
        )
        .where(branch.c.users < literal(_NO_LIMIT if turns is None else turns, Integer))
    )
    branch = branch.union_all(parents)
    return (
        select(*MESSAGE_COLUMNS)
        .join(
            branch,
            (messages.c.conversation == branch.c.conversation) & (messages.c.position == branch.c.position),
        )
        .order_by(messages.c.depth)
    )


async def count_of(connection: AsyncConnection, condition: ColumnElement[bool]) -> int:
    """Returns the number of conversations for which the condition holds."""
    return await connection.scalar(select(func.count()).select_from(conversations).where(condition)) or 0


def page_query(condition: ColumnElement[bool], page: PageRequest) -> Select[tuple[object, ...]]:
    """Selects one conversation more than the page has, because the cursor depends on whether there is one."""
    changed, own_id = conversations.c.updated_at, conversations.c.id
    query = select(*CONVERSATION_COLUMNS).where(condition).order_by(changed.desc(), own_id.desc())
    if page.cursor is None:
        return query.offset(page.offset).limit(page.limit + 1)
    time, conversation_id = position_of(page.cursor)
    before = tuple_(changed, own_id) < tuple_(
        literal(time, changed.type), literal(conversation_id, own_id.type)
    )
    return query.where(before).limit(page.limit + 1)
