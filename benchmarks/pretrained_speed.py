"""Tokens per core-second of the data group's steps, and of a plain loop of transformers (and peft)
that trains the same part of the same model on the same batches. Called by `pretrained`.

Plain: next-token loss at the positions that the run learns, AdamW, no reads, no mixture. For `port`
it trains what stands where the port's gates do, a linear bottleneck of the memory's width.
Shapes: B sequences, T tokens, N positions, V token ids.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actors.corpus.corpus import Corpus, WindowStream, build_tokenizer
from actors.layers.batch import Batch, rows_at, to_batch
from actors.layers.data_layer import decoder_layers, packed_inputs
from actors.settings.run import DATA
from actors.training.data_trainer import DataTrainer
from actors.weights.parameter_counts import count_parameters
from benchmarks.pretrained_runs import Json, Size, short_config
from jobs.check import footprint
from orchestrator.settings.config import Config, make_config

Step = Callable[[Batch], Tensor]


def speed(model: Path, facts: Path, train: str, size: Size) -> Json:
    """Tokens per core-second of both loops, whose steps take turns so that what else the machine
    does slows both, and sizes of what the run publishes and keeps.
    """
    torch.set_num_threads(1)
    config = make_config(short_config(model, facts, train, size) | {"checkpoints": {"every": 10}})
    tokenizer = build_tokenizer(config)
    trainer = DataTrainer(config.run_spec, tokenizer.to_json(), "speed")
    counts = count_parameters(config, tokenizer.size)
    published = trainer.own.total_bytes
    stream = WindowStream(Corpus.open(config.run_spec, tokenizer), DATA)
    step = plain_step(model, config)

    def plain() -> int:
        batch = to_batch(stream.next_batch(config.data.batch_size)[0], torch.device("cpu"))
        step(batch)
        return batch.num_tokens

    def own() -> int:
        num = trainer.train_step().num_tokens
        trainer.step += 1  # what a step learns besides depends on its number
        return num

    ours, theirs = _rates(size.timed_steps, own, plain)
    return {
        "ours": ours,
        "plain": theirs,
        "ratio": ours / theirs,
        "snapshot_mib": published / 2**20,
        "store_bytes_per_trained": footprint.store_bytes(config, counts)
        / (footprint.trained(counts) + counts.memory),
    }


def _rates(steps: int, *loops: Callable[[], int]) -> list[float]:
    """Tokens per second of CPU of each loop over so many of its steps, after one that warms up."""
    tokens, seconds = [0] * len(loops), [0.0] * len(loops)
    for number in range(steps + 1):
        for at, step in enumerate(loops):
            began = time.process_time()
            num = step()
            if number:
                seconds[at] += time.process_time() - began
                tokens[at] += num
    return [num / max(1e-9, spent) for num, spent in zip(tokens, seconds, strict=True)]


def plain_step(model: Path, config: Config, lr: float = 1e-5) -> Step:
    """One step of the plain loop."""
    from transformers import AutoModelForCausalLM

    plain: nn.Module = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    train, chosen = config.data.layer.train, config.data.layer.lora
    if train == "lora":
        from peft import LoraConfig, get_peft_model

        targets = list(chosen.targets) or "all-linear"
        plain = get_peft_model(
            plain, LoraConfig(r=chosen.r, lora_alpha=int(chosen.alpha), target_modules=targets)
        )
    extra = _bottlenecks(plain, config) if train == "port" else nn.ModuleList()
    parameters = [p for p in (*plain.parameters(), *extra.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, fused=True)
    plain.train()

    def step(batch: Batch) -> Tensor:
        optimizer.zero_grad()
        inputs = packed_inputs(batch.segments_BT, torch.float32)
        logits_BTV = plain(input_ids=batch.tokens_BT, **inputs, use_cache=False).logits
        loss = F.cross_entropy(rows_at(logits_BTV, batch.valid_at_N), batch.targets_N)
        loss.backward()
        optimizer.step()
        return loss

    return step


def _bottlenecks(plain: Any, config: Config) -> nn.ModuleList:
    """Trained bottlenecks after the read layers of a model that stays as it is."""
    plain.requires_grad_(False)
    width, dim = int(plain.config.hidden_size), config.memory.layer.dim
    made = nn.ModuleList()
    for layer in config.data.layer.read_layers:
        inside = nn.Sequential(nn.Linear(width, dim, bias=False), nn.Linear(dim, width, bias=False))

        def add(_module: nn.Module, _args: Any, output: Any, part: nn.Module = inside) -> Any:
            first = output[0] if isinstance(output, tuple) else output
            added = first + part(first)
            return (added, *output[1:]) if isinstance(output, tuple) else added

        decoder_layers(plain)[layer].register_forward_hook(add)
        made.append(inside)
    return made
