"""What a step with a large vocabulary takes: peak memory of a rank of each group over a plain
transformers + peft loop of the same tokens, and the share of the memory's step, in CPU time, that
is spent in operations with a vocabulary dimension.

    python -m benchmarks.pretrained_memory plain|data|memory MODEL TEXT [--batch 16] [--window 256]

Each is measured in a process of its own, on one thread, and prints one JSON object; `figures` runs
all three. MODEL is a Hugging Face folder, TEXT a file of plain text. Peaks are of anonymous memory
(`footprint`), sampled while three steps run, and so what the model's file in the page cache takes
does not count. The plain loop trains LoRA adapters with torch's chunked cross-entropy.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from actors.corpus.corpus import Corpus, WindowStream, build_tokenizer
from actors.layers.batch import to_batch
from actors.settings.run import DATA, RunSpec
from actors.training.data_trainer import DataTrainer
from actors.training.memory_trainer import MemoryTrainer
from actors.wire import Order
from benchmarks.footprint import private_mib

KINDS = ("plain", "data", "memory")
STEPS = 3
SAMPLE_S = 0.01
RUN = "pretrained"
LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]


def step_spec(
    model: str, text: str, batch: int, window: int, changes: dict[str, Any] | None = None
) -> RunSpec:
    """A run on plain text with a model that exists; `changes` by dotted name."""
    values: dict[str, Any] = {
        "intervals": 10,
        "corpus": {"kind": "text", "paths": [text], "window": window},
        "tokenizer": {"pretrained": model},
        "data": {"layer": {"pretrained": model, "read_layers": [10, 20]}, "batch_size": batch},
        "memory": {"batch_size": batch},
    }
    for key, value in (changes or {}).items():
        *path, last = key.split(".")
        at = values
        for part in path:
            at = at.setdefault(part, {})
        at[last] = value
    return RunSpec.model_validate(values)


class Peak:
    """The most anonymous memory of this process while a block runs, MiB."""

    def __init__(self) -> None:
        self.mib = 0.0
        self._over = threading.Event()

    def _sample(self) -> None:
        process = psutil.Process()
        while not self._over.wait(SAMPLE_S):
            self.mib = max(self.mib, private_mib(process))

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Samples while the block runs."""
        thread = threading.Thread(target=self._sample, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()


def vocabulary_share(trainer: DataTrainer | MemoryTrainer) -> dict[str, Any]:
    """Share of a step's CPU time in operators of which an operand or a result has a vocabulary
    dimension, and the seconds of the largest of them.
    """
    times = OperatorTimes({trainer.tokenizer.size, trainer.layer.vocab_rows})
    begin = time.process_time()
    with times:
        trainer.train_step()
    seconds = time.process_time() - begin
    largest = sorted(times.seconds.items(), key=lambda item: -item[1])[:8]
    return {
        "vocab_frac": sum(times.seconds.values()) / seconds,
        "step_cpu_s": seconds,
        "vocabulary_cpu_s": {name: round(each, 3) for name, each in largest},
    }


class OperatorTimes(TorchDispatchMode):
    """Seconds of CPU by operator, of those of which a tensor has one of these sizes.

    By the process' own time: other work on the machine lengthens the wall time of some operators
    and not of others. Backward passes on CPUs run in the calling thread and so are seen too.
    """

    def __init__(self, sizes: Collection[int]) -> None:
        super().__init__()
        self.sizes = {*sizes}
        self.seconds: dict[str, float] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        begin = time.process_time()
        result = func(*args, **(kwargs or {}))
        spent = time.process_time() - begin
        if any(self.sizes & {*shape} for shape in _shapes((args, kwargs, result))):
            name = str(func.overloadpacket)
            self.seconds[name] = self.seconds.get(name, 0.0) + spent
        return result


def _shapes(values: Any) -> Iterator[torch.Size]:
    for value in tree_leaves(values):
        if isinstance(value, torch.Tensor):
            yield value.shape


def trainer_figures(spec: RunSpec, group: str) -> dict[str, Any]:
    """Peak of a rank of the group over its steps, tokens per core-second, and, of the memory, the
    vocabulary's share.
    """
    tokenizer = build_tokenizer(spec).to_json()
    trainer = (DataTrainer if group == DATA else MemoryTrainer)(spec, tokenizer, RUN)
    trainer.begin_interval(Order(RUN, 0, 1, STEPS))
    peak, tokens, begin = Peak(), 0, time.process_time()
    with peak.watched():
        for _ in range(STEPS):
            tokens += trainer.train_step().num_tokens
            trainer.step += 1
    seconds = time.process_time() - begin
    found = {"peak_mib": peak.mib, "tokens_per_core_s": tokens / seconds}
    return found | ({} if group == DATA else vocabulary_share(trainer))


def plain_figures(spec: RunSpec) -> dict[str, Any]:
    """The same of a plain loop: LoRA adapters, chunked cross-entropy, AdamW."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    corpus = Corpus.open(spec, build_tokenizer(spec))
    stream = WindowStream(corpus, DATA)
    whole = AutoModelForCausalLM.from_pretrained(spec.data.layer.pretrained, dtype=torch.float32)
    adapters = LoraConfig(r=16, lora_alpha=32, target_modules=LORA_TARGETS)
    model: Any = get_peft_model(whole, adapters)
    trained = [p for p in model.parameters() if p.requires_grad]
    adamw, matrix = torch.optim.AdamW(trained, fused=True), whole.get_output_embeddings().weight
    peak, tokens, begin = Peak(), 0, time.process_time()
    with peak.watched():
        for _ in range(STEPS):
            batch = to_batch(stream.next_batch(spec.data.batch_size)[0], torch.device("cpu"))
            hidden_BTH = model.base_model.model.model(input_ids=batch.tokens_BT).last_hidden_state
            loss = torch.nn.functional.linear_cross_entropy(
                hidden_BTH[batch.valid_BT],
                matrix,
                batch.targets_N,
                options=torch.nn.LinearCrossEntropyOptions(),
            )
            loss.backward()
            adamw.step()
            adamw.zero_grad()
            tokens += batch.num_tokens
    seconds = time.process_time() - begin
    return {"peak_mib": peak.mib, "tokens_per_core_s": tokens / seconds}


def measure(kind: str, model: str, text: str, *options: str) -> dict[str, Any]:
    """One kind in a process of its own; `options` as on the command line."""
    command = [sys.executable, "-m", "benchmarks.pretrained_memory", kind, model, text, *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def figures(model: str, text: str, *options: str) -> dict[str, Any]:
    """`peak_over_plain` of each group, `vocab_frac`, `data_ratio`, and what they are made of."""
    found = {kind: measure(kind, model, text, *options) for kind in KINDS}
    plain = found["plain"]
    return {
        "peak_over_plain": {
            group: found[group]["peak_mib"] / plain["peak_mib"] for group in KINDS[1:]
        },
        "vocab_frac": found["memory"]["vocab_frac"],
        "data_ratio": found["data"]["tokens_per_core_s"] / plain["tokens_per_core_s"],
        "measured": found,
    }


def main() -> None:
    """Measures one kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--set", nargs="*", default=[], help="dotted.name=JSON value")
    given = parser.parse_args()
    torch.set_num_threads(1)
    changes = {key: json.loads(value) for key, _, value in (c.partition("=") for c in given.set)}
    spec = step_spec(given.model, given.text, given.batch, given.window, changes)
    found = plain_figures(spec) if given.kind == "plain" else trainer_figures(spec, given.kind)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
