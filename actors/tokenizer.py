"""A tokenizer: a byte-level BPE trained on the training split, or a pretrained one; kept with the
run as JSON, the same in every process.

Does no packing and knows no corpus. Called by the driver (training, loading) and by trainers
(encoding).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as HFTokenizer

from actors.pretrained_tokenizer import read_pretrained
from actors.tokenizer_files import Kept, write_fast, write_given

END_OF_TEXT = "<|endoftext|>"
BEGIN, END = "begin", "end"  # names of the marks in the post-processor that `to_json` writes
KEPT = "tandem"  # and of what is kept with the tokenizer, beside them


class Tokenizer:
    """Text to token ids and back.

    Attributes:
        begin, end: ids that open and close every document; the same one in many tokenizers.
        begin_token, end_token: how these are written.
        kept: what else a given tokenizer's files say, and how special tokens in a text are read.
    """

    def __init__(
        self,
        hf_tokenizer: HFTokenizer,
        begin: str = END_OF_TEXT,
        end: str = END_OF_TEXT,
        kept: Kept | None = None,
    ) -> None:
        begin_id, end_id = hf_tokenizer.token_to_id(begin), hf_tokenizer.token_to_id(end)
        if begin_id is None or end_id is None:
            raise ValueError(f"tokenizer has no {begin if begin_id is None else end} token")
        self.begin_token, self.end_token = begin, end
        self.begin, self.end = begin_id, end_id
        self.kept = kept or Kept()
        # Unless asked for, special tokens that stand in a text are text; so they must be known as
        # special ones.
        added = hf_tokenizer.get_added_tokens_decoder().values()
        known = {token.content for token in added if token.special}
        hf_tokenizer.add_special_tokens(
            [AddedToken(t, special=True) for t in dict.fromkeys((begin, end)) if t not in known]
        )
        hf_tokenizer.encode_special_tokens = not self.kept.as_ids
        hf_tokenizer.no_truncation()
        hf_tokenizer.no_padding()
        self._hf = hf_tokenizer
        if not self.kept.as_ids:
            self._check_marks_stay_text()
        # SentencePiece tokenizers put a space before whatever they encode.
        newline, alone = self.encode("\na"), self.encode("a")
        self._prefixes = newline[-len(alone) :] != alone

    def _check_marks_stay_text(self) -> None:
        for text in (f"a{self.begin_token}b{self.end_token}", f" {self.end_token} "):
            if {self.begin, self.end} & set(self.encode(text)):
                raise ValueError(
                    f"text that reads {text!r} becomes a document mark; its model knows the mark "
                    "as an ordinary piece of text"
                )

    @property
    def marks(self) -> tuple[int, int]:
        """Ids that open and close a document."""
        return self.begin, self.end

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, as_ids: bool = False) -> Tokenizer:
        """Trains on `texts`; the vocabulary may come out smaller than asked on a small corpus.

        `as_ids`: as in `from_pretrained`.
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
        return cls._keeping(hf_tokenizer, END_OF_TEXT, END_OF_TEXT, Kept(as_ids))

    @classmethod
    def from_pretrained(cls, name: str, as_ids: bool = False) -> Tokenizer:
        """A folder with tokenizer.json, such a file, or a Hugging Face hub name.

        `as_ids`: special tokens that stand in a text, the marks too, are read as their ids.

        Raises:
            ConfigError: there is none, it is not a fast one, the hub can't be reached, or nothing
                in it can close a document.
        """
        return read_pretrained(
            name,
            lambda text, begin, end, files: cls._keeping(
                _parse(text), begin, end, Kept.given(text, files, as_ids)
            ),
        )

    @classmethod
    def _keeping(cls, hf_tokenizer: HFTokenizer, begin: str, end: str, kept: Kept) -> Tokenizer:
        """One whose JSON holds its marks, and what is kept with it, in its post-processor.

        The library reads no JSON with keys of others, and a post-processor may name special tokens
        that it does not use.
        """
        tokenizer = cls(hf_tokenizer, begin, end, kept)
        if (begin, end) != (END_OF_TEXT, END_OF_TEXT) or kept:
            named = [
                {"id": BEGIN, "ids": [tokenizer.begin], "tokens": [begin]},
                {"id": END, "ids": [tokenizer.end], "tokens": [end]},
            ]
            if kept:
                named.append({"id": KEPT, "ids": [tokenizer.end], "tokens": [kept.to_json()]})
            tokenizer._hf.post_processor = processors.TemplateProcessing(
                single=[BEGIN, "$A", END], pair=[BEGIN, "$A", "$B", END], special_tokens=named
            )
        return tokenizer

    @classmethod
    def from_json(cls, text: str) -> Tokenizer:
        """The tokenizer that `to_json` wrote. Raises: ValueError where it is not one."""
        hf_tokenizer = _parse(text)
        processor = json.loads(text).get("post_processor") or {}
        marks = processor.get("special_tokens") or {}
        if processor.get("type") == "TemplateProcessing" and {BEGIN, END} <= set(marks):
            kept = Kept.from_json(marks[KEPT]["tokens"][0]) if KEPT in marks else None
            return cls(hf_tokenizer, marks[BEGIN]["tokens"][0], marks[END]["tokens"][0], kept)
        return cls(hf_tokenizer)

    def to_json(self) -> str:
        """The whole tokenizer as JSON (the format of `tokenizer.json`).

        Its post-processor puts the document marks round a text, which is how they are known again.
        """
        return str(self._hf.to_str())

    def write(self, folder: Path) -> None:
        """Writes it into an exported model's folder, for transformers: a given one as it came, one
        that was trained here with its mark.
        """
        if self.kept.parts:
            write_given(folder, self.to_json(), self.kept, self.begin_token, self.end_token)
            return
        mark_nothing = json.loads(self.to_json())
        mark_nothing["post_processor"] = None
        text = json.dumps(mark_nothing, ensure_ascii=False)
        write_fast(folder, text, self.begin_token, self.end_token)

    @property
    def end_of_text(self) -> int:
        """The id that closes every document, and fills what no token needs."""
        return self.end

    @property
    def size(self) -> int:
        """Rows that a model needs: the largest token id and one; ids may leave holes."""
        return max(self._hf.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without document marks."""
        return list(self._hf.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without document marks."""
        encoded = self._hf.encode_batch_fast(list(texts), add_special_tokens=False)
        return [e.ids for e in encoded]

    def encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[list[int], int]]:
        """Token ids of each (given, text), one after the other, and how many are the given's.

        The text is encoded as it follows, apart from what is given, so that a prompt has the tokens
        that it has alone. Where the tokenizer puts a space before each text, both are encoded
        together, and a token across their border is the text's.
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

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, document marks left out."""
        marks = (self.begin, self.end)
        return str(self._hf.decode([i for i in ids if i not in marks], skip_special_tokens=False))


def _parse(text: str) -> HFTokenizer:
    try:
        return HFTokenizer.from_str(text)
    except Exception as err:  # the library raises nothing narrower
        raise ValueError(f"not a tokenizer: {err}") from err
