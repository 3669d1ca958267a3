"""What the client says about an answer when it is over."""

from datetime import UTC, datetime

from app.cli.conversation.answer import Answer, show_summary
from app.models.schemas import ChatResponse
from tests.cli.conftest import Seen
from tests.models.storage.test_store import PARAMETERS


def test_an_answer_whose_server_died_is_offered_again(seen: Seen) -> None:
    answer = Answer(was_resumed=True)
    answer.done = ChatResponse(
        response="",
        conversation_id="conv_1",
        message_id="msg_2",
        parent_id="msg_1",
        model_name="builtin",
        model_id="builtin",
        finish_reason="interrupted",
        message_count=2,
        generation_time=None,
        usage=None,
        timings=None,
        omitted_messages=0,
        parameters=PARAMETERS,
        timestamp=datetime.now(UTC),
    )
    show_summary(seen.terminal(), answer, None, None)
    assert "/retry asks again" in seen.messages
    assert "picked up" not in seen.messages
