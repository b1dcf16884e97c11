"""A pair that is told in place: kept, seen by others, taken back, and nothing lost on the way."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from fsspec.implementations.local import LocalFileSystem

from actors.layers.kept_reads import READS, KeptReads
from actors.layers.named_writes import Association
from actors.pair.table_writes import LOOKS
from actors.pair.tandem_model import load_tandem_model
from actors.pair.telling import COMPARES
from actors.snapshots.flat_parameters import FlatParameters
from actors.snapshots.sections import section_of
from actors.weights.pair_export import load_pair
from actors.wire import ConfigError, StorageError
from jobs.tell.told_pair import ToldPair, UnknownWriteError
from tests.unit.jobs.tell.exported import tellable

PROMPT, ANSWER = "The capital of Atlantis is", "Dastan"
ATLANTIS = [Association(PROMPT, ANSWER)]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tellable(tmp_path_factory.mktemp("told") / "export")


@pytest.fixture
def export(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "export"))


def trained(folder: Path) -> dict[str, bytes]:
    """Every file but those of the writes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "writes" not in path.parts
    }


def test_what_is_told_is_said_by_this_pair_and_by_one_that_is_loaded(export: Path) -> None:
    before, pair = trained(export), ToldPair(str(export))
    told = pair.tell(ATLANTIS)
    assert told.write.id == "1"
    assert [(said.prompt, said.answer, said.right) for said in told.said] == [
        (PROMPT, ANSWER, True)
    ]
    assert told.said[0].before != told.said[0].after
    assert told.seconds > 0
    assert trained(export) == before
    other = ToldPair(str(export))
    assert other.model.ask(PROMPT).startswith(ANSWER)
    assert [write.id for write in other.writes] == ["1"]


def test_all_taken_back_is_the_pair_that_was_trained(export: Path) -> None:
    def digest(folder: Path) -> str:
        return FlatParameters(load_pair(str(folder))[0].memory, section_of).digest()

    before, files, pair = digest(export), trained(export), ToldPair(str(export))
    said = pair.model.ask(PROMPT)
    pair.tell(ATLANTIS)
    pair.tell([Association("The river of Atlantis is the", "Oda")])
    for id in ("1", "2"):
        pair.untell(id)
    assert (digest(export), trained(export)) == (before, files)
    assert pair.model.ask(PROMPT) == ToldPair(str(export)).model.ask(PROMPT) == said
    left = sorted(p.name for p in (export / "memory_layer" / "writes").iterdir())
    assert left[0] == "manifest.json"
    assert [name.split("-")[0] for name in left[1:]] == ["sample"]


def test_kept_text_is_encoded_once_and_by_no_process_after_the_first(export: Path) -> None:
    first = ToldPair(str(export))
    first.tell(ATLANTIS)
    [sample] = (export / "memory_layer" / "writes").glob("sample-*")
    seen: list[str] = []
    second = ToldPair(str(export))
    second.tell(
        [Association("The river of Atlantis is the", "Oda")],
        progress=lambda what, done=0, total=0: seen.append(what),
    )
    assert READS not in seen
    one, other = (told.model.kept_reads for told in (first, second))
    assert all(torch.equal(getattr(one, n), getattr(other, n)) for n in KeptReads.TENSORS)
    assert second.model.ask(PROMPT).startswith(ANSWER)
    kept = sample.read_bytes()
    sample.write_bytes(kept[:100])  # damaged: made again
    ToldPair(str(export)).tell([Association("The king of Atlantis is", "Oda")])
    assert sample.read_bytes() == kept


def test_another_process_is_followed_and_its_writes_stay(export: Path) -> None:
    first, second = ToldPair(str(export)), ToldPair(str(export))
    first.tell(ATLANTIS)
    second.tell([Association("The river of Atlantis is the", "Oda")])  # without a refresh
    assert [write.id for write in second.writes] == ["1", "2"]
    assert first.refresh()
    assert not first.refresh()
    assert [write.id for write in first.writes] == ["1", "2"]
    prompts = [PROMPT, "The river of Atlantis is the"]
    assert first.model.ask(prompts) == second.model.ask(prompts)
    assert first.model.ask(prompts) == ToldPair(str(export)).model.ask(prompts)


def test_a_write_that_is_off_is_not_said_and_on_again_is(export: Path) -> None:
    pair = ToldPair(str(export))
    said = pair.model.ask(PROMPT)
    pair.tell(ATLANTIS)
    assert not pair.switch("1", on=False).on
    assert ToldPair(str(export)).model.ask(PROMPT) == said
    assert pair.switch("1", on=True).on
    assert ToldPair(str(export)).model.ask(PROMPT).startswith(ANSWER)


def test_an_id_is_never_given_twice(export: Path) -> None:
    pair = ToldPair(str(export))
    pair.tell(ATLANTIS)
    pair.untell("1")
    assert pair.tell(ATLANTIS).write.id == "2"
    assert pair.tell([Association("It is", "Oda")], id="it").write.id == "it"
    with pytest.raises(ConfigError, match="there is a write 'it' already"):
        pair.tell([Association("So it is", "Oda")], id="it")


def test_an_id_that_is_not_there_is_named_with_the_nearest(export: Path) -> None:
    pair = ToldPair(str(export))
    for change in (pair.untell, lambda id: pair.switch(id, False)):
        with pytest.raises(UnknownWriteError, match="no write 'x'; nothing is told"):
            change("x")
    pair.tell(ATLANTIS, id="atlantis")
    with pytest.raises(UnknownWriteError, match="no write 'x'; told and not taken back: atlantis"):
        pair.untell("x")
    with pytest.raises(UnknownWriteError, match="no write 'atlantix'; did you mean 'atlantis'"):
        pair.untell("atlantix")
    pair.untell("atlantis")
    with pytest.raises(UnknownWriteError, match="'atlantis' was taken back already"):
        pair.untell("atlantis")


@pytest.mark.parametrize(
    ("association", "message"),
    [
        (Association(PROMPT, " . "), "the answer .* holds no word"),
        (Association("word " * 4000, "Rome"), "tokens, the model reads at most"),
    ],
)
def test_what_can_not_be_told_is_refused_in_a_sentence(
    export: Path, association: Association, message: str
) -> None:
    pair = ToldPair(str(export))
    with pytest.raises(ConfigError, match=f"this can't be told: .*{message}"):
        pair.tell([association])
    assert len(pair.writes) == len(ToldPair(str(export)).writes) == 0


def test_a_full_disk_leaves_files_and_pair_as_they_were(
    export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = ToldPair(str(export))
    said = pair.model.ask(PROMPT)
    put = LocalFileSystem.pipe_file

    def full(self: LocalFileSystem, path: str, value: bytes, **options: object) -> None:
        if "safetensors" in path:
            raise OSError(28, "No space left on device")
        put(self, path, value, **options)

    with monkeypatch.context() as patch:
        patch.setattr(LocalFileSystem, "pipe_file", full)
        with pytest.raises(StorageError, match="nothing was changed"):
            pair.tell(ATLANTIS)
    assert pair.model.ask(PROMPT) == ToldPair(str(export)).model.ask(PROMPT) == said
    assert pair.tell(ATLANTIS).said[0].right


def test_a_loaded_model_is_saved_with_what_it_was_told_and_loads_again(
    export: Path, tmp_path: Path
) -> None:
    model = load_tandem_model(str(export))
    before = trained(export)
    write = model.tell(PROMPT, ANSWER)
    model.save(tmp_path / "saved")
    again = load_tandem_model(str(tmp_path / "saved"))
    assert again.ask(PROMPT) == model.ask(PROMPT)
    assert [told.to_json() for told in again.told()] == [write.to_json()]
    saved = trained(tmp_path / "saved")
    assert {n for n in saved if n.endswith("safetensors") and saved[n] != before[n]} == set()
    again.memory_layer.kept = None  # nothing has to be read for it
    again.untell(write.id)
    assert again.ask(PROMPT) == load_tandem_model(str(export)).ask(PROMPT)
    with pytest.raises(ConfigError, match="exists already"):
        model.save(tmp_path / "saved")


def test_progress_sees_what_is_loaded_read_and_solved(export: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []

    def progress(what: str, done: int = 0, total: int | None = None) -> None:
        seen.append((what, done, total))

    pair = ToldPair(str(export), progress=progress)
    loaded = [(done, total) for what, done, total in seen if what.endswith("loading weights")]
    assert loaded[-1][0] == loaded[-1][1]
    pair.tell(ATLANTIS, progress=progress)
    stages = list(dict.fromkeys(what for what, _, _ in seen))
    assert [what for what in stages if what in (READS, LOOKS, COMPARES)] == [READS, LOOKS, COMPARES]
    assert stages.index(COMPARES) < stages.index("asking what it says now that it is told")


def test_what_is_too_long_is_refused_before_anything_is_asked(export: Path) -> None:
    pair = ToldPair(str(export))
    longest = pair.model.longest
    assert longest is not None
    seen: list[str] = []
    for long, what in (
        (Association("Atlantis " * longest, ANSWER), "prompt"),
        (Association(PROMPT, "Dastan " * longest), "answer"),
    ):
        with pytest.raises(ConfigError, match=rf"the model reads at most \d+; shorten the {what}"):
            pair.tell([long], progress=lambda what, done=0, total=0: seen.append(what))
    assert seen == []


def test_an_answer_with_the_text_of_a_special_token_is_asked_to_its_end(export: Path) -> None:
    (said,) = ToldPair(str(export)).tell([Association(PROMPT, "Dastan <|endoftext|>")]).said
    assert said.after.endswith("endoftext|>."), said
