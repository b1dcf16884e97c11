"""The short config of a memory for a model that exists already: `tandem init --model`, and what
`tandem learn MODEL` trains.

The model keeps its bits and the memory port trains (`data.layer.train: port`). Rates, sizes and
read layers are left unset, so that they fit the model (`orchestrator.settings.fitted_config`); the
tokenizer is the model's own, with marks of documents that are no marks of a chat.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.tokenizers.document_marks import document_marks
from actors.tokenizers.pretrained_tokenizer import looks_local
from actors.wire import ConfigError
from orchestrator.settings.config import Config, make_config
from orchestrator.settings.file_names import EXPORT, EXPORT_MARKER
from orchestrator.settings.fitted_config import model_at
from orchestrator.settings.reference import in_yaml
from orchestrator.start_check import DATA_LAYER, look_at_weights

PATHS = {"facts": "facts.jsonl", "text": "corpus.txt"}
TEMPLATES = "templates.json"
WINDOWS = {"facts": 64, "text": 256}
INTERVALS = {"facts": 12, "text": 30}
TOKEN_NOISE = 0.05  # of facts: wordings never seen are the aim
BALANCE = 0.3  # of facts: few addresses, so that evenness has to be asked for


@dataclass(frozen=True)
class Model:
    """A model that exists already.

    Attributes:
        location: absolute folder, URL, hub name or run.
        tokenizer: the same for `tokenizer.pretrained`.
        marks: `tokenizer.begin` and `end`, where its own are those of a chat.
    """

    location: str
    tokenizer: str
    marks: dict[str, str]

    @classmethod
    def at(cls, given: str) -> Model:
        """The model that a command names.

        Raises:
            ConfigError: no such folder, no checkpoint, or without a tokenizer.
        """
        place = Path(given).expanduser()
        if not place.exists() and "://" not in given and looks_local(given):
            raise ConfigError(
                f"{given}: no such folder; give a model's folder (config.json, safetensors and "
                "tokenizer.json), or a name on the Hugging Face hub like owner/model"
            )
        location = str(place.resolve()) if place.exists() else given
        tokenizer = location
        for export in (location, f"{location}/{EXPORT}"):
            if Path(export, EXPORT_MARKER).is_file():
                tokenizer = f"{export}/{DATA_LAYER}"
        look_at_weights(location)
        return cls(location, tokenizer, document_marks(tokenizer))


def model_values(
    model: Model, kind: str, paths: Sequence[str], templates: str | None = None
) -> dict[str, Any]:
    """The config's values, in the order in which a person reads them.

    Args:
        model: whose memory.
        kind: of the corpus.
        paths: of the corpus.
        templates: of facts.
    """
    corpus: dict[str, Any] = {"kind": kind, "paths": [*paths]}
    if kind == "facts":
        corpus |= {
            "templates": templates or TEMPLATES,
            "loss_on": "answers",
            "token_noise": TOKEN_NOISE,
        }
    found = model_at(model.location)
    positions = None if found is None else found[0].positions
    values: dict[str, Any] = {
        "name": "memory",
        "intervals": INTERVALS[kind],
        "corpus": {**corpus, "window": min(WINDOWS[kind], positions or WINDOWS[kind])},
        "tokenizer": {"pretrained": model.tokenizer, **model.marks},
        "data": {"layer": {"pretrained": model.location, "train": "port"}},
    }
    return values | ({"losses": {"balance": BALANCE}} if kind == "facts" else {})


def model_config(values: dict[str, Any], source: str = "the config of this model") -> Config:
    """The resolved config. Raises: ConfigError as `make_config`."""
    return make_config(values, source)


def model_text(model: Model, kind: str, path: str) -> str:
    """The file that `tandem init --model` writes.

    Raises:
        ConfigError: nothing fits this model.
    """
    values = model_values(model, kind, [PATHS[kind]])
    model_config(values)
    shown = shlex.quote(path)
    lines = [
        "# A memory for a model that keeps its bits. Set the paths of the corpus, then",
        f"#   tandem check {shown}; tandem train {shown} --in-process",
        "# What is unset fits the model (see `tandem check`). `train: lora` or `all` changes it.",
    ]
    for key, value in values.items():
        if key == "data":
            lines += ["data:", f"  layer: {in_yaml(value['layer'])}"]
        else:
            lines.append(f"{key}: {in_yaml(value)}")
    return "\n".join(lines) + "\n"
