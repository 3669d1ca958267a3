"""Makes grammars of replies that may have calls: in any text, or in place of an answer in some form."""

import json
import re

from app.core.errors import InvalidRequest
from app.engine.grammars.sources import json_rule
from app.engine.ipc.messages import Grammar


def text_with_calls(lark: str, mark: str, *, is_token: bool) -> str:
    """Returns the grammar of any text with any number of calls in it.

    `lark` is the grammar of calls, each of which begins with the mark. `is_token` says that the mark is a
    token, which no text contains.
    """
    calls = re.sub(r"^start:", "held:", lark)
    if is_token:
        return f"start: TEXT? (held TEXT?)*\nTEXT: /(?s:.+)/\n{calls}"
    after_mark = calls.replace(f"MARK({mark}) ", "")
    pattern = re.escape(mark).replace("/", r"\/")
    return "\n".join(
        (
            "start: (text_before held)* TEXT?",
            f"text_before[suffix={json.dumps(mark)}]: /(?s:.*)/",
            f"TEXT: /(?s:.+)/ & ~/(?s:.*){pattern}(?s:.*)/",
            after_mark,
        )
    )


def answer_or_calls(lark: str, form: Grammar) -> str:
    """Returns the grammar of an answer in the form, which is JSON, or of calls, whose grammar `lark` is.

    Raises InvalidRequest.
    """
    try:
        schema = json.loads(form.source or "{}")
    except (ValueError, RecursionError):
        schema = None
    if not isinstance(schema, dict):
        raise InvalidRequest("response_format: the schema must be a JSON object, not nested too deeply")
    calls = re.sub(r"^start:", "held:", lark)
    return f"start: answer | held\nanswer: {json_rule(schema)}\n{calls}"
