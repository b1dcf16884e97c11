"""The config that a run or a search keeps in its directory."""

from __future__ import annotations

from orchestrator.run_dir.run_dir import RunDir
from orchestrator.settings.config import Config, make_config
from orchestrator.settings.config_paths import anchor_paths, folder_of
from orchestrator.settings.file_names import CONFIG
from orchestrator.settings.yaml_file import parse_yaml


def saved_config(place: RunDir, name: str = CONFIG) -> Config:
    """The config that a run or a search keeps, read as patiently as `place` reads.

    Raises: ConfigError as `load_config`.
    """
    source = place.path(name)
    raw = parse_yaml(place.read(name), source)
    anchor_paths(raw, folder_of(source))
    return make_config(raw, source)
