"""Example request bodies for /docs, attached to the handlers' parameters. Each can be sent unchanged.

A body with a `default_factory` is optional. Without it, the request means the same as an empty object.
"""

from fastapi import Body
from fastapi.openapi.models import Example

from app.api.openai.conversations.wire import NewConversation
from app.models.schemas import (
    ContinueRequest,
    ForkConversationRequest,
    LoadModelRequest,
    NewChatRequest,
    RegenerateRequest,
    UndoRequest,
    UnloadModelRequest,
)


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
        "From a transcript",
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
    again=("Another reply", {}),
    warmer=("A more random reply", {"temperature": 1.1, "seed": 7}),
)
_EDIT = _examples(
    changed=("A changed question", {"message_id": "msg_0", "message": "What is the capital of Spain?"})
)
_SELECT = _examples(version=("The branch of a message", {"message_id": "msg_0"}))
_FORK = _examples(current=("The current branch", {}))
_UPDATE = _examples(renamed=("A title", {"title": "Capitals"}))
_CONTINUE = _examples(longer=("Up to 100 more tokens", {"max_tokens": 100}))
_UNDO = _examples(last=("The last turn", {}), two=("The last two", {"turns": 2}))
_SWITCH = _examples(
    builtin=("The built-in model", {"model_name": "builtin"}),
    progress=("GPT-2, with progress", {"model_name": "gpt2", "stream": True}),
)
_LOAD = _examples(
    current=("The current model", {}),
    named=("Another model", {"model_name": "gpt2"}),
)
_UNLOAD = _examples(named=("One model", {"model_name": "gpt2"}))
_GENERATE = _examples(
    story=("Continue a text", {"prompt": "Once upon a time", "max_length": 50, "temperature": 0.8}),
    several=(
        "Three continuations",
        {"prompt": "The best thing about rain is", "num_return_sequences": 3, "seed": 1},
    ),
)
_TOKENIZE = _examples(text=("A text", {"text": "Hello, world!"}))
_DETOKENIZE = _examples(tokens=("Tokens", {"token_ids": [1, 2, 3]}))
_COUNT = _examples(
    chat=("A chat", {"messages": [{"role": "user", "content": "What is the capital of France?"}]}),
    prompt=("A raw prompt", {"prompt": "Once upon a time"}),
)
_MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
_COMPLETION = _examples(
    question=("A question", {"model": "builtin", "messages": _MESSAGES}),
    stream=("A question, streamed", {"model": "builtin", "messages": _MESSAGES, "stream": True}),
)
_TEXT_COMPLETION = _examples(
    story=("Continue a text", {"model": "builtin", "prompt": "Once upon a time", "max_tokens": 32})
)
_RESPONSE = _examples(
    question=("A question", {"model": "builtin", "input": "What is the capital of France?"}),
    stream=(
        "A question, streamed",
        {"model": "builtin", "input": "What is the capital of France?", "stream": True},
    ),
    unstored=(
        "Nothing is stored",
        {"model": "builtin", "input": "Hello!", "instructions": "Be brief.", "store": False},
    ),
)
_INPUT_TOKENS = _examples(question=("A question", {"model": "builtin", "input": "Hello!"}))
_ITEM = {"role": "user", "content": "My name is Ada."}
_NEW_CONVERSATION = _examples(
    empty=("An empty conversation", {}),
    items=("With an item", {"items": [_ITEM], "metadata": {"topic": "names"}}),
)
_NEW_METADATA = _examples(topic=("Metadata", {"metadata": {"topic": "capitals"}}))
_ITEMS = _examples(message=("A message", {"items": [_ITEM]}))
_COUNT_MESSAGE = _examples(question=("A question", {"model": "builtin", "messages": _MESSAGES}))
_MESSAGE = _examples(
    question=("A question", {"model": "builtin", "max_tokens": 100, "messages": _MESSAGES}),
    stream=(
        "A question, streamed",
        {"model": "builtin", "max_tokens": 100, "messages": _MESSAGES, "stream": True},
    ),
)

CHAT = Body(openapi_examples=_CHAT)
NEW_CHAT = Body(openapi_examples=_NEW, default_factory=NewChatRequest)
REGENERATE = Body(openapi_examples=_REGENERATE, default_factory=RegenerateRequest)
EDIT = Body(openapi_examples=_EDIT)
SELECT = Body(openapi_examples=_SELECT)
FORK = Body(openapi_examples=_FORK, default_factory=ForkConversationRequest)
UPDATE = Body(openapi_examples=_UPDATE)
CONTINUE = Body(openapi_examples=_CONTINUE, default_factory=ContinueRequest)
UNDO = Body(openapi_examples=_UNDO, default_factory=UndoRequest)
SWITCH_MODEL = Body(openapi_examples=_SWITCH)
LOAD_MODEL = Body(openapi_examples=_LOAD, default_factory=LoadModelRequest)
UNLOAD_MODEL = Body(openapi_examples=_UNLOAD, default_factory=UnloadModelRequest)
GENERATE = Body(openapi_examples=_GENERATE)
TOKENIZE = Body(openapi_examples=_TOKENIZE)
DETOKENIZE = Body(openapi_examples=_DETOKENIZE)
COUNT = Body(openapi_examples=_COUNT)
CHAT_COMPLETION = Body(openapi_examples=_COMPLETION)
TEXT_COMPLETION = Body(openapi_examples=_TEXT_COMPLETION)
COUNT_MESSAGE = Body(openapi_examples=_COUNT_MESSAGE)
MESSAGE = Body(openapi_examples=_MESSAGE)
RESPONSE = Body(openapi_examples=_RESPONSE)
INPUT_TOKENS = Body(openapi_examples=_INPUT_TOKENS)
NEW_CONVERSATION = Body(openapi_examples=_NEW_CONVERSATION, default_factory=NewConversation)
NEW_METADATA = Body(openapi_examples=_NEW_METADATA)
ITEMS = Body(openapi_examples=_ITEMS)
