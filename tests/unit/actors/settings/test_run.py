"""The settings: what is refused at birth, and how a batch is divided."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from pydantic import ValidationError

from actors.settings.corpus import CorpusSpec
from actors.settings.groups import OptimizerSpec
from actors.settings.layers import MemoryLayerSpec
from actors.settings.run import DATA, MEMORY, LossWeights, MixSpec, RunSpec, peer_of

CORPUS = {"paths": ["text.txt"]}


def spec(**fields: Any) -> RunSpec:
    return RunSpec.model_validate({"corpus": CORPUS, **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"sede": 1},
        {"corpus": {**CORPUS, "windw": 96}},
        {"tokenizer": {"size": 300}},
        {"data": {"layers": {}}},
        {"data": {"layer": {"type": "llama"}}},
        {"data": {"optimizer": {"learning_rate": 1}}},
        {"memory": {"workers": {"num": 1}}},
        {"memory": {"layer": {"slots": 4}}},
        {"losses": {"owm": 1}},
        {"mix": {"new": 1}},
        {"evaluation": {"often": 1}},
    ],
)
def test_an_unknown_key_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        spec(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": -1},
        {"seed": 2**31},
        {"intervals": 0},
        {"corpus": {"paths": []}},
        {"corpus": {**CORPUS, "kind": "pictures"}},
        {"corpus": {**CORPUS, "window": 7}},
        {"corpus": {**CORPUS, "token_noise": 1}},
        {"corpus": {**CORPUS, "heldout_frac": 0}},
        {"corpus": {**CORPUS, "heldout_frac": 0.5}},
        {"corpus": {**CORPUS, "block_bytes": 255}},
        {"tokenizer": {"vocab_size": 299}},
        {"data": {"batch_size": 1}},
        {"data": {"help_frac": 1.1}},
        {"data": {"steps_per_interval": 0}},
        {"data": {"layer": {"read_layers": []}}},
        {"data": {"layer": {"read_layers": [1, 1]}}},
        {"data": {"layer": {"read_layers": [-1]}}},
        {"data": {"optimizer": {"lr": 0}}},
        {"data": {"optimizer": {"lr": "nan"}}},
        {"data": {"optimizer": {"lr": "inf"}}},
        {"data": {"optimizer": {"clip_norm": 0}}},
        {"data": {"optimizer": {"betas": [0.9]}}},
        {"data": {"workers": {"num_workers": 0}}},
        {"data": {"workers": {"cpus": 0}}},
        {"memory": {"recall_frac": 0}},
        {"memory": {"value_lr": 0}},
        {"memory": {"layer": {"slots_side": 3}}},
        {"memory": {"layer": {"conv_dilations": []}}},
        {"losses": {"own": -1}},
        {"losses": {"self": "nan"}},
        {"mix": {"fresh": -0.1}},
        {"evaluation": {"windows": 0}},
    ],
)
def test_a_value_out_of_range_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        spec(**fields)


@pytest.mark.parametrize("betas", [(0.9, 1.0), (1.0, 0.9), (0.9, 1.5), (-0.1, 0.9)])
def test_moment_decay_rates_outside_zero_to_one_are_refused(betas: tuple[float, float]) -> None:
    with pytest.raises(ValidationError):
        OptimizerSpec(betas=betas)


def test_the_defaults_are_valid() -> None:
    assert spec().corpus.paths == ("text.txt",)


def test_a_spec_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        spec().seed = 1


def test_a_spec_survives_json() -> None:
    before = spec(losses={"self": 0.25}, memory={"layer": {"conv_dilations": [3]}})
    assert RunSpec.model_validate_json(before.model_dump_json()) == before


def test_the_self_weight_is_written_self() -> None:
    assert "self" in spec().model_dump()["losses"]


def test_a_data_group_that_learns_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"losses\.own and losses\.help are both 0"):
        LossWeights(own=0, help=0)


def test_a_memory_group_that_learns_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="memory group would train on nothing"):
        LossWeights.model_validate({"recall": 0, "self": 0, "balance": 1})


@pytest.mark.parametrize("only", ["recall", "self"])
def test_one_loss_of_the_memory_is_enough(only: str) -> None:
    weights = {"recall": 0, "self": 0, only: 0.1}
    assert LossWeights.model_validate(weights).model_dump()[only] == 0.1


def test_a_mix_of_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="all shares are 0"):
        MixSpec(just_trained=0, fresh=0, replay=0, sampled=0)


SHARES = list(itertools.product([0.0, 0.1, 0.5, 3.0], repeat=4))[1:]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 16])
def test_the_counts_of_a_mix_sum_to_the_batch_size(batch_size: int) -> None:
    for a, b, c, d in SHARES:
        counts = MixSpec(just_trained=a, fresh=b, replay=c, sampled=d).counts(batch_size)
        assert sum(counts.values()) == batch_size


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 16])
def test_no_count_is_a_whole_sequence_off_its_share(batch_size: int) -> None:
    for shares in SHARES:
        kinds = dict(zip(("just_trained", "fresh", "replay", "sampled"), shares, strict=True))
        counts = MixSpec(**kinds).counts(batch_size)
        exact = {kind: share / sum(shares) * batch_size for kind, share in kinds.items()}
        assert all(abs(counts[kind] - exact[kind]) < 1 for kind in kinds)


def test_a_kind_without_a_share_gets_no_sequence() -> None:
    counts = MixSpec(just_trained=1, fresh=1, replay=1, sampled=0).counts(5)
    assert counts["sampled"] == 0


def test_the_largest_remainder_gets_the_odd_sequence() -> None:
    counts = MixSpec(just_trained=0.5, fresh=0.3, replay=0.2).counts(4)
    assert counts == {"just_trained": 2, "fresh": 1, "replay": 1, "sampled": 0}


def test_facts_without_templates_are_refused() -> None:
    with pytest.raises(ValidationError, match="needs `templates`"):
        CorpusSpec(kind="facts", paths=("facts.jsonl",))


def test_more_slots_per_head_than_a_side_has_keys_are_refused() -> None:
    with pytest.raises(ValidationError, match="topk 9 is more than slots_side 8"):
        MemoryLayerSpec(topk=9, slots_side=8)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValidationError, match="dim 16 is not a multiple of attention_heads 3"):
        MemoryLayerSpec(dim=16, attention_heads=3)


def test_a_memory_without_attention_may_have_any_width() -> None:
    assert MemoryLayerSpec(dim=17, attention_heads=0).dim == 17


def test_the_slots_are_the_square_of_the_side() -> None:
    assert MemoryLayerSpec(slots_side=12, topk=4).num_slots == 144


def test_the_schedule_of_a_group_spans_its_own_steps() -> None:
    run = spec(intervals=7, data={"steps_per_interval": 3}, memory={"steps_per_interval": 5})
    assert (run.total_steps(DATA), run.total_steps(MEMORY)) == (21, 35)


def test_each_group_is_the_peer_of_the_other() -> None:
    assert (peer_of(DATA), peer_of(MEMORY)) == (MEMORY, DATA)
