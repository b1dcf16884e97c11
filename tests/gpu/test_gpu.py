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
