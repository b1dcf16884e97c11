"""The layers of a model up to the first that reads. A pass with reads and one without give the same
up to there, so the second of two passes over the same tokens goes on from what the first got.

Whether a family's code can go on in its middle is found out once, by the bits that come out:
nothing is known of it but that decoder layers give hidden states. Called by `layers.data_layer`.

Shapes: B sequences, T tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Pass = Callable[[], Tensor]

CANNOT = (TypeError, ValueError, RuntimeError, LookupError, AttributeError)


class Front:
    """Keeps what these layers give, and lets them give it again.

    Args:
        blocks: the layers; hooks that add reads are to be registered after this.
    """

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        self._blocks = list(blocks)
        self._keeps, self._kept_BTD, self._num_besides = False, torch.empty(0), -1
        self._goes_on: bool | None = None  # None: not found out yet
        self._blocks[-1].register_forward_hook(self._keep)

    def _keep(self, _module: nn.Module, _args: Any, output: Any) -> None:
        if self._keeps:
            self._num_besides = len(output) - 1 if isinstance(output, tuple) else -1
            self._kept_BTD = output[0] if isinstance(output, tuple) else output

    def kept(self, run: Pass) -> tuple[Tensor, Tensor | None]:
        """What a pass gives, and what these layers gave in it, (B, T, D), before any read; None:
        no pass of this model can go on from there.
        """
        self._keeps = self._goes_on is not False
        try:
            made = run()
        finally:
            self._keeps, front_BTD = False, self._kept_BTD
            self._kept_BTD = torch.empty(0)
        if self._goes_on is None:
            self._goes_on = self._is_same(made, run, front_BTD)
        return made, front_BTD if self._goes_on else None

    @torch.no_grad()
    def _is_same(self, made: Tensor, run: Pass, front_BTD: Tensor) -> bool:
        """Whether a pass that goes on from there gives the same bits; with dropout it does not."""
        devices = {tensor.device for tensor in (made, front_BTD) if tensor.is_cuda}
        with torch.random.fork_rng(devices):  # a replay finds out anew
            try:
                return torch.equal(self.given(front_BTD, run), made)
            except CANNOT:
                return False

    def given(self, front_BTD: Tensor, run: Pass) -> Tensor:
        """What a pass gives in which these layers give that, and compute nothing."""
        with self._giving(front_BTD):
            return run()

    @contextmanager
    def _giving(self, front_BTD: Tensor) -> Iterator[None]:
        output: Any = front_BTD
        if self._num_besides >= 0:  # attention weights and the like, which nobody asked for
            output = (front_BTD, *[None] * self._num_besides)
        before = [vars(block).get("forward") for block in self._blocks]
        try:
            for block in self._blocks:
                block.forward = lambda *_args, **_named: output
            yield
        finally:
            for block, forward in zip(self._blocks, before, strict=True):
                if forward is None:
                    del block.forward
                else:
                    block.forward = forward
