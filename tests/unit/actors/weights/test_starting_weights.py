"""Runs that start from checkpoints and earlier runs: the same weights, or why not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from transformers import AutoConfig

from actors.layers.pair import Pair
from actors.measuring.voices import VOICES, Voice, predict_everywhere
from actors.settings.corpus import CorpusSpec
from actors.settings.run import RunSpec
from actors.snapshots.flat_parameters import FlatParameters
from actors.snapshots.sections import section_of
from actors.tokenizers.tokenizer import Tokenizer
from actors.weights.builders import build_data_layer, build_memory_layer
from actors.weights.pair_export import export_pair
from actors.weights.parameter_counts import count_parameters
from actors.weights.starting_weights import check_positions, check_tokens
from actors.wire import ConfigError
from tests.unit.actors.tiny import (
    FAMILIES,
    Exchange,
    memory_spec,
    one_document,
    open_gates,
    run_spec,
    save_checkpoint,
    tokens,
)

CPU = torch.device("cpu")


def build_pair(spec: RunSpec, tokenizer: Tokenizer) -> Pair:
    data = build_data_layer(spec, tokenizer, CPU).eval()
    return Pair(data, build_memory_layer(spec, tokenizer, data.vocab_rows, CPU))


def moved(pair: Pair, seed: int = 1) -> Pair:
    """The pair as training might have left it; what is frozen stays."""
    generator = torch.Generator().manual_seed(seed)
    open_gates(pair.data)
    with torch.no_grad():
        for parameter in (*pair.data.model.parameters(), *pair.memory.parameters()):
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return pair


def spec_from(corpus: CorpusSpec, *, memory: dict[str, Any] | None = None, **data: Any) -> RunSpec:
    data_layer = {"read_layers": (0, 1), **data}
    memory_layer = memory_spec(**(memory or {})).model_dump()
    return run_spec(corpus, data__layer=data_layer, memory__layer=memory_layer)


def with_tokenizer(place: str, tokenizer: Tokenizer) -> str:
    Path(place, "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> str:
    """A checkpoint with a padded vocabulary and this run's tokenizer."""
    folder = tmp_path_factory.mktemp("checkpoint")
    return with_tokenizer(save_checkpoint(folder, "qwen2", tokenizer.size + 24), tokenizer)


Earlier = tuple[str, Pair, str]


@pytest.fixture(scope="module", params=["conv", "frozen_copy"])
def earlier(
    request: pytest.FixtureRequest,
    place: str,
    facts_corpus: CorpusSpec,
    tokenizer: Tokenizer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Earlier:
    """A run's directory, the pair that it exported and the kind of its encoder."""
    memory = {"encoder": request.param, "copy_layers": 1}
    spec = spec_from(facts_corpus, memory=memory, pretrained=place)
    pair = moved(build_pair(spec, tokenizer))
    run = tmp_path_factory.mktemp("run")
    (run / "config.yaml").write_text("seed: 3\n")
    export_pair(spec, tokenizer, pair, str(run / "export"))
    return str(run), pair, request.param


@pytest.fixture
def conv_run(facts_corpus: CorpusSpec, tokenizer: Tokenizer, tmp_path: Path) -> str:
    """A run that ended, its data layer from fresh weights."""
    spec = run_spec(facts_corpus)
    export_pair(spec, tokenizer, build_pair(spec, tokenizer), str(tmp_path / "run" / "export"))
    return str(tmp_path / "run")


def refusal(spec: RunSpec, tokenizer: Tokenizer) -> str:
    with pytest.raises(ConfigError) as raised:
        build_pair(spec, tokenizer)
    return str(raised.value)


def digests(pair: Pair) -> list[str]:
    return [FlatParameters(layer, section_of).digest() for layer in (pair.data, pair.memory)]


@pytest.mark.parametrize("voice", VOICES)
@pytest.mark.parametrize("end", ["", "/export"])
def test_both_layers_of_an_earlier_run_speak_as_it_ended(
    earlier: Earlier, facts_corpus: CorpusSpec, tokenizer: Tokenizer, voice: Voice, end: str
) -> None:
    run, pair, encoder = earlier
    memory = {"encoder": encoder, "copy_layers": 1, "start_from": run + end}
    spec = spec_from(facts_corpus, memory=memory, pretrained=run + end)
    started = build_pair(spec, tokenizer)
    ids = tokens(2, 9)
    got, want = (predict_everywhere(p, voice, ids, one_document(ids)).logp for p in (started, pair))
    assert torch.equal(got, want)


def test_the_data_layer_of_an_earlier_run_starts_beside_a_fresh_memory(
    earlier: Earlier, facts_corpus: CorpusSpec, tokenizer: Tokenizer
) -> None:
    run, pair, _ = earlier
    started = build_pair(spec_from(facts_corpus, pretrained=run), tokenizer)
    assert digests(started)[0] == digests(pair)[0]
    assert digests(started)[1] != digests(pair)[1]


def test_the_memory_of_an_earlier_run_starts_beside_the_checkpoint_that_run_started_from(
    earlier: Earlier, place: str, facts_corpus: CorpusSpec, tokenizer: Tokenizer
) -> None:
    run, pair, encoder = earlier
    memory = {"encoder": encoder, "copy_layers": 1, "start_from": run}
    started = build_pair(spec_from(facts_corpus, memory=memory, pretrained=place), tokenizer)
    assert digests(started)[0] != digests(pair)[0]
    assert digests(started)[1] == digests(pair)[1]


def test_a_frozen_copy_is_of_the_starting_weights_in_every_process(
    place: str, facts_corpus: CorpusSpec, tokenizer: Tokenizer
) -> None:
    memory = {"encoder": "frozen_copy", "copy_layers": 1}
    spec = spec_from(facts_corpus, memory=memory, pretrained=place)
    one = moved(build_pair(spec, tokenizer)).memory.encoder.copy
    torch.manual_seed(1234)
    other = build_memory_layer(spec, tokenizer, tokenizer.size + 24, CPU).encoder.copy
    tensors = other.state_dict()
    assert all(torch.equal(t, tensors[name]) for name, t in one.state_dict().items())


def test_training_moves_all_of_a_pretrained_pair_but_the_frozen_copy(
    place: str, facts_corpus: CorpusSpec, tokenizer: Tokenizer
) -> None:
    memory = {"encoder": "frozen_copy", "copy_layers": 1}
    spec = spec_from(facts_corpus, memory=memory, pretrained=place)
    before = build_pair(spec, tokenizer)
    after = Exchange(spec, tokenizer.to_json()).run(2)
    unmoved = {
        name
        for ours, theirs in ((before.data, after.data.layer), (before.memory, after.memory.layer))
        for name, tensor in ours.state_dict().items()
        if torch.equal(tensor, theirs.state_dict()[name])
    }
    copied = {name for name in before.memory.state_dict() if name.startswith("encoder.copy.")}
    assert unmoved == copied
    mirror = after.data.memory.state_dict()
    assert all(torch.equal(mirror[name], before.memory.state_dict()[name]) for name in copied)


def test_every_process_starts_a_pretrained_pair_with_the_same_weights(
    place: str, facts_corpus: CorpusSpec, tokenizer: Tokenizer
) -> None:
    memory = {"encoder": "frozen_copy", "copy_layers": 1}
    spec = spec_from(facts_corpus, memory=memory, pretrained=place)
    before = digests(build_pair(spec, tokenizer))
    torch.manual_seed(1234)
    assert digests(build_pair(spec, tokenizer)) == before


def test_rows_beyond_the_tokenizer_are_predicted_by_neither_layer(
    place: str, facts_corpus: CorpusSpec, tokenizer: Tokenizer
) -> None:
    pair = build_pair(spec_from(facts_corpus, pretrained=place), tokenizer)
    ids = tokens(1, 5)
    assert pair.data.vocab_rows == tokenizer.size + 24
    for voice in VOICES:
        assert (
            predict_everywhere(pair, voice, ids, one_document(ids)).logp.shape[-1] == tokenizer.size
        )


def test_a_frozen_copy_of_fresh_weights_is_refused(facts_corpus: CorpusSpec) -> None:
    with pytest.raises(ValueError, match=r"frozen_copy needs data\.layer\.pretrained"):
        run_spec(facts_corpus, memory__layer=memory_spec(encoder="frozen_copy").model_dump())


@pytest.mark.parametrize(
    ("data", "memory"), [({"read_layers": (1,)}, {}), ({}, {"dim": 32})], ids=["layers", "width"]
)
def test_a_port_that_does_not_fit_is_refused_unless_a_fresh_one_is_asked_for(
    conv_run: str,
    facts_corpus: CorpusSpec,
    tokenizer: Tokenizer,
    data: dict[str, Any],
    memory: dict[str, Any],
) -> None:
    given = {"pretrained": conv_run, **data}
    assert "data.layer.fresh_port" in refusal(
        spec_from(facts_corpus, memory=memory, **given), tokenizer
    )
    spec = spec_from(facts_corpus, memory=memory, fresh_port=True, **given)
    gates = build_pair(spec, tokenizer).data.port.read_gates()
    assert not any(gate.write.weight.any() for _, gate in gates)


def test_a_memory_of_other_sizes_is_refused_and_the_fields_are_named(
    conv_run: str, facts_corpus: CorpusSpec, tokenizer: Tokenizer
) -> None:
    memory = {"start_from": conv_run, "slots_side": 16, "topk": 2}
    message = refusal(spec_from(facts_corpus, memory=memory, pretrained=conv_run), tokenizer)
    assert "memory.layer.slots_side is 16 here and 8 there" in message
    assert "memory.layer.topk is 2 here and 4 there" in message
    assert "memory.layer.heads" not in message


def test_a_memory_over_other_rows_is_refused(
    conv_run: str, place: str, facts_corpus: CorpusSpec, tokenizer: Tokenizer
) -> None:
    memory = {"start_from": conv_run}
    message = refusal(spec_from(facts_corpus, memory=memory, pretrained=place), tokenizer)
    assert f"over {tokenizer.size} rows" in message
    assert "set tokenizer.pretrained" in message


@pytest.mark.parametrize("field", ["data", "memory"])
def test_weights_trained_with_another_tokenizer_are_refused(
    conv_run: str, facts_corpus: CorpusSpec, tokenizer: Tokenizer, field: str
) -> None:
    other = Tokenizer.train(["other words, other merges, other ids"] * 9, tokenizer.size)
    data = {"pretrained": conv_run} if field == "data" else {"fields": FAMILIES["llama"]}
    memory = {"start_from": conv_run} if field == "memory" else {}
    message = refusal(spec_from(facts_corpus, memory=memory, **data), other)
    assert "other token ids" in message
    assert "set tokenizer.pretrained" in message
    assert str(Path(conv_run) / "export" / "data_layer") in message


def test_a_tokenizer_of_other_tokens_altogether_is_refused(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    place = with_tokenizer(save_checkpoint(tmp_path, rows=tokenizer.size), tokenizer)
    words = '{"version":"1.0","model":{"type":"WordLevel","vocab":{"?!":0},"unk_token":"?!"}}'
    (tmp_path / "tokenizer.json").write_text(words)
    assert "0 of this run's" in refusal(spec_from(facts_corpus, pretrained=place), tokenizer)


def test_a_run_that_has_not_ended_is_refused(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text("seed: 3\n")
    message = refusal(spec_from(facts_corpus, pretrained=str(tmp_path)), tokenizer)
    assert "that run has written no export" in message


def test_a_memory_of_no_run_is_refused(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    memory = {"start_from": str(tmp_path)}
    spec = spec_from(facts_corpus, memory=memory, fields=FAMILIES["llama"])
    assert "neither a run nor an export" in refusal(spec, tokenizer)


@pytest.mark.parametrize("part", ["memory_port/port", "memory_layer/memory"])
def test_a_truncated_part_of_an_earlier_run_is_refused(
    conv_run: str, facts_corpus: CorpusSpec, tokenizer: Tokenizer, part: str
) -> None:
    path = Path(conv_run, "export", f"{part}.safetensors")
    path.write_bytes(path.read_bytes()[:-40])
    memory = {"start_from": conv_run}
    message = refusal(spec_from(facts_corpus, memory=memory, pretrained=conv_run), tokenizer)
    assert "truncated or altered" in message
    assert conv_run in message


def test_an_earlier_run_may_lie_on_any_file_system(
    conv_run: str, facts_corpus: CorpusSpec, tokenizer: Tokenizer
) -> None:
    remote = "memory://earlier-runs/run"
    for path in (p for p in Path(conv_run).rglob("*") if p.is_file()):
        with fsspec.open(f"{remote}/{path.relative_to(conv_run).as_posix()}", "wb") as handle:
            handle.write(path.read_bytes())
    found = []
    for url in (conv_run, f"file://{conv_run}", remote):
        spec = spec_from(facts_corpus, memory={"start_from": url}, pretrained=url)
        check_tokens(spec, tokenizer)
        counts = count_parameters(spec, tokenizer.size)
        found.append((digests(build_pair(spec, tokenizer)), counts))
    fsspec.filesystem("memory").rm("/earlier-runs", recursive=True)
    assert found[1:] == [found[0], found[0]]


def test_an_earlier_run_may_be_moved_and_its_checkpoint_lost(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    place = save_checkpoint(tmp_path / "checkpoint", rows=tokenizer.size)
    memory = {"encoder": "frozen_copy", "copy_layers": 1}
    spec = spec_from(facts_corpus, memory=memory, pretrained=place)
    pair = moved(build_pair(spec, tokenizer))
    export_pair(spec, tokenizer, pair, str(tmp_path / "run" / "export"))
    shutil.rmtree(tmp_path / "checkpoint")
    run = str((tmp_path / "run").rename(tmp_path / "moved"))
    again = spec_from(facts_corpus, memory={**memory, "start_from": run}, pretrained=run)
    assert digests(build_pair(again, tokenizer)) == digests(pair)


class Positions:
    """A model's config."""

    def __init__(self, **fields: Any) -> None:
        vars(self).update(fields)

    def get_text_config(self) -> Positions:
        return self


def test_a_window_longer_than_the_models_positions_is_refused() -> None:
    with pytest.raises(ConfigError, match="longer than the model's 64 positions"):
        check_positions(Positions(max_position_embeddings=64), 65)


def test_a_window_longer_than_sliding_attention_is_refused() -> None:
    with pytest.raises(ConfigError, match="64 tokens that the model's sliding attention sees"):
        check_positions(Positions(max_position_embeddings=512, sliding_window=64), 65)


def test_a_window_that_fits_is_taken() -> None:
    check_positions(Positions(max_position_embeddings=64, sliding_window=64), 64)


@pytest.mark.parametrize("none", [None, 0, -1])
def test_no_limit_is_written_in_three_ways(none: int | None) -> None:
    fields = ("max_position_embeddings", "sliding_window", "attention_chunk_size")
    check_positions(Positions(**dict.fromkeys(fields, none)), 65)


def test_a_window_of_chunked_attention_is_a_limit() -> None:
    with pytest.raises(ConfigError, match="64 tokens that the model's chunked attention sees"):
        check_positions(Positions(attention_chunk_size=64), 65)


def test_a_sliding_window_that_no_layer_has_is_no_limit() -> None:
    kinds = ["full_attention"] * 2
    check_positions(Positions(sliding_window=64, layer_types=kinds), 65)
    check_positions(Positions(sliding_window=64, use_sliding_window=False), 65)
    with pytest.raises(ConfigError, match="sliding attention"):
        check_positions(Positions(sliding_window=64, layer_types=[*kinds, "sliding_attention"]), 65)


@pytest.mark.parametrize("kind", ["qwen2_moe", "qwen2", "qwen3", "mixtral", "phi3"])
def test_a_family_whose_attention_does_not_slide_takes_any_window(kind: str) -> None:
    config = AutoConfig.for_model(kind, max_position_embeddings=99)
    check_positions(config, 98)
