"""Defines the query parameters of /v1/responses and /v1/conversations, and cuts lists of items into pages."""

from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field

from app.api.openai.responses.items import Item, ItemList
from app.core.errors import InvalidRequest


class LenientQuery(BaseModel):
    """Query parameters. Unknown ones are ignored, as clients expect."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class FollowQuery(LenientQuery):
    stream: bool = False
    starting_after: int | None = Field(
        None, ge=0, description="With `stream`: the number of the last event that was read."
    )


class PageQuery(LenientQuery):
    limit: int = Field(20, ge=1, le=100)
    order: Literal["asc", "desc"] = "desc"
    after: str | None = Field(None, description="The id of the item after which the page begins.")


FollowParams = Annotated[FollowQuery, Query()]
PageParams = Annotated[PageQuery, Query()]


def page_of(items: Sequence[Item], query: PageQuery) -> ItemList:
    """Returns a part of the items, which are given with the oldest first.

    Raises:
        InvalidRequest: no item has the id `after`.
    """
    ordered = list(items) if query.order == "asc" else list(reversed(items))
    if query.after is not None:
        ids = [item.id for item in ordered]
        if query.after not in ids:
            raise InvalidRequest("after: no item of the list has this id.")
        ordered = ordered[ids.index(query.after) + 1 :]
    return item_list(ordered[: query.limit], has_more=len(ordered) > query.limit)


def item_list(items: Sequence[Item], *, has_more: bool = False) -> ItemList:
    ids = [item.id for item in items]
    return ItemList(
        object="list",
        data=list(items),
        first_id=ids[0] if ids else None,
        last_id=ids[-1] if ids else None,
        has_more=has_more,
    )
