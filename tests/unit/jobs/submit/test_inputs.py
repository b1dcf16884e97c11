from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from actors.sources.paths import list_files
from actors.wire import ConfigError
from jobs.submit.inputs import ship
from jobs.submit.package import JOB_FOLDER
from jobs.submit.place_inputs import place
from orchestrator.settings.config import Config, load_config

STORAGE = "s3://bucket/runs"


def config_of(folder: Path, **corpus: Any) -> Config:
    """A config whose corpus lies in `folder`."""
    path = folder / "c.yaml"
    path.write_text(json.dumps({"storage": STORAGE, "corpus": {"kind": "text", **corpus}}))
    return load_config(str(path))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "parts").mkdir()
    for name in ("a.txt", "parts/b.txt", "parts/c.txt"):
        (tmp_path / name).write_text(f"content of {name}")
    return tmp_path


def sent(shipment: Any) -> set[str]:
    return {entry.name.removeprefix(f"{JOB_FOLDER}/inputs/")[17:] for entry in shipment.entries}


def test_a_local_file_travels_and_the_config_names_it_in_the_storage(text: Path) -> None:
    shipment = ship(config_of(text, paths=["a.txt"]), (), 100)
    [path] = shipment.config.corpus.paths
    [entry] = shipment.entries
    assert path.startswith(f"{STORAGE}/.inputs/")
    assert path.endswith("/a.txt")
    assert entry.name == f"{JOB_FOLDER}/inputs/" + path.removeprefix(f"{STORAGE}/.inputs/")


def test_folders_and_globs_keep_their_form(text: Path) -> None:
    as_folder = ship(config_of(text, paths=["parts"]), (), 100)
    as_pattern = ship(config_of(text, paths=["parts/*.txt"]), (), 100)
    assert as_folder.config.corpus.paths[0].rpartition("/")[0] == f"{STORAGE}/.inputs"
    assert as_pattern.config.corpus.paths[0].endswith("/*.txt")
    assert sent(as_folder) == sent(as_pattern) == {"b.txt", "c.txt"}


def test_the_same_content_is_laid_down_at_the_same_place_and_other_content_elsewhere(
    text: Path,
) -> None:
    first = ship(config_of(text, paths=["a.txt"]), (), 100).config
    assert ship(config_of(text, paths=["a.txt"]), (), 100).config == first
    (text / "a.txt").write_text("other")
    assert ship(config_of(text, paths=["a.txt"]), (), 100).config != first


def test_what_only_the_cluster_has_stays_and_is_asked_for_there(text: Path) -> None:
    paths = ["s3://bucket/corpus.txt", "/mnt/only/there.txt", str(text / "a.txt")]
    shipment = ship(config_of(text, paths=paths), (str(text),), 100)
    assert list(shipment.config.corpus.paths) == paths
    assert shipment.entries == ()
    assert list(shipment.expected) == paths


def test_files_above_the_limit_are_refused_before_they_are_read(text: Path) -> None:
    with pytest.raises(ConfigError, match=r"--max-package-mib; the largest files:\n.*a\.txt"):
        ship(config_of(text, paths=["a.txt"]), (), 1e-6)


def test_a_storage_of_the_job_folder_is_refused(text: Path) -> None:
    config = config_of(text, paths=["a.txt"]).model_copy(update={"storage": "runs"})
    with pytest.raises(ConfigError, match="storage runs: a job's own folder is removed"):
        ship(config, (), 100)


def test_an_address_of_ray_is_not_sent(text: Path) -> None:
    path = text / "c.yaml"
    path.write_text(json.dumps({"storage": STORAGE, "ray": {"address": "10.0.0.1:6379"},
                                "corpus": {"kind": "text", "paths": ["a.txt"]}}))  # fmt: skip
    assert ship(load_config(str(path)), (), 100).config.ray.address is None


def test_a_local_tokenizer_is_refused_for_a_bucket_and_sent_to_a_file_system(text: Path) -> None:
    (text / "tok").mkdir()
    (text / "tok/tokenizer.json").write_text("{}")
    (text / "tok/chat_template.jinja").write_text("")
    (text / "tok/model.safetensors").write_text("big")
    base = config_of(text, paths=["a.txt"])
    spec = base.tokenizer.model_copy(update={"pretrained": str(text / "tok")})
    config = base.model_copy(update={"tokenizer": spec})
    with pytest.raises(ConfigError, match=r"tokenizer\.pretrained .* is on this machine"):
        ship(config, (), 100)
    shipment = ship(config.model_copy(update={"storage": "/mnt/runs"}), (), 100)
    assert sent(shipment) == {"a.txt", "tokenizer.json", "chat_template.jinja"}


def test_inputs_are_laid_down_once_and_whole(tmp_path: Path) -> None:
    source, storage = tmp_path / "inputs", tmp_path / "storage"
    (source / "abc/sub").mkdir(parents=True)
    (source / "abc/sub/x.txt").write_text("x")
    assert place(str(storage), source) == ["abc"]
    placed = storage / ".inputs/abc/sub/x.txt"
    assert placed.read_text() == "x"
    assert place(str(storage), source) == []
    (storage / ".inputs/abc.whole").unlink()  # an interrupted one is done again
    placed.write_text("hal")
    assert place(str(storage), source) == ["abc"]
    assert placed.read_text() == "x"
    assert not [*storage.rglob("*.part")]


def laid_down(config: Config, tmp_path: Path) -> tuple[Config, list[str]]:
    """The config as it is sent to a shared folder, and the files that its corpus has there."""
    storage = tmp_path / "shared [v1]"
    shipment = ship(config.model_copy(update={"storage": str(storage)}), (), 100)
    package = tmp_path / "package"
    for entry in shipment.entries:
        (package / entry.name).parent.mkdir(parents=True, exist_ok=True)
        (package / entry.name).write_bytes(entry.open().read())
    place(str(storage), package / JOB_FOLDER / "inputs")
    files = list_files(shipment.config.corpus.paths)
    return shipment.config, [file.read(0, file.size).decode() for file in files]


def test_links_travel_as_what_they_lead_to(text: Path) -> None:
    (text / "linked").mkdir()
    (text / "linked/d.txt").symlink_to("../a.txt")
    (text / "linked/more").symlink_to("../parts")
    (text / "linked/more/up").symlink_to(".")
    _, there = laid_down(config_of(text, paths=["linked"]), text)
    assert there == ["content of a.txt", "content of parts/b.txt", "content of parts/c.txt"]


@pytest.mark.parametrize(
    "paths", [["parts"], ["parts/b.txt", "parts/d.txt"], ["parts", "parts/b.txt"]]
)
def test_one_file_under_two_names_is_not_sent_as_two(text: Path, paths: list[str]) -> None:
    (text / "parts/d.txt").symlink_to("b.txt")
    with pytest.raises(ConfigError, match=r"\.txt: (the same file as .*/b\.txt|named twice)"):
        ship(config_of(text, paths=paths), (), 100)


@pytest.mark.parametrize("entry", ["linked", "linked/*", "linked/d.txt"])
def test_a_link_to_nothing_is_named_before_anything_is_sent(text: Path, entry: str) -> None:
    (text / "linked").mkdir()
    (text / "linked/d.txt").symlink_to("../gone")
    with pytest.raises(
        ConfigError, match=r"linked/d\.txt: a link to \.\./gone, which does not exist"
    ):
        ship(config_of(text, paths=[entry]), (), 100)


def test_a_pipe_is_refused_before_anything_is_sent(text: Path) -> None:
    os.mkfifo(text / "pipe.txt")
    with pytest.raises(ConfigError, match=r"pipe\.txt is a pipe, expected a file"):
        ship(config_of(text, paths=["pipe.txt"]), (), 100)


@pytest.mark.parametrize(
    ("entry", "names"),
    [
        ("notes [2024].txt", ["notes [2024].txt"]),
        ("a[1].txt", ["a[1].txt"]),
        ("notes [2]*.txt", ["notes 2.txt"]),
        ("*[[]*.txt", ["a[1].txt", "notes [2024].txt"]),
        ("a::b.txt", ["a::b.txt"]),
        ("*", ["a1.txt", "a::b.txt", "a[1].txt", "notes 2.txt", "notes [2024].txt"]),
    ],
)
def test_names_that_could_be_patterns_mean_the_same_on_the_cluster(
    tmp_path: Path, entry: str, names: list[str]
) -> None:
    folder = tmp_path / "proj [v1]::x" / "data"
    folder.mkdir(parents=True)
    for name in ("a1.txt", "a[1].txt", "a::b.txt", "notes [2024].txt", "notes 2.txt"):
        (folder / name).write_text(name)
    config = config_of(folder.parent, paths=[f"data/{entry}"])
    assert [Path(f.path).name for f in list_files(config.corpus.paths)] == names
    assert laid_down(config, tmp_path)[1] == names
