from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from actors.settings.fields import Mark, only_with, settings_of
from actors.wire import ConfigError
from jobs.init import EXAMPLES, WIDTH, config_text, kinds, run_init
from orchestrator.console import Console
from orchestrator.settings.config import Config, load_config
from orchestrator.settings.dotted import leaves

QUIET = Console(quiet=True)


def example(kind: str) -> Config:
    return load_config(str(EXAMPLES / f"{kind}.yaml"))


def written(folder: Path, kind: str, everything: bool = False) -> Config:
    run_init(str(folder / "mine.yaml"), kind, everything, False, QUIET)
    return load_config(str(folder / "mine.yaml"))


def corpus_apart(config: Config) -> dict[str, Any]:
    """Everything but the files, which are found beside each config."""
    values = config.model_dump()
    for name in ("paths", "templates"):
        values["corpus"].pop(name)
    return values


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("kind", kinds())
def test_the_file_loads_and_says_what_the_example_of_its_kind_says(
    kind: str, everything: bool, tmp_path: Path
) -> None:
    assert corpus_apart(written(tmp_path, kind, everything)) == corpus_apart(example(kind))


@pytest.mark.parametrize("kind", kinds())
def test_every_value_in_the_file_is_the_one_in_force(kind: str, tmp_path: Path) -> None:
    in_force = dict(leaves(written(tmp_path, kind).model_dump(mode="json", by_alias=True)))
    stated = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    for key, value in leaves(stated):
        if key not in ("corpus.paths", "corpus.templates"):
            assert in_force[key] == value, key


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    assert written(tmp_path, "text").corpus.paths == (f"{tmp_path}/corpus.txt",)


@pytest.mark.parametrize("kind", kinds())
def test_with_all_every_field_that_concerns_the_kind_is_there(kind: str) -> None:
    text = config_text(kind, everything=True)
    stated = {key for key, _ in leaves(yaml.safe_load(text))}
    of_the_other = set()
    for setting in settings_of(Config):
        key, where = setting.key, only_with(setting.field)
        if where and where.key == "corpus.kind" and where.value != kind:
            of_the_other.add(key)
            assert key not in stated
        else:
            assert any(s == key or s.startswith(f"{key}.") for s in stated), key
    assert of_the_other


def test_what_is_rarely_changed_is_written_only_when_asked_for() -> None:
    def stated(everything: bool) -> set[str]:
        return {
            key for key, _ in leaves(yaml.safe_load(config_text("text", everything=everything)))
        }

    rare = {setting.key for setting in settings_of(Config) if Mark.ADVANCED in setting.marks}
    assert stated(True) - stated(False) == rare
    assert not stated(False) & rare


def test_every_field_has_its_meaning_above_it() -> None:
    lines = config_text("text").splitlines()
    for above, line in pairwise(lines):
        at = line.lstrip()
        inside_fields = line.startswith("      ")
        if at and not at.startswith("#") and not inside_fields:
            assert above.lstrip().startswith("#"), line


def test_a_value_other_than_the_default_states_the_default() -> None:
    lines = config_text("text").splitlines()
    assert lines[lines.index("intervals: 60") - 1].endswith("Default: 40.")


def test_no_line_is_too_long() -> None:
    assert max(map(len, config_text("facts", everything=True).splitlines())) <= WIDTH


def test_a_file_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    there = tmp_path / "mine.yaml"
    there.write_text("mine")
    with pytest.raises(ConfigError, match="exists already; --force replaces it"):
        run_init(str(there), "text", False, False, QUIET)
    assert there.read_text() == "mine"
    run_init(str(there), "text", False, True, QUIET)
    assert "corpus:" in there.read_text()


def test_a_folder_is_never_replaced(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="choose another path"):
        run_init(str(tmp_path), "text", False, True, QUIET)


def test_a_place_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be written"):
        run_init(str(tmp_path / "none" / "mine.yaml"), "text", False, False, QUIET)


def test_an_unknown_kind_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected one of text, facts"):
        run_init(str(tmp_path / "mine.yaml"), "poems", False, False, QUIET)


def test_commands_to_copy_hold_the_path_as_a_shell_needs_it(tmp_path: Path) -> None:
    out, path = io.StringIO(), str(tmp_path / "my run [v1].yaml")
    run_init(path, "text", everything=False, force=False, console=Console(file=out, width=400))
    assert f"  tandem train '{path}'\n" in out.getvalue()
    assert f"#   tandem train '{path}'  " in Path(path).read_text(encoding="utf-8")
