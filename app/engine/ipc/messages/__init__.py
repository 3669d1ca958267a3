"""The messages between the API process and a worker, and their encoding (MessagePack, not pickle).

Both ends import this package and nothing else of each other.
"""

import msgspec

from app.engine.ipc.messages.loading import (
    LoadFailed as LoadFailed,
    ModelInfo as ModelInfo,
    Progress as Progress,
    Ready as Ready,
    SendProgress as SendProgress,
    Stage as Stage,
    WorkerSpec as WorkerSpec,
)
from app.engine.ipc.messages.record import Record as Record, encode as encode
from app.engine.ipc.messages.replies import (
    Accepted as Accepted,
    Delta as Delta,
    DeltaKind as DeltaKind,
    Deltas as Deltas,
    DetokenizedText as DetokenizedText,
    Failed as Failed,
    Finished as Finished,
    Outbound as Outbound,
    PromptLogprobs as PromptLogprobs,
    RequestTimings as RequestTimings,
    Stats as Stats,
    TokenAnswer as TokenAnswer,
    TokenCount as TokenCount,
    TokenCounts as TokenCounts,
    TokenLogprob as TokenLogprob,
    Tokens as Tokens,
    ToolCallRef as ToolCallRef,
)
from app.engine.ipc.messages.requests import (
    Cancel as Cancel,
    ChatMessage as ChatMessage,
    CountTokens as CountTokens,
    Detokenize as Detokenize,
    Grammar as Grammar,
    Inbound as Inbound,
    RawPrompt as RawPrompt,
    SamplingParams as SamplingParams,
    Shutdown as Shutdown,
    Submit as Submit,
    Tokenize as Tokenize,
    TokenQuestion as TokenQuestion,
    Tool as Tool,
    ToolCall as ToolCall,
    ToolUse as ToolUse,
)

decode_inbound = msgspec.msgpack.Decoder(Inbound).decode
decode_outbound = msgspec.msgpack.Decoder(Outbound).decode
