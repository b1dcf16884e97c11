"""The peers of `throughput`: the same steps in plain PyTorch, in a process of their own, without
Ray or intervals.

Same layers, losses, batches and threads; the parameters stay where the modules have them, gradients
are dropped and made anew, clipping and AdamW are the library's. Prints one JSON object: seconds and
tokens of the timed steps, and the process' peak resident memory.

    python -m benchmarks.plain_loops CONFIG data|memory|alternating --steps N --threads T
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable

import torch

from actors.corpus.corpus import Corpus, WindowStream, train_tokenizer
from actors.layers import losses
from actors.layers.batch import memory_logits_at, to_batch
from actors.layers.mixture import mixing_loss, noised_sequences, predict_both
from actors.settings.run import DATA, MEMORY, RunSpec
from actors.training.optim import RowAdam, learning_rate
from actors.training.process_group import ProcessGroup
from actors.weights.builders import build_data_layer, build_memory_layer
from orchestrator.settings.config import load_config

WARMUP_STEPS = 3


def data_loop(spec: RunSpec, corpus: Corpus) -> Callable[[], int]:
    """One plain step of the data layer; returns its tokens."""
    device = torch.device("cpu")
    layer = build_data_layer(spec, corpus.tokenizer, device).train()
    memory = build_memory_layer(spec, corpus.tokenizer, layer.vocab_rows, device)
    memory.requires_grad_(False)
    stream, optimizer = WindowStream(corpus, DATA), spec.data.optimizer
    adamw = torch.optim.AdamW(
        layer.parameters(), lr=optimizer.lr, betas=optimizer.betas, fused=True
    )
    readers = round(spec.data.batch_size * spec.data.help_frac)
    steps = 0

    def step() -> int:
        nonlocal steps
        batch = to_batch(stream.next_batch(spec.data.batch_size)[0], device)
        with torch.no_grad():
            read = memory.read(batch.tokens_BT[:readers], batch.segments_BT[:readers])
        noised = noised_sequences(spec, corpus.tokenizer, batch, readers, steps)
        out, both = predict_both(layer, memory, batch, read.y, batch.valid_BT[:readers])
        mixture = both.mixed(fixed=spec.data.mixing_noise > 0)
        alone = batch.rows(slice(readers, None))
        own = losses.own(out.logits_BTV[readers:][alone.valid_BT], alone.targets_N)
        targets_N, weights = batch.rows(slice(None, readers)).targets_N, spec.losses
        help_, reader = losses.help_(mixture.logp, targets_N), losses.own(both.logits, targets_N)
        adamw.zero_grad()
        (weights.own * own + weights.help * help_ + weights.reader * reader).backward()
        if noised.num_valid:
            with torch.no_grad():
                y_BTD = memory.read(noised.tokens_BT, noised.segments_BT).y
            (spec.losses.help * mixing_loss(layer, memory, noised, y_BTD)).backward()
        torch.nn.utils.clip_grad_norm_(layer.parameters(), optimizer.clip_norm)
        lr = learning_rate(optimizer.lr, optimizer, steps, spec.total_steps(DATA))
        for group in adamw.param_groups:
            group["lr"] = lr
        adamw.step()
        steps += 1
        return batch.num_tokens

    return step


def memory_loop(spec: RunSpec, corpus: Corpus) -> Callable[[], int]:
    """One plain step of the memory layer against a frozen teacher; returns its tokens."""
    device = torch.device("cpu")
    teacher = build_data_layer(spec, corpus.tokenizer, device).eval().requires_grad_(False)
    ref = build_data_layer(spec, corpus.tokenizer, device).eval().requires_grad_(False)
    layer = build_memory_layer(spec, corpus.tokenizer, teacher.vocab_rows, device)
    before = build_memory_layer(spec, corpus.tokenizer, teacher.vocab_rows, device)
    before.requires_grad_(False)
    stream, optimizer, weights = WindowStream(corpus, MEMORY), spec.memory.optimizer, spec.losses
    dense = [p for name, p in layer.named_parameters() if name != "values"]
    adamw = torch.optim.AdamW(dense, lr=optimizer.lr, betas=optimizer.betas, fused=True)
    rows = RowAdam(layer.values, optimizer.betas, spec.memory.value_clip)
    size = spec.memory.batch_size
    num_recall = max(1, round(size * spec.memory.recall_frac))
    num_sync = max(1, round(size * spec.memory.sync_frac))
    steps = 0

    def step() -> int:
        nonlocal steps
        batch = to_batch(stream.next_batch(size)[0], device)
        u_BTD, _ = layer.encode(batch.tokens_BT, batch.segments_BT)
        u_ND = u_BTD[batch.valid_BT]
        read = layer.read_at(u_ND)
        logits_NV, of_sequence_N = layer.predict(read.y), batch.valid_BT.nonzero()[:, 0]
        assert read.side_scores is not None
        loss = weights.balance * losses.balance(read.side_scores)
        part = batch.rows(slice(None, max(num_recall, num_sync)))
        synced = batch.rows(slice(None, num_sync))
        with torch.no_grad():
            taught = teacher(part.tokens_BT, part.segments_BT).logits_BTV[part.valid_BT]
            old = ref(synced.tokens_BT, synced.segments_BT).logits_BTV[synced.valid_BT]
            was = memory_logits_at(before, synced)
        recalled = int((of_sequence_N < num_recall).sum())
        for weight, said_NV in ((1.0, logits_NV), (weights.encoder, layer.guess(u_ND))):
            self_ = losses.self_(said_NV, batch.targets_N)
            recall = losses.recall(taught[:recalled], said_NV[:recalled], weights.recall_yields)
            loss = loss + weight * (weights.self_ * self_ + weights.recall * recall)
        count = int((of_sequence_N < num_sync).sum())
        sync = losses.sync(
            taught[:count], old, was, logits_NV[:count], strength=weights.recall_yields
        )
        loss = loss + weights.sync * sync
        adamw.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(dense, optimizer.clip_norm)
        total = spec.total_steps(MEMORY)
        for group in adamw.param_groups:
            group["lr"] = learning_rate(optimizer.lr, optimizer, steps, total)
        adamw.step()
        rows.step(learning_rate(spec.memory.value_lr, optimizer, steps, total), ProcessGroup())
        steps += 1
        return batch.num_tokens

    return step


def main() -> None:
    """Times the asked loop after a warm-up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("loop", choices=["data", "memory", "alternating"])
    parser.add_argument("--steps", type=int, default=100, help="timed steps of the data loop")
    parser.add_argument("--memory-steps", type=int, default=100, help="and of the memory loop")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    spec = load_config(arguments.config)
    corpus = Corpus.open(spec, train_tokenizer(spec))
    todo = []
    if arguments.loop in ("data", "alternating"):
        todo.append((data_loop(spec, corpus), arguments.steps))
    if arguments.loop in ("memory", "alternating"):
        todo.append((memory_loop(spec, corpus), arguments.memory_steps))
    for step, _ in todo:
        for _ in range(WARMUP_STEPS):
            step()
    begin = time.perf_counter()
    tokens = sum(step() for step, num in todo for _ in range(num))
    seconds = time.perf_counter() - begin
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux: KiB
    print(json.dumps({"seconds": seconds, "tokens": tokens, "peak_mib": peak_mib}))


if __name__ == "__main__":
    main()
