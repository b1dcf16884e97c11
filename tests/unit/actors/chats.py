"""Chat templates of the kinds that models have, a tokenizer that has their marks, and chats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from actors.tokenizers.tokenizer import Tokenizer
from tests.unit.actors.tokenizers.test_pretrained_tokenizer import byte_level, saved

IM_START, IM_END = "<|im_start|>", "<|im_end|>"
# As Qwen 2.5's and SmolLM2's: nothing says what is the assistant's.
CHATML = (
    "{% if tools %}<|im_start|>tools\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{{ m.content }}"
    "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# The same with the marks of transformers.
MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>' }}"
    "{% endgeneration %}{{ '\n' }}{% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As Llama 2's: no generation prompt, a begin mark at the start, an end mark after each answer.
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }} {{ eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}"
    "{% endfor %}"
)
# As Qwen 3's: the last answer is written with its thoughts, the earlier ones without.
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "The capital of Avaria?"},
    {"role": "assistant", "content": "Korvik."},
    {"role": "user", "content": "And of Belmont?"},
    {"role": "assistant", "content": "Dastan is."},
]


def chat_tokenizer(folder: Path, template: str | None = CHATML, **config: Any) -> Tokenizer:
    """A byte-level one with that template in its tokenizer_config.json."""
    chosen = {"bos_token": "<s>", "eos_token": "</s>", **config}
    if template is not None:
        chosen["chat_template"] = template
    hf = byte_level("<s>", "</s>", IM_START, IM_END)
    return Tokenizer.from_pretrained(saved(folder, hf, **chosen))


def talks(num: int) -> list[dict[str, Any]]:
    """Rows of a corpus of chats."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"How much is {n} and one?"},
                {"role": "assistant", "content": f"It is {n + 1}."},
            ]
        }
        for n in range(num)
    ]
