"""Makes the tokenizer of the generated models, and text for their prompts.

It is a byte-level BPE of the alphabet, all pairs of letters, and words of a space and four letters, which are
one token each. Text of such words is always encoded as the same tokens, alone or within a history.
"""

import random
import string
from collections.abc import Iterator
from itertools import islice, product

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

END = "<|end|>"
SPECIAL = ("<|begin|>", END, "<|system|>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_SPACE = "Ġ"  # as byte-level tokenizers write it
_PAIRS = tuple("".join(pair) for pair in product(string.ascii_lowercase, repeat=2))
_ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
FIRST_WORD = len(SPECIAL) + len(_ALPHABET) + len(string.ascii_lowercase) + 2 * len(_PAIRS)


def make_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """A tokenizer of `size` tokens. The ids from `FIRST_WORD` on are words."""
    assert size > FIRST_WORD
    merges = list(islice(_merges(), size - len(SPECIAL) - len(_ALPHABET)))
    known = [*SPECIAL, *_ALPHABET, *("".join(merge) for merge in merges)]
    tokenizer = Tokenizer(models.BPE(vocab={text: i for i, text in enumerate(known)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        tokenizer_object=tokenizer,
        bos_token=SPECIAL[0],
        eos_token=END,
        extra_special_tokens=list(SPECIAL[2:]),
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _merges() -> Iterator[tuple[str, str]]:
    yield from ((_SPACE, letter) for letter in string.ascii_lowercase)
    yield from ((_SPACE + pair[0], pair[1]) for pair in _PAIRS)
    yield from ((pair[0], pair[1]) for pair in _PAIRS)
    yield from ((_SPACE + first, second) for second, first in product(_PAIRS, repeat=2))


class Words:
    """Generates text of a generated model's words that does not repeat itself."""

    def __init__(self, size: int, seed: int = 0) -> None:
        self._seconds = max(1, (size - FIRST_WORD) // len(_PAIRS))
        self._random = random.Random(seed)

    def message(self, tokens: int) -> str:
        """A message of about `tokens` tokens: the first word has no space and takes more than one."""
        return " ".join(self._word() for _ in range(max(1, tokens - 1)))

    def _word(self) -> str:
        return self._random.choice(_PAIRS) + _PAIRS[self._random.randrange(self._seconds)]
