"""The checks of the routes that speak OpenAI's and Anthropic's APIs."""

from app.apicheck.runner import GREEDY, QUESTION, Check, Target, current_model, expect


def chat_is_completed(target: Target) -> None:
    body = {"model": current_model(target), "messages": [{"role": "user", "content": QUESTION}], **GREEDY}
    reply = target.http.post("/v1/chat/completions", json=body)
    expect(reply.is_success and '"assistant"' in reply.text, "it has no message")


def text_is_continued(target: Target) -> None:
    body = {"model": current_model(target), "prompt": "Once upon a time", "max_tokens": 8}
    reply = target.http.post("/v1/completions", json=body)
    expect(reply.is_success and '"text"' in reply.text, "it has no text")


def models_have_cards(target: Target) -> None:
    name = current_model(target)
    expect(name in target.http.get("/v1/models").text, "the current model is missing")


def model_has_a_card(target: Target) -> None:
    card = target.http.get(f"/v1/models/{current_model(target)}")
    expect(card.is_success and '"model"' in card.text, "it is not described")


def message_is_created(target: Target) -> None:
    messages = [{"role": "user", "content": QUESTION}]
    body = {"model": current_model(target), "messages": messages, "max_tokens": 24, "temperature": 0}
    reply = target.http.post("/v1/messages", json=body)
    expect(reply.is_success and '"message"' in reply.text, "it is no message")


def message_tokens_are_counted(target: Target) -> None:
    body = {"model": current_model(target), "messages": [{"role": "user", "content": QUESTION}]}
    reply = target.http.post("/v1/messages/count_tokens", json=body)
    expect(reply.is_success and '"input_tokens"' in reply.text, "it has no count")


OTHER_API_CHECKS = (
    Check("POST /v1/chat/completions", "answers", chat_is_completed),
    Check("POST /v1/completions", "continues a text", text_is_continued),
    Check("POST /v1/messages/count_tokens", "counts", message_tokens_are_counted),
    Check("POST /v1/messages", "answers", message_is_created),
    Check("GET /v1/models", "lists the current model", models_have_cards),
    Check("GET /v1/models/{model}", "describes the current model", model_has_a_card),
)
