"""What a tokenizer's files say beyond how text becomes ids, from a given one to an export.

A chat template, a pad token, the length a model takes: nothing here uses them, and people who take
the exported model do. They travel inside the run's tokenizer.json, so that every process, a resumed
run and a later `tandem learn` have them wherever the given files have gone. Called by `tokenizer`
and `pair_files`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actors.tokenizers.pretrained_tokenizer import MARK_FILES, TOKENIZER_FILE

CONFIG = MARK_FILES[0]
# Parts of tokenizer.json that a run changes for itself; what text becomes is all in the others.
OWN_PARTS = ("added_tokens", "post_processor", "truncation", "padding")
CODE = "auto_map"  # names code beside a tokenizer, which is neither run nor exported


@dataclass(frozen=True)
class TokenizerExtras:
    """What a run keeps with its tokenizer.

    Attributes:
        as_ids: whether special tokens that stand in a text are read as their ids.
        parts: of the given tokenizer.json, those that a run changes, as they were; empty: the
            tokenizer was trained here.
        files: text of the other files given, by name.
    """

    as_ids: bool = False
    parts: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.as_ids or bool(self.parts) or bool(self.files)

    @classmethod
    def given(cls, text: str, files: Mapping[str, str], as_ids: bool) -> TokenizerExtras:
        """Of a pretrained tokenizer, by its tokenizer.json and the text of its other files."""
        content = {"added_tokens": [], **json.loads(text)}
        return cls(as_ids, {part: content.get(part) for part in OWN_PARTS}, files)

    def to_json(self) -> str:
        """As `from_json` takes it."""
        kept = {"as_ids": self.as_ids, "parts": self.parts, "files": self.files}
        return json.dumps(kept, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> TokenizerExtras:
        """What `to_json` wrote."""
        return cls(**json.loads(text))


def write_given(
    folder: Path, tokenizer_json: str, kept: TokenizerExtras, begin: str | None, end: str | None
) -> None:
    """Writes a given tokenizer as it came, for transformers.

    Args:
        folder: of the exported model.
        tokenizer_json: the run's.
        kept: with it.
        begin, end: tokens that open and close documents; the second is added as eos_token, and
            where no file says how the tokenizer is used both are, since the model was trained with
            them.
    """
    content = json.loads(tokenizer_json) | dict(kept.parts)
    text = json.dumps(content, ensure_ascii=False, indent=2)
    for name, came in kept.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(came, encoding="utf-8")
    if CONFIG not in kept.files:
        write_fast(folder, text, begin, end)
    else:
        said = {name: json.loads(kept.files[name]) for name in MARK_FILES if name in kept.files}
        config = {name: value for name, value in said[CONFIG].items() if name != CODE}
        if end is not None and not any(each.get("eos_token") for each in said.values()):
            config["eos_token"] = end
        if config != said[CONFIG]:
            changed = json.dumps(config, ensure_ascii=False, indent=2)
            (folder / CONFIG).write_text(changed, encoding="utf-8")
    (folder / TOKENIZER_FILE).write_text(text, encoding="utf-8")


def write_fast(folder: Path, tokenizer_json: str, begin: str | None, end: str | None) -> None:
    """Writes a tokenizer that has no files but tokenizer.json, for transformers."""
    from transformers import PreTrainedTokenizerFast

    written = folder / "tandem_tokenizer.json"
    written.write_text(tokenizer_json, encoding="utf-8")
    fast = PreTrainedTokenizerFast(tokenizer_file=str(written), bos_token=begin, eos_token=end)
    fast.save_pretrained(folder)
    written.unlink()
