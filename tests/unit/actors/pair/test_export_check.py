"""What leaves a run is what was trained, or the run says which tensor is not."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from actors.corpus.corpus import Corpus
from actors.corpus.windows import PADDING, Windows
from actors.layers.pair import Pair
from actors.measuring.voices import VOICES, predict_everywhere
from actors.pair.evaluator import Evaluator
from actors.pair.export_check import check_export, compared_documents, export_checked
from actors.settings.corpus import CorpusSpec
from actors.settings.run import RunSpec
from actors.tokenizers.tokenizer import Tokenizer
from actors.weights.pair_export import export_folder, load_pair
from actors.wire import ConfigError, ExportError
from tests.unit.actors.pairs import pair_of, spec_from_checkpoint
from tests.unit.actors.tiny import (
    FAMILIES,
    edit_config,
    one_document,
    run_spec,
    save_checkpoint,
    tokens,
)


def heldout(spec: RunSpec, tokenizer: Tokenizer) -> Windows:
    return Corpus.open(spec, tokenizer).heldout(8)


def refusal(root: Path, tokenizer: Tokenizer, pair: Pair, windows: Windows) -> str:
    with pytest.raises(ExportError) as raised:
        check_export(root, tokenizer, pair, windows)
    return str(raised.value)


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family_spec(
    request: pytest.FixtureRequest,
    facts_corpus: CorpusSpec,
    tokenizer: Tokenizer,
    tmp_path_factory: pytest.TempPathFactory,
) -> RunSpec:
    folder = tmp_path_factory.mktemp("checkpoint")
    return spec_from_checkpoint(request.param, facts_corpus, tokenizer.size + 24, folder)


def test_what_every_family_exports_is_what_was_trained(
    family_spec: RunSpec, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    pair, windows = pair_of(family_spec, tokenizer), heldout(family_spec, tokenizer)
    export_checked(family_spec, tokenizer, pair, str(tmp_path / "export"), windows)
    loaded, _ = load_pair(str(tmp_path / "export"))
    ids = tokens(2, 9)
    for voice in VOICES:
        got, want = (
            predict_everywhere(p, voice, ids, one_document(ids)).logp for p in (loaded, pair)
        )
        assert torch.equal(got, want)


def test_an_own_head_under_a_config_that_says_tied_is_exported(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    place = save_checkpoint(tmp_path / "checkpoint", rows=tokenizer.size)
    edit_config(tmp_path / "checkpoint", tie_word_embeddings=True)
    spec = run_spec(facts_corpus, data__layer={"pretrained": place, "read_layers": (0,)})
    pair, windows = pair_of(spec, tokenizer), heldout(spec, tokenizer)
    export_checked(spec, tokenizer, pair, str(tmp_path / "export"), windows)
    folder = tmp_path / "export" / "data_layer"
    exported = load_file(folder / "model.safetensors")
    want = pair.data.model.state_dict()
    assert torch.equal(exported["lm_head.weight"], want["lm_head.weight"])
    assert torch.equal(exported["model.embed_tokens.weight"], want["model.embed_tokens.weight"])
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False


@pytest.fixture
def pair(spec: RunSpec, tokenizer: Tokenizer) -> Pair:
    return pair_of(spec, tokenizer)


CHANGED = [
    ("data_layer/model.safetensors", "model.layers.1.mlp.up_proj.weight", "the data layer, loaded"),
    ("memory_port/port.safetensors", "gates.0.key.weight", "the export can't be loaded again"),
    ("memory_layer/memory.safetensors", "values", "the export can't be loaded again"),
]


@pytest.mark.parametrize(("file", "name", "who"), CHANGED)
def test_one_altered_bit_is_named(
    file: str, name: str, who: str, spec: RunSpec, tokenizer: Tokenizer, pair: Pair
) -> None:
    with export_folder(spec, tokenizer, pair) as root:
        tensors = load_file(root / file)
        tensors[name].view(torch.int32).flatten()[0] ^= 1
        save_file(tensors, root / file, {"format": "pt"})
        message = refusal(root, tokenizer, pair, heldout(spec, tokenizer))
    assert who in message
    assert name in message


def test_a_head_that_was_lost_is_named_with_both_losses(
    spec: RunSpec, tokenizer: Tokenizer, pair: Pair
) -> None:
    with export_folder(spec, tokenizer, pair) as root:
        path = root / "data_layer" / "model.safetensors"
        tensors = load_file(path)
        del tensors["lm_head.weight"]
        save_file(tensors, path, {"format": "pt"})
        edit_config(root / "data_layer", tie_word_embeddings=True)
        message = refusal(root, tokenizer, pair, heldout(spec, tokenizer))
    assert "own loss" in message
    assert "data_layer: lm_head.weight (differs by up to" in message


def test_a_config_that_says_something_else_is_found_by_the_loss(
    spec: RunSpec, tokenizer: Tokenizer, pair: Pair
) -> None:
    with export_folder(spec, tokenizer, pair) as root:
        edit_config(root / "data_layer", rms_norm_eps=0.1)
        message = refusal(root, tokenizer, pair, heldout(spec, tokenizer))
    assert "every tensor equals the trained one" in message


def test_a_tokenizer_with_other_ids_is_found(
    spec: RunSpec, tokenizer: Tokenizer, pair: Pair
) -> None:
    other = Tokenizer.train(["other words, other merges"] * 9, tokenizer.size)
    with export_folder(spec, tokenizer, pair) as root:
        other.write(root / "data_layer")
        message = refusal(root, tokenizer, pair, heldout(spec, tokenizer))
    assert "the exported tokenizer gives other ids" in message


def test_a_tokenizer_that_stops_early_is_named_with_the_first_id_that_is_missing(
    spec: RunSpec, tokenizer: Tokenizer, pair: Pair
) -> None:
    windows = heldout(spec, tokenizer)
    first = compared_documents(windows, tokenizer.end_of_text)
    text = tokenizer.decode(first.tokens_NT[0][first.segments_NT[0] != PADDING].tolist())
    with export_folder(spec, tokenizer, pair) as root:
        path = root / "data_layer" / "tokenizer.json"
        cut = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
        path.write_text(json.dumps({**json.loads(path.read_text()), "truncation": cut}))
        message = refusal(root, tokenizer, pair, windows)
    assert f"expected {tokenizer.encode(text)[3]}, got no more" in message
    assert "at token 3 of" in message


def test_nothing_is_left_of_an_export_that_fails(
    spec: RunSpec, tokenizer: Tokenizer, pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.weights.pair_export.tell_ties", spoil)
    with pytest.raises(ExportError):
        export_checked(spec, tokenizer, pair, str(tmp_path / "e"), heldout(spec, tokenizer))
    assert not (tmp_path / "e").exists()


def spoil(model: torch.nn.Module) -> None:
    """As an older export took it: the config's word for what is tied."""
    model.config.tie_word_embeddings = True  # type: ignore[union-attr]


def test_the_evaluator_exports_nothing_that_it_did_not_check(
    spec: RunSpec, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator = Evaluator(spec, tokenizer.to_json())
    evaluator.export(str(tmp_path / "good"))
    assert (tmp_path / "good" / "export.json").is_file()
    monkeypatch.setattr("actors.weights.pair_export.tell_ties", spoil)
    with pytest.raises(ExportError, match=r"lm_head\.weight"):
        evaluator.export(str(tmp_path / "bad"))


def test_some_documents_are_compared_one_a_row(spec: RunSpec, tokenizer: Tokenizer) -> None:
    windows = heldout(spec, tokenizer)
    documents = compared_documents(windows, tokenizer.end)
    assert len(documents) > 0
    assert set(documents.segments_NT.flatten().tolist()) <= {PADDING, 0}
    assert documents.learn_NT.any()


def test_an_earlier_run_whose_weights_were_changed_is_refused(
    spec: RunSpec, facts_corpus: CorpusSpec, tokenizer: Tokenizer, pair: Pair, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    export_checked(spec, tokenizer, pair, str(run / "export"), heldout(spec, tokenizer))
    path = run / "export" / "data_layer" / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"] += 1
    save_file(tensors, path, {"format": "pt"})
    again = run_spec(facts_corpus, data__layer={"pretrained": str(run), "read_layers": (0, 1)})
    for use in (lambda: pair_of(again, tokenizer), lambda: load_pair(str(run / "export"))):
        with pytest.raises(ConfigError, match=r"1 tensors of data_layer .* e\.g\. lm_head\.weight"):
            use()
    as_a_checkpoint = {"pretrained": str(path.parent), "read_layers": (0, 1)}
    pair_of(run_spec(facts_corpus, data__layer=as_a_checkpoint), tokenizer)


def test_the_error_survives_pickling() -> None:
    again = pickle.loads(pickle.dumps(ExportError("lm_head.weight")))
    assert (type(again), str(again)) == (ExportError, "lm_head.weight")
