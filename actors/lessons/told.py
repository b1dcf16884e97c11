"""What a running run was told: kept by the memory trainer, published with every version. Pure.

Associations travel, never rows: what they change in the value table depends on the table, which
goes on being trained, so whoever adopts a version solves them for that version.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from actors.wire import Told, ToldAssociation


def with_changes(told: Sequence[Told], changes: Iterable[Told]) -> tuple[Told, ...]:
    """What is told after these changes; one without associations takes that name's back."""
    kept = {one.id: one for one in told}
    for change in changes:
        kept.pop(change.id, None)  # told again, it comes last
        if change.associations:
            kept[change.id] = change
    return tuple(kept.values())


def told_to_lists(told: Iterable[Told]) -> list[Any]:
    """As JSON takes it."""
    return [
        [one.id, one.told_at, [_as_list(association) for association in one.associations]]
        for one in told
    ]


def _as_list(a: ToldAssociation) -> list[Any]:
    rest = [a.as_chat, a.subject]
    while rest and not rest[-1]:  # versions before know nothing of them
        rest.pop()
    return [a.prompt, a.answer, list(a.wordings), *rest]


def told_from_lists(rows: Iterable[Any]) -> tuple[Told, ...]:
    """The inverse of `told_to_lists`."""
    return tuple(
        Told(
            id,
            told_at,
            tuple(ToldAssociation(p, a, tuple(w), *rest) for p, a, w, *rest in associations),
        )
        for id, told_at, associations in rows
    )
