"""Owns the handlers of /api/v1: parse, call one method of a service, return. Errors are raised below them."""

from fastapi import APIRouter, Response

from app.api.dependencies import ConversationId, ModelParam, PageParams, ServicesDep
from app.api.docs import REPLIES, STREAMS_LOAD, STREAMS_SWITCH, STREAMS_TEXT, TAKES_BODY, fails_with
from app.api.examples import (
    ChatBody,
    ContinueBody,
    GenerateBody,
    LoadModelBody,
    NewChatBody,
    RegenerateBody,
    SwitchModelBody,
    UndoBody,
    UnloadModelBody,
)
from app.api.streaming import respond
from app.models.schemas import (
    ChatResponse,
    ConversationListResponse,
    ConversationResponse,
    DeletedResponse,
    GenerateResponse,
    ModelInfoResponse,
    ModelListResponse,
    NewChatResponse,
    SwitchModelResponse,
    UndoResponse,
    UnloadModelResponse,
    build_requests,
)

build_requests()  # before any route is declared
router = APIRouter(prefix="/api/v1")
REPLY = STREAMS_TEXT | REPLIES
TURN = REPLY | fails_with(409)


@router.post("/chat", tags=["Chat"], response_model=ChatResponse, responses=TURN)
async def chat(body: ChatBody, services: ServicesDep) -> Response:
    """Answers a message. Without `conversation_id` a new conversation begins; the reply names it."""
    return respond(services.chats.chat(body), body.stream)


@router.post("/chat/new", tags=["Chat"], responses=TAKES_BODY | fails_with(404, 429))
async def start_conversation(body: NewChatBody, services: ServicesDep) -> NewChatResponse:
    """Starts a conversation, empty or from a transcript. The body may be left out."""
    return await services.chats.new(body)


@router.get("/chat/conversations", tags=["Chat"], responses=fails_with(422))
async def list_conversations(page: PageParams, services: ServicesDep) -> ConversationListResponse:
    """The conversations that are kept, the most recently used first."""
    return await services.chats.list(page.limit, page.offset)


@router.get("/chat/conversation/{conversation_id}", tags=["Chat"], responses=fails_with(404, 422))
async def get_conversation(conversation_id: ConversationId, services: ServicesDep) -> ConversationResponse:
    """The whole history of a conversation."""
    return await services.chats.get(conversation_id)


@router.delete("/chat/conversation/{conversation_id}", tags=["Chat"], responses=fails_with(404, 409, 422))
async def delete_conversation(conversation_id: ConversationId, services: ServicesDep) -> DeletedResponse:
    """Removes a conversation for good."""
    return await services.chats.delete(conversation_id)


@router.post(
    "/chat/conversation/{conversation_id}/regenerate",
    tags=["Chat"],
    response_model=ChatResponse,
    responses=TURN,
)
async def regenerate(
    conversation_id: ConversationId, body: RegenerateBody, services: ServicesDep
) -> Response:
    """Answers the last user message again, in place of the old reply; with other parameters, if given."""
    return respond(services.chats.regenerate(conversation_id, body), body.stream)


@router.post(
    "/chat/conversation/{conversation_id}/undo", tags=["Chat"], responses=TAKES_BODY | fails_with(404, 409)
)
async def undo(conversation_id: ConversationId, body: UndoBody, services: ServicesDep) -> UndoResponse:
    """Drops the last `turns`: user messages with their replies. The body may be left out: one turn."""
    return await services.chats.undo(conversation_id, body.turns)


@router.post(
    "/chat/conversation/{conversation_id}/continue",
    tags=["Chat"],
    response_model=ChatResponse,
    responses=TURN,
)
async def continue_reply(
    conversation_id: ConversationId, body: ContinueBody, services: ServicesDep
) -> Response:
    """Extends the last reply, as one that was cut by `max_tokens`. Deltas are what is added."""
    return respond(services.chats.continue_reply(conversation_id, body), body.stream)


@router.get("/chat/models", tags=["Models"])
async def list_models(services: ServicesDep) -> ModelListResponse:
    """Every model that the server knows, what each is served from, and which one is current."""
    return services.status.list_models()


@router.post(
    "/chat/switch-model",
    tags=["Models"],
    response_model=SwitchModelResponse,
    responses=STREAMS_SWITCH | TAKES_BODY | fails_with(404, 503),
)
async def switch_model(body: SwitchModelBody, services: ServicesDep) -> Response:
    """Makes another model the current one. The old one serves until it is ready, and stays if it fails."""
    return respond(services.models.switch(body.model_name), body.stream)


@router.get("/model-info", tags=["Models"], responses=fails_with(404, 422))
async def model_info(which: ModelParam, services: ServicesDep) -> ModelInfoResponse:
    """One model's facts: device, precision, size, memory, context window."""
    return services.status.info(which.model_name)


@router.post(
    "/load-model",
    tags=["Models"],
    response_model=SwitchModelResponse,
    responses=STREAMS_LOAD | TAKES_BODY | fails_with(404, 503),
)
async def load_model(body: LoadModelBody, services: ServicesDep) -> Response:
    """Loads a model beside the current one, which stays current. The body may be left out."""
    return respond(services.models.load(body.model_name), body.stream)


@router.post("/unload-model", tags=["Models"], responses=TAKES_BODY | fails_with(404, 409))
async def unload_model(body: UnloadModelBody, services: ServicesDep) -> UnloadModelResponse:
    """Gives a model's memory back; refused while it is in use. The next request for it loads it again."""
    return await services.models.unload(body.model_name)


@router.post("/generate", tags=["Generation"], response_model=GenerateResponse, responses=REPLY)
async def generate(body: GenerateBody, services: ServicesDep) -> Response:
    """Goes on with a text, as it stands: no conversation, no chat template."""
    return respond(services.generator.generate(body), body.stream)
