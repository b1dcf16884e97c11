"""A conversation as the tokens that a pair continues: by its tokenizer's chat template, where there
is one; else its last turn alone is continued, as the start of a document.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from actors.pair.tandem_model import TandemModel
from actors.tokenizers.chat import ChatTemplate
from actors.wire import ConfigError

Message = Mapping[str, Any]  # role and content


def has_template(model: TandemModel) -> bool:
    """Whether the pair's tokenizer says how a conversation is written."""
    return bool(model.tokenizer.chat_template)


def prompt_ids(model: TandemModel, text: str) -> list[int]:
    """Token ids of a text that is continued, as the start of a document."""
    ids: list[int] = model.prompt_inputs([text])["input_ids"][0].tolist()
    return ids


def conversation_ids(model: TandemModel, messages: Sequence[Message]) -> list[int]:
    """Token ids after which the next turn of the assistant is to follow.

    Args:
        model: who continues it.
        messages: role and content of each turn, oldest first; the last one is not the assistant's.

    Raises:
        ConfigError: the template refuses them; or there is none, and they need one.
    """
    if not messages:
        raise ConfigError("messages: expected at least one, got none")
    last = messages[-1]
    if last["role"] == "assistant":
        raise ConfigError(
            "messages: the last one is the assistant's, whose turn is to follow; expected one of "
            "the user last"
        )
    if not has_template(model):
        strange = [m["role"] for m in messages if m["role"] not in ("user", "assistant")]
        if strange:
            raise ConfigError(
                f"messages: a turn of role {strange[0]!r}, but this model's tokenizer has no chat "
                "template that says how to write it; expected turns of user and assistant, of "
                "which the last is continued"
            )
        if not str(last["content"]).strip():
            raise ConfigError("messages: the last one is empty; expected text to continue")
        return prompt_ids(model, last["content"])
    try:
        text = model.tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
        )
    except (TemplateError, TypeError, ValueError, KeyError) as err:
        raise ConfigError(
            f"messages: the model's chat template refuses them: {err or type(err).__name__}"
        ) from err
    ids: list[int] = model.tokenizer(text, add_special_tokens=False).input_ids
    return ids


def turn_ends(model: TandemModel) -> frozenset[int]:
    """Special tokens with which the chat template ends the assistant's turn, which need not be the
    one that ends a document; none where there is no template, or nothing of the kind.
    """
    if not has_template(model):
        return frozenset()
    return ChatTemplate(model.tokenizer).turn_ends
