"""`tandem init`: a config file with its fields explained, ready for one's own corpus.

The values are those of the example of that kind in `configs/`, the explanations those of the
settings themselves, so that neither can go stale here. Called by `cli`.
"""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from actors.settings.corpus import CorpusSpec
from actors.wire import ConfigError
from orchestrator.console import Console
from orchestrator.settings.config import make_config

EXAMPLES = Path(__file__).parent / "configs"
WIDTH = 100
# What people leave as it is; `--all` writes these too.
RARELY_TURNED = (
    "deadlines",
    "corpus.block_bytes",
    "corpus.shuffle_blocks",
    "data.optimizer.betas",
    "memory.optimizer.betas",
    "memory.value_clip",
    "memory.layer.key_dim",
    "memory.layer.conv_dilations",
    "memory.layer.conv_taps",
    "memory.layer.attention_heads",
)


def kinds() -> tuple[str, ...]:
    """The kinds of corpus, each with an example config."""
    return tuple(get_args(CorpusSpec.model_fields["kind"].annotation))


def run_init(path: str, kind: str, everything: bool, force: bool, console: Console) -> None:
    """Writes the config file.

    Raises:
        ConfigError: no such kind; the file is there already, or can't be written.
    """
    if kind not in kinds():
        raise ConfigError(f"--kind {kind}: expected one of {', '.join(kinds())}")
    target = Path(path)
    if target.exists() and not (force and target.is_file()):
        advice = "choose another path" if target.is_dir() else "--force replaces it"
        raise ConfigError(f"{path} exists already; {advice}")
    try:
        target.write_text(config_text(kind, path, everything), encoding="utf-8")
    except OSError as err:
        raise ConfigError(f"{path}: can't be written: {err}") from err
    shown = shlex.quote(path)
    console.say(
        f"wrote {path}; set corpus.paths in it, then:\n  tandem check {shown}\n"
        f"  tandem train {shown}"
    )


def config_text(kind: str, path: str = "tandem.yaml", everything: bool = False) -> str:
    """The whole file: every field shown has its meaning above it and a value that is in force."""
    example = yaml.safe_load((EXAMPLES / f"{kind}.yaml").read_text(encoding="utf-8"))
    config = make_config({**example, "corpus": {**example["corpus"], "kind": kind}})
    hidden = () if everything else RARELY_TURNED
    shown = shlex.quote(path)
    head = [
        f"# A Tandem run on a corpus of kind `{kind}`. Set corpus.paths, then",
        f"#   tandem check {shown}        what it takes, before anything starts",
        f"#   tandem train {shown}        any value by its name: seed=1 data.optimizer.lr=1e-3",
        "# Fields that are not here have their defaults.",
    ]
    return "\n".join([*head, *_section(config, kind, hidden)]) + "\n"


def _section(
    settings: BaseModel, kind: str, hidden: tuple[str, ...], at: str = ""
) -> Iterator[str]:
    """A section's lines: its plain fields first, then the sections inside it."""
    indent = "  " * at.count(".")
    shown = {
        (field.alias or name): (field, getattr(settings, name))
        for name, field in type(settings).model_fields.items()
        if f"{at}{field.alias or name}" not in hidden and _concerns(field, kind)
    }
    for key, (field, value) in shown.items():
        if not isinstance(value, BaseModel):
            yield from ("", *_comment(_meaning(field, value), indent))
            yield from _lines({key: _plain(settings, key)}, indent)
    for key, (_, value) in shown.items():
        if isinstance(value, BaseModel):
            inside = list(_section(value, kind, hidden, f"{at}{key}."))
            if inside:
                yield from ("", *_comment(_first_sentence(type(value)), indent), f"{indent}{key}:")
                yield from inside[1:]  # no empty line below the section's name


def _concerns(field: FieldInfo, kind: str) -> bool:
    """Whether a field means something for this kind; descriptions say `facts only: ...`."""
    marks = {f"{other} only:" for other in kinds() if other != kind}
    return not any((field.description or "").startswith(mark) for mark in marks)


def _meaning(field: FieldInfo, value: Any) -> str:
    """Description, choices, and the default where the value is another."""
    text = (field.description or "").rstrip(".") + "."
    if get_origin(field.annotation) is Literal:
        text += f" One of {', '.join(map(str, get_args(field.annotation)))}."
    default = field.get_default(call_default_factory=True)
    if not field.is_required() and default != value:
        text += f" Default: {_inline(default)}."
    return text


def _first_sentence(section: type[BaseModel]) -> str:
    return " ".join((section.__doc__ or "").split("\n\n")[0].split())


def _plain(settings: BaseModel, key: str) -> Any:
    """The value as YAML has it."""
    return settings.model_dump(mode="json", by_alias=True)[key]


def _inline(value: Any) -> str:
    listed = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(listed, default_flow_style=True, allow_unicode=True, width=10**6)
    return text.strip().removesuffix("...").strip()


def _lines(values: dict[str, Any], indent: str) -> Iterator[str]:
    """`key: value`, a filled dict as a block, everything else in the line."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield f"{indent}{key}:"
            yield from _lines(value, indent + "  ")
        else:
            yield f"{indent}{key}: {_inline(value)}"


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=f"{indent}# ",
        subsequent_indent=f"{indent}# ",
        break_on_hyphens=False,
    )
