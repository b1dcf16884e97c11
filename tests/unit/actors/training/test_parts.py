"""A step whose positions come in parts is the step that takes them at once, up to rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from actors.settings.corpus import CorpusSpec
from actors.tokenizers.tokenizer import Tokenizer
from tests.unit.actors.measuring.test_heldout import Largest
from tests.unit.actors.test_waits import EVERY_TERM
from tests.unit.actors.tiny import FAMILIES, LLAMA, Exchange, run_spec

GROUPS = ["data", "memory"]
SOFT_CAPPED = {
    "model_type": "gemma2",
    "fields": {**LLAMA, "head_dim": 16, "final_logit_softcapping": 2.0},
    "read_layers": (0, 1),
}
CASES: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "every term": EVERY_TERM,
    "passes": {**EVERY_TERM, "data__accumulate": 2, "memory__accumulate": 3},
    "nothing yields": {**EVERY_TERM, "losses__recall_yields": 0.0, "losses__self_yields": 0.0},
    "recall alone": {"losses__self": 0.0, "losses__encoder": 0.0},
    "lambda learns from help": {"data__mixing_noise": 0.0},
    "all read": {"losses__own": 0.0},
    "none reads": {"losses__help": 0.0},
    "capped": {**EVERY_TERM, "data__layer": SOFT_CAPPED},
    "tied": {
        "data__layer": {
            "model_type": "qwen2",
            "fields": FAMILIES["qwen2"],
            "read_layers": (0, 1),
        }
    },
}


def step_of(
    corpus: CorpusSpec, tokenizer: Tokenizer, group: str, size: int | None, changes: dict[str, Any]
) -> tuple[dict[str, float], Tensor, Tensor]:
    """The second interval's first step, taken `size` positions at a time: what it measures, the
    gradients of dense parameters before clipping, and the value table after it.
    """
    exchange = Exchange(run_spec(corpus, **changes), tokenizer.to_json())
    exchange.run(1)
    trainer = exchange.data if group == "data" else exchange.memory
    data = exchange.data.layer if group == "data" else exchange.memory.teacher
    data.logit_tokens = size
    found: list[Tensor] = []
    step = trainer.dense.step

    def watched(*rates: Any) -> Tensor:
        found.append(trainer.dense.gradient.clone())
        return step(*rates)

    trainer.dense.step = watched  # type: ignore[method-assign]
    measured = trainer.train_step()
    table = exchange.memory.layer.values.detach().clone()
    return {**measured.metrics, **measured.shares}, found[0], table


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("case", CASES)
def test_a_step_in_parts_is_the_step_at_once(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer, group: str, case: str
) -> None:
    changes = CASES[case]
    want, gradient, table = step_of(facts_corpus, tokenizer, group, None, changes)
    assert gradient.norm() > 0.01
    for size in (1, 7):
        got, found, moved = step_of(facts_corpus, tokenizer, group, size, changes)
        assert got == pytest.approx(want, rel=1e-4, abs=1e-5)
        torch.testing.assert_close(found, gradient, atol=2e-6, rtol=2e-3)
        torch.testing.assert_close(moved, table, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("case", ["every term", "capped", "lambda learns from help"])
def test_a_step_makes_no_tensor_of_more_positions_times_all_ids_than_is_set(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer, group: str, case: str
) -> None:
    spec = run_spec(facts_corpus, **CASES[case], logit_tokens=7)
    exchange = Exchange(spec, tokenizer.to_json())
    exchange.run(1)
    trainer = exchange.data if group == "data" else exchange.memory
    with Largest(tokenizer.size) as largest:
        trainer.train_step()
    width = LLAMA["hidden_size"]  # the data layer's output matrix has so many, the other way round
    assert trainer.spec.corpus.window * 4 > 2 * width
    assert 0 < largest.rows <= width
