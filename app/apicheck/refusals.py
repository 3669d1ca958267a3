"""The checks that wrong requests are refused with the right status and code."""

from app.apicheck.runner import API, Check, Target, expect, expect_refusal


def unknown_field_is_named(target: Target) -> None:
    response = target.http.post(f"{API}/chat", json={"message": "Hi", "tempratur": 1})
    expect_refusal(response, 422, "validation_error")
    expect("tempratur" in response.text, "the message does not name the field")


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


def unauthorized_requests_are_refused(target: Target) -> None:
    """Requests without a valid key are refused; if no key is set, requests under a foreign host name are."""
    if target.has_key:
        response = target.http.get(f"{API}/chat/models", headers={"Authorization": "Bearer wrong"})
        expect_refusal(response, 401, "not_authenticated")
    else:
        response = target.http.get(f"{API}/chat/models", headers={"Host": "evil.example"})
        expect_refusal(response, 403, "forbidden_host")


REFUSAL_CHECKS = (
    Check("POST /api/v1/chat", "422: unknown field", unknown_field_is_named),
    Check("POST /api/v1/chat", "400: NaN in the body", broken_json_is_refused),
    Check("POST /api/v1/chat", "415: a form", forms_are_refused),
    Check("POST /api/v1/chat", "404: unknown conversation", unknown_conversation_is_refused),
    Check("POST /api/v1/chat/switch-model", "404: unknown model", unknown_model_is_refused),
    Check("POST /api/v1/unload-model", "404: unknown model", unknown_model_is_not_unloaded),
    Check("GET /api/v1/chat", "405: wrong method", wrong_method_is_refused),
    Check("GET /api/v1/chat/models", "unauthorized requests are refused", unauthorized_requests_are_refused),
)
