"""A byte-level BPE: trained on the training split, kept with the run as JSON, the same in every
process.

Does no packing and knows no corpus. Called by the driver (training) and by trainers (encoding).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer as HFTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

END_OF_TEXT = "<|endoftext|>"


class Tokenizer:
    """Text to token ids and back; id `end_of_text` opens and closes every document."""

    def __init__(self, hf_tokenizer: HFTokenizer) -> None:
        end_of_text = hf_tokenizer.token_to_id(END_OF_TEXT)
        if end_of_text is None:
            raise ValueError(f"tokenizer has no {END_OF_TEXT} token")
        hf_tokenizer.encode_special_tokens = True  # a mark that stands in a text is text
        self._hf = hf_tokenizer
        self.end_of_text: int = end_of_text

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """Trains on `texts`; the vocabulary may come out smaller than asked on a small corpus."""
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
        return cls(hf_tokenizer)

    @classmethod
    def from_json(cls, text: str) -> Tokenizer:
        """The tokenizer that `to_json` wrote. Raises: ValueError where it is not one."""
        try:
            return cls(HFTokenizer.from_str(text))
        except Exception as err:  # the library raises nothing narrower
            raise ValueError(f"not a tokenizer: {err}") from err

    def to_json(self) -> str:
        """The whole tokenizer as JSON (the format of `tokenizer.json`)."""
        return str(self._hf.to_str())

    @property
    def size(self) -> int:
        """Number of token ids."""
        return int(self._hf.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without document marks."""
        return list(self._hf.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without document marks."""
        return [list(e.ids) for e in self._hf.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, document marks left out."""
        return str(
            self._hf.decode([i for i in ids if i != self.end_of_text], skip_special_tokens=False)
        )
