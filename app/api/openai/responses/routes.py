"""The routes /v1/responses: OpenAI's responses, which are replies of stored conversations."""

from fastapi import APIRouter, Response

from app.api.body import ParsedRoute
from app.api.dependencies import ChosenId, DeadlineDep, KeyDep, OwnerDep, ServicesDep
from app.api.docs import STREAMS_RESPONSE, fails_as
from app.api.error_formats import openai_error
from app.api.examples import INPUT_TOKENS, RESPONSE
from app.api.openai.responses import creation
from app.api.openai.responses.items import ItemList
from app.api.openai.responses.pages import FollowParams, PageParams, page_of
from app.api.openai.responses.reply import InputTokens, ResponseBody, ResponseDeletion
from app.api.openai.responses.requests import ResponsePrompt, ResponseRequest
from app.api.openai.responses.stored import (
    find_branch,
    find_response,
    response_input,
)
from app.api.paths import OPENAI_PREFIX

router = APIRouter(
    prefix=f"{OPENAI_PREFIX}/responses",
    route_class=ParsedRoute,
    tags=["OpenAI: responses"],
    responses=fails_as(openai_error),
)


@router.post("", response_model=ResponseBody, responses=STREAMS_RESPONSE)
async def create_response(
    services: ServicesDep,
    owner: OwnerDep,
    deadline: DeadlineDep,
    key: KeyDep,
    chosen_id: ChosenId,
    body: ResponseRequest = RESPONSE,
) -> Response:
    """Answers an input, as OpenAI's responses do. Unless `store` is false, the conversation is stored."""
    return await creation.create(services, creation.ResponseCall(owner, body, deadline, key, chosen_id))


@router.post("/input_tokens")
async def count_input_tokens(
    services: ServicesDep, owner: OwnerDep, deadline: DeadlineDep, body: ResponsePrompt = INPUT_TOKENS
) -> InputTokens:
    """Counts the tokens that the prompt of a response would have."""
    return await creation.count(services, owner, body, deadline)


@router.get("/{response_id}", response_model=ResponseBody, responses=STREAMS_RESPONSE)
async def get_response(
    response_id: str, services: ServicesDep, owner: OwnerDep, deadline: DeadlineDep, query: FollowParams
) -> Response | ResponseBody:
    """Returns a stored response, or the events of one that runs or has just ended."""
    if query.stream:
        return await creation.follow(services, owner, response_id, query.starting_after, deadline)
    return (await find_response(services, owner, response_id)).body()


@router.delete("/{response_id}")
async def delete_response(response_id: str, services: ServicesDep, owner: OwnerDep) -> ResponseDeletion:
    """Deletes a response. Once all of a conversation that a response began are deleted, so is that."""
    await creation.delete(services, owner, response_id)
    return ResponseDeletion(id=response_id)


@router.post("/{response_id}/cancel")
async def cancel_response(response_id: str, services: ServicesDep, owner: OwnerDep) -> ResponseBody:
    """Stops a response if it runs, and returns it with the text so far."""
    return await creation.cancel(services, owner, response_id)


@router.get("/{response_id}/input_items")
async def list_input_items(
    response_id: str, services: ServicesDep, owner: OwnerDep, page: PageParams
) -> ItemList:
    """Lists the items that the request for the response brought with it, the last one first."""
    branch = await find_branch(services, owner, response_id)
    return page_of(response_input(branch), page)
