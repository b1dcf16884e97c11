"""`tandem init`: writes a config file with its fields explained, ready for one's own corpus.

The values are those of the example of that kind in `configs/`, the explanations those of the
settings themselves.
"""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from actors.settings.corpus import CorpusSpec
from actors.settings.fields import Mark, marks_of, meaning, only_with
from actors.wire import ConfigError
from jobs.init_model import Model, model_text
from orchestrator.console import Console
from orchestrator.settings.config import make_config
from orchestrator.settings.reference import first_sentence, in_yaml

EXAMPLES = Path(__file__).parent / "configs"
WIDTH = 100


def kinds() -> tuple[str, ...]:
    """The kinds of corpus, each with an example config."""
    return tuple(get_args(CorpusSpec.model_fields["kind"].annotation))


def run_init(
    path: str,
    kind: str,
    everything: bool,
    force: bool,
    console: Console,
    model: str | None = None,
) -> None:
    """Writes the config file; a short one for a `model` that exists already.

    Raises:
        ConfigError: no such kind; the file exists already, or can't be written; no such model.
    """
    if kind not in kinds():
        raise ConfigError(f"--kind {kind}: expected one of {', '.join(kinds())}")
    target = Path(path)
    if target.exists() and not (force and target.is_file()):
        advice = "choose another path" if target.is_dir() else "--force replaces it"
        raise ConfigError(f"{path} exists already; {advice}")
    if model is not None and everything:
        raise ConfigError(
            "--all explains every field, --model writes the few that matter; give one"
        )
    text = (
        config_text(kind, path, everything)
        if model is None
        else model_text(Model.at(model), kind, path)
    )
    try:
        target.write_text(text, encoding="utf-8")
    except OSError as err:
        raise ConfigError(f"{path}: can't be written: {err}") from err
    shown = shlex.quote(path)
    console.say(
        f"wrote {path}; set corpus.paths in it, then:\n  tandem check {shown}\n"
        f"  tandem train {shown}" + ("" if model is None else " --in-process")
    )


def config_text(kind: str, path: str = "tandem.yaml", everything: bool = False) -> str:
    """The whole file: above every field its meaning, and the value that the run will have."""
    example = yaml.safe_load((EXAMPLES / f"{kind}.yaml").read_text(encoding="utf-8"))
    config = make_config({**example, "corpus": {**example["corpus"], "kind": kind}})
    shown = shlex.quote(path)
    head = [
        f"# A Tandem run on a corpus of kind `{kind}`. Set corpus.paths, then",
        f"#   tandem check {shown}        what the run needs, before anything starts",
        f"#   tandem train {shown}        values by name: seed=1 data.optimizer.lr=1e-3",
        "# Fields that are not in this file have their defaults.",
    ]
    return "\n".join([*head, *_section(config, kind, everything)]) + "\n"


def _section(settings: BaseModel, kind: str, everything: bool, indent: str = "") -> Iterator[str]:
    """A section's lines: its plain fields first, then the sections inside it."""
    shown = {
        (field.alias or name): (field, getattr(settings, name))
        for name, field in type(settings).model_fields.items()
        if (everything or Mark.ADVANCED not in marks_of(field)) and _concerns(field, kind)
    }
    for key, (field, value) in shown.items():
        if not isinstance(value, BaseModel):
            yield from ("", *_comment(_meaning(field, value), indent))
            yield from _lines({key: _plain(settings, key)}, indent)
    for key, (_, value) in shown.items():
        if isinstance(value, BaseModel):
            inside = list(_section(value, kind, everything, f"{indent}  "))
            if inside:
                yield from ("", *_comment(first_sentence(type(value)), indent), f"{indent}{key}:")
                yield from inside[1:]  # no empty line below the section's name


def _concerns(field: FieldInfo, kind: str) -> bool:
    """Whether a field means something for a corpus of this kind."""
    where = only_with(field)
    return where is None or where.key != "corpus.kind" or where.value == kind


def _meaning(field: FieldInfo, value: object) -> str:
    """Meaning, choices, and the default where the value is another."""
    text = meaning(field)
    if get_origin(field.annotation) is Literal:
        text += f" One of {', '.join(map(str, get_args(field.annotation)))}."
    default = field.get_default(call_default_factory=True)
    if not field.is_required() and default != value:
        text += f" Default: {in_yaml(default)}."
    return text


def _plain(settings: BaseModel, key: str) -> object:
    """The value as YAML represents it."""
    return settings.model_dump(mode="json", by_alias=True)[key]


def _lines(values: Mapping[str, object], indent: str) -> Iterator[str]:
    """`key: value`; a dict with entries as a block, everything else in one line."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield f"{indent}{key}:"
            yield from _lines(value, indent + "  ")
        else:
            yield f"{indent}{key}: {in_yaml(value)}"


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=f"{indent}# ",
        subsequent_indent=f"{indent}# ",
        break_on_hyphens=False,
    )
