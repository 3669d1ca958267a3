"""The checks of the routes of the server, its models, and texts without a conversation."""

from app.apicheck.runner import API, QUESTION, Check, Target, current_model, expect
from app.models import schemas


def index_lists_routes(target: Target) -> None:
    response = target.http.get("/")
    expect(f"{API}/chat" in response.text, "POST /chat is missing")


def docs_need_no_network(target: Target) -> None:
    page = target.http.get("/docs").text
    expect("swagger-ui-bundle.js" in page, "it is not a Swagger page")
    expect("https://" not in page, "the page loads from another site")


def server_is_healthy(target: Target) -> None:
    health = target.get(f"{API}/health", schemas.HealthResponse)
    expect(health.status == "ok", f"the status is {health.status}")


def figures_are_exported(target: Target) -> None:
    text = target.http.get("/metrics").text
    expect("vllm:num_requests_running" in text, "the number of running requests is missing")


def activity_is_shown(target: Target) -> None:
    activity = target.get(f"{API}/activity", schemas.ActivityResponse)
    names = [model.name for model in activity.models]
    expect(current_model(target) in names, f"the current model is not among {names}")


def server_is_live(target: Target) -> None:
    expect(target.http.get(f"{API}/health/live").is_success, "it does not report so")


def server_is_ready(target: Target) -> None:
    target.get(f"{API}/health/ready", schemas.HealthResponse)


def models_are_listed(target: Target) -> None:
    models = target.get(f"{API}/chat/models", schemas.ModelListResponse)
    expect(models.current_model in [entry.name for entry in models.models], "the current one is missing")


def model_info_is_complete(target: Target) -> None:
    info = target.get(f"{API}/model-info", schemas.ModelInfoResponse)
    expect(info.loaded, f"{info.model_name} is {info.status}")


def model_is_loaded(target: Target) -> None:
    target.post(f"{API}/load-model", schemas.SwitchModelResponse)


def model_is_switched(target: Target) -> None:
    name = current_model(target)
    switched = target.post(f"{API}/chat/switch-model", schemas.SwitchModelResponse, model_name=name)
    expect(switched.model_name == name, f"the model is {switched.model_name}")


def switch_is_streamed(target: Target) -> None:
    body = {"model_name": current_model(target)}
    target.stream(f"{API}/chat/switch-model", schemas.SwitchModelResponse, **body)


def text_is_completed(target: Target) -> None:
    body = {"prompt": "Once upon a time", "max_length": 16, "num_return_sequences": 2, "seed": 1}
    reply = target.post(f"{API}/generate", schemas.GenerateResponse, **body)
    expect(len(reply.generated_text) == 2, f"it returned {len(reply.generated_text)} texts, not 2")


def text_is_streamed(target: Target) -> None:
    body = {"prompt": "Once upon a time", "max_length": 16}
    _, text, reply = target.stream(f"{API}/generate", schemas.GenerateResponse, **body)
    expect([text] == reply.generated_text, "the deltas differ from the text")


def text_is_tokenized(target: Target) -> None:
    tokens = target.post(f"{API}/tokenize", schemas.TokenizeResponse, text=QUESTION)
    expect(tokens.count == len(tokens.token_ids) > 0, f"it has {tokens.count} tokens")


def tokens_are_detokenized(target: Target) -> None:
    tokens = target.post(f"{API}/tokenize", schemas.TokenizeResponse, text="capital")
    text = target.post(f"{API}/detokenize", schemas.DetokenizeResponse, token_ids=tokens.token_ids).text
    expect("capital" in text, "it is another text")


def tokens_are_counted(target: Target) -> None:
    body = {"messages": [{"role": "user", "content": QUESTION}]}
    counted = target.post(f"{API}/count", schemas.CountResponse, **body)
    expect(0 < counted.tokens < counted.context_length, f"it has {counted.tokens} tokens")


SERVER_CHECKS = (
    Check("GET /", "lists the routes", index_lists_routes),
    Check("GET /docs", "works offline", docs_need_no_network),
    Check("GET /api/v1/health", "reports ok", server_is_healthy),
    Check("GET /api/v1/health/live", "reports that it is live", server_is_live),
    Check("GET /api/v1/health/ready", "reports that it is ready", server_is_ready),
    Check("GET /metrics", "exports the figures", figures_are_exported),
    Check("GET /api/v1/activity", "shows the current model", activity_is_shown),
    Check("GET /api/v1/chat/models", "lists the current model", models_are_listed),
    Check("GET /api/v1/model-info", "describes the current model", model_info_is_complete),
    Check("POST /api/v1/load-model", "without a body, loads the current model", model_is_loaded),
    Check("POST /api/v1/chat/switch-model", "switches to the current model", model_is_switched),
    Check("POST /api/v1/chat/switch-model", "streamed", switch_is_streamed),
    Check("POST /api/v1/generate", "returns two texts", text_is_completed),
    Check("POST /api/v1/generate", "streamed", text_is_streamed),
    Check("POST /api/v1/tokenize", "counts its tokens", text_is_tokenized),
    Check("POST /api/v1/detokenize", "returns the text", tokens_are_detokenized),
    Check("POST /api/v1/count", "counts a chat", tokens_are_counted),
)
