"""Owns the checks of a running server: one for each thing that a route promises. Knows no terminal.

They run in order, on one conversation, and leave nothing behind but a model that was loaded already.
"""

from collections.abc import Mapping

from app.apicheck.runner import API, Check, Target, expect, expect_refusal
from app.models import schemas

GREEDY = {"temperature": 0, "max_tokens": 24}
QUESTION = "What is the capital of France?"
CONVERSATION = f"{API}/chat/conversation/{{conversation_id}}"


# What is here, and how it is


def index_lists_routes(target: Target) -> None:
    response = target.http.get("/")
    expect(f"{API}/chat" in response.text, "POST /chat is not listed")


def docs_need_no_network(target: Target) -> None:
    page = target.http.get("/docs").text
    expect("swagger-ui-bundle.js" in page, "this is no Swagger page")
    expect("https://" not in page, "the page asks another site")


def server_is_well(target: Target) -> None:
    health = target.get(f"{API}/health", schemas.HealthResponse)
    expect(health.status == "ok", f"status is {health.status}")


def server_lives(target: Target) -> None:
    expect(target.http.get(f"{API}/health/live").is_success, "it does not say so")


def server_is_ready(target: Target) -> None:
    target.get(f"{API}/health/ready", schemas.HealthResponse)


# Conversations


def conversation_starts(target: Target) -> None:
    target.conversation_id = target.post(f"{API}/chat/new", schemas.NewChatResponse).conversation_id


def transcript_is_restored(target: Target) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    restored = target.post(f"{API}/chat/new", schemas.NewChatResponse, messages=messages)
    expect(restored.message_count == 2, f"{restored.message_count} messages, not 2")
    target.http.delete(f"{API}/chat/conversation/{restored.conversation_id}")


def message_is_answered(target: Target) -> None:
    reply = target.post(f"{API}/chat", schemas.ChatResponse, **_ask(target))
    expect(reply.conversation_id == target.conversation_id, "another conversation answered")
    expect(reply.message_count == 2, f"{reply.message_count} messages, not 2")


def message_is_streamed(target: Target) -> None:
    names, text, reply = target.stream(f"{API}/chat", schemas.ChatResponse, **_ask(target))
    expect(names[:1] == ["start"], f"the stream began with {names[:1]}")
    expect(text == reply.response, "the deltas are not the reply")


def history_is_whole(target: Target) -> None:
    history = target.get(target.conversation, schemas.ConversationResponse)
    roles = [message.role for message in history.messages]
    expect(roles == ["user", "assistant"] * 2, f"roles are {roles}")


def conversations_are_listed(target: Target) -> None:
    page = target.get(f"{API}/chat/conversations?limit=1", schemas.ConversationListResponse)
    listed = [conversation.conversation_id for conversation in page.conversations]
    expect(listed == [target.conversation_id], "the one used last is not the first")


def reply_is_drawn_again(target: Target) -> None:
    reply = target.post(f"{target.conversation}/regenerate", schemas.ChatResponse, **GREEDY)
    expect(reply.message_count == 4, f"{reply.message_count} messages, not 4")


def reply_is_drawn_again_streamed(target: Target) -> None:
    body = GREEDY | {"max_tokens": 2}
    _, text, reply = target.stream(f"{target.conversation}/regenerate", schemas.ChatResponse, **body)
    expect(text == reply.response, "the deltas are not the reply")


def reply_goes_on(target: Target) -> None:
    before = target.get(target.conversation, schemas.ConversationResponse).messages[-1].content
    reply = target.post(f"{target.conversation}/continue", schemas.ChatResponse, temperature=0, max_tokens=4)
    expect(reply.response.startswith(before), "what was said has changed")


def reply_goes_on_streamed(target: Target) -> None:
    body = {"temperature": 0, "max_tokens": 4}
    _, text, reply = target.stream(f"{target.conversation}/continue", schemas.ChatResponse, **body)
    expect(reply.response.endswith(text), "the deltas are not what was added")


def turn_is_undone(target: Target) -> None:
    undone = target.post(f"{target.conversation}/undo", schemas.UndoResponse)
    expect(undone.message_count == 2, f"{undone.message_count} messages, not 2")


def conversation_is_deleted(target: Target) -> None:
    expect(target.http.delete(target.conversation).is_success, "it was not")
    expect_refusal(target.http.get(target.conversation), 404, "conversation_not_found")


def _ask(target: Target) -> Mapping[str, object]:
    return {"message": QUESTION, "conversation_id": target.conversation_id, **GREEDY}


# Models and text


def models_are_listed(target: Target) -> None:
    models = target.get(f"{API}/chat/models", schemas.ModelListResponse)
    expect(models.current_model in [entry.name for entry in models.models], "the current one is not listed")


def model_tells_its_facts(target: Target) -> None:
    info = target.get(f"{API}/model-info", schemas.ModelInfoResponse)
    expect(info.loaded, f"{info.model_name} is {info.status}")


def model_is_loaded(target: Target) -> None:
    target.post(f"{API}/load-model", schemas.SwitchModelResponse)


def model_is_switched(target: Target) -> None:
    name = _current(target)
    switched = target.post(f"{API}/chat/switch-model", schemas.SwitchModelResponse, model_name=name)
    expect(switched.model_name == name, f"it is {switched.model_name} now")


def switch_is_streamed(target: Target) -> None:
    body = {"model_name": _current(target)}
    target.stream(f"{API}/chat/switch-model", schemas.SwitchModelResponse, **body)


def text_goes_on(target: Target) -> None:
    body = {"prompt": "Once upon a time", "max_length": 16, "num_return_sequences": 2, "seed": 1}
    reply = target.post(f"{API}/generate", schemas.GenerateResponse, **body)
    expect(len(reply.generated_text) == 2, f"{len(reply.generated_text)} texts, not 2")


def text_is_streamed(target: Target) -> None:
    body = {"prompt": "Once upon a time", "max_length": 16}
    _, text, reply = target.stream(f"{API}/generate", schemas.GenerateResponse, **body)
    expect([text] == reply.generated_text, "the deltas are not the text")


def _current(target: Target) -> str:
    return target.get(f"{API}/chat/models", schemas.ModelListResponse).current_model or "none"


# Bad requests


def unknown_field_is_named(target: Target) -> None:
    response = target.http.post(f"{API}/chat", json={"message": "Hi", "tempratur": 1})
    expect_refusal(response, 422, "validation_error")
    expect("tempratur" in response.text, "the field is not named")


def broken_json_is_refused(target: Target) -> None:
    headers = {"Content-Type": "application/json"}
    response = target.http.post(f"{API}/chat", content='{"message": NaN}', headers=headers)
    expect_refusal(response, 400, "invalid_request")


def forms_are_refused(target: Target) -> None:
    expect_refusal(target.http.post(f"{API}/chat", data={"message": "Hi"}), 415, "unsupported_media_type")


def unknown_conversation_is_refused(target: Target) -> None:
    body = {"message": "Hi", "conversation_id": "conv_of_nobody"}
    expect_refusal(target.http.post(f"{API}/chat", json=body), 404, "conversation_not_found")


def unknown_model_is_refused(target: Target) -> None:
    body = {"model_name": "no-such-model"}
    expect_refusal(target.http.post(f"{API}/chat/switch-model", json=body), 404, "model_not_found")


def unknown_model_is_not_unloaded(target: Target) -> None:
    body = {"model_name": "no-such-model"}
    expect_refusal(target.http.post(f"{API}/unload-model", json=body), 404, "model_not_found")


def wrong_method_is_refused(target: Target) -> None:
    expect_refusal(target.http.get(f"{API}/chat"), 405, "method_not_allowed")


def strangers_are_refused(target: Target) -> None:
    """Without the key where one is set; under a foreign name where none is."""
    if target.has_key:
        response = target.http.get(f"{API}/chat/models", headers={"Authorization": "Bearer wrong"})
        expect_refusal(response, 401, "not_authenticated")
    else:
        response = target.http.get(f"{API}/chat/models", headers={"Host": "evil.example"})
        expect_refusal(response, 403, "forbidden_host")


CHECKS = (
    Check("GET /", "lists what is here", index_lists_routes),
    Check("GET /docs", "works with no network", docs_need_no_network),
    Check("GET /api/v1/health", "says ok", server_is_well),
    Check("GET /api/v1/health/live", "says so", server_lives),
    Check("GET /api/v1/health/ready", "can serve", server_is_ready),
    Check("GET /api/v1/chat/models", "lists the current model", models_are_listed),
    Check("GET /api/v1/model-info", "tells its facts", model_tells_its_facts),
    Check("POST /api/v1/load-model", "with no body: the current one", model_is_loaded),
    Check("POST /api/v1/unload-model", "404: unknown model", unknown_model_is_not_unloaded),
    Check("POST /api/v1/chat/switch-model", "to the current one", model_is_switched),
    Check("POST /api/v1/chat/switch-model", "streamed", switch_is_streamed),
    Check("POST /api/v1/chat/new", "restores a transcript", transcript_is_restored),
    Check("POST /api/v1/chat/new", "starts a conversation", conversation_starts),
    Check("POST /api/v1/chat", "answers", message_is_answered),
    Check("POST /api/v1/chat", "streamed: deltas are the reply", message_is_streamed),
    Check(f"GET {CONVERSATION}", "holds the whole history", history_is_whole),
    Check("GET /api/v1/chat/conversations", "the last one used is first", conversations_are_listed),
    Check(f"POST {CONVERSATION}/regenerate", "replaces", reply_is_drawn_again),
    Check(
        f"POST {CONVERSATION}/regenerate",
        "streamed",
        reply_is_drawn_again_streamed,
    ),
    Check(f"POST {CONVERSATION}/continue", "extends", reply_goes_on),
    Check(f"POST {CONVERSATION}/continue", "streamed", reply_goes_on_streamed),
    Check(f"POST {CONVERSATION}/undo", "drops the last turn", turn_is_undone),
    Check(f"DELETE {CONVERSATION}", "is gone then", conversation_is_deleted),
    Check("POST /api/v1/generate", "two texts", text_goes_on),
    Check("POST /api/v1/generate", "streamed", text_is_streamed),
    Check("POST /api/v1/chat", "422: unknown field", unknown_field_is_named),
    Check("POST /api/v1/chat", "400: NaN in the body", broken_json_is_refused),
    Check("POST /api/v1/chat", "415: a form", forms_are_refused),
    Check("POST /api/v1/chat", "404: no such conversation", unknown_conversation_is_refused),
    Check("POST /api/v1/chat/switch-model", "404: no such model", unknown_model_is_refused),
    Check("GET /api/v1/chat", "405: wrong method", wrong_method_is_refused),
    Check("GET /api/v1/chat/models", "strangers are refused", strangers_are_refused),
)
