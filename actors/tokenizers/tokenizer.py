"""A tokenizer: a byte-level BPE trained on the training split, or a pretrained one.

Kept with the run as JSON, the same in every process. Does no packing and knows no corpus.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as HFTokenizer

from actors.tokenizers.extras import TokenizerExtras, write_fast, write_given
from actors.tokenizers.pretrained_tokenizer import TEMPLATE_FILE, read_pretrained
from actors.wire import ConfigError

if TYPE_CHECKING:
    from actors.tokenizers.chat import ChatTemplate

END_OF_TEXT = "<|endoftext|>"
BEGIN, END = "begin", "end"  # names of the marks in the post-processor that `to_json` writes
EXTRAS = "tandem"  # the same for the extras
SPACES = " \u0120\u2581"  # a space at the beginning of a token, as vocabularies write it


class Tokenizer:
    """Text to token ids and back.

    Attributes:
        begin, end: ids that open and close every document, often the same; None: no such mark.
        begin_token, end_token: their text.
        extras: what else a given tokenizer's files hold, and how special tokens in a text are
            encoded.
    """

    def __init__(
        self,
        hf_tokenizer: HFTokenizer,
        begin: str | None = END_OF_TEXT,
        end: str | None = END_OF_TEXT,
        extras: TokenizerExtras | None = None,
    ) -> None:
        self.begin_token, self.end_token = begin, end
        self.begin, self.end = _id_of(hf_tokenizer, begin), _id_of(hf_tokenizer, end)
        self.extras = extras or TokenizerExtras()
        # By default, special tokens written in a text are encoded as text; for that the library
        # must know them as special.
        added = hf_tokenizer.get_added_tokens_decoder().values()
        known = {None, *(token.content for token in added if token.special)}
        tokens = [token for token in dict.fromkeys((begin, end)) if token not in known]
        hf_tokenizer.add_special_tokens([AddedToken(token, special=True) for token in tokens])
        hf_tokenizer.encode_special_tokens = not self.extras.as_ids
        hf_tokenizer.no_truncation()
        hf_tokenizer.no_padding()
        self._hf = hf_tokenizer
        if not self.extras.as_ids and self._mark_of_text() is not None:
            hf_tokenizer.pre_tokenizer = marks_apart(hf_tokenizer.pre_tokenizer, (begin, end))
            self._check_marks_stay_text()
        # SentencePiece tokenizers put a space before whatever they encode.
        newline, alone = self.encode("\na"), self.encode("a")
        self._prefixes = newline[-len(alone) :] != alone

    def _mark_of_text(self) -> str | None:
        """A text that is encoded with a document mark; None: none is."""
        begin, end = self.begin_token or "", self.end_token or ""
        texts = (f"a{begin}b{end}", f" {end} ")
        return next((text for text in texts if set(self.marks) & set(self.encode(text))), None)

    def _check_marks_stay_text(self) -> None:
        if (text := self._mark_of_text()) is not None:
            raise ValueError(
                f"text that reads {text!r} becomes a document mark; its model knows the mark "
                "as an ordinary piece of text. Set tokenizer.begin and tokenizer.end to other "
                "tokens, or tokenizer.special_tokens to as_ids if your text holds no such marks"
            )

    @property
    def pre_tokenizer(self) -> pre_tokenizers.PreTokenizer | None:
        """What splits text into words."""
        return self._hf.pre_tokenizer

    @cached_property
    def chat(self) -> ChatTemplate:
        """Writes chats as tokens. Raises: ConfigError: the tokenizer has no chat template."""
        from actors.tokenizers.chat import ChatTemplate  # transformers: a second

        return ChatTemplate.read(self.write)

    @property
    def marks(self) -> tuple[int, ...]:
        """Ids that open and close a document."""
        return *self.opening, *self.closing

    @property
    def ends(self) -> frozenset[int]:
        """Ids after which an answer is over: the closing mark, and what ends the assistant's turn
        where a chat template says so.
        """
        ends = frozenset(self.closing)
        if not self.extras.files:  # a template is one of the given files
            return ends
        try:
            return ends | self.chat.turn_ends
        except ConfigError:
            return ends

    @property
    def opening(self) -> tuple[int, ...]:
        """Ids before a document's text: the mark that opens it, or none."""
        return () if self.begin is None else (self.begin,)

    @property
    def closing(self) -> tuple[int, ...]:
        """Ids after a document's text: the mark that closes it, or none."""
        return () if self.end is None else (self.end,)

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        as_ids: bool = False,
        chat_template: str | None = None,
    ) -> Tokenizer:
        """Trains on `texts`; on a small corpus the vocabulary may be smaller than requested.

        `as_ids`, `chat_template`: as in `from_pretrained`.
        """
        hf_tokenizer = HFTokenizer(models.BPE())
        hf_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        hf_tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        hf_tokenizer.train_from_iterator(texts, trainer=trainer)
        extras = TokenizerExtras(as_ids).with_template(chat_template)
        return cls._keeping(hf_tokenizer, END_OF_TEXT, END_OF_TEXT, extras)

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        begin: str | None = None,
        end: str | None = None,
        as_ids: bool = False,
        chat_template: str | None = None,
    ) -> Tokenizer:
        """A folder with tokenizer.json, such a file, or a Hugging Face hub name.

        Args:
            name: where it is.
            begin, end: the marks, as in `TokenizerSpec`; None: those that its files name.
            as_ids: encode special tokens written in a text, the marks too, as their ids.
            chat_template: a Jinja template instead of its own; None: its own, if it has one.

        Raises:
            ConfigError: it does not exist, is not a fast tokenizer, the hub can't be reached, or
                it names no token that closes a document.
        """
        return read_pretrained(
            name,
            lambda text, begin, end, files: cls._keeping(
                _parse(text),
                begin,
                end,
                TokenizerExtras.given(text, files, as_ids).with_template(chat_template),
            ),
            begin,
            end,
        )

    @classmethod
    def _keeping(
        cls, hf_tokenizer: HFTokenizer, begin: str | None, end: str | None, extras: TokenizerExtras
    ) -> Tokenizer:
        """A tokenizer whose JSON holds its marks and extras, in its post-processor.

        The library refuses JSON with unknown keys, but a post-processor may list special tokens
        that it does not use.
        """
        tokenizer = cls(hf_tokenizer, begin, end, extras)
        if (begin, end) != (END_OF_TEXT, END_OF_TEXT) or extras:
            named = [
                # a missing mark is written as an entry without tokens
                {"id": BEGIN, "ids": [*tokenizer.opening], "tokens": [begin] if begin else []},
                {"id": END, "ids": [*tokenizer.closing], "tokens": [end] if end else []},
            ]
            if extras:
                filled = tokenizer.end_of_text
                named.append({"id": EXTRAS, "ids": [filled], "tokens": [extras.to_json()]})
            tokenizer._hf.post_processor = processors.TemplateProcessing(
                single=[BEGIN, "$A", END], pair=[BEGIN, "$A", "$B", END], special_tokens=named
            )
        return tokenizer

    @classmethod
    def from_json(cls, text: str) -> Tokenizer:
        """The inverse of `to_json`. Raises: ValueError: the text is not a tokenizer."""
        hf_tokenizer = _parse(text)
        processor = json.loads(text).get("post_processor") or {}
        marks = processor.get("special_tokens") or {}
        if processor.get("type") == "TemplateProcessing" and {BEGIN, END} <= set(marks):
            begin, end = ((marks[name]["tokens"] or [None])[0] for name in (BEGIN, END))
            extras = (
                TokenizerExtras.from_json(marks[EXTRAS]["tokens"][0]) if EXTRAS in marks else None
            )
            return cls(hf_tokenizer, begin, end, extras)
        return cls(hf_tokenizer)

    def to_json(self) -> str:
        """The whole tokenizer as JSON (the format of `tokenizer.json`).

        Its post-processor adds the document marks to a text; `from_json` reads them from there.
        """
        return str(self._hf.to_str())

    def write(self, folder: Path) -> None:
        """Writes it into an exported model's folder, for transformers: a given tokenizer with its
        original files, one that was trained here with its mark.
        """
        if self.extras.parts:
            write_given(folder, self.to_json(), self.extras, self.begin_token, self.end_token)
            return
        mark_nothing = json.loads(self.to_json())
        mark_nothing["post_processor"] = None
        text = json.dumps(mark_nothing, ensure_ascii=False)
        write_fast(folder, text, self.begin_token, self.end_token)
        if (template := self.extras.files.get(TEMPLATE_FILE)) is not None:
            (folder / TEMPLATE_FILE).write_text(template, encoding="utf-8")

    @property
    def end_of_text(self) -> int:
        """The id that closes every document and fills padding; without such a mark, an id that only
        fills padding.
        """
        return next((mark for mark in (self.end, self.begin) if mark is not None), 0)

    @cached_property
    def size(self) -> int:
        """Output rows that a model needs: the largest token id plus one; ids may have gaps.

        Counted once, since every step uses it and listing 150,000 tokens takes 0.4 s.
        """
        return max(self.vocabulary().values()) + 1

    def vocabulary(self) -> dict[str, int]:
        """The id of every token, added ones too; listed anew by each call."""
        return dict(self._hf.get_vocab(with_added_tokens=True))

    @cached_property
    def numerals(self) -> dict[int, str]:
        """The digits of each token that is nothing else, with the space that it may begin with."""
        found = {}
        for token, id in self.vocabulary().items():
            digits = token.lstrip(SPACES)
            if digits.isascii() and digits.isdecimal():
                found[id] = digits if digits == token else f" {digits}"
        return found

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without document marks."""
        return list(self._hf.encode(text, add_special_tokens=False).ids)

    def encode_spans(self, text: str) -> list[tuple[int, int, int]]:
        """As `encode`, each token with the first character that it stands for and the one after its
        last; a space before a word may be part of it.
        """
        encoded = self._hf.encode(text, add_special_tokens=False)
        return [(token, *span) for token, span in zip(encoded.ids, encoded.offsets, strict=True)]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without document marks."""
        encoded = self._hf.encode_batch_fast(list(texts), add_special_tokens=False)
        return [e.ids for e in encoded]

    def encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[list[int], int]]:
        """For each (given, text): the token ids of both, and how many belong to `given`.

        Both are encoded apart, so that a prompt has the same tokens as alone. If the tokenizer puts
        a space before whatever it encodes, they are encoded together, and a token across the border
        belongs to the text.
        """
        if not self._prefixes:
            given = self.encode_batch([g for g, _ in pairs])
            texts = self.encode_batch([t for _, t in pairs])
            return [([*g, *t], len(g)) for g, t in zip(given, texts, strict=True)]
        whole = self._hf.encode_batch([g + t for g, t in pairs], add_special_tokens=False)
        return [
            (e.ids, sum(stop <= len(given) for _, stop in e.offsets) if given else 0)
            for e, (given, _) in zip(whole, pairs, strict=True)
        ]

    def decode(self, ids: Sequence[int], with_marks: bool = False) -> str:
        """Text of `ids`; document marks are left out, unless it is wanted with them."""
        marks = () if with_marks else (self.begin, self.end)
        return str(self._hf.decode([i for i in ids if i not in marks], skip_special_tokens=False))


def marks_apart(
    pre_tokenizer: pre_tokenizers.PreTokenizer | None, marks: Sequence[str | None]
) -> pre_tokenizers.PreTokenizer:
    """A pre-tokenizer that also cuts the text of a mark after its first character.

    The vocabulary of a SentencePiece unigram model holds the marks among its pieces, so that their
    text would become them, special or not.
    """
    cuts = [
        pre_tokenizers.Split(Regex(f"{re.escape(mark[0])}(?={re.escape(mark[1:])})"), "isolated")
        for mark in dict.fromkeys(marks)
        if mark
    ]
    return pre_tokenizers.Sequence([*([] if pre_tokenizer is None else [pre_tokenizer]), *cuts])


def _id_of(hf_tokenizer: HFTokenizer, token: str | None) -> int | None:
    if token is None:
        return None
    found: int | None = hf_tokenizer.token_to_id(token)
    if found is None:
        raise ValueError(f"tokenizer has no {token} token")
    return found


def _parse(text: str) -> HFTokenizer:
    try:
        return HFTokenizer.from_str(text)
    except Exception as err:  # the library raises nothing narrower
        raise ValueError(f"not a tokenizer: {err}") from err
