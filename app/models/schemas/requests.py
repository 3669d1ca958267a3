"""Defines the requests about conversations, and the request to continue a text."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    FailFast,
    Field,
    StrictBool,
    StrictInt,
    model_validator,
)

from app.core.literals import FinishReason
from app.models.schemas.reply_fields import GenerationFields, TurnFields
from app.models.schemas.tools import InputMessage
from app.models.schemas.wire import (
    Metadata,
    Name,
    NonBlankText,
    RequestModel,
    Text,
    not_blank,
)


class HeadFields(RequestModel):
    """The field of every request that changes the current branch of a conversation."""

    expected_head_id: Name | None = Field(
        None,
        description="The head of the conversation as the caller knows it; null if its branch is empty. If it "
        "is another one, because another client has changed it, the request is refused (409 `head_changed`) "
        "and changes nothing. If left out, any head will do.",
    )

    @property
    def expects_head(self) -> bool:
        """Whether the request has the field, which may be null."""
        return "expected_head_id" in self.model_fields_set


class ChatRequest(TurnFields, HeadFields):
    message: NonBlankText | None = Field(
        None, description="The user's message.", examples=["What is the capital of France?"]
    )
    messages: Annotated[list[InputMessage] | None, FailFast()] = Field(
        None,
        max_length=10_000,
        description="Messages in place of `message`, such as the results of tools. The reply answers the "
        "last one, which is the user's or a tool's. An empty list answers the conversation as it stands.",
    )
    conversation_id: Name | None = Field(
        None, description="The conversation to continue. If left out, a new one is started."
    )
    model_name: Name | None = Field(
        None,
        description="The model that answers. If left out, the conversation's model or else the current one.",
    )
    parent_id: Name | None = Field(
        None,
        description="The message of the conversation below which this one is added, as a branch. If left "
        "out, the last message of the current branch.",
    )
    system_prompt: Text | None = Field(
        None, description="Replaces the conversation's system prompt from this message on."
    )
    stream: StrictBool = Field(
        False, description="Answers with server-sent events: `start`, `delta`..., then `done` or `error`."
    )

    @model_validator(mode="after")
    def _messages_have_conversation(self) -> "ChatRequest":
        if self.parent_id is not None and self.conversation_id is None:
            raise ValueError("parent_id needs conversation_id, the conversation of that message")
        if self.expects_head and self.conversation_id is None:
            raise ValueError("expected_head_id needs conversation_id, the conversation with that head")
        return self

    @model_validator(mode="after")
    def _one_input(self) -> "ChatRequest":
        if (self.message is None) == (self.messages is None):
            raise ValueError("send message or messages, one of them")
        if self.messages == [] and self.conversation_id is None:
            raise ValueError("messages: an empty list needs conversation_id")
        return self


class TranscriptMessage(RequestModel):
    """One message of a conversation to restore, with the facts about a past reply."""

    role: Literal["user", "assistant"]
    content: Text
    timestamp: datetime | None = None
    model_name: Name | None = None
    finish_reason: FinishReason | None = None

    @model_validator(mode="after")
    def _user_message_is_not_blank(self) -> "TranscriptMessage":
        """Checks a user message as in a chat. A reply may be empty, because a model may end it at once."""
        if self.role == "user":
            not_blank(self.content)
        return self


class NewChatRequest(RequestModel):
    system_prompt: Text | None = Field(None, description="If left out, the server's LLM_SYSTEM_PROMPT.")
    title: Annotated[Name, AfterValidator(not_blank)] | None = None
    model_name: Name | None = Field(
        None, description="The model that answers in this conversation by default."
    )
    metadata: Metadata = Field(default_factory=dict, description="Notes to keep with the conversation.")
    messages: Annotated[list[TranscriptMessage], FailFast()] = Field(
        default_factory=list,
        max_length=10_000,
        description="A transcript to restore. User and assistant take turns, and the user begins.",
    )


class RegenerateRequest(TurnFields, HeadFields):
    """Answers a user message again. The old reply stays, as another version."""

    message_id: Name | None = Field(
        None, description="The reply to make again. If left out, the last reply of the current branch."
    )
    model_name: Name | None = None
    stream: StrictBool = False


class ContinueRequest(TurnFields, HeadFields):
    """Continues the last reply, such as one that was cut off by `max_tokens` or by Ctrl-C."""

    model_name: Name | None = None
    stream: StrictBool = False


class EditRequest(TurnFields, HeadFields):
    """Asks a changed question beside an old one, and answers it."""

    message_id: Name = Field(description="The user's message to change. It stays, as another version.")
    message: NonBlankText = Field(description="The changed message.")
    model_name: Name | None = None
    stream: StrictBool = False


class SelectRequest(HeadFields):
    message_id: Name = Field(description="Any message. Its branch is followed to its newest end.")


class ForkConversationRequest(RequestModel):
    """Copies a branch into a new conversation."""

    message_id: Name | None = Field(
        None, description="The last message to copy. If left out, that of the current branch."
    )


class UpdateConversationRequest(RequestModel):
    """Changes the fields that are sent. Null removes the title, or goes back to the current model."""

    title: Annotated[Name, AfterValidator(not_blank)] | None = None
    model_name: Name | None = None
    metadata: Metadata | None = Field(None, description="Replaces the metadata. Null removes it.")

    @model_validator(mode="after")
    def _changes_something(self) -> "UpdateConversationRequest":
        if not self.model_fields_set:
            raise ValueError("send title, model_name or metadata")
        return self


class UndoRequest(HeadFields):
    turns: StrictInt = Field(1, ge=1, le=10_000, description="The number of turns to drop from the end.")


class GenerateRequest(GenerationFields):
    prompt: NonBlankText = Field(
        description="The text to continue. It is used as it is, without a chat template."
    )
    num_return_sequences: StrictInt = Field(
        1,
        ge=1,
        le=16,
        description="The number of texts. With a `seed`, text i (from 0) is drawn with `seed + i`.",
    )
    prompt_logprobs: StrictBool | None = Field(
        None, description="Reports the prompt's tokens as `top_logprobs` reports those of the reply."
    )
    do_sample: StrictBool | None = Field(None, description="False means greedy, as temperature 0 does.")
    model_name: Name | None = None
    stream: StrictBool = Field(
        False, description="Answers with server-sent events. It requires num_return_sequences 1."
    )

    @model_validator(mode="after")
    def _no_contradiction(self) -> "GenerateRequest":
        if self.do_sample and self.temperature == 0:
            raise ValueError("do_sample is true, but temperature 0 is greedy; send only one of them")
        if self.do_sample is False and self.temperature:
            raise ValueError("do_sample is false, which is greedy, but temperature is above 0; send only one")
        if self.prompt_logprobs and self.top_logprobs is None:
            raise ValueError("prompt_logprobs needs top_logprobs")
        if self.stream and self.num_return_sequences > 1:
            raise ValueError("a stream has only one sequence, so set num_return_sequences to 1")
        return self
