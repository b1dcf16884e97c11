"""What a run's directory says of the pair that it made: the figures of a model card.

Names of files only, no paths: a card is read by others.
"""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any

from actors.wire import ConfigError
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.run_dir.saved_config import saved_config
from orchestrator.settings.config import Config
from orchestrator.settings.file_names import CONFIG, SUMMARY

FIGURES = (
    *("name", "seed", "status", "heldout", "before", "accuracy", "accuracy_seen", "num_probes"),
    *("digest", "reflects_final_verdict", "reflects_final_reason", "learned_from"),
)
QUESTIONS = 3  # of those that the run asked at its end


def origin_of(run: str) -> dict[str, Any]:
    """Where a run's pair comes from; nothing where `run` is an export alone.

    Raises:
        StorageError: its storage is away.
    """
    run_dir = RunDir(run)
    if not (run_dir.exists(SUMMARY) and run_dir.exists(CONFIG)):
        return {}
    summary = json.loads(run_dir.read(SUMMARY))
    found = {key: summary[key] for key in FIGURES if summary.get(key) is not None}
    for group in ("data", "memory"):
        if isinstance(summary.get(group), dict):
            counted = {key: summary[group].get(key) for key in ("steps", "tokens")}
            found[group] = {key: value for key, value in counted.items() if value is not None}
    found["questions"] = (summary.get("questions") or [])[:QUESTIONS]
    try:
        return found | _of_config(saved_config(run_dir))
    except ConfigError:  # of another version; the figures are what they are
        return found


def _of_config(config: Config) -> dict[str, Any]:
    layer = config.data.layer
    names = [PurePosixPath(str(path)).name for path in config.corpus.paths]
    found: dict[str, Any] = {"corpus": {"kind": config.corpus.kind, "names": names}}
    if layer.pretrained is not None:
        is_hub = layer.pretrained.count("/") == 1 and "://" not in layer.pretrained
        found["pretrained"] = layer.pretrained if is_hub else PurePosixPath(layer.pretrained).name
        found["train"] = layer.train if isinstance(layer.train, str) else list(layer.train)
    return found
