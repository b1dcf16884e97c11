"""How often a tokenizer's special tokens are written in a text. Called by the inventory."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from actors.sources.documents import Document
from actors.tokenizers.tokenizer import Tokenizer


class SpecialTokens:
    """Searches text for the special tokens of a tokenizer.

    Attributes:
        become_ids: whether they are encoded as their ids when found in text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        added = json.loads(tokenizer.to_json()).get("added_tokens", [])
        special = {t["content"]: t["id"] for t in added if t["special"] and t["content"].strip()}
        by_length = sorted(special, key=len, reverse=True)  # longest first, as in encoding
        self._pattern = re.compile("|".join(map(re.escape, by_length))) if by_length else None
        self.become_ids = any(i in tokenizer.encode(f"a{t}") for t, i in special.items())

    def counted(self, documents: Sequence[Document]) -> Counter[str]:
        """Occurrences of each in the documents."""
        if self._pattern is None:
            return Counter()
        return Counter(self._found(documents))

    def _found(self, documents: Sequence[Document]) -> Iterator[str]:
        assert self._pattern is not None
        for document in documents:
            yield from self._pattern.findall(document.given)
            yield from self._pattern.findall(
                document.text if document.chat is None else document.whole
            )
