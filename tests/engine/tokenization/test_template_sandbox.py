"""Chat templates are code of somebody else: they end in time, or the model is refused."""

import signal
import time

import pytest

from app.core.errors import InvalidRequest, ModelRefused
from app.engine.ipc.messages import ChatMessage, SamplingParams, Submit
from app.engine.tokenization.prompt import Prompt, PromptBuilder
from app.engine.tokenization.template_sandbox import TemplateOutOfBounds, bounded
from tests.engine.tiny import make_tokenizer
from tests.hub.hostile import DOUBLES

RUNS_AWAY = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "long text": "{{ 'x' * 2000000000 }}",
    "doubling": DOUBLES,
    "large power": "{{ (10 ** 10000000) % 7 }}{{ (7 ** 30000000) % 11 }}",
    "wide format": "{{ '%2000000000d' % 1 }}",
    "recursion": "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
}


def builder(template: str) -> PromptBuilder:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    return PromptBuilder(tokenizer, context_length=200, chat_template=None)


def ask(template: str, think: bool | None = None, content: str = "hello") -> Prompt:
    request = Submit("a", SamplingParams(), messages=(ChatMessage("user", content),), think=think)
    return builder(template).build(request)


@pytest.mark.parametrize("name", RUNS_AWAY)
def test_template_that_runs_away_is_refused_at_load(name: str) -> None:
    began = time.monotonic()
    with pytest.raises(ModelRefused, match="template"):
        builder(RUNS_AWAY[name])
    assert time.monotonic() - began < 10


def test_template_that_runs_away_later_ends_that_request() -> None:
    template = (
        "{% if 'boom' in messages[0].content %}"
        + RUNS_AWAY["long text"]
        + "{% endif %}{{ messages[-1].content }}"
    )
    assert ask(template).ids
    with pytest.raises(InvalidRequest, match="does not end"):
        ask(template, content="boom")


@pytest.mark.parametrize(
    "attribute",
    [
        "messages.__class__.__mro__",
        "''.__class__.__base__.__subclasses__()",
        "raise_exception.__globals__.os",
        "cycler.__init__.__globals__",
        "namespace.__init__.__globals__['os']",
        "messages.append(1)",
    ],
)
def test_template_reaches_nothing_outside(attribute: str) -> None:
    with pytest.raises(InvalidRequest):
        ask("{{ " + attribute + " }}{{ messages[0].content }}")


def test_bounds_leave_no_trace() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(TemplateOutOfBounds), bounded(0.05):
        while True:
            pass
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


SWITCHED = "{% if enable_thinking %}think{% else %}<think></think>{% endif %}{{ messages[0].content }}"
ALWAYS = "{{ messages[0].content.split('</think>')[-1] }}<think>\n"


def test_thinking_is_off_unless_it_is_asked_for() -> None:
    tokenizer = make_tokenizer()
    assert tokenizer.decode(ask(SWITCHED).ids) == "<think></think>hello"
    assert tokenizer.decode(ask(SWITCHED, think=True).ids) == "thinkhello"
    assert ask(SWITCHED).thinking == ask(SWITCHED, think=True).thinking == "marked"


def test_thinking_that_the_prompt_begins_is_told() -> None:
    assert ask(ALWAYS).thinking == ask(ALWAYS, think=True).thinking == "begun"
    assert ask("{{ messages[0].content }}", content="<think>").thinking != "marked"


@pytest.mark.parametrize(("template", "think"), [("{{ messages[0].content }}", True), (ALWAYS, False)])
def test_wish_that_a_model_cannot_meet_is_refused(template: str, think: bool) -> None:
    with pytest.raises(InvalidRequest, match="think"):
        ask(template, think)
