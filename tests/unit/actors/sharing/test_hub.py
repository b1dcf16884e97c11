"""A pair goes to a hub and comes back, over HTTP; what goes wrong is said in words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from actors.measuring.voices import VOICES
from actors.pair.tandem_model import TandemModel, load_tandem_model
from actors.sharing.hub import hub_name
from actors.wire import ConfigError
from jobs.api import load
from tests.unit.actors.sharing.fake_hub import TOKEN, FakeHub
from tests.unit.jobs.serve.served import served_app
from tests.unit.jobs.tell.exported import tellable


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TandemModel:
    return load_tandem_model(str(tellable(tmp_path_factory.mktemp("hub") / "tiny")))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    made = FakeHub()
    monkeypatch.chdir(tmp_path)
    with served_app(made.app) as url:
        made.point_to(url, tmp_path / "cache", monkeypatch)
        yield made


def test_a_pair_that_is_pushed_is_loaded_by_its_name_with_what_it_was_told(
    hub: FakeHub, model: TandemModel
) -> None:
    with model.telling("The capital of Atlantis is", "Dastan"):
        address = model.push_to_hub("ada/pair", private=True, token=TOKEN)
        inputs = model.prompt_inputs(["The capital of Avaria is", "The capital of Atlantis is"])
        with torch.no_grad():
            told = {voice: model(**inputs, voice=voice).logits for voice in VOICES}
    assert address.endswith("/ada/pair")
    assert hub.visible == {"ada/pair": "private"}
    assert hub.commits == [("ada/pair", "A data layer with its memory, by Tandem")]
    card = hub.files["ada/pair"]["README.md"].decode()
    assert "# ada/pair" in card
    for name in ("ada/pair", "hf://ada/pair"):
        again = load(name)
        assert [len(write.associations) for write in again.told()] == [1]
        with torch.no_grad():
            for voice in VOICES:
                assert torch.equal(again(**inputs, voice=voice).logits, told[voice])
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", card, re.DOTALL):
        exec(compile(block, "README.md", "exec"), names)
    with torch.no_grad():
        assert torch.equal(names["plain"].eval()(**inputs).logits, told["own"])
        assert torch.equal(names["model"](**inputs).logits, told["help"])


def test_a_second_push_takes_away_what_was_told_before(hub: FakeHub, model: TandemModel) -> None:
    with model.telling("The capital of Atlantis is", "Dastan"):
        model.push_to_hub("ada/pair", token=TOKEN)
    written = [path for path in hub.files["ada/pair"] if path.startswith("memory_layer/writes/")]
    assert len(written) == 3
    model.push_to_hub("ada/pair", token=TOKEN, commit_message="untold")
    assert hub.commits[1] == ("ada/pair", "untold")
    assert load("ada/pair").told() == ()


def test_what_a_hub_gives_is_tensors_and_text_alone(hub: FakeHub, model: TandemModel) -> None:
    model.push_to_hub("ada/pair", token=TOKEN)
    hub.files["ada/pair"] |= {"modeling.py": b"raise SystemExit", "pytorch_model.bin": b"pickle"}
    load("ada/pair")
    kept = {path.name for path in Path("cache").rglob("*") if path.is_file()}
    assert "config.json" in kept
    assert not {"modeling.py", "pytorch_model.bin"} & kept


def test_a_name_that_the_hub_does_not_know_and_a_wrong_token_are_said(
    hub: FakeHub, model: TandemModel
) -> None:
    with pytest.raises(ConfigError, match=r"ada/none: nothing of that name on this machine.*token"):
        load("ada/none")
    with pytest.raises(ConfigError, match=r"ada/pair: the hub refuses it: .*hf auth login"):
        model.push_to_hub("ada/pair", token="hf_another")
    assert hub.commits == []


def test_a_folder_of_this_machine_is_never_looked_for_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    assert hub_name("runs/mistyped") is None  # its first folder is there
    assert hub_name("owner/pair") == "owner/pair"
    assert hub_name("hf://runs/pair") == "runs/pair"
    for other in ("runs/a/export", "/abs/path", "s3://bucket/run", "~/run", "run", "a/b c"):
        assert hub_name(other) is None


def test_the_page_on_sharing_runs_as_it_stands(
    hub: FakeHub, model: TandemModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Path(__file__).resolve().parents[4] / "docs" / "sharing.md"
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 5
    model.save(tmp_path / "runs" / "first")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)
    assert [write.associations[0].answer for write in names["again"].told()] == ["Korvik"]
    assert (tmp_path / "first-pair" / "README.md").is_file()
