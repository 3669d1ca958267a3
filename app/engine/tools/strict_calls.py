"""Makes grammars of replies that are any text, until the mark of a call begins, which must then be a call."""

import json
import re


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
