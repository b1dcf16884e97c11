"""Values by what of a pretrained model trains, and by its size."""

from __future__ import annotations

from typing import Any

import pytest

from actors.settings.fitted import (
    FITTED,
    ModelSize,
    data_rate,
    fitted_values,
    rate_warnings,
    read_layers,
)

CPUS = {"data": False, "memory": False}
SMOL = {
    "hidden_act": "silu",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
    "vocab_size": 49152,
}
GPT2 = {"n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257, "n_inner": None}
MEDIUM, TINY = ModelSize(30, 576, 135_000_000), ModelSize(2, 32, 50_000)
LARGE = ModelSize(32, 4096, 7_000_000_000)


@pytest.mark.parametrize(
    ("config", "num_parameters"),
    [(SMOL, 134_515_008), (GPT2, 124_439_808), ({"text_config": SMOL}, 134_515_008)],
)
def test_the_size_by_a_config_is_within_a_percent_of_what_the_model_has(
    config: dict[str, Any], num_parameters: int
) -> None:
    size = ModelSize.of(config)
    assert size is not None
    assert size.num_parameters == pytest.approx(num_parameters, rel=0.01)


def test_the_experts_of_a_mixture_are_as_wide_as_its_config_says() -> None:
    """Qwen3-30B-A3B, which has 30.5 billion parameters."""
    size = ModelSize.of(
        {
            **{"hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 6144},
            **{"moe_intermediate_size": 768, "num_experts": 128, "num_hidden_layers": 48},
            **{"head_dim": 128, "num_attention_heads": 32, "num_key_value_heads": 4},
            **{"tie_word_embeddings": False, "vocab_size": 151936},
        }
    )
    assert size is not None
    assert size.num_parameters == pytest.approx(30.5e9, rel=0.01)


@pytest.mark.parametrize(
    ("fields", "longest"),
    [
        ({}, 8192),
        ({"sliding_window": 128}, 128),
        ({"sliding_window": 128, "use_sliding_window": False}, 8192),
        ({"sliding_window": 128, "layer_types": ["full_attention"] * 30}, 8192),
        ({"attention_chunk_size": 64, "layer_types": ["chunked_attention"] * 30}, 64),
    ],
)
def test_a_window_is_no_longer_than_attention_sees(fields: dict[str, Any], longest: int) -> None:
    size = ModelSize.of({**SMOL, "max_position_embeddings": 8192, **fields})
    assert size is not None
    assert size.positions == longest


@pytest.mark.parametrize("config", [{}, {"hidden_size": 8}, {"hidden_size": "8", "n_layer": 2}])
def test_a_config_that_does_not_say_depth_and_width_has_no_size(config: dict[str, Any]) -> None:
    assert ModelSize.of(config) is None


@pytest.mark.parametrize(
    ("num_layers", "where"), [(1, (0,)), (2, (0, 1)), (3, (1, 2)), (12, (4, 8)), (30, (10, 20))]
)
def test_the_memory_is_read_at_a_third_and_two_thirds_of_the_depth(
    num_layers: int, where: tuple[int, ...]
) -> None:
    assert read_layers(num_layers) == where


def test_a_small_model_keeps_the_defaults_but_where_it_reads() -> None:
    assert fitted_values("all", TINY, CPUS) == {"data.layer.read_layers": (0, 1)}


def test_every_setting_that_fits_itself_gets_a_value_for_a_larger_model() -> None:
    assert set(fitted_values("port", MEDIUM, CPUS)) == set(FITTED)


def test_all_of_a_model_trains_slower_than_adapters_and_a_port() -> None:
    rates = [data_rate(train, MEDIUM) for train in ("all", "lora", "port")]
    assert rates == sorted(rates)
    assert rates[0] < 1e-4
    assert data_rate("all", LARGE) < data_rate("all", MEDIUM)
    assert data_rate(("model.layers.2.*",), MEDIUM) == data_rate("all", MEDIUM)


def test_nothing_decays_by_default() -> None:
    values = fitted_values("all", MEDIUM, CPUS)
    assert values["data.optimizer.weight_decay"] == values["memory.optimizer.weight_decay"] == 0


@pytest.mark.parametrize("train", ["all", "lora", "port"])
def test_the_port_beside_a_larger_model_sees_general_text_whatever_trains(train: str) -> None:
    assert fitted_values(train, MEDIUM, CPUS)["data.general_frac"] > 0


def test_a_batch_is_smaller_and_an_interval_shorter_where_a_group_has_no_gpu() -> None:
    cpu, gpu = (fitted_values("all", MEDIUM, {"data": on, "memory": False}) for on in (False, True))
    assert cpu["data.batch_size"] < gpu["data.batch_size"]
    assert cpu["data.steps_per_interval"] < gpu["data.steps_per_interval"]
    assert (cpu["data.precision"], gpu["data.precision"]) == ("fp32", "bf16")


def test_the_warm_up_is_a_tenth_of_the_steps() -> None:
    short = fitted_values("all", MEDIUM, CPUS, intervals=5)
    assert short["data.optimizer.warmup_steps"] == 2
    assert short["memory.optimizer.warmup_steps"] == 5
    assert fitted_values("all", MEDIUM, CPUS, 10**6)["data.optimizer.warmup_steps"] == 100


def rates(lr: float, decay: float = 0.0) -> dict[str, float]:
    return {"data.optimizer.lr": lr, "data.optimizer.weight_decay": decay}


def test_a_rate_for_fresh_weights_is_warned_of_with_the_one_that_fits() -> None:
    (line,) = rate_warnings("all", MEDIUM, rates(2e-3))
    assert "data.optimizer.lr 0.002 is 67 times the 3e-05 that fits" in line
    (line,) = rate_warnings("all", MEDIUM, rates(3e-5, decay=0.3))
    assert "weight_decay 0.3" in line


@pytest.mark.parametrize(("train", "size"), [("port", MEDIUM), ("all", TINY)])
def test_nothing_is_warned_of_where_no_rate_can_damage_much(train: str, size: ModelSize) -> None:
    assert rate_warnings(train, size, rates(2e-3, decay=0.3)) == []
    assert rate_warnings("all", MEDIUM, rates(1e-4)) == []
