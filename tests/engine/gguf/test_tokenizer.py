"""Tokenizers that are built from GGUF files cut a text as those of the models."""

from transformers import GemmaTokenizer

from app.engine.gguf.file import GGUFFile
from app.engine.gguf.header import Scalar
from app.engine.gguf.tokenizer import build_tokenizer, ending_ids

_SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<|turn>", "<turn|>"]
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_CHARACTERS = [*"▁ehlorwtd\n", "▁h", "el", "lo", "▁hel", "▁hello", "\n\n", "▁▁"]
_MERGES = [("▁", "h"), ("e", "l"), ("l", "o"), ("▁h", "el"), ("▁hel", "lo"), ("\n", "\n"), ("▁", "▁")]


def _types() -> list[Scalar]:
    """Returns llama.cpp's types of the tokens: control, byte and normal."""
    return [*[3] * len(_SPECIAL), *[6] * len(_BYTES), *[1] * len(_CHARACTERS)]


def test_gemma_4_cuts_a_text_as_its_own_tokenizer() -> None:
    tokens = [*_SPECIAL, *_BYTES, *_CHARACTERS]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    own = GemmaTokenizer(vocab=vocabulary, merges=_MERGES)  # type: ignore[arg-type]  # it takes pairs
    file = GGUFFile(
        {
            "general.architecture": "gemma4",
            "tokenizer.ggml.model": "gemma4",
            "tokenizer.ggml.tokens": list(tokens),
            "tokenizer.ggml.merges": [" ".join(pair) for pair in _MERGES],
            "tokenizer.ggml.token_type": _types(),
            "tokenizer.ggml.bos_token_id": 2,
            "tokenizer.ggml.eos_token_id": 1,
            "tokenizer.ggml.unknown_token_id": 3,
            "tokenizer.ggml.add_space_prefix": False,
            "tokenizer.ggml.add_bos_token": True,
        },
        {},
    )
    built = build_tokenizer(file)
    for text in ("hello  world\n\n\n hello", "é 👍 x", " hello", "\n"):
        ids = own.encode(text, add_special_tokens=False)
        assert built.encode(text, add_special_tokens=False) == ids
        assert built.decode(ids) == own.decode(ids) == text
    assert built.encode("hello")[0] == tokens.index("<bos>")
    assert ending_ids(file) == [tokens.index("<eos>"), tokens.index("<turn|>")]
