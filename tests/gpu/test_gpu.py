from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config import load_config
from tests.integration.tiny import write_config, write_corpora


def test_both_groups_train_on_one_shared_gpu(tmp_path: Path) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here: torch.cuda.is_available() is False")
    from orchestrator.run import train

    write_corpora(tmp_path)
    shares = ["data.workers.gpus=0.4", "memory.workers.gpus=0.4"]
    config = load_config(str(write_config(tmp_path)), ["name=gpu", *shares])
    result = train(config)
    assert result.status.startswith("finished")
    assert result.summary["data"]["steps"] == 9
    assert result.summary["exchange"]["max_lag"] == 1


def test_a_model_with_memory_generates_on_the_gpu_with_and_without_a_cache() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here: torch.cuda.is_available() is False")
    from tests.unit.actors.tiny import tokens
    from tests.unit.actors.tiny_pair import NUM_TOKENS, tandem

    model = tandem("llama")[0].to("cuda")
    prompt = tokens(3, 5, num=NUM_TOKENS).to("cuda")
    options = {"max_new_tokens": 8, "do_sample": False, "num_beams": 2}
    cached, anew = (model.generate(prompt, use_cache=c, **options) for c in (True, False))
    assert cached.device.type == "cuda"
    assert torch.equal(cached, anew)
    assert model.to(torch.bfloat16).generate(prompt, **options).shape[0] == 3
