"""What the layers compute in: float32, or bf16 where it is safe, over float32 master weights.

Parameters, gradients, optimizer state and everything published stay float32. Matrix products run
in bf16; addresses and losses are computed in float32 wherever the context is entered. Called by the
trainers (to enter it) and the layers (to leave it where it would hurt).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Precision = Literal["fp32", "bf16"]


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """The context that a step's forward passes run in; backward passes stay outside.

    One context per step: it keeps the weights' bf16 copies until it is left, so an optimizer step
    inside it would go unseen.
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def in_float32(device: torch.device) -> torch.autocast:
    """The context in which what is computed from float32 stays float32, inside `autocast` too."""
    return torch.autocast(device.type, enabled=False)


def compute_dtype(device: torch.device, otherwise: torch.dtype) -> torch.dtype:
    """What matrix products give here: autocast's dtype inside of it, else `otherwise`."""
    if torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return otherwise


def widen(x: Tensor) -> Tensor:
    """A half-width tensor in float32; wider ones as they are."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def cast_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Puts all that a checkpoint of the model holds into that type, in place.

    What is computed from the config, such as the frequencies of rotary positions, stays as it is,
    so that the model is the one that transformers loads in that type.
    """
    kept = set(model.state_dict())
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if name in kept and tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)
