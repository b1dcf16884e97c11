"""Chats as tokens: a tokenizer's chat template, and which tokens are the assistant's.

The text is what `transformers` makes of the messages, special tokens as their ids, without further
document marks. What is learned is what the template marks with `{% generation %}`; without such
marks, an assistant's turn is what it adds to the messages before it and their generation prompt.
Reads no files but those that a tokenizer writes.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import takewhile
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from jinja2 import Environment
from jinja2.ext import loopcontrols
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

from actors.formats import first_line
from actors.sources.chats import Chat, read_chat
from actors.tokenizers.pretrained_tokenizer import TEMPLATE_FILE
from actors.wire import ConfigError, CorpusError

MARKS_TURNS = re.compile(r"\{%-?\s*generation\s*-?%\}")
CLOCK = "strftime_now"
# A template's own name for the date; a run must read the same tokens tomorrow.
NO_CLOCK = "{%- macro strftime_now(format) -%}26 Jul 2024{%- endmacro -%}"
SHOWN_CHARS = 60

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ChatTokens:
    """A conversation, or a part of it, as tokens.

    Attributes:
        tokens_T: ids.
        learn_T: which are to be predicted.
    """

    tokens_T: npt.NDArray[np.int32]
    learn_T: Bools


@dataclass(frozen=True)
class _Text:
    """What a template made, and the stretches of it, in characters, that are learned."""

    text: str
    learned: Sequence[tuple[int, int]]


class ChatTemplate:
    """Writes chats with a tokenizer.

    Args:
        tokenizer: with a template, or several by name.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer

    @classmethod
    def read(cls, write: Callable[[Path], None]) -> Self:
        """The template of a tokenizer.

        Args:
            write: writes the tokenizer's files into a folder.

        Raises:
            ConfigError: it has none.
        """
        with tempfile.TemporaryDirectory(prefix="tandem-template-") as folder:
            write(Path(folder))
            # by tokenizer.json alone: AutoTokenizer may choose a class that splits text its own way
            found = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        if found.chat_template is None:
            raise ConfigError(
                "the corpus has chats, and the tokenizer has no chat template: no "
                f"{TEMPLATE_FILE}, no chat_template in its tokenizer_config.json; set "
                "tokenizer.chat_template to a Jinja file, or take the tokenizer of a chat model"
            )
        return cls(found)

    @cached_property
    def turn_ends(self) -> frozenset[int]:
        """Special tokens with which the assistant's turn ends, which need not be the one that ends
        a document; none where the template has nothing of the kind.
        """
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "a"}]
        try:
            [pieces] = self.encode([read_chat(turns, None, lambda: "a chat")])
        except CorpusError:  # not learned by turns; the model's own mark ends one
            return frozenset()
        said = pieces[-1].tokens_T[pieces[-1].learn_T].tolist()
        added = self._tokenizer.added_tokens_decoder.items()
        marks = {id for id, token in added if token.special}
        return frozenset(said) & (marks | set(self._tokenizer.all_special_ids))

    def encode(self, chats: Sequence[Chat]) -> list[list[ChatTokens]]:
        """Each chat as tokens: in one piece, or in one for each of the assistant's turns where the
        template writes a turn otherwise once others follow it.

        Raises:
            CorpusError: the template can't write a chat; names its file and line.
        """
        texts = [self._write(chat) for chat in chats]
        flat = [each.text for of_chat in texts for each in of_chat]
        if not flat:
            return []
        encoded = self._tokenizer(flat, add_special_tokens=False, return_offsets_mapping=True)
        each = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        found = []
        for chat, of_chat in zip(chats, texts, strict=True):
            pieces = [_tokens(text, *next(each)) for text in of_chat]
            if not any(piece.learn_T.any() for piece in pieces):
                raise CorpusError(
                    f"{chat.place()}: nothing in it would be learned: the chat template writes "
                    "no token for the assistant's turns, or marks none of them as generated"
                )
            found.append(pieces)
        return found

    def _write(self, chat: Chat) -> list[_Text]:
        template = self._template(chat)
        if chat.num_given or not MARKS_TURNS.search(template):
            return self._by_turns(chat, template)
        text, learned = self._render(chat, template, len(chat.messages), marked=True)
        return [_Text(text, learned)]

    def _template(self, chat: Chat) -> str:
        tools = None if chat.tools is None else [*chat.tools]
        try:
            template = str(self._tokenizer.get_chat_template(None, tools))
        except ValueError as err:  # several by name, and none of them is the default
            raise CorpusError(f"{chat.place()}: {first_line(err)}") from err
        return NO_CLOCK + template if CLOCK in template else template

    def _by_turns(self, chat: Chat, template: str) -> list[_Text]:
        render = partial(self._text, chat, template)
        whole = render(len(chat.messages))
        turns = []
        for number in chat.learned:
            opening, turn = render(number, opens=True), render(number + 1)
            if not turn.startswith(opening):
                at = len(
                    [*takewhile(lambda pair: pair[0] == pair[1], zip(opening, turn, strict=False))]
                )
                raise CorpusError(
                    f"{chat.place()}, message {number + 1}: the chat template opens an "
                    f"assistant's turn with {opening[at:][:SHOWN_CHARS]!r} where the turn itself "
                    f"goes on with {turn[at:][:SHOWN_CHARS]!r}, so what it says can't be told "
                    "apart; give a template that marks it with {% generation %}: "
                    "tokenizer.chat_template"
                )
            turns.append(_Text(turn, [(len(opening), len(turn))]))
        if all(whole.startswith(turn.text) for turn in turns):
            return [_Text(whole, [span for turn in turns for span in turn.learned])]
        return turns

    def _text(self, chat: Chat, template: str, num: int, opens: bool = False) -> str:
        return self._render(chat, template, num, opens)[0]

    def _render(
        self, chat: Chat, template: str, num: int, opens: bool = False, marked: bool = False
    ) -> tuple[str, Sequence[tuple[int, int]]]:
        """The first `num` messages as text, and what is marked as generated in it.

        Args:
            opens: whether a generation prompt follows.
        """
        special: Mapping[str, Any] = self._tokenizer.special_tokens_map
        try:
            (text,), spans = render_jinja_template(
                conversations=[[dict(message) for message in chat.messages[:num]]],
                tools=None if chat.tools is None else [*chat.tools],
                chat_template=template,
                return_assistant_tokens_mask=marked,
                add_generation_prompt=opens,
                **special,
            )
        except Exception as err:  # whatever a template raises, or does with what it gets
            raise CorpusError(
                f"{chat.place()}: the chat template can't write it: "
                f"{first_line(err, with_type=True)}; mend the row, or give another template: "
                "tokenizer.chat_template"
            ) from err
        return str(text), spans[0] if marked else ()


def _tokens(text: _Text, ids: Sequence[int], offsets: Sequence[tuple[int, int]]) -> ChatTokens:
    """A token across the border of what is learned is learned."""
    starts_T, stops_T = np.array(offsets, np.int64).reshape(-1, 2).T
    learn_T = np.zeros(len(ids), np.bool_)
    for start, stop in text.learned:
        learn_T |= (stops_T > start) & (starts_T < stop)
    return ChatTokens(np.array(ids, np.int32), learn_T)


def checked_template(text: str) -> str:
    """The text of a template that can be read. Raises: jinja2's TemplateSyntaxError: it can't."""
    tags = {"generation", "endgeneration"}  # of transformers alone
    known = re.sub(r"\{%-?\s*(" + "|".join(tags) + r")\s*-?%\}", "", text)
    Environment(extensions=[loopcontrols]).parse(known)
    return text
