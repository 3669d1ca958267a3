"""Chat templates for GGUF files without one, such as many of Ollama's, chosen by a special token."""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class FamilyTemplate:
    """The chat template of a family of models."""

    family: str
    token: str  # a special token that only this family has
    text: str  # Jinja


_CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}"
    "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
_GEMMA = (  # the system prompt begins the first message
    "{{ bos_token }}{% for message in messages if message['role'] != 'system' %}"
    "<start_of_turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{% if loop.first and messages[0]['role'] == 'system' %}"
    "{{ messages[0]['content'] | trim }}\n\n{% endif %}"
    "{{ message['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
_TEMPLATES = (
    FamilyTemplate("ChatML", "<|im_start|>", _CHATML),
    FamilyTemplate("Llama 3", "<|start_header_id|>", _LLAMA3),
    FamilyTemplate("Gemma", "<start_of_turn>", _GEMMA),
)


def usual_template(tokenizer: PreTrainedTokenizerBase) -> FamilyTemplate | None:
    """Returns the template of the models that have the same special tokens; None for unknown ones."""
    vocabulary = tokenizer.get_vocab()
    return next((template for template in _TEMPLATES if template.token in vocabulary), None)
