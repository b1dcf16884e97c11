"""What `tandem check` says of a pretrained data layer: the settings that fit themselves to it, and
those that will damage it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actors.formats import count
from actors.settings.fitted import FITTED, rate_warnings
from actors.tokenizers.document_marks import chat_marks
from orchestrator.settings.config import Config
from orchestrator.settings.dotted import pick
from orchestrator.settings.fitted_config import model_at

EARLY_FRAC = 0.1  # of the depth: a read before it reaches the model before it understands anything


def fit_report(config: Config) -> tuple[dict[str, Any], list[str]]:
    """The values of the settings that fit themselves, by dotted name (empty for a fresh model), and
    warnings.
    """
    layer = config.data.layer
    found = None if layer.pretrained is None else model_at(layer.pretrained)
    if found is None:
        return {}, []
    size, values = found[0], config.model_dump(mode="json", by_alias=True)
    chosen = {key: pick(values, key) for key in FITTED}
    warnings = rate_warnings(layer.train, size, chosen)
    early = [at for at in layer.read_layers if at + 1 < EARLY_FRAC * size.num_layers]
    if early:
        warnings.append(
            f"data.layer.read_layers {list(layer.read_layers)} of {size.num_layers}: a read after "
            f"layer {early[0]} comes before the model has made anything of the text; leave it "
            "unset for a third and two thirds of the depth"
        )
    if config.memory.layer.encoder == "frozen_copy" and not size.is_small:
        warnings.append(
            "memory.layer.encoder frozen_copy: in the first layers of a real model all texts look "
            "alike, so that their addresses are the same (16 % of the taught answers, conv 100 %); "
            "use conv"
        )
    if config.tokenizer.pretrained is not None:
        for field, mark in chat_marks(config.tokenizer).items():
            warnings.append(
                f"tokenizer.{field}: documents are marked with {mark}, the mark of a chat role, "
                "which the model never saw around plain text; set tokenizer.begin and "
                "tokenizer.end as `tandem init --model` does"
            )
    return {"parameters": size.num_parameters, **chosen}, warnings


def fit_lines(fitted: Mapping[str, Any]) -> list[str]:
    """The values in lines, by section."""
    if not fitted:
        return []
    sections: dict[str, list[str]] = {}
    for key in FITTED:
        value = fitted[key]
        section, _, name = key.partition(".")
        shown = f"{value:g}" if isinstance(value, float) else str(value)
        sections.setdefault(section, []).append(f"{name} {shown}")
    heading = f"the model has about {count(fitted['parameters'])} parameters; with it"
    return [f"{heading} {section}: {', '.join(parts)}" for section, parts in sections.items()]
