"""What is said of YAML that people mistyped."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.wire import ConfigError
from orchestrator.settings.config import load_config
from orchestrator.settings.yaml_file import parse_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("intervals: 3\nseed: 1\nintervals: 4\n", "intervals"),
        ("data: {optimizer: {lr: 1, lr: 2}}\n", "lr"),
        ("data: {seed: 1}\n'data': {seed: 2}\n", "data"),
    ],
)
def test_a_key_that_is_there_twice_is_refused_with_both_places(text: str, key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} is there twice(.|\n)*line (.|\n)*line "):
        parse_yaml(text, "it")


def test_keys_that_another_mapping_gives_may_be_replaced() -> None:
    text = "base: &b {x: 1, y: 2}\nmore: &m {z: 0}\nit:\n  <<: *b\n  x: 3\n"
    assert parse_yaml(text, "it")["it"] == {"x": 3, "y": 2}


@pytest.mark.parametrize("text", ["\n", "# nothing but this\n", "---\n"])
def test_a_config_with_nothing_in_it_is_said_to_hold_nothing(text: str) -> None:
    with pytest.raises(ConfigError, match="expected keys and values, got nothing"):
        parse_yaml(text, "it")


def test_a_folder_is_no_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder; give the YAML file in it"):
        read_yaml(str(tmp_path))


@pytest.mark.parametrize("override", [".seed=1", "data..batch_size=4", "data.=4", ".=4"])
def test_an_override_with_an_empty_part_in_its_key_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match="expected key=value"):
        load_config({"corpus": {"paths": ["a.txt"]}}, [override])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("name=7", 'name: should be text, got 7; as text it needs quotes: "…"'),
        ("name=yes", 'name: should be text, got True; as text it needs quotes: "…"'),
        ("corpus.paths=a.txt", "a.txt'; a list of one is ["),
    ],
)
def test_how_a_value_is_written_in_yaml_is_said(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config({"corpus": {"paths": ["a.txt"]}}, [override])
    assert message in str(raised.value)


@pytest.mark.parametrize("storage", ["$HOME/runs", "${HOME}/runs", "s3://bucket/${USER}"])
def test_a_variable_in_a_config_is_refused_and_makes_no_folder(storage: str) -> None:
    with pytest.raises(ConfigError, match="is a variable, which a config does not replace"):
        load_config({"corpus": {"paths": ["a.txt"]}, "storage": storage})


def test_a_dollar_inside_a_name_is_no_variable() -> None:
    assert load_config({"corpus": {"paths": ["a"]}, "storage": "a$b/c$"}).storage == "a$b/c$"
