"""What a given tokenizer's files hold beyond how text becomes ids, kept up to the export.

A chat template, a pad token, the longest input of a model: training uses none of them, users of the
exported model do. They are kept inside the run's tokenizer.json, so that every process, a resumed
run and a later `tandem learn` have them even when the given files are gone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from actors.tokenizers.pretrained_tokenizer import (
    MARK_FILES,
    MORE_TEMPLATES,
    TEMPLATE_FILE,
    TOKENIZER_FILE,
)

CONFIG = MARK_FILES[0]
# Parts of tokenizer.json that a run replaces with its own. None of them affects how text is encoded
# but the pre-tokenizer, and that only the text of a document mark (`marks_apart`).
OWN_PARTS = ("added_tokens", "pre_tokenizer", "post_processor", "truncation", "padding")
CODE = "auto_map"  # names custom code of a tokenizer, which is neither run nor exported


@dataclass(frozen=True)
class TokenizerExtras:
    """What a run keeps beside its tokenizer.

    Attributes:
        as_ids: whether special tokens written in a text are encoded as their ids.
        parts: original content of the parts of the given tokenizer.json that a run replaces; empty
            for a tokenizer that was trained here.
        files: text of the other given files, by name.
    """

    as_ids: bool = False
    parts: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.as_ids or bool(self.parts) or bool(self.files)

    @classmethod
    def given(cls, text: str, files: Mapping[str, str], as_ids: bool) -> TokenizerExtras:
        """From a pretrained tokenizer's tokenizer.json and the text of its other files."""
        content = {"added_tokens": [], **json.loads(text)}
        return cls(as_ids, {part: content.get(part) for part in OWN_PARTS}, files)

    def with_template(self, template: str | None) -> TokenizerExtras:
        """The same with another chat template instead of its own; None: with its own."""
        if template is None:
            return self
        kept = {n: text for n, text in self.files.items() if not n.startswith(MORE_TEMPLATES)}
        return replace(self, files={**kept, TEMPLATE_FILE: template})

    def to_json(self) -> str:
        """As JSON, for `from_json`."""
        values = {"as_ids": self.as_ids, "parts": self.parts, "files": self.files}
        return json.dumps(values, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> TokenizerExtras:
        """The inverse of `to_json`."""
        return cls(**json.loads(text))


def write_given(
    folder: Path, tokenizer_json: str, extras: TokenizerExtras, begin: str | None, end: str | None
) -> None:
    """Writes a given tokenizer with its original files, for transformers.

    Args:
        folder: of the exported model.
        tokenizer_json: the run's.
        extras: the run's.
        begin, end: tokens that open and close documents. `end` becomes eos_token if the files have
            none; without a tokenizer_config.json both become its tokens, since the model was
            trained with them.
    """
    content = json.loads(tokenizer_json) | dict(extras.parts)
    text = json.dumps(content, ensure_ascii=False, indent=2)
    for name, content_of_file in extras.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content_of_file, encoding="utf-8")
    if CONFIG not in extras.files:
        write_fast(folder, text, begin, end)
    else:
        given = {
            name: json.loads(extras.files[name]) for name in MARK_FILES if name in extras.files
        }
        config = {name: value for name, value in given[CONFIG].items() if name != CODE}
        if end is not None and not any(each.get("eos_token") for each in given.values()):
            config["eos_token"] = end
        if config != given[CONFIG]:
            changed = json.dumps(config, ensure_ascii=False, indent=2)
            (folder / CONFIG).write_text(changed, encoding="utf-8")
    (folder / TOKENIZER_FILE).write_text(text, encoding="utf-8")


def write_fast(folder: Path, tokenizer_json: str, begin: str | None, end: str | None) -> None:
    """Writes a tokenizer without other files than tokenizer.json, for transformers."""
    from transformers import PreTrainedTokenizerFast

    written = folder / "tandem_tokenizer.json"
    written.write_text(tokenizer_json, encoding="utf-8")
    fast = PreTrainedTokenizerFast(tokenizer_file=str(written), bos_token=begin, eos_token=end)
    fast.save_pretrained(folder)
    written.unlink()
