"""Finds a pretrained tokenizer's files, in a folder or on the Hugging Face hub, and its marks.

Reads tokenizer.json and files of settings only: data, never code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from actors.formats import listed
from actors.settings.corpus import NO_MARK
from actors.storage import no_file
from actors.wire import ConfigError

TOKENIZER_FILE = "tokenizer.json"
MARK_FILES = ("tokenizer_config.json", "special_tokens_map.json")
TEMPLATE_FILE = "chat_template.jinja"
# How a tokenizer is used. Files of its vocabulary only repeat what is in tokenizer.json.
USAGE_FILES = (*MARK_FILES, "added_tokens.json", TEMPLATE_FILE, "chat_template.json")
MORE_TEMPLATES = "additional_chat_templates"
# Usual names of the tokens that open and close a document, if no file names them.
USUAL_BEGINS = ("<s>", "<|begin_of_text|>", "<bos>")
USUAL_ENDS = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<|im_end|>")

LISTED = 8  # names in a message

Made = TypeVar("Made")


def usage_files(folder: Path) -> dict[str, Path]:
    """The files of a tokenizer's folder that describe its use, by their names in the folder."""
    found = {name: folder / name for name in USAGE_FILES}
    found |= {f"{MORE_TEMPLATES}/{p.name}": p for p in folder.glob(f"{MORE_TEMPLATES}/*.jinja")}
    return {name: path for name, path in sorted(found.items()) if path.is_file()}


def read_pretrained(
    name: str,
    make: Callable[[str, str | None, str | None, dict[str, str]], Made],
    begin: str | None = None,
    end: str | None = None,
) -> Made:
    """Reads a pretrained tokenizer and calls `make` on what was read.

    Args:
        name: a folder, a file or a hub name.
        make: called with the text of tokenizer.json, the marks that open and close a document
            (None: no mark), and the text of the files that describe its use, by name.
        begin, end: marks to use; NO_MARK: none; None: those that the files name.

    Raises:
        ConfigError: see `Tokenizer.from_pretrained`.
    """
    where = f"tokenizer.pretrained {name}"
    file = _find(name, where)
    try:
        text = file.read_text(encoding="utf-8-sig")
        content = json.loads(text)
        if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
            raise ValueError(
                "expected a JSON object that holds a tokenizer's model; fetch it again"
            )
        used = usage_files(file.parent)
        files = {name: path.read_text(encoding="utf-8-sig") for name, path in used.items()}
        return make(text, *_marks(content, file.parent, where, begin, end), files)
    except (OSError, ValueError) as err:  # ConfigErrors are ValueErrors too
        if isinstance(err, ConfigError):
            raise
        raise ConfigError(f"{where}: {file.name} can't be used: {err}") from err


def looks_local(name: str) -> bool:
    """Whether a name can only be a path: no hub name has such a form."""
    return (
        os.path.isabs(name)
        or name.startswith((".", "~"))
        or name.endswith((".json", "/"))
        or name.count("/") > 1
    )


def _find(name: str, where: str) -> Path:
    path = Path(name).expanduser()
    for place in (path, path / TOKENIZER_FILE):
        if place.is_symlink() and not place.exists():
            raise ConfigError(
                f"{where}: {place} is a link to {place.readlink()}, which does not exist; restore "
                "that file, or give another tokenizer"
            )
        if found := no_file(place):
            raise ConfigError(f"{where}: {place} {found}")
    if path.is_file():
        return path
    if path.is_dir():
        file = path / TOKENIZER_FILE
        if not file.is_file():
            raise ConfigError(
                f"{where}: no {TOKENIZER_FILE} in that folder (there are: {_listed(path)}); only "
                f"fast tokenizers can be used: make the file with {_convert(name)}"
            )
        return file
    if looks_local(name):
        raise ConfigError(
            f"{where}: no such file or folder; give a folder with {TOKENIZER_FILE}, such a file, "
            "or a hub name"
        )
    return _download(name, where)


def _listed(folder: Path) -> str:
    names = sorted(p.name for p in folder.iterdir())
    return listed(names, LISTED) or "no files"


def _convert(name: str) -> str:
    return f"AutoTokenizer.from_pretrained({name!r}).save_pretrained(FOLDER)"


def _download(name: str, where: str) -> Path:
    """The tokenizer's files from the hub, or from its local cache if they are in it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    wanted = [TOKENIZER_FILE, *USAGE_FILES, f"{MORE_TEMPLATES}/*.jinja"]
    try:
        folder = Path(snapshot_download(name, allow_patterns=wanted))
    except HFValidationError as err:
        raise ConfigError(
            f"{where}: neither a path that exists nor a hub name (like openai-community/gpt2)"
        ) from err
    except GatedRepoError as err:
        raise ConfigError(
            f"{where}: its owner requires an agreement; accept it on the hub, then log in with "
            "`hf auth login`"
        ) from err
    except RepositoryNotFoundError as err:
        raise ConfigError(
            f"{where}: no such path, and none of that name on the hub (or a private one: log in "
            "with `hf auth login`)"
        ) from err
    except (LocalEntryNotFoundError, OSError) as err:
        raise ConfigError(
            f"{where}: no such path, and as a hub name it is not in the local cache and the hub "
            "can't be reached; give a folder that has it, or a machine with a network "
            f"({type(err).__name__})"
        ) from err
    file = folder / TOKENIZER_FILE
    if not file.is_file():
        raise ConfigError(
            f"{where}: no {TOKENIZER_FILE} on the hub there; only fast tokenizers can be used: "
            f"make the file with {_convert(name)} and give FOLDER"
        )
    return file


def _marks(
    content: dict[str, Any],
    folder: Path,
    where: str,
    chosen_begin: str | None,
    chosen_end: str | None,
) -> tuple[str | None, str | None]:
    """The tokens that open and close a document: those chosen, or those that the files name. If
    they name only one, it does both.
    """
    for field, token in (("begin", chosen_begin), ("end", chosen_end)):
        if token not in (None, NO_MARK) and token not in _tokens(content):
            raise ConfigError(
                f"tokenizer.{field} {token}: {where} has no such token; give one of its special "
                f"tokens ({_special(content) or 'it has none'}), or {NO_MARK}"
            )
    begin, end = _found_marks(content, folder)
    for kind, token, chosen in (("begin", begin, chosen_begin), ("end", end, chosen_end)):
        if chosen is None and token is not None and token not in _tokens(content):
            raise ConfigError(
                f"{where}: its files name {token} as the token that {kind}s a document, and "
                f"{TOKENIZER_FILE} has no {token} token; correct {MARK_FILES[0]}, or set "
                f"tokenizer.{kind} to one of its special tokens "
                f"({_special(content) or 'it has none'}) or to {NO_MARK}"
            )
    end = chosen_end or end or begin
    if end is None:
        special = _special(content)
        raise ConfigError(
            f"{where}: its files don't name the token that closes a document; set tokenizer.end "
            f"(and tokenizer.begin) to a token or to {NO_MARK}, or put eos_token (and bos_token) "
            f"into {MARK_FILES[0]} beside {TOKENIZER_FILE}"
            + (f"; its special tokens are {special}" if special else "")
        )
    begin = chosen_begin or begin or end
    return None if begin == NO_MARK else begin, None if end == NO_MARK else end


def _tokens(content: dict[str, Any]) -> set[str]:
    """Every token of a tokenizer.json, whatever the kind of its model."""
    vocab = (content.get("model") or {}).get("vocab") or ()
    listed = vocab if isinstance(vocab, dict) else [piece[0] for piece in vocab]
    return {*listed, *(token.get("content") for token in content.get("added_tokens") or [])}


def _special(content: dict[str, Any]) -> str:
    """Its special tokens, for messages."""
    special = [t["content"] for t in content.get("added_tokens") or [] if t.get("special")]
    return ", ".join(special[:12])


def _found_marks(content: dict[str, Any], folder: Path) -> tuple[str | None, str | None]:
    """The tokens that open and close a document according to the files."""
    begin, end = None, None
    for name in MARK_FILES:
        if (folder / name).is_file():
            settings = _settings(folder / name)
            begin = begin or _token(settings.get("bos_token"))
            end = end or _token(settings.get("eos_token"))
    if begin is None and end is None:
        begin, end = _template_marks(content)
    if begin is None and end is None:
        known = {token.get("content") for token in content.get("added_tokens") or []}
        begin = next((t for t in USUAL_BEGINS if t in known), None)
        end = next((t for t in USUAL_ENDS if t in known), None)
    return begin, end


def _settings(path: Path) -> dict[str, Any]:
    """Raises: ValueError: it holds no JSON object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as err:
        raise ValueError(f"{path.name} beside it is no JSON: {err}; fetch it again") from err
    if not isinstance(found, dict):
        raise ValueError(
            f"{path.name} beside it: expected a JSON object, got {type(found).__name__}; fetch it "
            "again"
        )
    return found


def _token(value: Any) -> str | None:
    """A token as transformers writes it: its text, or an object that holds it."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) and value else None


def _template_marks(content: dict[str, Any]) -> tuple[str | None, str | None]:
    """The tokens that the post-processor puts before and after a text."""
    processor = content.get("post_processor") or {}
    for part in processor.get("processors") or [processor]:
        if part.get("type") != "TemplateProcessing":
            continue
        before: str | None = None
        after: str | None = None
        seen_text = False
        for piece in part["single"]:
            if "Sequence" in piece:
                seen_text = True
                continue
            token = part["special_tokens"][piece["SpecialToken"]["id"]]["tokens"][0]
            before, after = (before, token) if seen_text else (token, after)
        return before, after
    return None, None
