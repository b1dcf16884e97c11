from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from fsspec.implementations.local import LocalFileSystem

from actors.wire import ConfigError, StorageError
from orchestrator.errors import RunExistsError
from orchestrator.run_dir.run_dir import RunDir, find_export
from orchestrator.settings.file_names import resume_command


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(f"{tmp_path}/runs/one")


def test_what_is_written_can_be_read(run_dir: RunDir) -> None:
    run_dir.write("notes.txt", "grüße\n")
    assert run_dir.read("notes.txt") == "grüße\n"


def test_bytes_are_written_as_they_are(run_dir: RunDir, tmp_path: Path) -> None:
    run_dir.write("b.bin", b"\x00\xff\r\n")
    assert (tmp_path / "runs/one/b.bin").read_bytes() == b"\x00\xff\r\n"


def test_a_file_is_replaced_whole_and_leaves_nothing_beside_it(
    run_dir: RunDir, tmp_path: Path
) -> None:
    run_dir.write("summary.json", "a long first version")
    run_dir.write("summary.json", "second")
    files = {path.name: path.read_text() for path in (tmp_path / "runs/one").iterdir()}
    assert files == {"summary.json": "second"}


def test_a_write_that_breaks_off_leaves_the_file_as_it_was(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir.write("summary.json", "first")
    pipe_file = run_dir._fs.pipe_file

    def breaks_off(path: str, data: bytes, **options: Any) -> None:
        pipe_file(path, data[:3], **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_dir._fs, "pipe_file", breaks_off)
    with pytest.raises(StorageError, match=r"summary.json: can't be written: .*No space left"):
        run_dir.write("summary.json", "second")
    assert run_dir.read("summary.json") == "first"
    assert [*run_dir.list_files("")] == ["summary.json"]  # on a full disk leftovers would stay


def test_json_is_readable_by_people_and_keeps_their_letters(run_dir: RunDir) -> None:
    run_dir.write_json("s.json", {"name": "Zürich", "n": 1})
    text = run_dir.read("s.json")
    assert json.loads(text) == {"name": "Zürich", "n": 1}
    assert "Zürich" in text
    assert text.endswith("}\n")


def test_a_new_run_is_not_refused_and_makes_no_directory(run_dir: RunDir, tmp_path: Path) -> None:
    run_dir.refuse_existing()
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_there_is_refused_by_name(run_dir: RunDir) -> None:
    run_dir.write("config.yaml", "")
    with pytest.raises(RunExistsError, match=r"runs/one exists already; .* tandem resume .*/one$"):
        run_dir.refuse_existing()
    run_dir.write_json("summary.json", {"status": "interrupted"})
    with pytest.raises(RunExistsError, match=r"or go on with it where it was interrupted"):
        run_dir.refuse_existing()
    run_dir.write_json("summary.json", {"status": "finished"})
    with pytest.raises(RunExistsError, match=r"or remove it if it is not needed$"):
        run_dir.refuse_existing()


def test_a_place_where_no_directory_can_be_made_is_refused_before_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    RunDir(f"{tmp_path}/runs/deep/one").refuse_existing()
    with pytest.raises(ConfigError, match=r"one: can't be made, .*/file is no folder; choose"):
        RunDir(f"{tmp_path}/file/runs/one").refuse_existing()
    monkeypatch.setattr("os.access", lambda place, mode: Path(place) != tmp_path)
    with pytest.raises(ConfigError, match=r"is a folder that can't be written; choose another"):
        RunDir(f"{tmp_path}/runs/one").refuse_existing()


def test_storage_that_can_not_be_written_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"can't be written: .*; choose another storage="):
        RunDir(f"{tmp_path}/file/run").write("config.yaml", "")


def test_storage_of_an_unknown_kind_is_the_users_mistake() -> None:
    with pytest.raises(ConfigError, match="storage nosuch://a/b"):
        RunDir("nosuch://a/b")


def test_a_file_that_is_not_there_asks_whether_this_is_a_run(run_dir: RunDir) -> None:
    with pytest.raises(
        ConfigError, match=r"summary.json: can't be read: no such .*directory of a run\?"
    ):
        run_dir.read("summary.json")


def test_a_mistyped_run_names_the_nearest(run_dir: RunDir) -> None:
    run_dir.write("config.yaml", "")
    mistyped = RunDir(f"{run_dir.url}n")
    with pytest.raises(ConfigError, match=rf"no such file; did you mean {run_dir.url}\?$"):
        mistyped.read("summary.json")
    with pytest.raises(ConfigError, match=rf"neither a run .*; did you mean {run_dir.url}\?$"):
        find_export(mistyped.url)
    with pytest.raises(ConfigError, match=r"neither a run .*; give a run directory"):
        find_export(f"{run_dir.url}/elsewhere/quite")


def test_storage_may_be_any_fsspec_url() -> None:
    run_dir = RunDir(f"memory://{uuid4()}/run")
    run_dir.refuse_existing()
    run_dir.write("a.txt", "1")
    run_dir.write("a.txt", "2")
    assert run_dir.read("a.txt") == "2"
    with pytest.raises(RunExistsError):
        run_dir.refuse_existing()


def test_local_files_are_copied_in(run_dir: RunDir, tmp_path: Path) -> None:
    (tmp_path / "local").write_text("events")
    run_dir.upload(str(tmp_path / "local"), "events/e.1")
    assert run_dir.exists("events/e.1")
    assert run_dir.read("events/e.1") == "events"


def test_a_trailing_slash_names_the_same_run(tmp_path: Path) -> None:
    assert RunDir(f"{tmp_path}/one/").path("x") == f"{tmp_path}/one/x"


@pytest.mark.parametrize("given", ["one", "one/", "one/export"])
def test_the_export_of_a_run_is_found(run_dir: RunDir, tmp_path: Path, given: str) -> None:
    run_dir.write("config.yaml", "")
    run_dir.write("export/export.json", "{}")
    assert find_export(f"{tmp_path}/runs/{given}") == f"{tmp_path}/runs/one/export"
    assert find_export(tmp_path / "runs" / given) == f"{tmp_path}/runs/one/export"


def test_an_export_on_any_storage_is_found() -> None:
    url = f"memory://{uuid4().hex}"
    RunDir(url).write("export/export.json", "{}")
    assert find_export(url) == f"{url}/export"


@pytest.mark.parametrize("made", [True, False])
def test_a_place_that_is_no_run_is_refused(tmp_path: Path, made: bool) -> None:
    folder = tmp_path / "here"
    if made:
        folder.mkdir()
    with pytest.raises(ConfigError, match=r"here: neither a run .* nor an export"):
        find_export(folder)


def test_a_run_that_has_not_ended_is_refused(run_dir: RunDir) -> None:
    run_dir.write("config.yaml", "")
    with pytest.raises(ConfigError, match=r"no finished export .* it has not ended yet"):
        find_export(run_dir.url)


def test_a_run_that_failed_is_refused_with_its_cause(run_dir: RunDir) -> None:
    run_dir.write("config.yaml", "")
    run_dir.write_json("summary.json", {"status": "failed", "cause": "loss is nan at step 7"})
    with pytest.raises(ConfigError, match="it ended as failed: loss is nan at step 7"):
        find_export(run_dir.url)


def test_a_storage_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="storage nowhere://run"):
        find_export("nowhere://run")


def test_a_place_that_can_not_be_read_is_refused(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> bool:
        raise PermissionError("not yours")

    monkeypatch.setattr(LocalFileSystem, "exists", refuse)
    with pytest.raises(ConfigError, match="can't be read: not yours"):
        find_export(run_dir.url)


def test_the_marker_is_the_one_that_an_export_ends_with() -> None:
    from actors.weights.pair_export import MARKER
    from orchestrator.settings.file_names import EXPORT_MARKER

    assert EXPORT_MARKER == MARKER


def test_storage_that_is_away_is_tried_again_and_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.run_dir.run_dir.RETRY_S", 0.01)
    told: list[str] = []
    run_dir = RunDir(str(tmp_path / "one"), warn=told.append)
    pipe_file, tries = run_dir._fs.pipe_file, []

    def away(path: str, data: bytes, **options: Any) -> None:
        tries.append(path)
        if len(tries) < 4:
            raise RuntimeError("a client's own error")
        pipe_file(path, data, **options)

    monkeypatch.setattr(run_dir._fs, "pipe_file", away)
    run_dir.write("summary.json", "whole", patience_s=60.0)
    assert run_dir.read("summary.json") == "whole"
    assert len(tries) == 4
    (message,) = told
    assert "a client's own error" in message
    assert "it is tried again for 60 s" in message


def test_storage_that_stays_away_is_an_error_in_the_end(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.run_dir.run_dir.RETRY_S", 0.01)
    tries = []

    def away(path: str, data: bytes, **options: Any) -> None:
        tries.append(path)
        raise OSError("gone")

    monkeypatch.setattr(run_dir._fs, "pipe_file", away)
    with pytest.raises(StorageError, match=r"summary.json: can't be written: gone"):
        run_dir.write("summary.json", "whole")
    assert len(tries) == 1  # a local disk is never away
    with pytest.raises(StorageError, match=r"summary.json: can't be written: gone"):
        run_dir.write("summary.json", "whole", patience_s=0.05)
    assert len(tries) > 2


def test_the_command_that_goes_on_with_a_run() -> None:
    assert resume_command("/runs/one") == "tandem resume /runs/one"
    quoted = "tandem resume '/my runs [v1]/one'"
    assert resume_command("/my runs [v1]/one") == quoted
    assert resume_command("/runs/one", in_process=True) == "tandem resume /runs/one --in-process"


def test_files_are_listed_with_their_bytes_and_without_folders(tmp_path: Path) -> None:
    run_dir = RunDir(str(tmp_path / "run"))
    assert run_dir.list_files("box") == {}
    run_dir.write("box/a.json", "12345")
    run_dir.write("box/inner/b.json", "")
    assert run_dir.list_files("box") == {"a.json": 5}
    assert run_dir.list_folders("box") == ["inner"]
    assert run_dir.list_folders() == ["box"]


@pytest.mark.parametrize("root", ["memory://strange/runs [v1]", "{folder}/a::b [v1]", "{folder}/*"])
def test_a_run_whose_name_could_be_a_pattern_is_kept_as_any_other(
    tmp_path: Path, root: str
) -> None:
    url = root.format(folder=tmp_path)
    run, other = RunDir(f"{url}/one"), RunDir(f"{url.replace('[v1]', 'v')}/one")
    for place in (other, run):
        place.write("checkpoints/0001/a", "first")
        place.write("checkpoints/0001/a", "second")
    assert run.read("checkpoints/0001/a") == "second"
    assert run.list_folders("checkpoints") == ["0001"]
    run.remove("checkpoints/0001")
    assert not run.exists("checkpoints/0001/a")
    assert other.exists("checkpoints/0001/a") is (other.url != run.url)


def test_runs_behind_links_are_listed_as_folders(tmp_path: Path) -> None:
    RunDir(f"{tmp_path}/elsewhere/old").write("config.yaml", "name: old")
    RunDir(f"{tmp_path}/runs/new").write("config.yaml", "name: new")
    (tmp_path / "runs/old").symlink_to("../elsewhere/old")
    (tmp_path / "runs/gone").symlink_to("../elsewhere/gone")
    (tmp_path / "runs/notes.txt").symlink_to("../elsewhere/old/config.yaml")
    runs = RunDir(f"{tmp_path}/runs")
    assert runs.list_folders() == ["new", "old"]
    assert runs.list_files("") == {"gone": 0, "notes.txt": 9}
