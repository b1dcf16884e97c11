"""The config that a run or a search keeps in its directory."""

from __future__ import annotations

from typing import Any

from actors.wire import ConfigError
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.settings.config import Config, make_config
from orchestrator.settings.config_paths import anchor_paths, folder_of
from orchestrator.settings.file_names import CONFIG
from orchestrator.settings.removed import without_removed
from orchestrator.settings.yaml_file import parse_yaml


def saved_config(place: RunDir, name: str = CONFIG) -> Config:
    """The config that a run or a search keeps, read as patiently as `place` reads; settings that
    were removed since are left out.

    Raises: ConfigError as `load_config`.
    """
    source = place.path(name)
    raw, _ = without_removed(_kept(place, name))
    anchor_paths(raw, folder_of(source))
    return make_config(raw, source)


def refuse_removed(place: RunDir) -> None:
    """Raises: ConfigError where a run that would go on has trained by settings that were removed
    since: its weights would no longer be those of its config.
    """
    if counted := without_removed(_kept(place, CONFIG))[1]:
        said = ", ".join(f"{key} {value!r}" for key, value in counted.items())
        raise ConfigError(
            f"run {place.url} was begun by an earlier version of tandem with {said}, which this "
            "version has no more, so that it can't go on as it began; resume it with the version "
            "that began it, or train its config without that under another name=…"
        )


def _kept(place: RunDir, name: str) -> dict[str, Any]:
    return parse_yaml(place.read(name), place.path(name))
