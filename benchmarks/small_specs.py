"""What the specs of `reflect` and `learning` share: a Llama and a memory of some size, on some
device, and changes by dotted name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from actors.settings.run import RunSpec


def changed_spec(spec: RunSpec, changes: Mapping[str, Any]) -> RunSpec:
    """The spec with values changed by dotted name."""
    fields = spec.model_dump()
    for name, value in changes.items():
        *path, last = name.split(".")
        at = fields
        for part in path:
            at = at[part]
        if last not in at:
            raise ValueError(f"no setting {name}; here are {', '.join(at)}")
        at[last] = value
    return RunSpec.model_validate(fields)


@dataclass(frozen=True)
class Layers:
    """How big both layers are, and the rates that suit them.

    Attributes:
        width, depth: of the data layer, a Llama with heads of `head_width`.
        dim, slots_side: of the memory.
        data_lr, memory_lr, value_lr: peak learning rates.
        initializer_range: of the data layer's weights.
        batch_size: sequences per step of either group.
        precision: of both layers' passes.
        device: where both compute: cpu or cuda.
    """

    width: int = 64
    depth: int = 2
    head_width: int = 16
    dim: int = 64
    slots_side: int = 48
    data_lr: float = 4e-3
    memory_lr: float = 4e-3
    value_lr: float = 4e-2
    initializer_range: float = 0.08
    batch_size: int = 16
    precision: str = "fp32"
    device: str = "cpu"

    def llama(self, window: int) -> dict[str, Any]:
        """Fields of the data layer."""
        heads = self.width // self.head_width
        return {
            "hidden_size": self.width,
            "intermediate_size": 3 * self.width,
            "num_hidden_layers": self.depth,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "tie_word_embeddings": True,
            "initializer_range": self.initializer_range,
            "max_position_embeddings": window,
        }

    @property
    def read_layers(self) -> tuple[int, int]:
        """Of the data layer: where it reads the memory."""
        return 0, self.depth // 2

    @property
    def group(self) -> dict[str, Any]:
        """Fields of both groups."""
        gpus = 1.0 if self.device == "cuda" else 0.0
        return {
            "batch_size": self.batch_size,
            "precision": self.precision,
            "workers": {"gpus": gpus},
        }

    def sections(self, window: int, data_steps: int, memory_steps: int) -> dict[str, Any]:
        """Sections of both groups and of the losses, where whole answers are asked for.

        Args:
            window: tokens of a window.
            data_steps, memory_steps: of either group per interval.
        """
        data, memory = ({"lr": lr, "weight_decay": 0.1} for lr in (self.data_lr, self.memory_lr))
        return {
            "data": {
                **self.group,
                "layer": {"fields": self.llama(window), "read_layers": self.read_layers},
                "optimizer": data,
                "steps_per_interval": data_steps,
            },
            "memory": {
                **self.group,
                "layer": {
                    "dim": self.dim,
                    "slots_side": self.slots_side,
                    "conv_dilations": (1, 1),
                    "conv_taps": 2,
                },
                "optimizer": memory,
                "value_lr": self.value_lr,
                "recall_frac": 0.25,
                "steps_per_interval": memory_steps,
            },
            "losses": {"balance": 0.3},
        }


SMALL = Layers()
# About 100 million parameters in the data layer: what a card is for.
LARGE = Layers(
    width=768,
    depth=12,
    head_width=64,
    dim=256,
    slots_side=128,
    data_lr=6e-4,
    memory_lr=2e-3,
    value_lr=2e-2,
    initializer_range=0.02,
    batch_size=32,
    precision="bf16",
    device="cuda",
)
