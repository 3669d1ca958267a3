"""The checks of the routes of conversations and turns.

They run in order, share one conversation, and delete it at the end.
"""

from collections.abc import Mapping

from app.apicheck.runner import API, GREEDY, QUESTION, Check, Target, expect, expect_refusal
from app.models import schemas

CONVERSATION = f"{API}/chat/conversation/{{conversation_id}}"


def conversation_starts(target: Target) -> None:
    target.conversation_id = target.post(f"{API}/chat/new", schemas.NewChatResponse).conversation_id


def transcript_is_restored(target: Target) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    restored = target.post(f"{API}/chat/new", schemas.NewChatResponse, messages=messages)
    expect(restored.message_count == 2, f"it has {restored.message_count} messages, not 2")
    target.http.delete(f"{API}/chat/conversation/{restored.conversation_id}")


def message_is_answered(target: Target) -> None:
    reply = target.post(f"{API}/chat", schemas.ChatResponse, **_ask(target))
    expect(reply.conversation_id == target.conversation_id, "another conversation answered")
    expect(reply.message_count == 2, f"it has {reply.message_count} messages, not 2")


def message_is_streamed(target: Target) -> None:
    names, text, reply = target.stream(f"{API}/chat", schemas.ChatResponse, **_ask(target))
    expect(names[:1] == ["start"], f"the stream began with {names[:1]}")
    expect(text == reply.response, "the deltas differ from the reply")


def history_is_whole(target: Target) -> None:
    history = target.get(target.conversation, schemas.ConversationResponse)
    roles = [message.role for message in history.messages]
    expect(roles == ["user", "assistant"] * 2, f"the roles are {roles}")


def conversations_are_listed(target: Target) -> None:
    page = target.get(f"{API}/chat/conversations?limit=1", schemas.ConversationListResponse)
    listed = [conversation.conversation_id for conversation in page.conversations]
    expect(listed == [target.conversation_id], "the last one used is not first")


def reply_is_regenerated(target: Target) -> None:
    reply = target.post(f"{target.conversation}/regenerate", schemas.ChatResponse, **GREEDY)
    expect(reply.message_count == 4, f"it has {reply.message_count} messages, not 4")


def reply_is_regenerated_streamed(target: Target) -> None:
    body = GREEDY | {"max_tokens": 2}
    _, text, reply = target.stream(f"{target.conversation}/regenerate", schemas.ChatResponse, **body)
    expect(text == reply.response, "the deltas differ from the reply")


def versions_are_kept(target: Target) -> None:
    last = target.get(target.conversation, schemas.ConversationResponse).messages[-1]
    expect(
        last.position == len(last.siblings) == 3, f"it is {last.position} of {len(last.siblings)}, not 3 of 3"
    )
    body = {"message_id": last.siblings[0]}
    selected = target.post(f"{target.conversation}/select", schemas.SelectResponse, **body)
    expect(selected.head_id == last.siblings[0], "another version is the current one")


def question_is_edited(target: Target) -> None:
    question = target.get(target.conversation, schemas.ConversationResponse).messages[-2]
    body = {"message_id": question.id, "message": "And of Spain?", **GREEDY}
    reply = target.post(f"{target.conversation}/edit", schemas.ChatResponse, **body)
    expect(reply.message_count == 4, f"it has {reply.message_count} messages, not 4")
    expect(reply.parent_id != question.id, "it answers the old question")


def branch_is_forked(target: Target) -> None:
    copy = target.post(f"{target.conversation}/fork", schemas.NewChatResponse)
    expect(copy.message_count == 4, f"it has {copy.message_count} messages, not 4")
    target.http.delete(f"{API}/chat/conversation/{copy.conversation_id}")


def conversation_is_renamed(target: Target) -> None:
    response = target.http.patch(target.conversation, json={"title": "Capitals"})
    expect(response.is_success and "Capitals" in response.text, "it has another title")
    page = target.get(f"{API}/chat/conversations?query=capit", schemas.ConversationListResponse)
    found = [conversation.conversation_id for conversation in page.conversations]
    expect(target.conversation_id in found, "a search does not find it")


def reply_is_continued(target: Target) -> None:
    before = target.get(target.conversation, schemas.ConversationResponse).messages[-1].content
    reply = target.post(f"{target.conversation}/continue", schemas.ChatResponse, temperature=0, max_tokens=4)
    expect(reply.response.startswith(before), "the earlier text has changed")


def reply_is_continued_streamed(target: Target) -> None:
    body = {"temperature": 0, "max_tokens": 4}
    _, text, reply = target.stream(f"{target.conversation}/continue", schemas.ChatResponse, **body)
    expect(reply.response.endswith(text), "the deltas differ from the added text")


def turn_is_followed(target: Target) -> None:
    body = {**_ask(target), "background": True}
    names, _, reply = target.stream(f"{API}/chat", schemas.ChatResponse, **body)
    again = target.http.get(f"{API}/chat/turns/{reply.message_id}/events", params={"after": 1})
    expect(again.is_success, f"the status is {again.status_code}")
    expect(names[0] == "start" and "event: start" not in again.text, "the first event is repeated")
    expect("event: done" in again.text, "the events do not end with done")


def ended_turn_is_not_listed(target: Target) -> None:
    reply = target.post(f"{API}/chat", schemas.ChatResponse, **_ask(target))
    running = target.get(f"{API}/chat/turns", schemas.RunningTurnsResponse).turns
    expect(reply.message_id not in [turn.message_id for turn in running], "it lists a turn that has ended")


def unknown_turn_is_refused(target: Target) -> None:
    expect_refusal(target.http.get(f"{API}/chat/turns/msg_of_nobody/events"), 404, "turn_not_found")


def ended_turn_is_not_stopped(target: Target) -> None:
    reply = target.post(f"{API}/chat", schemas.ChatResponse, **_ask(target))
    response = target.http.delete(f"{API}/chat/turns/{reply.message_id}")
    stopped = schemas.StopTurnResponse.model_validate_json(response.content)
    expect(not stopped.was_running, "it says that the turn was running")
    expect(stopped.reply == reply, "it has another reply")


def request_is_answered_once(target: Target) -> None:
    headers = {"Idempotency-Key": f"check-{target.conversation_id}"}
    first, second = (target.http.post(f"{API}/chat", json=_ask(target), headers=headers) for _ in range(2))
    expect(first.is_success and first.json() == second.json(), "it was answered twice")
    other = target.http.post(f"{API}/chat", json={"message": "Hi"}, headers=headers)
    expect_refusal(other, 409, "idempotency_key_reused")


def turn_is_undone(target: Target) -> None:
    undone = target.post(f"{target.conversation}/undo", schemas.UndoResponse)
    expect(undone.message_count == 2, f"it has {undone.message_count} messages, not 2")


def conversation_is_deleted(target: Target) -> None:
    expect(target.http.delete(target.conversation).is_success, "it was not deleted")
    expect_refusal(target.http.get(target.conversation), 404, "conversation_not_found")


def _ask(target: Target) -> Mapping[str, object]:
    return {"message": QUESTION, "conversation_id": target.conversation_id, **GREEDY}


CONVERSATION_CHECKS = (
    Check("POST /api/v1/chat/new", "restores a transcript", transcript_is_restored),
    Check("POST /api/v1/chat/new", "starts a conversation", conversation_starts),
    Check("POST /api/v1/chat", "answers", message_is_answered),
    Check("POST /api/v1/chat", "streamed: the deltas are the reply", message_is_streamed),
    Check(f"GET {CONVERSATION}", "returns the whole history", history_is_whole),
    Check("GET /api/v1/chat/conversations", "lists the last one used first", conversations_are_listed),
    Check(f"POST {CONVERSATION}/regenerate", "adds a reply", reply_is_regenerated),
    Check(f"POST {CONVERSATION}/regenerate", "streamed", reply_is_regenerated_streamed),
    Check(f"POST {CONVERSATION}/select", "goes back to an older version", versions_are_kept),
    Check(f"POST {CONVERSATION}/edit", "asks a changed question", question_is_edited),
    Check(f"POST {CONVERSATION}/fork", "copies the branch", branch_is_forked),
    Check(f"PATCH {CONVERSATION}", "sets the title", conversation_is_renamed),
    Check(f"POST {CONVERSATION}/continue", "extends the reply", reply_is_continued),
    Check(f"POST {CONVERSATION}/continue", "streamed", reply_is_continued_streamed),
    Check(f"POST {CONVERSATION}/undo", "removes the last turn", turn_is_undone),
    Check(f"GET {API}/chat/turns", "lists no turn that has ended", ended_turn_is_not_listed),
    Check(f"GET {API}/chat/turns/{{message_id}}/events", "repeats the rest", turn_is_followed),
    Check(f"GET {API}/chat/turns/{{message_id}}/events", "404: unknown turn", unknown_turn_is_refused),
    Check(
        f"DELETE {API}/chat/turns/{{message_id}}", "says that the turn had ended", ended_turn_is_not_stopped
    ),
    Check("POST /api/v1/chat", "answers a repeated request once", request_is_answered_once),
    Check(f"DELETE {CONVERSATION}", "deletes it", conversation_is_deleted),
)
