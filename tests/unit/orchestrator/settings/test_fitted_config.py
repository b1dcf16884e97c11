"""Settings that were left unset beside a pretrained data layer, filled in from its config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from actors.settings.fitted import FITTED
from actors.wire import ConfigError
from orchestrator.settings.config import Config, load_config, make_config
from orchestrator.settings.dotted import pick
from orchestrator.settings.fitted_config import fit_config, model_at
from tests.unit.actors.settings.test_fitted import SMOL

DEFAULTS = make_config({"corpus": {"paths": ["a"]}})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with the config.json of a model of 135 M parameters."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(SMOL))
    return tmp_path / "model"


def values(pretrained: object, **data: Any) -> dict[str, Any]:
    layer = {"pretrained": pretrained, **data.pop("layer", {})}
    return {"corpus": {"paths": ["a"]}, "data": {"layer": layer, **data}}


def of(config: Config, key: str) -> object:
    return pick(config.model_dump(by_alias=True), key)


def test_a_fresh_model_keeps_every_default() -> None:
    raw = {"corpus": {"paths": ["a"]}, "data": {"layer": {"model_type": "gpt2"}}}
    assert fit_config(raw) == raw


def test_what_is_unset_beside_a_model_is_filled_in_and_written_down(model: Path) -> None:
    config = make_config(values(str(model)))
    assert config.data.layer.read_layers == (10, 20)
    assert config.data.optimizer.lr == 3e-5
    assert "lr: 3.0e-05" in config.to_yaml()
    changed = [key for key in FITTED if of(config, key) != of(DEFAULTS, key)]
    assert {"memory.layer.dim", "data.batch_size", "memory.optimizer.weight_decay"} <= {*changed}


def test_what_was_set_stays(model: Path) -> None:
    given = values(str(model), optimizer={"lr": 1e-3}, layer={"read_layers": [3]})
    config = make_config(given)
    assert (config.data.optimizer.lr, config.data.layer.read_layers) == (1e-3, (3,))
    assert given == values(str(model), optimizer={"lr": 1e-3}, layer={"read_layers": [3]})


def test_null_is_as_good_as_unset(model: Path, tmp_path: Path) -> None:
    config = make_config(values(str(model), optimizer={"lr": None}, batch_size=None))
    assert (config.data.optimizer.lr, config.data.batch_size) == (3e-5, 8)
    fresh = tmp_path / "fresh.yaml"
    fresh.write_text("corpus: {paths: [a]}\ndata: {batch_size: null}\n")
    assert load_config(str(fresh)).data.batch_size == DEFAULTS.data.batch_size


def test_a_resolved_config_is_read_again_without_its_model(model: Path) -> None:
    config = make_config(values(str(model)))
    (model / "config.json").unlink()
    again = make_config(config.model_dump(mode="json", by_alias=True))
    assert again == config


def test_a_relative_folder_is_found_beside_the_file(model: Path) -> None:
    path = model.parent / "run.yaml"
    path.write_text("corpus: {paths: [a]}\ndata: {layer: {pretrained: model}}\n")
    assert load_config(str(path)).data.optimizer.lr == 3e-5


@pytest.mark.parametrize("text", [None, "no json", "[1]", "{}"])
def test_a_folder_without_a_config_of_a_model_is_left_to_the_checks_of_the_start(
    model: Path, text: str | None
) -> None:
    if text is None:
        (model / "config.json").unlink()
    else:
        (model / "config.json").write_text(text)
    assert make_config(values(str(model))).data.optimizer.lr == DEFAULTS.data.optimizer.lr


def test_an_earlier_run_says_where_its_port_reads_and_how_wide(tmp_path: Path) -> None:
    export = tmp_path / "run" / "export"
    for name, text in (
        ("export.json", {}),
        ("data_layer/config.json", SMOL),
        ("memory_port/port.json", {"read_layers": [4, 7], "memory_dim": 96}),
    ):
        (export / name).parent.mkdir(parents=True, exist_ok=True)
        (export / name).write_text(json.dumps(text))
    for place in (export.parent, export):
        config = make_config(values(str(place)))
        assert (config.data.layer.read_layers, config.memory.layer.dim) == ((4, 7), 96)
        assert config.data.optimizer.lr == 3e-5
    fresh = make_config(values(str(export), layer={"fresh_port": True}))
    assert fresh.data.layer.read_layers == (10, 20)


def test_a_model_on_the_hub_is_read_from_its_cache(
    monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    asked: list[bool] = []

    def download(name: str, file: str, local_files_only: bool = False) -> str:
        asked.append(local_files_only)
        return str(model / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    found = model_at("owner/model")
    assert found is not None
    assert (found[0].num_layers, asked) == (30, [True])


def test_a_model_on_the_hub_that_can_not_be_fetched_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"data\.layer\.pretrained owner/none.*can't be fetched"):
        make_config(values("owner/none"))


@pytest.mark.parametrize(
    "wrong", [{"data": 3}, {"data": {"layer": []}}, {"data": {"optimizer": 1}}]
)
def test_mistakes_are_left_to_validation(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="data"):
        make_config({"corpus": {"paths": ["a"]}, **wrong})
