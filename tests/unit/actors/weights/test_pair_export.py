"""Exports: what is loaded says what was exported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import fsspec
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.layers.pair import Pair
from actors.measuring.voices import VOICES, Voice, predict_everywhere
from actors.settings.corpus import CorpusSpec
from actors.settings.run import RunSpec
from actors.snapshots.flat_parameters import FlatParameters
from actors.snapshots.sections import section_of
from actors.tokenizers.tokenizer import Tokenizer
from actors.weights.pair_export import export_pair, load_pair
from actors.wire import ConfigError
from tests.unit.actors.pairs import pair_of, spec_from_checkpoint
from tests.unit.actors.tiny import (
    FAMILIES,
    one_document,
    run_spec,
    tokens,
)


def exported_pair(spec: RunSpec, tokenizer: Tokenizer) -> Pair:
    """A pair whose trained parameters all differ from those of its checkpoint."""
    pair = pair_of(spec, tokenizer)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (*pair.data.model.parameters(), *pair.memory.parameters()):
            if not parameter.requires_grad:
                continue
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return pair


def pretrained_spec(family: str, corpus: CorpusSpec, rows: int, folder: Path) -> RunSpec:
    """A run from a checkpoint with generation settings of its own."""
    spec = spec_from_checkpoint(family, corpus, rows, folder)
    settings = {"do_sample": True, "temperature": 0.7, "eos_token_id": [0, 5]}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return spec


@pytest.fixture(scope="module", params=["fresh llama", *(f"pretrained {f}" for f in FAMILIES)])
def family_spec(
    request: pytest.FixtureRequest,
    facts_corpus: CorpusSpec,
    tokenizer: Tokenizer,
    tmp_path_factory: pytest.TempPathFactory,
) -> RunSpec:
    kind, family = request.param.split()
    if kind == "pretrained":
        folder = tmp_path_factory.mktemp("checkpoint")
        return pretrained_spec(family, facts_corpus, tokenizer.size + 24, folder)
    layer = {"model_type": family, "fields": FAMILIES[family], "read_layers": (1,)}
    return run_spec(facts_corpus, data__layer=layer)


@pytest.fixture(scope="module")
def pair(family_spec: RunSpec, tokenizer: Tokenizer) -> Pair:
    return exported_pair(family_spec, tokenizer)


@pytest.fixture(scope="module")
def folder(
    family_spec: RunSpec,
    tokenizer: Tokenizer,
    pair: Pair,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("export") / "deep" / "down"
    export_pair(family_spec, tokenizer, pair, str(folder))
    return folder


@pytest.fixture(scope="module")
def whole(spec: RunSpec, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    export_pair(spec, tokenizer, exported_pair(spec, tokenizer), str(folder))
    return folder


@pytest.fixture
def broken(whole: Path, tmp_path: Path) -> Path:
    """An export for a test to damage."""
    return Path(shutil.copytree(whole, tmp_path / "export"))


@torch.no_grad()
def test_the_data_layer_loads_as_a_plain_model_with_equal_logits(pair: Pair, folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder / "data_layer", local_files_only=True)
    ids = tokens(2, 9)
    want = pair.data(ids, one_document(ids)).logits_BTV
    assert torch.equal(model(input_ids=ids).logits[..., : want.shape[-1]], want)
    assert len(model.get_output_embeddings().weight) == pair.data.vocab_rows


def test_the_exported_data_layer_is_the_plain_model_and_nothing_else(
    pair: Pair, folder: Path
) -> None:
    tied = bool(getattr(pair.data.model, "all_tied_weights_keys", {}))
    names = set(pair.data.model.state_dict()) - ({"lm_head.weight"} if tied else set())
    with safe_open(folder / "data_layer" / "model.safetensors", "pt") as file:
        assert set(file.keys()) == names
    config = json.loads((folder / "data_layer" / "config.json").read_text())
    assert config["dtype"] == "float32"


def test_generation_settings_of_a_checkpoint_are_kept(family_spec: RunSpec, folder: Path) -> None:
    kept = json.loads((folder / "data_layer" / "generation_config.json").read_text())
    if family_spec.data.layer.pretrained is not None:
        assert (kept["do_sample"], kept["temperature"]) == (True, 0.7)
        assert kept["eos_token_id"] == [0, 5]


def test_an_export_names_no_place_of_the_machine_that_made_it(
    family_spec: RunSpec, folder: Path
) -> None:
    place = family_spec.data.layer.pretrained or str(folder)
    texts = [path.read_text(encoding="utf-8") for path in folder.rglob("*.json")]
    assert not any(place in text for text in texts)


def test_a_layer_whose_parameters_share_one_buffer_is_exported(
    family_spec: RunSpec, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    pair = exported_pair(family_spec, tokenizer)
    FlatParameters(pair.data, section_of)
    FlatParameters(pair.memory, section_of)
    export_pair(family_spec, tokenizer, pair, str(tmp_path))
    loaded, _ = load_pair(str(tmp_path))
    ids = tokens(1, 5)
    got, want = (predict_everywhere(p, "help", ids, one_document(ids)).logp for p in (loaded, pair))
    assert torch.equal(got, want)


@pytest.mark.parametrize("voice", VOICES)
def test_every_voice_of_a_loaded_pair_speaks_as_before(
    pair: Pair, folder: Path, voice: Voice
) -> None:
    loaded, _ = load_pair(str(folder))
    ids = tokens(2, 9)
    got, want = (predict_everywhere(p, voice, ids, one_document(ids)).logp for p in (loaded, pair))
    assert torch.equal(got, want)


def test_the_voices_of_the_exported_pair_differ(pair: Pair) -> None:
    ids = tokens(2, 9)
    own, help_, memory = (predict_everywhere(pair, v, ids, one_document(ids)).logp for v in VOICES)
    assert min((own - help_).abs().max(), (help_ - memory).abs().max()) > 1e-2


def test_a_loaded_pair_reads_where_the_exported_one_did(folder: Path) -> None:
    assert list(load_pair(str(folder))[0].data.port.gates) == ["1"]


def test_the_tokenizer_is_exported_with_the_pair(folder: Path, tokenizer: Tokenizer) -> None:
    text = "The capital of Avaria is Köln 🙂."
    assert load_pair(str(folder))[1].encode(text) == tokenizer.encode(text)


def test_the_exported_tokenizer_loads_with_transformers(folder: Path, tokenizer: Tokenizer) -> None:
    text = "The capital of Avaria is Köln 🙂."
    theirs = AutoTokenizer.from_pretrained(folder / "data_layer", local_files_only=True)
    assert theirs(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text)
    assert theirs.eos_token_id == tokenizer.end_of_text


def test_an_export_holds_no_pickle(folder: Path) -> None:
    kinds = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert kinds <= {".json", ".safetensors", ".jinja", ".txt"}


def test_a_loaded_pair_is_ready_for_use_and_not_for_training(folder: Path) -> None:
    loaded, _ = load_pair(str(folder))
    assert not loaded.data.training
    parameters = [*loaded.data.parameters(), *loaded.memory.parameters()]
    assert not any(p.requires_grad for p in parameters)


def test_exporting_leaves_the_pair_as_it_was(
    spec: RunSpec, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    pair = exported_pair(spec, tokenizer)
    before = {name: t.clone() for name, t in pair.data.state_dict().items()}
    export_pair(spec, tokenizer, pair, str(tmp_path))
    assert all(torch.equal(t, before[name]) for name, t in pair.data.state_dict().items())


@pytest.fixture
def remote() -> Iterator[str]:
    name = f"/tandem-{uuid4().hex}"
    yield f"memory:/{name}"
    fsspec.filesystem("memory").rm(name, recursive=True)


def test_a_pair_is_exported_to_and_loaded_from_any_file_system(
    spec: RunSpec, tokenizer: Tokenizer, remote: str
) -> None:
    pair = exported_pair(spec, tokenizer)
    export_pair(spec, tokenizer, pair, remote)
    loaded, _ = load_pair(remote)
    assert torch.equal(loaded.memory.values, pair.memory.values)


def test_an_export_may_be_moved(broken: Path, whole: Path) -> None:
    here, there = (load_pair(str(folder))[0].memory.values for folder in (broken, whole))
    assert torch.equal(here, there)


def test_an_export_without_its_marker_is_refused(broken: Path) -> None:
    (broken / "export.json").unlink()
    with pytest.raises(ConfigError, match=r"no finished export there \(export\.json is missing\)"):
        load_pair(str(broken))


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no finished export there"):
        load_pair(str(tmp_path / "gone"))


FILES = [
    "data_layer/config.json",
    "data_layer/model.safetensors",
    "tokenizer.json",
    "memory_port/port.json",
    "memory_port/port.safetensors",
    "memory_layer/memory.json",
    "memory_layer/memory.safetensors",
]


@pytest.mark.parametrize("name", FILES)
def test_an_export_with_a_missing_file_is_refused(broken: Path, name: str) -> None:
    (broken / name).unlink()
    with pytest.raises(ConfigError, match="can't be loaded"):
        load_pair(str(broken))


@pytest.mark.parametrize("name", FILES)
def test_an_export_with_a_damaged_file_is_refused(broken: Path, name: str) -> None:
    (broken / name).write_bytes(b"damaged")
    with pytest.raises(ConfigError, match="can't be loaded"):
        load_pair(str(broken))


def test_an_export_whose_parts_do_not_fit_is_refused(broken: Path) -> None:
    described = (broken / "memory_layer" / "memory.json").read_text(encoding="utf-8")
    (broken / "memory_layer" / "memory.json").write_text(
        described.replace('"slots_side": 8', '"slots_side": 9'), encoding="utf-8"
    )
    with pytest.raises(ConfigError, match="can't be loaded"):
        load_pair(str(broken))
