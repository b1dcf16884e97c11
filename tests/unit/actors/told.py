"""Named writes made by hand: real tensors, no memory that they were solved for."""

from __future__ import annotations

import torch

from actors.layers.named_writes import Association, Keys, NamedWrite


def made_write(name: str, seed: int = 0, num_rows: int = 3, on: bool = True) -> NamedWrite:
    """A write of one association."""
    draw = torch.Generator().manual_seed(seed)
    keys = Keys(
        torch.randint(0, 60, (2, 4), generator=draw),
        torch.rand(2, 4, generator=draw),
        torch.randn(2, 16, generator=draw),
        torch.randint(0, 50, (2,), generator=draw),
        torch.zeros(2, dtype=torch.int64),
        torch.ones(2),
    )
    return NamedWrite(
        id=name,
        told_at=1000.0 + seed,
        associations=(Association(f"The capital of {name} is", f"Town {seed}", ("It is",)),),
        rows_U=torch.randperm(60, generator=draw)[:num_rows].sort().values,
        values_UD=torch.randn(num_rows, 16, generator=draw),
        mark_U=torch.rand(num_rows, generator=draw),
        keys=keys,
        figures={"residual": 0.5},
        on=on,
    )


def assert_same(a: NamedWrite, b: NamedWrite) -> None:
    """Every field, every bit."""
    assert a.to_json() == b.to_json()
    ours, theirs = a.to_tensors(), b.to_tensors()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
