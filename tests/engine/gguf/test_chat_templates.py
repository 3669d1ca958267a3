"""A GGUF file without a chat template gets that of the models with the same special tokens."""

from pathlib import Path

import pytest
from tokenizers import AddedToken

from app.engine.gguf.chat_templates import usual_template
from app.engine.ipc.messages import WorkerSpec
from app.engine.loading.load import load
from app.engine.startup import build_engine
from tests.engine.gguf.files import tiny_model, write
from tests.engine.tiny import make_tokenizer

_CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": "Bye"},
]
_RENDERED = {
    "<|im_start|>": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
    "<|im_start|>assistant\nHi<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
    "<|start_header_id|>": "<|bos|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nHi<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "<start_of_turn>": "<|bos|><start_of_turn>user\nBe brief.\n\nHello<end_of_turn>\n"
    "<start_of_turn>model\nHi<end_of_turn>\n<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n",
}


@pytest.mark.parametrize("token", _RENDERED)
def test_template_is_that_of_the_special_tokens(token: str) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([AddedToken(token, special=True)], special_tokens=True)
    template = usual_template(tokenizer)
    assert template is not None and template.token == token
    rendered = tokenizer.apply_chat_template(
        _CHAT, chat_template=template.text, tokenize=False, add_generation_prompt=True
    )
    assert rendered == _RENDERED[token]


def test_unknown_special_tokens_have_no_template() -> None:
    assert usual_template(make_tokenizer()) is None


@pytest.mark.parametrize("given", [None, "{{ messages[0]['content'] }}"])
def test_file_without_a_template_gets_one_unless_the_source_has_one(
    tmp_path: Path, given: str | None
) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([AddedToken("<start_of_turn>", special=True)], special_tokens=True)
    path = write(tmp_path / "x.gguf", tiny_model("gemma3"), "gemma3", tokenizer=tokenizer, is_ollamas=True)
    spec = WorkerSpec(str(path), "tiny", dtype="float32", chat_template=given)
    loaded = load(spec, lambda *stage: None)
    assert (loaded.tokenizer.chat_template is None) == (given is not None)
    assert loaded.guessed_template == (None if given else "Gemma")


def test_guessed_template_is_named_in_the_log_and_to_clients(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([AddedToken("<start_of_turn>", special=True)], special_tokens=True)
    path = write(tmp_path / "x.gguf", tiny_model("gemma3"), "gemma3", tokenizer=tokenizer, is_ollamas=True)
    ready = build_engine(WorkerSpec(str(path), "tiny", dtype="float32"), lambda _: None)
    ready.close()
    assert ready.info.guessed_template == "Gemma"
    assert "no chat template; that of Gemma is used" in caplog.text
