"""One load per process: what stays is shared, what trains is each layer's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from actors.layers.data_layer import DataLayer
from actors.settings.corpus import CorpusSpec
from actors.settings.run import RunSpec
from actors.tokenizers.tokenizer import Tokenizer
from actors.weights import starting_model
from actors.weights.base_identity import base_digest
from actors.weights.builders import build_data_layer
from actors.weights.starting_model import StartingModel
from tests.unit.actors.tiny import open_gates, run_spec, save_checkpoint, tokens

CPU = torch.device("cpu")
EACH = pytest.mark.parametrize("train", ["port", "lora", ("*.layers.1.*",)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_checkpoint(tmp_path_factory.mktemp("base"), rows=400)


def spec_of(corpus: CorpusSpec, folder: str, train: object) -> RunSpec:
    layer = {"pretrained": folder, "read_layers": (0, 1), "train": train}
    return run_spec(corpus, data__layer=layer)


def two(spec: RunSpec, tokenizer: Tokenizer) -> tuple[DataLayer, DataLayer]:
    starting = StartingModel(spec, tokenizer)
    one, other = (build_data_layer(spec, tokenizer, CPU, starting) for _ in range(2))
    return one.eval(), other.eval()


@EACH
def test_what_does_not_train_is_the_same_tensor_and_what_trains_is_not(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer, folder: str, train: object
) -> None:
    spec = spec_of(facts_corpus, folder, train)
    one, other = two(spec, tokenizer)
    pairs = zip(one.named_parameters(), other.parameters(), strict=True)
    shared = {name: mine.data_ptr() == theirs.data_ptr() for (name, mine), theirs in pairs}
    assert shared == {name: not spec.data.layer.trains(name) for name in shared}
    assert set(shared.values()) == {True, False}


@EACH
def test_it_is_loaded_once(
    facts_corpus: CorpusSpec,
    tokenizer: Tokenizer,
    folder: str,
    train: object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load, loads = starting_model.load_model, []
    monkeypatch.setattr(starting_model, "load_model", lambda *a: (loads.append(1), load(*a))[1])
    two(spec_of(facts_corpus, folder, train), tokenizer)
    assert len(loads) == 1


@EACH
def test_a_read_of_one_layer_is_not_seen_by_the_other(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer, folder: str, train: object
) -> None:
    one, other = two(spec_of(facts_corpus, folder, train), tokenizer)
    open_gates(one)
    ids_BT = tokens(2, 6)
    segments_BT, y_BTM = torch.zeros_like(ids_BT), torch.ones(2, 6, 16)
    with torch.no_grad():
        plain = AutoModelForCausalLM.from_pretrained(folder).eval()(ids_BT).logits[..., :400]
        read = one(ids_BT, segments_BT, y_BTM).logits_BTV
        alone = other(ids_BT, segments_BT).logits_BTV
        closed = other(ids_BT, segments_BT, y_BTM).logits_BTV
    assert (read - alone).abs().max() > 1e-3
    torch.testing.assert_close(alone, plain[..., : alone.shape[-1]], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(closed, alone)  # its own gates are closed


def test_the_digest_is_of_the_tensors_and_not_of_how_they_lie_in_files(
    tmp_path: Path, folder: str
) -> None:
    tensors = load_file(Path(folder) / "model.safetensors")
    names = sorted(tensors, reverse=True)
    parts = {"b.safetensors": names[:3], "a.safetensors": names[3:]}
    for name, part in parts.items():
        save_file({n: tensors[n] for n in part}, tmp_path / name)
    where = {n: name for name, part in parts.items() for n in part}
    index = json.dumps({"metadata": {}, "weight_map": where})
    (tmp_path / "model.safetensors.index.json").write_text(index)
    (tmp_path / "config.json").write_text((Path(folder) / "config.json").read_text())
    assert base_digest(str(tmp_path), "here") == base_digest(folder, "there")


def test_the_digest_depends_on_every_tensor(tmp_path: Path, folder: str) -> None:
    tensors = load_file(Path(folder) / "model.safetensors")
    (tmp_path / "config.json").write_text((Path(folder) / "config.json").read_text())
    found = set()
    for name in tensors:
        changed = {**tensors, name: tensors[name] + 1}
        save_file(changed, tmp_path / "model.safetensors")
        found.add(base_digest(str(tmp_path), "here"))
    assert len(found) == len(tensors)
    assert base_digest(folder, "there") not in found
