"""Chat templates are code of other authors: they end in time, or the model is refused."""

import os
import subprocess
import sys
import threading

import psutil  # type: ignore[import-untyped]
import pytest

from app.core.errors import InvalidRequest, ModelRefused
from app.engine.ipc.messages import ChatMessage, SamplingParams, Submit
from app.engine.sandbox import process
from app.engine.sandbox.template_sandbox import TemplateOutOfBounds, TemplateRefused, TemplateSandbox
from app.engine.tokenization.context_window import Prompt
from app.engine.tokenization.prompt import PromptBuilder
from tests.engine.tiny import make_tokenizer, shared_sandbox
from tests.hub.hostile import DOUBLES
from tests.server import ROOT

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
    return PromptBuilder(tokenizer, context_length=200, chat_template=None, sandbox=shared_sandbox())


def ask(template: str, think: bool | None = None, content: str = "hello") -> Prompt:
    request = Submit("a", SamplingParams(), messages=(ChatMessage("user", content),), think=think)
    return builder(template).build(request)


@pytest.mark.parametrize("name", RUNS_AWAY)
def test_template_that_runs_away_is_refused_at_load(name: str) -> None:
    with pytest.raises(ModelRefused, match="template"):
        builder(RUNS_AWAY[name])


def test_template_that_runs_away_later_ends_that_request() -> None:
    template = (
        "{% if 'boom' in messages[0].content %}"
        + RUNS_AWAY["long text"]
        + "{% endif %}{{ messages[-1].content }}"
    )
    assert ask(template).ids
    with pytest.raises(InvalidRequest, match="exceeds its limits"):
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


@pytest.mark.parametrize("name", RUNS_AWAY)
def test_sandbox_bounds_templates_in_any_thread_and_renders_afterwards(name: str) -> None:
    sandbox = TemplateSandbox(time_limit_s=0.5)
    outcomes: list[object] = []

    def render() -> None:
        try:
            outcomes.append(sandbox.render(RUNS_AWAY[name], {}))
        except TemplateOutOfBounds as error:
            outcomes.append(type(error))
        outcomes.append(sandbox.render("{{ word }}", {"word": "afterwards"}))

    thread = threading.Thread(target=render, daemon=True)
    thread.start()
    thread.join(60)
    sandbox.close()
    assert outcomes == [TemplateOutOfBounds, "afterwards"]


WITH_A_SANDBOX = """
import sys
from app.engine.sandbox.template_sandbox import TemplateSandbox
sandbox = TemplateSandbox(time_limit_s=3)
print(sandbox.render("ready", {}), flush=True)
sandbox.render(sys.argv[1], {})
sys.stdin.read()
"""


@pytest.mark.parametrize("template", ["rendered", RUNS_AWAY["loops"]])
def test_sandbox_process_ends_when_its_parent_is_killed(template: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", WITH_A_SANDBOX, template],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        (renderer,) = psutil.Process(parent.pid).children()
        parent.kill()
    renderer.wait(timeout=60)  # raises if it goes on


TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
TEMPLATES = {
    "blocks": "  {% if true %}\n  a\n  {%- endif %}\n{% for m in messages %}\n{{ m.content }}\n{% endfor %}",
    "json": "{{ messages | tojson }}{{ messages | tojson(indent=2, ensure_ascii=true, sort_keys=true) }}",
    "generation": "{% set x = 1 %}{% generation %}{{ messages[0].content }}{{ x }}{% endgeneration %}",
    "loop controls": "{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "namespace": "{% set n = namespace(a=1, self=2) %}{% set n.a = n.a + 1 %}{{ n.a }}{{ n.self }}",
    "dict": "{{ dict(a=1) }}{{ dict.fromkeys('ab', 1) }}{{ dict([('a', 2)], b=3) }}",
    "variables": "{{ bos_token }}{{ eos_token }}{{ tools is none }}{{ add_generation_prompt }}",
    "undefined": "{{ missing }}{{ messages[0].missing is defined }}",
    "year": "{{ strftime_now('%Y') | length }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_sandbox_renders_as_transformers_does(name: str) -> None:
    messages = [{"role": "user", "content": '<é> \U0001f44d & "it"'}, {"role": "assistant", "content": "b"}]
    variables = {
        "messages": messages,
        "tools": None,
        "documents": None,
        "add_generation_prompt": True,
    } | TOKENS
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({**TOKENS})
    own = tokenizer.apply_chat_template(
        messages, chat_template=TEMPLATES[name], tokenize=False, add_generation_prompt=True
    )
    assert shared_sandbox().render(TEMPLATES[name], variables) == own


@pytest.mark.parametrize(
    "value", ["namespace(_x=1)", "namespace(**{'__class__': 1})", "dict.__class__", "dict.mro()"]
)
def test_sandbox_refuses_private_names(value: str) -> None:
    with pytest.raises(TemplateRefused):
        shared_sandbox().render("{{ " + value + ".x }}", {})


SWITCHED = "{% if enable_thinking %}think{% else %}<think></think>{% endif %}{{ messages[0].content }}"
ALWAYS = "{{ messages[0].content.split('</think>')[-1] }}<think>\n"


def test_thinking_is_off_unless_it_is_asked_for() -> None:
    tokenizer = make_tokenizer()
    assert tokenizer.decode(ask(SWITCHED).ids) == "<think></think>hello"
    assert tokenizer.decode(ask(SWITCHED, think=True).ids) == "thinkhello"
    assert ask(SWITCHED).thinking == ask(SWITCHED, think=True).thinking == "marked"


def test_thinking_that_the_prompt_opens_is_reported() -> None:
    assert ask(ALWAYS).thinking == ask(ALWAYS, think=True).thinking == "opened"
    assert ask("{{ messages[0].content }}", content="<think>").thinking != "marked"


@pytest.mark.parametrize(("template", "think"), [("{{ messages[0].content }}", True), (ALWAYS, False)])
def test_thinking_wish_that_a_model_cannot_meet_is_refused(template: str, think: bool) -> None:
    with pytest.raises(InvalidRequest, match="think"):
        ask(template, think)


def test_process_ends_quietly_if_nobody_reads_its_answers() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-P", process.__file__]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=writing, stderr=subprocess.PIPE, timeout=60
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")
