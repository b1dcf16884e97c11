from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.settings.config import load_config
from tests.integration.tiny import write_config, write_corpora


@pytest.fixture(autouse=True)
def _card() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here: torch.cuda.is_available() is False")


def test_both_groups_train_on_one_shared_gpu(tmp_path: Path) -> None:
    from orchestrator.run import train

    write_corpora(tmp_path)
    shares = ["data.workers.gpus=0.4", "memory.workers.gpus=0.4"]
    config = load_config(str(write_config(tmp_path)), ["name=gpu", *shares])
    result = train(config)
    assert result.status.startswith("finished")
    assert result.summary["data"]["steps"] == 9
    assert result.summary["exchange"]["max_lag"] == 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_interval_on_the_gpu_gives_the_same_bits_every_time(
    tmp_path: Path, precision: str
) -> None:
    from actors.corpus.corpus import build_tokenizer
    from actors.training.data_trainer import DataTrainer
    from actors.training.memory_trainer import MemoryTrainer
    from actors.wire import Order
    from benchmarks.small_specs import changed_spec
    from tests.unit.actors.tiny import run_spec, write_facts

    on_card = {
        f"{group}.{name}": value
        for group in ("data", "memory")
        for name, value in (("workers.gpus", 1.0), ("precision", precision), ("batch_size", 32))
    }
    spec = changed_spec(run_spec(write_facts(tmp_path)), on_card)
    tokenizer = build_tokenizer(spec).to_json()
    digests = []
    for _ in range(2):
        data, memory = DataTrainer(spec, tokenizer, "r"), MemoryTrainer(spec, tokenizer, "r")
        published = [data.publish(), memory.publish()]
        for number in (1, 2):
            out = [
                trainer.interval(Order("r", 0, number, 8), [header], buckets)
                for trainer, (header, buckets) in zip((data, memory), published[::-1], strict=True)
            ]
            published = [(o.header, o.buckets) for o in out]
        digests.append((data.own.digest(), memory.own.digest()))
    assert digests[0] == digests[1]


def test_a_model_with_memory_generates_on_the_gpu_with_and_without_a_cache() -> None:
    import torch

    from tests.unit.actors.tiny import tokens
    from tests.unit.actors.tiny_pair import NUM_TOKENS, tandem

    model = tandem("llama")[0].to("cuda")
    prompt = tokens(3, 5, num=NUM_TOKENS).to("cuda")
    options = {"max_new_tokens": 8, "do_sample": False, "num_beams": 2}
    cached, anew = (model.generate(prompt, use_cache=c, **options) for c in (True, False))
    assert cached.device.type == "cuda"
    assert torch.equal(cached, anew)
    assert model.to(torch.bfloat16).generate(prompt, **options).shape[0] == 3


def test_what_a_part_costs_is_the_cards_time_and_not_that_of_queueing_it() -> None:
    import time

    import torch

    from actors.machine.step_timer import StepTimer

    costs = StepTimer(torch.device("cuda"))
    torch.cuda._sleep(1)  # what the first call loads
    torch.cuda.synchronize()
    begin = time.perf_counter()
    with costs.span("asleep"):
        torch.cuda._sleep(500_000_000)
    with costs.span("idle"):
        pass
    queued_s = time.perf_counter() - begin
    costs_s = costs.read()
    whole_s = time.perf_counter() - begin
    assert queued_s < 0.5 * whole_s  # else the card was no busier than the host
    assert 0.8 * whole_s < costs_s["asleep"] <= whole_s
    assert costs_s["idle"] < 0.1 * whole_s


@pytest.mark.parametrize("group", ["data", "memory"])
def test_a_step_on_the_gpu_waits_for_it_at_most_twice(tmp_path: Path, group: str) -> None:
    import warnings

    import torch

    from actors.corpus.corpus import build_tokenizer
    from tests.unit.actors.test_waits import EVERY_TERM
    from tests.unit.actors.tiny import Exchange, run_spec, write_facts

    on_card = {f"{name}__workers": {"gpus": 1.0} for name in ("data", "memory")}
    spec = run_spec(write_facts(tmp_path), **EVERY_TERM, **on_card)
    exchange = Exchange(spec, build_tokenizer(spec).to_json()).run(2)
    trainer = exchange.data if group == "data" else exchange.memory
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            trainer.train_step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [str(w.message) for w in caught if "synchronizing" in str(w.message)]
    assert 1 <= len(waits) <= 2, waits


def test_packed_documents_in_bf16_are_those_of_the_mask() -> None:
    import torch

    from tests.unit.actors.operators.test_packed_attention import SEGMENTS, layer_of
    from tests.unit.actors.tiny import tokens

    results = []
    for kind in ("packed", "sdpa"):
        layer = layer_of("llama", kind).to("cuda")
        ids, segments = tokens(*SEGMENTS.shape).to("cuda"), SEGMENTS.to("cuda")
        with torch.autocast("cuda", dtype=torch.bfloat16):
            logits = layer(ids, segments).logits_BTV[segments >= 0].float()
        logits.log_softmax(-1)[:, 5].sum().backward()
        gradient = layer.model.get_input_embeddings().weight.grad
        results.append((logits.detach(), gradient))
    for got, want in zip(*results, strict=True):
        assert (got - want).abs().max() < 0.03 * want.abs().max()
