"""Defines the wire models of /api/v1. The terminal client shares them, so they must not import the server.

Requests with unknown fields are refused, and numbers and booleans must have their own JSON type: `true` is
not 1. Unknown fields of replies are ignored, so that a client can read the replies of a newer server.
"""

from app.core.literals import FinishReason as FinishReason, Role as Role
from app.models.schemas.activity import (
    ActivityResponse as ActivityResponse,
    FailureEntry as FailureEntry,
    ModelActivity as ModelActivity,
    RequestEntry as RequestEntry,
    RequestStage as RequestStage,
)
from app.models.schemas.conversations import (
    ConversationListResponse as ConversationListResponse,
    ConversationMessage as ConversationMessage,
    ConversationResponse as ConversationResponse,
    ConversationSummary as ConversationSummary,
    DeletedAllResponse as DeletedAllResponse,
    DeletedResponse as DeletedResponse,
    NewChatResponse as NewChatResponse,
    RunningTurn as RunningTurn,
    RunningTurnsResponse as RunningTurnsResponse,
    SelectResponse as SelectResponse,
    UndoResponse as UndoResponse,
)
from app.models.schemas.models import (
    FileProgress as FileProgress,
    HealthResponse as HealthResponse,
    LoadModelRequest as LoadModelRequest,
    LoadProgress as LoadProgress,
    ModelEntry as ModelEntry,
    ModelHealth as ModelHealth,
    ModelInfoResponse as ModelInfoResponse,
    ModelListResponse as ModelListResponse,
    SamplingOrigin as SamplingOrigin,
    SamplingValue as SamplingValue,
    ServerState as ServerState,
    SwitchModelRequest as SwitchModelRequest,
    SwitchModelResponse as SwitchModelResponse,
    UnloadModelRequest as UnloadModelRequest,
    UnloadModelResponse as UnloadModelResponse,
)
from app.models.schemas.parts import (
    MessagePart as MessagePart,
    TextPart as TextPart,
    ThinkingPart as ThinkingPart,
    ToolCallPart as ToolCallPart,
    ToolResultPart as ToolResultPart,
)
from app.models.schemas.replies import (
    ChatResponse as ChatResponse,
    CountResponse as CountResponse,
    DeltaEvent as DeltaEvent,
    DetokenizeResponse as DetokenizeResponse,
    ErrorDetail as ErrorDetail,
    ErrorResponse as ErrorResponse,
    GenerateResponse as GenerateResponse,
    LogprobEntry as LogprobEntry,
    Parameters as Parameters,
    StartEvent as StartEvent,
    StopTurnResponse as StopTurnResponse,
    ThinkingEvent as ThinkingEvent,
    Timings as Timings,
    TokenizeResponse as TokenizeResponse,
    ToolCallEvent as ToolCallEvent,
    TopLogprob as TopLogprob,
    Usage as Usage,
)
from app.models.schemas.reply_fields import (
    SamplingFields as SamplingFields,
    TurnFields as TurnFields,
)
from app.models.schemas.requests import (
    ChatRequest as ChatRequest,
    ContinueRequest as ContinueRequest,
    EditRequest as EditRequest,
    ForkConversationRequest as ForkConversationRequest,
    GenerateRequest as GenerateRequest,
    HeadFields as HeadFields,
    NewChatRequest as NewChatRequest,
    RegenerateRequest as RegenerateRequest,
    SelectRequest as SelectRequest,
    TranscriptMessage as TranscriptMessage,
    UndoRequest as UndoRequest,
    UpdateConversationRequest as UpdateConversationRequest,
)
from app.models.schemas.response_format import (
    ChoiceFormat as ChoiceFormat,
    JsonFormat as JsonFormat,
    JsonSchemaFormat as JsonSchemaFormat,
    LarkFormat as LarkFormat,
    RegexFormat as RegexFormat,
    ResponseFormat as ResponseFormat,
)
from app.models.schemas.tools import (
    CountRequest as CountRequest,
    DetokenizeRequest as DetokenizeRequest,
    InputMessage as InputMessage,
    NamedTool as NamedTool,
    TokenizeRequest as TokenizeRequest,
    ToolDefinition as ToolDefinition,
    ToolFields as ToolFields,
)
from app.models.schemas.wire import (
    KEEP_ALIVE_S as KEEP_ALIVE_S,
    MAX_STOP as MAX_STOP,
    MAX_TEXT as MAX_TEXT,
    LoadState as LoadState,
    Metadata as Metadata,
    Name as Name,
    NonBlankText as NonBlankText,
    RequestModel as RequestModel,
    StopField as StopField,
    StopString as StopString,
    Text as Text,
    TokenId as TokenId,
    WireModel as WireModel,
)
