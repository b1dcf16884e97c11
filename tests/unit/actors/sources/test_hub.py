"""Data sets of the hub: by configuration and split, read through huggingface_hub's own client."""

from __future__ import annotations

import io
from collections.abc import Iterator

import fsspec.config
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfFileSystem

from actors.settings.corpus import CorpusSpec
from actors.sources.corpus_files import CorpusMarks
from actors.wire import CorpusError, StorageError
from tests.unit.actors.chats import talks
from tests.unit.actors.sources.hub import hub
from tests.unit.actors.sources.test_file_source import opened

NAME = "somebody/talks"
URL = f"hf://datasets/{NAME}"


def parquet(num: int) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(talks(num)), out, row_group_size=10)
    return out.getvalue()


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    files = {
        "default/train/0000.parquet": parquet(40),
        "default/train/0001.parquet": parquet(20),
        "default/test/0000.parquet": parquet(30),
        "short/train/0000.parquet": parquet(25),
    }
    with hub(NAME, "refs/convert/parquet", files) as address:
        monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": address, "token": False})
        HfFileSystem.clear_instance_cache()
        yield
        HfFileSystem.clear_instance_cache()


def spec(**fields: str) -> CorpusSpec:
    return CorpusSpec(paths=(URL,), messages_column="messages", block_bytes=256, **fields)


@pytest.mark.parametrize(
    ("fields", "num"),
    [
        ({"split": "train"}, 60),
        ({"split": "test"}, 30),
        ({"split": "train", "configuration": "short"}, 25),
    ],
)
def test_a_split_of_a_data_set_is_read(served: None, fields: dict[str, str], num: int) -> None:
    source = opened(spec(**fields))
    found = [d for block in range(source.num_blocks) for d in source.block(block)]
    found += source.heldout()
    assert len(found) == num
    assert all(d.chat is not None and len(d.chat.messages) == 2 for d in found)


def test_the_files_of_a_split_are_what_a_run_remembers(served: None) -> None:
    marks = CorpusMarks.of(spec(split="train"))
    folder = f"{URL}@refs/convert/parquet/default/train"
    assert [file.path for file in marks.files] == [f"{folder}/000{n}.parquet" for n in (0, 1)]


@pytest.mark.parametrize("fields", [{"split": "trian"}, {"split": "train", "configuration": "x"}])
def test_a_split_that_is_not_there_is_named(served: None, fields: dict[str, str]) -> None:
    with pytest.raises(CorpusError, match=r"hf://datasets/somebody/talks@.*parquet: no such file"):
        opened(spec(**fields))


def test_a_hub_that_is_away_is_an_error_of_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = {"endpoint": "http://127.0.0.1:9", "token": False}
    monkeypatch.setitem(fsspec.config.conf, "hf", nowhere)
    HfFileSystem.clear_instance_cache()
    with pytest.raises(StorageError, match=r"hf://datasets/somebody/talks.* can't be listed"):
        opened(spec(split="train"))


def test_a_data_set_that_is_not_there_is_named(served: None) -> None:
    corpus = CorpusSpec(paths=("hf://datasets/somebody/else",), split="train")
    with pytest.raises(CorpusError, match=r"hf://datasets/somebody/else"):
        opened(corpus)
