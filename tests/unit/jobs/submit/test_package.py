from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from actors.wire import ConfigError
from jobs.submit.package import MIB, PackageFile, check_size, code_entries, pack, text_entry


def fill(root: Path, *names: str, size: int = 1) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)


def names_of(folder: Path) -> set[str]:
    return {entry.name for entry in code_entries(str(folder))}


def test_without_a_folder_the_installed_packages_are_sent_and_nothing_else() -> None:
    names = {entry.name for entry in code_entries(None)}
    assert {
        "jobs/cli.py",
        "actors/settings/run.py",
        "orchestrator/run.py",
        "jobs/configs/text.yaml",
    } <= names
    assert {name.partition("/")[0] for name in names} == {"actors", "orchestrator", "jobs"}
    assert not [name for name in names if "__pycache__" in name]


def test_a_folder_is_sent_without_runs_data_caches_environments_and_history(tmp_path: Path) -> None:
    checkout = [f"{name}/__init__.py" for name in ("actors", "orchestrator", "jobs")]
    left_out = [".git/config", ".venv/bin/python", "runs/a/x", "data/big", ".mypy_cache/x", ".env"]
    left_out += ["jobs/__pycache__/x.pyc", "tandem.egg-info/PKG-INFO", "build/x", "wandb/x"]
    fill(tmp_path, *checkout, *left_out, "mine.py", "mine/data/table.json")
    assert names_of(tmp_path) == {*checkout, "mine.py", "mine/data/table.json"}


def test_a_folder_without_our_packages_gets_the_installed_ones(tmp_path: Path) -> None:
    fill(tmp_path, "mine.py")
    assert {"mine.py", "jobs/cli.py"} <= names_of(tmp_path)


def test_a_folder_with_some_of_our_packages_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, "jobs/__init__.py")
    with pytest.raises(ConfigError, match="has no package actors, orchestrator; expected all"):
        code_entries(str(tmp_path))


def test_a_folder_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        code_entries("/nowhere")


def test_what_is_too_big_is_refused_with_the_biggest_paths(tmp_path: Path) -> None:
    fill(tmp_path, "corpus/huge.jsonl", size=3 * MIB)
    fill(tmp_path, "small.py")
    entries = code_entries(str(tmp_path))
    with pytest.raises(ConfigError, match=r"more than the 2 MiB of --max-package-mib") as caught:
        check_size(entries, 2)
    first = str(caught.value).splitlines()[1]
    assert first.split() == ["3.0", "MiB", f"{tmp_path}/corpus/huge.jsonl"]


def test_a_package_has_the_same_bytes_whatever_the_order_and_the_time(tmp_path: Path) -> None:
    fill(tmp_path, "a.py", "b.py")
    entries = [PackageFile("a.py", 1, tmp_path / "a.py"), text_entry("config.yaml", "seed: 1\n")]
    first = pack(entries)
    (tmp_path / "a.py").touch()
    assert pack(entries[::-1]) == first
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        assert archive.namelist() == ["a.py", "tandem_job/config.yaml"]
        assert archive.read("tandem_job/config.yaml") == b"seed: 1\n"


def test_folders_and_files_behind_links_are_part_of_a_program(tmp_path: Path) -> None:
    fill(tmp_path, "elsewhere/deep/b.py", "mine/a.py", "top/data/x")
    mine = tmp_path / "mine"
    (mine / "linked").symlink_to("../elsewhere")
    (mine / "c.py").symlink_to("../elsewhere/deep/b.py")
    (mine / "round").symlink_to(".")
    (mine / "data").symlink_to("../top/data")
    (mine / ".#a.py").symlink_to("somebody@host")
    names = {n for n in names_of(mine) if n.partition("/")[0] not in ("actors", "jobs")}
    assert {n for n in names if not n.startswith("orchestrator/")} == {
        "a.py",
        "c.py",
        "linked/deep/b.py",
    }


def test_a_link_to_nothing_in_a_program_is_named(tmp_path: Path) -> None:
    fill(tmp_path, "a.py")
    (tmp_path / "b.py").symlink_to("gone.py")
    with pytest.raises(ConfigError, match=r"b\.py: a link to gone\.py, which does not exist"):
        code_entries(str(tmp_path))
