"""The tokenizer of an export as a transformers tokenizer, set up for prompts.

Reads the export's small files only, never weights.
"""

from __future__ import annotations

import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from actors.storage import locate, storage_errors
from actors.tokenizers.tokenizer import BEGIN, Tokenizer
from actors.wire import ConfigError


def load_prompt_tokenizer(directory: str, tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """The tokenizer exported to `directory`. Whatever its files add around a text, a prompt begins
    with the mark that opens a document in training; padding is on the left.

    Args:
        directory: an export; any fsspec URL.
        tokenizer: the run's.

    Raises:
        ConfigError: it is missing or can't be read.
        StorageError: its storage is away.
    """
    # by tokenizer.json alone: AutoTokenizer may choose a class that splits text its own way
    found: PreTrainedTokenizerFast = _loaded(directory, PreTrainedTokenizerFast)
    found.padding_side = "left"
    found.model_input_names = ["input_ids", "attention_mask"]
    if found.pad_token_id is None:
        found.pad_token = found.convert_ids_to_tokens(tokenizer.end_of_text)
    if tokenizer.pre_tokenizer is not None:
        found.backend_tokenizer.pre_tokenizer = tokenizer.pre_tokenizer
    opening = [BEGIN] if tokenizer.begin_token else []
    found.backend_tokenizer.post_processor = TemplateProcessing(
        single=[*opening, "$A"],
        pair=[*opening, "$A", "$B:1"],
        special_tokens=[
            {"id": BEGIN, "ids": [*tokenizer.opening], "tokens": [tokenizer.begin_token]}
            for _ in opening
        ],
    )
    return found


def load_given_tokenizer(directory: str) -> PreTrainedTokenizerBase:
    """The tokenizer exported to `directory` as transformers alone loads it.

    Raises:
        ConfigError, StorageError: as `load_prompt_tokenizer`.
    """
    found: PreTrainedTokenizerBase = _loaded(directory, AutoTokenizer)
    return found


def _loaded(directory: str, kind: Any) -> Any:
    with tempfile.TemporaryDirectory(prefix="tandem-load-") as folder:
        try:
            with storage_errors(directory, "the tokenizer can't be loaded"):
                fs, source = locate(f"{directory.rstrip('/')}/data_layer")
                for path in fs.ls(source, detail=False):
                    name = PurePosixPath(str(path)).name
                    if not name.endswith(".safetensors"):
                        fs.get_file(path, str(Path(folder) / name))
            return kind.from_pretrained(folder, local_files_only=True)
        except (OSError, KeyError, ValueError) as err:
            raise ConfigError(f"{directory}: the tokenizer can't be loaded: {err}") from err
