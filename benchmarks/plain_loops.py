"""The peers of `throughput`: the same steps in plain PyTorch, in a process of their own, without
Ray or intervals.

Same layers, losses, batches and threads; the parameters stay where the modules have them, gradients
are dropped and made anew, clipping and AdamW are the library's. The memory's batches are its own
text alone. Prints one JSON object: seconds and
tokens of the timed steps, and the process' peak resident memory.

    python -m benchmarks.plain_loops CONFIG data|memory|alternating --steps N --threads T
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from actors.corpus.corpus import Corpus, WindowStream, train_tokenizer
from actors.corpus.windows import Windows
from actors.layers import losses
from actors.layers.batch import Batch, add_noise, hidden_at, rows_at, to_batch
from actors.layers.mixture import NoisedStates, mixed_at, noised_sequences, takes_noised
from actors.layers.predicted import Predicted, Teacher
from actors.machine.seeds import seed_of
from actors.settings.run import DATA, MEMORY, RunSpec
from actors.training.memory_states import given_positions
from actors.training.optim import RowAdam, learning_rate
from actors.training.process_group import ProcessGroup
from actors.weights.builders import build_data_layer, build_memory_layer
from orchestrator.settings.config import load_config

WARMUP_STEPS = 3


@dataclass(frozen=True)
class Stepped:
    """What a step trained on, and its loss before it; scalar, nats per token."""

    num_tokens: int
    loss: Tensor


Step = Callable[[], Stepped]


def data_loop(spec: RunSpec, corpus: Corpus) -> Step:
    """Plain steps of the data layer beside a memory that stays as it is."""
    device = torch.device("cpu")
    layer = build_data_layer(spec, corpus.tokenizer, device).train()
    memory = build_memory_layer(spec, corpus.tokenizer, layer.vocab_rows, device)
    memory.requires_grad_(False)
    stream, optimizer, weights = WindowStream(corpus, DATA), spec.data.optimizer, spec.losses
    adamw = torch.optim.AdamW(
        layer.parameters(), lr=optimizer.lr, betas=optimizer.betas, fused=True
    )
    readers = round(spec.data.batch_size * spec.data.help_frac)
    steps = 0
    kept: NoisedStates | None = None  # of noised text

    def step() -> Stepped:
        nonlocal steps, kept
        batch = _noised(spec, corpus, DATA, steps, stream.next_batch(spec.data.batch_size)[0])
        num, targets_N = batch.num_valid_in(slice(readers)), batch.targets_N
        num_mixing = readers if takes_noised(steps % spec.data.steps_per_interval) else 0
        noised = noised_sequences(spec, corpus.tokenizer, batch, num_mixing, steps)
        reading = [batch.rows(slice(None, readers)), noised]
        with torch.no_grad():
            y_RTD = memory.read(
                torch.cat([part.tokens_BT for part in reading]),
                torch.cat([part.segments_BT for part in reading]),
                all(part.one_document for part in reading),
            ).y
        hidden_BTH = layer.hidden(
            batch.tokens_BT, batch.segments_BT, y_RTD[:readers], batch.documents
        )
        hidden_NH = rows_at(hidden_BTH, batch.valid_at_N)
        y_MD = rows_at(y_RTD[:readers], batch.valid_at_N[:num])
        of_data = Predicted(layer.outputs_at(hidden_NH)[0], targets_N, num_entropies=num)
        of_memory = Predicted(memory.predict(y_MD), targets_N[:num], num_entropies=num)
        fixed = spec.data.mixing_noise > 0
        both = mixed_at(layer.port, of_data, of_memory, hidden_NH[:num], y_MD, fixed)
        own, reader = of_data.nll_N[num:].mean(), of_data.nll_N[:num].mean()
        loss = weights.own * own - weights.help * both.logp.mean() + weights.reader * reader
        adamw.zero_grad()
        loss.backward()
        if noised.num_valid:
            kept = NoisedStates.of(layer, memory, noised, y_RTD[readers:])
        if kept is not None:
            (weights.help * kept.loss(layer.port)).backward()
        torch.nn.utils.clip_grad_norm_(layer.parameters(), optimizer.clip_norm)
        _set_rate(adamw, learning_rate(optimizer.lr, optimizer, steps, spec.total_steps(DATA)))
        adamw.step()
        steps += 1
        return Stepped(batch.num_tokens, loss.detach())

    return step


def memory_loop(spec: RunSpec, corpus: Corpus) -> Step:
    """Plain steps of the memory layer, on its own text, against a frozen teacher."""
    device = torch.device("cpu")
    teacher = build_data_layer(spec, corpus.tokenizer, device).eval().requires_grad_(False)
    layer = build_memory_layer(spec, corpus.tokenizer, teacher.vocab_rows, device)
    group, weights = spec.memory, spec.losses
    stream, optimizer, size = WindowStream(corpus, MEMORY), group.optimizer, group.batch_size
    dense = [p for name, p in layer.named_parameters() if name != "values"]
    adamw = torch.optim.AdamW(dense, lr=optimizer.lr, betas=optimizer.betas, fused=True)
    rows = RowAdam(layer.values, optimizer.betas, group.value_clip)
    num_recall = max(1, round(size * group.recall_frac))
    num_given = max(1, round(size * group.given_frac))
    steps = 0

    def step() -> Stepped:
        nonlocal steps
        batch = _noised(spec, corpus, MEMORY, steps, stream.next_batch(size)[0])
        num = batch.num_valid
        given_at = batch.places(given_positions(batch, np.ones(size, np.bool_), num_given))
        where_P = torch.cat([batch.valid_at_N, given_at])
        targets_P = torch.cat([batch.targets_N, rows_at(batch.targets_BT, given_at)])
        u_BTD, _ = layer.encode(batch.tokens_BT, batch.segments_BT, one_document=batch.one_document)
        u_PD = rows_at(u_BTD, where_P)
        read = layer.read_at(u_PD)
        with torch.no_grad():
            taught_MH = hidden_at(teacher, batch.rows(slice(None, num_recall)))
            taught = Teacher.of(teacher.logits_at(taught_MH))
        assert read.side_scores is not None
        loss = weights.balance * losses.balance(read.side_scores[:, :num])
        for weight, logits_PV in (
            (1.0, layer.predict(read.y)),
            (weights.encoder, layer.guess(u_PD)),
        ):
            said = Predicted(logits_PV, targets_P, {"data": taught}, num_entropies=len(taught))
            (kl_M,) = said.kl(len(taught), "data")
            yields = taught.entropy_N, said.entropy(len(taught)), weights.recall_yields
            recall = (losses.teacher_weights_of(*yields) * kl_M).mean()
            part = weights.self_ * said.nll_N[:num].mean() + weights.recall * recall
            if len(given_at) and weights.given:
                part = part + weights.given * said.nll_N[num:].mean()
            loss = loss + weight * part
        adamw.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(dense, optimizer.clip_norm)
        total = spec.total_steps(MEMORY)
        _set_rate(adamw, learning_rate(optimizer.lr, optimizer, steps, total))
        adamw.step()
        rows.step(learning_rate(group.value_lr, optimizer, steps, total), ProcessGroup())
        steps += 1
        return Stepped(batch.num_tokens, loss.detach())

    return step


def _noised(spec: RunSpec, corpus: Corpus, group: str, step: int, windows: Windows) -> Batch:
    """The batch of a step, with the token noise that its trainer would draw."""
    batch, tokenizer = to_batch(windows, torch.device("cpu")), corpus.tokenizer
    choices = torch.Generator().manual_seed(seed_of(spec.seed, group, step, "noise"))
    return add_noise(batch, spec.corpus.token_noise, tokenizer.size, tokenizer.marks, choices)


def _set_rate(adamw: torch.optim.AdamW, lr: float) -> None:
    for group in adamw.param_groups:
        group["lr"] = lr


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
    tokens = sum(step().num_tokens for step, num in todo for _ in range(num))
    seconds = time.perf_counter() - begin
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux: KiB
    print(json.dumps({"seconds": seconds, "tokens": tokens, "peak_mib": peak_mib}))


if __name__ == "__main__":
    main()
