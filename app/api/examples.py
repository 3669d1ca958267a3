"""Owns the request bodies that /docs offers to try. Pure data; each one works as it stands."""

from typing import Annotated

from fastapi import Body
from fastapi.openapi.models import Example

from app.models import schemas


def _examples(**bodies: tuple[str, dict[str, object]]) -> dict[str, Example]:
    return {name: {"summary": summary, "value": value} for name, (summary, value) in bodies.items()}


_CHAT = _examples(
    question=("A question", {"message": "What is the capital of France?"}),
    stream=("A question, streamed", {"message": "What is the capital of France?", "stream": True}),
    greedy=("Always the same answer", {"message": "Add 17 and 25.", "temperature": 0, "max_tokens": 100}),
    instructed=(
        "With a system prompt",
        {"message": "Hello! Who are you?", "system_prompt": "You are a pirate.", "temperature": 0.7},
    ),
)
_NEW = _examples(
    empty=("An empty conversation", {}),
    restored=(
        "A transcript to go on from",
        {
            "title": "Names",
            "messages": [
                {"role": "user", "content": "My name is Ada."},
                {"role": "assistant", "content": "Nice to meet you, Ada!"},
            ],
        },
    ),
)
_REGENERATE = _examples(
    again=("Draw another reply", {}),
    warmer=("Draw a freer one", {"temperature": 1.1, "seed": 7}),
)
_CONTINUE = _examples(longer=("Some more", {"max_tokens": 100}))
_UNDO = _examples(last=("The last turn", {}), two=("The last two", {"turns": 2}))
_SWITCH = _examples(
    builtin=("The built-in model", {"model_name": "builtin"}),
    progress=("GPT-2, with its progress", {"model_name": "gpt2", "stream": True}),
)
_LOAD = _examples(
    current=("The current model", {}),
    named=("Another one, beside it", {"model_name": "gpt2"}),
)
_UNLOAD = _examples(named=("One model", {"model_name": "gpt2"}))
_GENERATE = _examples(
    story=("Go on with a text", {"prompt": "Once upon a time", "max_length": 50, "temperature": 0.8}),
    several=(
        "Three endings",
        {"prompt": "The best thing about rain is", "num_return_sequences": 3, "seed": 1},
    ),
)

# A body that may be left out stands for an empty object.
ChatBody = Annotated[schemas.ChatRequest, Body(openapi_examples=_CHAT)]
NewChatBody = Annotated[
    schemas.NewChatRequest, Body(openapi_examples=_NEW, default_factory=schemas.NewChatRequest)
]
RegenerateBody = Annotated[
    schemas.RegenerateRequest, Body(openapi_examples=_REGENERATE, default_factory=schemas.RegenerateRequest)
]
ContinueBody = Annotated[
    schemas.ContinueRequest, Body(openapi_examples=_CONTINUE, default_factory=schemas.ContinueRequest)
]
UndoBody = Annotated[schemas.UndoRequest, Body(openapi_examples=_UNDO, default_factory=schemas.UndoRequest)]
SwitchModelBody = Annotated[schemas.SwitchModelRequest, Body(openapi_examples=_SWITCH)]
LoadModelBody = Annotated[
    schemas.LoadModelRequest, Body(openapi_examples=_LOAD, default_factory=schemas.LoadModelRequest)
]
UnloadModelBody = Annotated[
    schemas.UnloadModelRequest,
    Body(openapi_examples=_UNLOAD, default_factory=schemas.UnloadModelRequest),
]
GenerateBody = Annotated[schemas.GenerateRequest, Body(openapi_examples=_GENERATE)]
