"""Measures transformers' own `generate` with the same generated models, prompts and lengths."""

from statistics import median
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from tests.benchmarks.vocabulary import Words, make_tokenizer
from tests.gpu.engines import folder_of, shape_of
from tests.gpu.figures import Figures
from tests.gpu.speed import COUNTS, PREFILLS, PROMPT_TOKENS, REPLY_TOKENS, parser, timed


def main() -> None:
    options = parser().parse_args()
    figures = Figures()
    torch.backends.cuda.enable_cudnn_sdp(False)  # it compiles its attention anew for each length
    for name in ("llama3-1b", "gpt2"):
        shape = shape_of(name, small=options.small)
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder_of(shape, options.cache), dtype=torch.bfloat16, attn_implementation="sdpa"
        )
        model.to(options.device).train(False)
        reference = _Reference(model, shape.vocabulary)
        window = int(shape.config.max_position_embeddings)
        reference.seconds(1, 64, 8)
        for count in COUNTS:
            figures.add(f"{name}, {count} sequences, decoding, tok/s", reference.decode_rate(count))
        for tokens in PREFILLS:
            length = min(tokens, window - 32)
            times = [reference.seconds(1, length, 1) for _ in range(4)]
            figures.add(f"{name}, prefill of {length} tokens, ms", 1000 * median(times[1:]))


class _Reference:
    def __init__(self, model: Any, vocabulary: int) -> None:  # a model of any architecture
        self._model = model
        self._words = Words(vocabulary)
        self._tokenizer = make_tokenizer(vocabulary)

    def decode_rate(self, count: int) -> float:
        """Returns tokens per second of `count` sequences together, without their prefill."""
        first_s = self.seconds(count, PROMPT_TOKENS, 1)
        whole_s = self.seconds(count, PROMPT_TOKENS, REPLY_TOKENS)
        return count * (REPLY_TOKENS - 1) / (whole_s - first_s)

    def seconds(self, count: int, prompt_tokens: int, reply_tokens: int) -> float:
        prompts = [self._tokenizer(self._words.message(prompt_tokens)).input_ids for _ in range(count)]
        shortest = min(map(len, prompts))
        ids = torch.tensor([prompt[:shortest] for prompt in prompts], device=self._model.device)

        def generate() -> None:
            self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                min_new_tokens=reply_tokens,
                max_new_tokens=reply_tokens,
                pad_token_id=0,
            )

        return timed(generate)


if __name__ == "__main__":
    main()
