"""The controls of `learning`: what a user would do instead of a decoupled memory with slots.

None of these is shipped. `peft`, which LoRA needs, is no part of an installation of Tandem.
Called by the cells of `learning`.

Shapes: N positions, D d_m, H heads, K slots read per head, S slots_side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from actors.layers.data_layer import DataLayer, MemoryPort
from actors.layers.memory_layer import MemoryLayer, Read
from actors.machine.seeds import seed_everything
from actors.settings.layers import MemoryLayerSpec
from actors.settings.run import DATA, MEMORY, RunSpec
from actors.snapshots.flat_parameters import FROZEN, ByteArray, FlatParameters
from actors.snapshots.sections import section_of
from actors.training.data_trainer import DataTrainer
from actors.training.memory_trainer import MemoryTrainer
from actors.training.optim import DenseOptimizer
from actors.wire import Header
from benchmarks.small_specs import changed_spec

LAMBDAS = (0.1, 0.3, 0.5)  # shares of the ensemble's memory, the best of which counts
LORA_RANK, LORA_ALPHA = 8, 16


class MissingPeftError(Exception):
    """LoRA can't be measured without `peft`."""


class SlotlessMemory(MemoryLayer):
    """A memory whose table is an MLP of as many parameters: the same encoder, no slots.

    The table stays as a single row that nothing reads, so that it trains and is published as a
    memory is.
    """

    def __init__(self, spec: MemoryLayerSpec, vocab_rows: int, num_tokens: int) -> None:
        smallest = spec.model_copy(update={"slots_side": 1, "topk": 1})
        super().__init__(smallest, vocab_rows, num_tokens)
        hidden = slotless_width(spec)
        self.up = nn.Linear(spec.dim, hidden, bias=False)
        self.down = nn.Linear(hidden, spec.dim, bias=False)

    def read_at(self, u: Tensor, said: Tensor | None = None) -> Read:
        """What the MLP makes of the encoding, and a read of nothing."""
        shape = *u.shape[:-1], self.spec.heads, 1
        nothing = torch.zeros(shape, dtype=torch.int64, device=u.device)
        y = self.down(nn.functional.silu(self.up(u)))
        return Read(y, nothing, torch.ones(shape, device=u.device), self.side_scores(u.detach()))


def slotless_width(spec: MemoryLayerSpec) -> int:
    """Hidden width of an MLP with as many weights as the table and its keys."""
    keys = 2 * spec.heads * spec.key_dim * spec.slots_side
    return (spec.num_slots * spec.dim + keys) // (2 * spec.dim)


class SlotlessTrainer(MemoryTrainer):
    """Trains the memory without slots."""

    def build_layer(self) -> MemoryLayer:
        """A memory without slots, with the run's starting weights of everything else."""
        seed_everything(self.spec.seed, MEMORY, "weights")
        spec, rows = self.spec.memory.layer, self.teacher.vocab_rows
        return SlotlessMemory(spec, rows, self.tokenizer.size).to(self.device)


class DeafTrainer(DataTrainer):
    """Trains a data layer that hears no memory, whatever kind of memory is beside it."""

    def adopt(self, headers: Sequence[Header], buckets: Sequence[ByteArray]) -> None:
        """Adopts nothing."""
        assert self.spec.losses.help == 0, "help needs the memory's snapshots"


@contextmanager
def mixed_at(port: MemoryPort, share: float) -> Iterator[None]:
    """Inside the block a port that was never trained mixes with a fixed lambda: an ensemble."""
    assert not port.mix.weight.any(), "a trained port is no ensemble's"
    before = port.mix.bias.detach().clone()
    with torch.no_grad():
        port.mix.bias.fill_(math.log(share / (1 - share)))
    try:
        yield
    finally:
        with torch.no_grad():
            port.mix.bias.copy_(before)


def wider_spec(spec: RunSpec, vocab_rows: int, num_parameters: int) -> RunSpec:
    """The spec with the narrowest data layer that has at least so many parameters."""
    fields = dict(spec.data.layer.fields)
    per_width2 = fields["num_hidden_layers"] * (4 + 3 * 3)  # attention; an MLP three times as wide
    width = step = 2 * fields["num_attention_heads"]  # an even width per head
    while vocab_rows * width + per_width2 * width * width < num_parameters:
        width += step
    fields |= {"hidden_size": width, "intermediate_size": 3 * width}
    return changed_spec(spec, {"data.layer.fields": fields})


class LoraTrainer(DataTrainer):
    """Trains low-rank adapters of every linear layer of the data layer, and nothing else."""

    def put_adapters(self) -> None:
        """Freezes the layer as it is now and puts adapters into it, which change nothing yet.

        Raises: MissingPeftError.
        """
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError as err:
            raise MissingPeftError(
                "LoRA needs `peft`, which is not installed: pip install --no-deps peft accelerate"
            ) from err
        seed_everything(self.spec.seed, DATA, "adapters")
        config = LoraConfig(
            r=LORA_RANK, lora_alpha=LORA_ALPHA, lora_dropout=0.0, target_modules="all-linear"
        )
        self.layer.requires_grad_(False)
        inject_adapter_in_model(config, self.layer.model)
        for name, parameter in self.layer.named_parameters():
            parameter.requires_grad_(is_adapter(name))
        self.own = FlatParameters(self.layer, adapter_section)
        self.dense = DenseOptimizer(self.own, self.spec.data.optimizer)


def is_adapter(name: str) -> bool:
    """Whether a parameter is one of the adapters'."""
    return ".lora_" in name


def adapter_section(name: str, parameter: Tensor) -> str:
    """As `section_of` for adapters; everything else stays where it is."""
    return section_of(name, parameter) if is_adapter(name) else FROZEN


def num_parameters(layer: DataLayer | MemoryLayer) -> int:
    """Parameters of a layer, tied ones once."""
    return sum(parameter.numel() for parameter in layer.parameters())
