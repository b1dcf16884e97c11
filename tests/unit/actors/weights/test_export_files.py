"""Finding exports, and reading what their parts say of themselves."""

from __future__ import annotations

import json
import os
from pathlib import Path

import fsspec
import pytest

from actors.weights.export_files import (
    describe_memory,
    describe_port,
    export_at,
    export_errors,
    local_copy,
)
from actors.wire import ConfigError


def test_an_export_is_found_at_itself_and_in_its_run(tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "export.json").write_text(json.dumps({"format": 2}))
    want = str(tmp_path / "export")
    assert [export_at(str(tmp_path)), export_at(want), export_at(want + "/")] == [want] * 3


def test_a_checkpoint_and_a_hub_name_are_no_exports(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    assert export_at(str(tmp_path)) is None
    assert export_at("owner/model") is None


def test_a_run_without_an_export_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    with pytest.raises(ConfigError, match="has written no export"):
        export_at(str(tmp_path))


def test_a_place_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"can't be read: .*; give a run's directory"):
        export_at("nowhere://bucket/run")


def test_a_local_directory_is_read_where_it_is(tmp_path: Path) -> None:
    with local_copy(str(tmp_path)) as folder:
        assert folder == tmp_path


@pytest.mark.parametrize("name", ["export.json", "memory_port/port.json"])
def test_a_pipe_in_an_export_is_refused_and_not_waited_for(tmp_path: Path, name: str) -> None:
    (tmp_path / "memory_port").mkdir()
    os.mkfifo(tmp_path / name)
    for parts in (("",), (name,), ("export.json", "memory_port")):
        with (
            pytest.raises(ConfigError, match=rf"{name} is a pipe, expected a file"),
            local_copy(str(tmp_path), parts),
        ):
            pass


def test_any_other_directory_is_copied() -> None:
    with fsspec.open("memory://exports-test/deep/file.json", "wt") as handle:
        handle.write("{}")
    with local_copy("memory://exports-test") as folder:
        assert (folder / "deep" / "file.json").read_text() == "{}"


def test_only_the_parts_that_are_needed_are_copied() -> None:
    for name in ("marker.json", "port/port.json", "port/port.weights", "model/weights"):
        with fsspec.open(f"memory://parts-test/{name}", "wt") as handle:
            handle.write(name)
    with local_copy("memory://parts-test", ("marker.json", "port", "gone.json")) as folder:
        copied = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert copied == {"marker.json", "port/port.json", "port/port.weights"}


def test_a_memory_exported_before_there_were_copies_has_none(tmp_path: Path) -> None:
    (tmp_path / "memory_layer").mkdir()
    (tmp_path / "memory_layer" / "memory.json").write_text(
        '{"format": 1, "layer": {"dim": 16}, "vocab_rows": 70, "num_tokens": 60}'
    )
    found = describe_memory(tmp_path)
    assert (found.spec.dim, found.vocab_rows, found.num_tokens, found.copied) == (16, 70, 60, None)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"read_layers": 3, "memory_dim": 1}'])
def test_a_damaged_description_is_explained(tmp_path: Path, text: str) -> None:
    (tmp_path / "memory_port").mkdir()
    (tmp_path / "memory_port" / "port.json").write_text(text)
    with pytest.raises(ConfigError, match="DIR: the export can't be loaded"), export_errors("DIR"):
        describe_port(tmp_path)


def test_an_error_with_words_of_its_own_keeps_them() -> None:
    with pytest.raises(ConfigError, match=r"^mine$"), export_errors("DIR"):
        raise ConfigError("mine")
