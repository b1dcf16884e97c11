"""The model card has the run's own figures, its controls and its limits, and nothing unknown."""

from __future__ import annotations

from typing import Any

import yaml

from actors.sharing.model_card import model_card

PAIR: dict[str, Any] = {
    "architecture": "LlamaForCausalLM",
    "dtype": "bfloat16",
    "parameters": 1234567,
    "slots": 64,
    "dim": 16,
    "memory_parameters": 8901,
    "read_layers": [0, 1],
    "longest": 2048,
    "writes": 2,
    "told": 5,
}
ORIGIN: dict[str, Any] = {
    "name": "ada/pair",
    "seed": 3,
    "pretrained": "owner/base",
    "train": "port",
    "corpus": {"kind": "facts", "names": ["a|b.jsonl"]},
    "data": {"steps": 960, "tokens": 12345},
    "heldout": {
        "own_loss": 1.25,
        "help_loss": 1.0,
        "recall_kl": None,
        "general_own_loss": 4.0,
        "general_help_loss": 4.25,
    },
    "before": {
        "heldout": {"own_loss": 7.5},
        "accuracy": {"own": 0.0, "baseline": 0.1},
        "num_probes": 40,
    },
    "accuracy": {"own": 0.5, "help": 0.75, "memory": 0.7, "baseline": 0.152},
    "num_probes": 200,
    "reflects_final_verdict": "hardly",
    "reflects_final_reason": "agreement .4",
    "questions": [{"prompt": 'Say "a" to'}],
}


def test_a_card_has_what_was_trained_its_figures_and_controls_and_its_limits() -> None:
    card = model_card(ORIGIN, PAIR)
    front = yaml.safe_load(card.split("---")[1])
    assert front["base_model"] == "owner/base"
    assert front["tags"] == ["tandem", "memory"]
    for line in (
        "| data layer | LlamaForCausalLM, 1,234,567 parameters, bfloat16 |",
        "| memory | 64 slots of width 16, 8,901 parameters, read after layers 0, 1 |",
        "| corpus | facts: a\\|b.jsonl |",
        "| data group | 960 steps, 12,345 tokens |",
        "| told since | 5 associations in 2 writes |",
        "| data layer alone, nats per token | 7.5000 | 1.2500 |",
        "| never trained | 50.0% | 75.0% | 70.0% | 15.2% |",
        "| before training (40 questions) | 0.0% |  |  | 10.0% |",
        "Does the memory reflect the data layer: hardly (agreement .4).",
        "- On general text the memory changes the loss by +0.2500 nats per token.",
        "- The data layer reads 2,048 tokens at most.",
    ):
        assert line in card
    assert "None" not in card.replace("None are known", "")
    assert 'model = load("ada/pair")' in card
    assert 'model.ask("Say \\"a\\" to")' in card


def test_a_memory_with_nothing_to_catch_up_with_is_not_said_to_be_behind() -> None:
    verdict = {"reflects_final_verdict": "unchanged", "reflects_final_reason": "it stays"}
    card = model_card({**ORIGIN, **verdict}, PAIR)
    assert "The memory has nothing to catch up with: it stays." in card
    assert "is behind" not in card


def test_a_card_of_which_no_figure_is_known_says_so() -> None:
    card = model_card({}, PAIR | {"told": 0, "writes": 0})
    assert "None are known" in card
    assert "base_model" not in card
    assert "told since" not in card
