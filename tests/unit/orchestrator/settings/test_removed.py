"""Settings that are gone: refused where somebody writes them, left out where a run kept them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from actors.wire import ConfigError
from orchestrator.run import refuse_other_run
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.run_dir.saved_config import saved_config
from orchestrator.settings.config import Config, dotted_keys, load_config, make_config
from orchestrator.settings.dotted import nest
from orchestrator.settings.file_names import CONFIG
from orchestrator.settings.removed import REMOVED, without_removed

CORPUS = {"corpus": {"paths": ["text.txt"]}}


def kept_by_an_earlier_version(folder: Path, **losses: Any) -> tuple[RunDir, Config]:
    """A run's directory whose config has settings that are gone, and the config without them."""
    config = make_config({**CORPUS, "name": folder.name, "storage": str(folder.parent)})
    values = config.model_dump(mode="json", by_alias=True)
    values["losses"] |= losses
    values["memory"] |= {"sync_frac": 0.25}
    run_dir = RunDir(str(folder))
    run_dir.write(CONFIG, yaml.safe_dump(values))
    return run_dir, saved_config(run_dir)


def test_no_setting_that_is_gone_is_a_setting() -> None:
    assert not REMOVED.keys() & set(dotted_keys())


@pytest.mark.parametrize("key", REMOVED)
def test_a_config_that_names_one_is_told_that_it_is_gone_and_why(key: str) -> None:
    with pytest.raises(ConfigError) as raised:
        make_config({**CORPUS, **nest(key, 0.5)})
    assert str(raised.value) == f"config: {key} was removed: {REMOVED[key].why}; delete it"


def test_an_override_that_names_one_is_told_so_too(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(yaml.safe_dump(CORPUS))
    with pytest.raises(ConfigError, match=r"^override losses\.sync=0: losses\.sync was removed: "):
        load_config(str(file), ["losses.sync=0"])


def test_what_a_run_kept_is_read_without_them(tmp_path: Path) -> None:
    run_dir, config = kept_by_an_earlier_version(tmp_path / "old", sync=0.5)
    assert config.name == "old"
    assert load_config(run_dir.path(CONFIG), kept=True) == config
    with pytest.raises(ConfigError, match=r"losses\.sync was removed"):
        load_config(run_dir.path(CONFIG))


def test_a_run_that_trained_by_one_can_not_go_on(tmp_path: Path) -> None:
    run_dir, config = kept_by_an_earlier_version(tmp_path / "old", sync=0.5)
    with pytest.raises(ConfigError, match=r"earlier version of tandem with losses\.sync 0\.5") as e:
        refuse_other_run(run_dir, config)
    assert "resume it with the version that began it" in str(e.value)


def test_a_run_in_which_they_did_nothing_goes_on(tmp_path: Path) -> None:
    run_dir, config = kept_by_an_earlier_version(tmp_path / "old", sync=0.0)
    refuse_other_run(run_dir, config)


def test_taking_them_out_leaves_the_given_values_as_they_were() -> None:
    given = {"losses": {"sync": 0.5, "own": 1.0}, "memory": {"sync_frac": 0.1}}
    assert without_removed(given) == (
        {"losses": {"own": 1.0}, "memory": {}},
        {"losses.sync": 0.5},
    )
    assert given["losses"] == {"sync": 0.5, "own": 1.0}
    assert without_removed({"losses": None}) == ({"losses": None}, {})
