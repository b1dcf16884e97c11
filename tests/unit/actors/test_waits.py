"""How often a step makes the host wait for a GPU, whatever the number of terms and passes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from actors.settings.corpus import CorpusSpec
from actors.tokenizers.tokenizer import Tokenizer
from tests.unit.actors.tiny import FAMILIES, Exchange, memory_spec, run_spec, save_checkpoint
from tests.unit.actors.waits import counted_waits

EVERY_TERM: dict[str, Any] = {
    "losses__self_yields": 0.5,
    "losses__balance": 0.3,
    "mix": {"just_trained": 2, "fresh": 1, "replay": 1, "sampled": 1},
    "memory__recall_frac": 0.75,
    "memory__batch_size": 6,
    "data__batch_size": 6,
}
TERMS = {
    "data": {"own", "help", "reader", "mixing", "lambda", "loss"},
    "memory": {"self", "recall", "encoder", "loss"},
}


@pytest.mark.parametrize(
    ("wait", "num"),
    [
        (lambda x: x.sum().item(), 1),
        (lambda x: float(x.sum()) + int(x.max()), 2),
        (lambda x: bool((x > 0).all()), 1),
        (lambda x: x[x > 0], 1),
        (lambda x: x.clone().index_put_((x > 0,), torch.zeros(())), 1),
        (lambda x: x.nonzero(), 1),
        (lambda x: x.unique(), 1),
        (lambda x: x.repeat_interleave(torch.tensor([2, 1, 1])), 1),
        (lambda x: x.tolist(), 1),
        (lambda x: x.cpu(), 1),
        (lambda x: x.new_tensor([1.0]), 1),
        (lambda x: x[torch.tensor([2, 0])] + x.index_select(0, torch.tensor([1, 1])).sum(), 0),
        (lambda x: x.repeat_interleave(torch.tensor([2, 1, 1]), output_size=4), 0),
        (lambda x: x.median() / x.norm().clamp_max(1.0), 0),
    ],
)
def test_what_makes_a_host_wait_is_counted(wait: Callable[[Tensor], object], num: int) -> None:
    x = torch.tensor([3.0, -1.0, 2.0])
    with counted_waits() as waits:
        wait(x)
    assert len(waits) == num, waits.found


def test_a_wait_of_a_backward_pass_is_counted() -> None:
    x = torch.tensor([3.0, -1.0, 2.0], requires_grad=True)
    total = x[x > 0].sum()
    with counted_waits() as waits:
        total.backward()
    assert len(waits) == 1, waits.found


@pytest.mark.parametrize("group", ["data", "memory"])
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="as it comes"),
        pytest.param(EVERY_TERM, id="every term"),
        pytest.param({**EVERY_TERM, "data__accumulate": 2, "memory__accumulate": 3}, id="passes"),
        pytest.param(
            {
                **EVERY_TERM,
                "data__layer": {
                    "model_type": "gpt2",
                    "fields": FAMILIES["gpt2"],
                    "read_layers": (0, 1),
                },
            },
            id="gpt2",
        ),
    ],
)
def test_a_step_waits_at_most_twice_whatever_it_learns_from(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer, group: str, changes: dict[str, Any]
) -> None:
    assert_two_waits(Exchange(run_spec(facts_corpus, **changes), tokenizer.to_json()), group)


@pytest.mark.parametrize("group", ["data", "memory"])
def test_beside_a_frozen_copy_a_step_waits_at_most_twice(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer, tmp_path: Path, group: str
) -> None:
    pretrained = {"pretrained": save_checkpoint(tmp_path, rows=400), "read_layers": (0, 1)}
    memory = memory_spec(encoder="frozen_copy", copy_layers=1).model_dump()
    spec = run_spec(facts_corpus, **EVERY_TERM, data__layer=pretrained, memory__layer=memory)
    assert_two_waits(Exchange(spec, tokenizer.to_json()), group)


def assert_two_waits(exchange: Exchange, group: str) -> None:
    """Of the third interval's first step: by then every kind of text is in the memory's mix."""
    exchange.run(2)
    trainer = exchange.data if group == "data" else exchange.memory
    with counted_waits() as waits:
        measured = trainer.train_step()
    assert measured.shares.keys() == TERMS[group]
    assert len(waits) <= 2, waits.found
