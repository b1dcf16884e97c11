"""The config that a run or a search keeps in its directory."""

from __future__ import annotations

from actors.wire import ConfigError
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.settings.config import Config, make_config
from orchestrator.settings.config_paths import anchor_paths, folder_of
from orchestrator.settings.file_names import CONFIG
from orchestrator.settings.removed import without_removed
from orchestrator.settings.yaml_file import parse_yaml


def saved_config(place: RunDir, name: str = CONFIG, goes_on: bool = False) -> Config:
    """The config that a run or a search keeps, read as patiently as `place` reads; settings that
    were removed since are left out.

    Args:
        place: its directory.
        name: of the file.
        goes_on: the run is to go on, which it can't where it trained by such settings: its weights
            would no longer be those of its config.

    Raises: ConfigError as `load_config`, and where the run can't go on.
    """
    source = place.path(name)
    raw, counted = without_removed(parse_yaml(place.read(name), source))
    if goes_on and counted:
        said = ", ".join(f"{key} {value!r}" for key, value in counted.items())
        raise ConfigError(
            f"run {place.url} was begun by an earlier version of tandem with {said}, which this "
            "version has no more, so that it can't go on as it began; resume it with the version "
            "that began it, or train its config without that under another name=…"
        )
    anchor_paths(raw, folder_of(source))
    return make_config(raw, source)


def config_at(config: Config, out: RunDir) -> Config:
    """A run's config for a run at `out`. Raises: ConfigError: its name is not valid for a run."""
    storage, _, name = out.url.rpartition("/")
    values = config.model_dump(mode="json", by_alias=True)
    return make_config({**values, "name": name, "storage": storage or "."}, source=f"--out {name}")
