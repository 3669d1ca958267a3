"""A chat that is encoded in parts has the ids of the whole, and no message is encoded twice."""

import random
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from app.core.literals import Role
from app.engine.ipc.messages import ChatMessage, SamplingParams, Submit
from app.engine.tokenization.context_window import Prompt
from app.engine.tokenization.prompt import PromptBuilder
from tests.engine.tiny import SPECIAL, TEMPLATE, make_tokenizer, shared_sandbox, wrap

TEMPLATES = {
    "marks around messages": TEMPLATE,
    "line breaks between": (
        "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n\n{{ m.content | trim }}<|end|>\n"
        "{% endfor %}<|assistant|>\n\n"
    ),
    "plain text": "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:",
    "marks at ends only": "{% for m in messages %}\n {{ m.content }} <|end|>{% endfor %} ",
}


class WholeTokenizer(PreTrainedTokenizerFast):
    """Makes no promise on which texts it encodes alike, so that every chat is encoded as a whole."""

    @property
    def is_fast(self) -> bool:
        return False


class CountingTokenizer(PreTrainedTokenizerFast):
    def __init__(self, **options: object) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]
        self.encoded: list[str] = []
        self.calls = 0

    def __call__(self, text: str | list[str], **options: Any) -> Any:  # as the method that it wraps
        self.encoded += [text] if isinstance(text, str) else text
        self.calls += 1
        return super().__call__(text, **options)


def byte_level() -> Tokenizer:
    return make_tokenizer().backend_tokenizer


def trained(tokenizer: Tokenizer) -> Tokenizer:
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", *SPECIAL], show_progress=False)
    tokenizer.train_from_iterator(["the cat sat on the mat:\n user assistant system é"] * 3, trainer)
    return tokenizer


def first_word_prefixed() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    return trained(tokenizer)


def every_piece_prefixed() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return trained(tokenizer)


def greedy_tokens() -> Tokenizer:
    """Added tokens that take in spaces, contain each other, or are found in normalised text."""
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.add_special_tokens(
        [
            AddedToken("<|user|>", rstrip=True, special=True, normalized=False),
            AddedToken("<|end|>", lstrip=True, special=True, normalized=False),
            AddedToken("<|end|><|", special=True, normalized=False),
        ]
    )
    tokenizer.add_tokens([AddedToken("The", normalized=True), AddedToken("\n\n", normalized=False)])
    return tokenizer


def whole_words() -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.add_special_tokens([AddedToken("cat", single_word=True, special=True, normalized=False)])
    return tokenizer


TOKENIZERS = {
    made.__name__: made
    for made in (byte_level, first_word_prefixed, every_piece_prefixed, greedy_tokens, whole_words)
}


def build(tokenizer: PreTrainedTokenizerFast, request: Submit) -> Prompt:
    return PromptBuilder(tokenizer, context_length=300, chat_template=None, sandbox=shared_sandbox()).build(
        request
    )


def some_chat(draw: random.Random) -> Submit:
    words = ["the cat", " The", "sat\n", "\n\n", " ", "é", "<|end|>", "<|user|>x", "cats", "a", ":", "mat "]
    roles: list[Role] = ["user", "assistant"] * draw.randint(1, 8)
    if draw.random() < 0.5:
        roles.insert(0, "system")
    continues = draw.random() < 0.3
    if not continues:
        roles.append("user")
    messages = [ChatMessage(role, "".join(draw.choices(words, k=draw.randint(1, 12)))) for role in roles]
    return Submit("a", SamplingParams(max_tokens=20), tuple(messages), continue_final_message=continues)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_chats_in_parts_have_the_ids_of_the_whole(kind: str, template: str) -> None:
    made = TOKENIZERS[kind]()
    options = {"bos_token": "<|bos|>", "eos_token": "<|end|>", "chat_template": TEMPLATES[template]}
    in_parts = wrap(made, **options)
    whole = WholeTokenizer(tokenizer_object=made, **options)  # type: ignore[no-untyped-call]
    trimmed = 0
    for seed in range(20):
        request = some_chat(random.Random(seed))
        prompt = build(in_parts, request)
        assert prompt == build(whole, request)
        trimmed += prompt.omitted_messages > 0
    assert trimmed > 0


def test_each_message_is_encoded_once_when_history_is_left_out() -> None:
    made = make_tokenizer()
    tokenizer = CountingTokenizer(tokenizer_object=made.backend_tokenizer, chat_template=made.chat_template)
    roles: list[Role] = ["user", "assistant"] * 20
    messages = [ChatMessage(role, f"message {number}.") for number, role in enumerate([*roles, "user"])]
    prompt = build(tokenizer, Submit("a", SamplingParams(), tuple(messages)))
    assert prompt.omitted_messages > 0
    assert counts(tokenizer, messages) == [1] * len(messages)


def test_many_control_tokens_in_a_message_take_no_more_calls_than_one() -> None:
    made = make_tokenizer()
    calls = []
    for times in (1, 50):
        tokenizer = CountingTokenizer(
            tokenizer_object=made.backend_tokenizer, chat_template=made.chat_template
        )
        prompts = PromptBuilder(tokenizer, context_length=3000, chat_template=None, sandbox=shared_sandbox())
        before = tokenizer.calls
        prompts.build(Submit("a", SamplingParams(), (ChatMessage("user", "the cat<|end|> sat" * times),)))
        calls.append(tokenizer.calls - before)
    assert calls[0] == calls[1]


def counts(tokenizer: CountingTokenizer, messages: list[ChatMessage]) -> list[int]:
    """Returns how often each message was encoded."""
    return [sum(message.content in text for text in tokenizer.encoded) for message in messages]


def test_next_turn_of_a_scope_encodes_only_what_is_new() -> None:
    made = make_tokenizer()
    tokenizer = CountingTokenizer(tokenizer_object=made.backend_tokenizer, chat_template=made.chat_template)
    prompts = PromptBuilder(tokenizer, context_length=300, chat_template=None, sandbox=shared_sandbox())
    texts = ["the cat", "sat on", "the mat"]
    messages = [ChatMessage("assistant" if n % 2 else "user", text) for n, text in enumerate(texts)]
    submits = [
        Submit("a", SamplingParams(max_tokens=20), tuple(messages[:length]), scope=scope)
        for scope, length in (("one", 1), ("one", 3), ("another", 1), ("one", 1))
    ]
    first, *_, again = [prompts.build(submit) for submit in submits]
    assert again == first
    assert counts(tokenizer, messages) == [2, 1, 1]


def letters_of(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Returns the ids of a text that was generated letter by letter."""
    return [token_id for letter in text for token_id in tokenizer.encode(letter, add_special_tokens=False)]


def test_reply_keeps_its_tokens_in_later_chats_of_its_scope() -> None:
    tokenizer = make_tokenizer()
    prompts = PromptBuilder(tokenizer, context_length=300, chat_template=None, sandbox=shared_sandbox())
    begun = ChatMessage("user", "sat on the mat")
    reply = letters_of(tokenizer, "the cat")
    assert reply != tokenizer.encode("the cat", add_special_tokens=False)
    first = prompts.build(Submit("a", SamplingParams(), (begun,), scope="one")).ids
    prompts.keep_reply(first, reply, "one")
    later = (begun, ChatMessage("assistant", "the cat"), ChatMessage("user", "the cat"))
    ids = prompts.build(Submit("b", SamplingParams(), later, scope="one")).ids
    other = prompts.build(Submit("c", SamplingParams(), later, scope="two")).ids
    assert ids[: len(first) + len(reply)] == [*first, *reply]
    assert other == build(tokenizer, Submit("d", SamplingParams(), later)).ids
    assert len(other) < len(ids) == prompts.count(Submit("e", SamplingParams(), later, scope="one"))
    assert ids[len(first) + len(reply) :] == other[-len(ids) + len(first) + len(reply) :]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_kept_replies_change_no_text_of_a_later_chat(kind: str, template: str) -> None:
    tokenizer = wrap(TOKENIZERS[kind](), bos_token="<|bos|>", chat_template=TEMPLATES[template])
    prompts = PromptBuilder(tokenizer, context_length=300, chat_template=None, sandbox=shared_sandbox())
    draw = random.Random(1)
    for _ in range(20):
        text = "".join(draw.choices(["the cat", " the", "sat\n", "\n\n", " ", "cats", "a", "<|end|>"], k=5))
        first = (ChatMessage("user", "the cat"),)
        later = (*first, ChatMessage("assistant", text), ChatMessage("user", "on the mat"))
        expected = prompts.build(Submit("a", SamplingParams(), later)).ids
        prompts.keep_reply(
            prompts.build(Submit("b", SamplingParams(), first)).ids, letters_of(tokenizer, text), ""
        )
        found = prompts.build(Submit("c", SamplingParams(), later)).ids
        assert tokenizer.decode(found) == tokenizer.decode(expected)
