"""Named writes: what each `tell` changed in the value table, kept apart from it.

The table itself never changes: what is read is the table and the writes that are on, so that all of
it can be listed, switched off, and removed, with the old bits back. A write is found by nearness of
encodings (`layers.nearest`); where a memory has none, it is rows that are added to the table. A
value: tensors and JSON. Solves nothing (`pair.telling` does) and knows no files.

Shapes: N keys (answer positions of the associations, in every wording), E slots that a key reads
(H·K), U rows that are written, D d_m, R rows of the value table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from actors.layers.nearest import Nearest
from actors.layers.places import Places, first_of
from actors.operators.closed_form import Overlay
from actors.operators.token_bags import TokenBags
from actors.wire import ToldAssociation

OPENS_AT, OPENING_WIDTH = 0.5, 0.02  # of `novelty`; see `NamedWrites.freshness`
UNSURE_AT, UNSURE_WIDTH = 2.0, 0.25  # nats; see `trusted`
LEEWAY = 1.2  # entropy up to which the memory is trusted with a token, over that where it was told


@dataclass(frozen=True)
class Association:
    """A prompt and the answer that is wanted.

    Attributes:
        prompt: text before the answer, as the start of a document.
        answer: what is to follow it.
        wordings: other prompts for the same answer.
        as_chat: the prompts are a user's first turn and the answer is the assistant's, as the
            tokenizer's chat template writes them.
        subject: what the prompts are about, as they name it: of anything else the answer is not
            said. Empty: it is looked for (`measuring.subjects`).
    """

    prompt: str
    answer: str
    wordings: tuple[str, ...] = ()
    as_chat: bool = False
    subject: str = ""

    @property
    def prompts(self) -> tuple[str, ...]:
        """All prompts, each once."""
        return tuple(dict.fromkeys((self.prompt, *self.wordings)))

    def to_json(self) -> dict[str, Any]:
        """As JSON takes it."""
        written = {**asdict(self), "wordings": list(self.wordings)}
        for name in ("as_chat", "subject"):  # versions before know nothing of them
            if not written[name]:
                del written[name]
        return written

    @classmethod
    def of(cls, told: ToldAssociation) -> Association:
        """What travels to a run, as a memory is told it."""
        return cls(told.prompt, told.answer, told.wordings, told.as_chat, told.subject)

    def to_told(self) -> ToldAssociation:
        """The inverse of `of`."""
        return ToldAssociation(self.prompt, self.answer, self.wordings, self.as_chat, self.subject)

    @classmethod
    def from_json(cls, described: Mapping[str, Any]) -> Association:
        """What `to_json` gave."""
        wordings = tuple(described.get("wordings", ()))
        as_chat, subject = bool(described.get("as_chat", False)), described.get("subject", "")
        return cls(described["prompt"], described["answer"], wordings, as_chat, subject)


@dataclass(frozen=True, eq=False)
class Keys:
    """The reads that a write changes: one at each answer position of each prompt.

    Attributes:
        slots_NE: rows of the value table that the position reads, int64; of a write that is found
            by nearness none, E is 0.
        weights_NE: their weights, float32.
        wanted_ND: the sum of rows that is wanted there, float32, whatever writes came before.
        targets_N: the token that is to follow, int64.
        prompts_N: a number for the tokens of the prompt, int64: a later write of the same prompt
            takes its place.
        counts_N: how much it counts beside a read that stays, float32.
    """

    slots_NE: Tensor
    weights_NE: Tensor
    wanted_ND: Tensor
    targets_N: Tensor
    prompts_N: Tensor
    counts_N: Tensor

    def __len__(self) -> int:
        return len(self.targets_N)

    def at(self, where_N: Tensor) -> Keys:
        """These of them: a mask, or places."""
        return Keys(*(getattr(self, f.name)[where_N] for f in fields(self)))

    @classmethod
    def concat(cls, some: Sequence[Keys]) -> Keys:
        """All of them, in order; at least one part."""
        return cls(*(torch.cat([getattr(k, f.name) for k in some]) for f in fields(cls)))


@dataclass(frozen=True, eq=False)
class NamedWrite:
    """What one `tell` changed in the value table, and all that it takes to solve it again.

    Attributes:
        id: its name, unique in a pair.
        told_at: when, in seconds since 1970.
        associations: what was told.
        rows_U: rows that it changes, ascending, each once, int64; none where it has places.
        values_UD: what is added to them, float32.
        mark_U: column that reads about 1 at the answers of the associations, float32.
        keys: the reads that it was solved for.
        figures: of the solving, e.g. residual and seconds.
        on: whether it is read.
        unsure: tokens of the answers that the memory hardly can say surely, such as those that it
            never learned to say, and its entropy where it says them least surely, nats.
        places: where it is found by nearness; None: it is added to the table, as of a memory
            without encodings or by an earlier version.
        taught: the data layer was taught it, and says it too: it is never fresh.
    """

    id: str
    told_at: float
    associations: tuple[Association, ...]
    rows_U: Tensor
    values_UD: Tensor
    mark_U: Tensor
    keys: Keys
    figures: dict[str, float] = field(default_factory=dict)
    on: bool = True
    unsure: dict[int, float] = field(default_factory=dict)
    places: Places | None = None
    taught: bool = False

    @property
    def num_bytes(self) -> int:
        """Bytes of its tensors."""
        return sum(t.numel() * t.element_size() for t in self.to_tensors().values())

    def to_tensors(self) -> dict[str, Tensor]:
        """Its tensors by name, contiguous, on the CPU."""
        own = {"rows": self.rows_U, "values": self.values_UD, "mark": self.mark_U}
        keys = {f"keys.{f.name}": getattr(self.keys, f.name) for f in fields(Keys)}
        places = {} if self.places is None else self.places.to_tensors()
        near = {f"places.{name}": tensor for name, tensor in places.items()}
        return {k: t.detach().cpu().contiguous() for k, t in {**own, **keys, **near}.items()}

    def to_json(self) -> dict[str, Any]:
        """All but its tensors, as JSON takes it."""
        unsure = {str(token): nats for token, nats in self.unsure.items()}
        return {
            "id": self.id,
            "told_at": self.told_at,
            "associations": [association.to_json() for association in self.associations],
            "figures": dict(self.figures),
            "on": self.on,
            # Left out where they are empty: writes from before them have a checksum without them.
            **({"unsure": unsure} if unsure else {}),
            **({"taught": True} if self.taught else {}),
        }

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], described: Mapping[str, Any]
    ) -> NamedWrite:
        """What `to_tensors` and `to_json` gave.

        Raises:
            KeyError: a tensor or field is missing.
        """
        start = "places."
        near = {k.removeprefix(start): t for k, t in tensors.items() if k.startswith(start)}
        return cls(
            described["id"],
            float(described["told_at"]),
            tuple(Association.from_json(one) for one in described["associations"]),
            tensors["rows"],
            tensors["values"],
            tensors["mark"],
            Keys(*(tensors[f"keys.{f.name}"] for f in fields(Keys))),
            dict(described["figures"]),
            bool(described["on"]),
            {int(token): nats for token, nats in described.get("unsure", {}).items()},
            Places.from_tensors(near) if near else None,
            bool(described.get("taught", False)),
        )


def novelty(m: Tensor, told: Tensor, mark: Tensor) -> Tensor:
    """How much of a read is new, (...): by how much it changed, or its mark, which is 1 also where
    the memory said the right token already and nothing had to change.
    """
    return torch.maximum(told.norm(dim=-1) / m.norm(dim=-1).clamp_min(1e-12), mark)


def trusted(freshness: Tensor, entropy: Tensor, unsure_at: Tensor) -> Tensor:
    """Freshness, less where the memory does not know what to say, (...).

    What was told is said surely. What a write only moved is as new, but said less surely, and the
    data layer knows better.

    Args:
        freshness: as `NamedWrites.freshness`, (...).
        entropy: of the memory's prediction, in nats, (...).
        unsure_at: where half of it is left, nats, (...) or (1,): `NamedWrites.unsure_at` of the
            tokens that the memory says.
    """
    return freshness * torch.sigmoid((unsure_at - entropy) / UNSURE_WIDTH)


@dataclass(frozen=True, eq=False)
class NamedWrites:
    """The named writes of a memory, in the order in which they were told. A value: `add`, `remove`
    and `switch` give another one.

    Attributes:
        writes: oldest first.
        opens_at: novelty from which the mixture goes over to the memory; calibrated by
            `pair.telling` on reads of old text.
    """

    writes: tuple[NamedWrite, ...] = ()
    opens_at: float = OPENS_AT

    def __len__(self) -> int:
        return len(self.writes)

    def __iter__(self) -> Iterator[NamedWrite]:
        return iter(self.writes)

    def __contains__(self, id: object) -> bool:
        return any(write.id == id for write in self.writes)

    def get(self, id: str) -> NamedWrite:
        """The write of that name. Raises: KeyError: there is none; the message names those there
        are.
        """
        for write in self.writes:
            if write.id == id:
                return write
        told = ", ".join(write.id for write in self.writes[-8:]) or "none"
        raise KeyError(f"no write {id!r}; told and not taken back: {told}")

    def add(self, write: NamedWrite) -> NamedWrites:
        """With this one after the others. Raises: ValueError: there is one of that name."""
        if write.id in self:
            raise ValueError(f"there is a write {write.id!r} already; give another id")
        added = replace(self, writes=(*self.writes, write))
        if self.solved and write.on and write.places is None:  # not all of them again
            before = next(iter(self._sums.values()))
            object.__setattr__(added, "_sums", {before.rows_U.device: before.plus(write)})
        return added

    def opening_at(self, novelty: float) -> NamedWrites:
        """The same writes; λ opens from this novelty."""
        changed = replace(self, opens_at=novelty)
        if self.solved:
            object.__setattr__(changed, "_sums", self._sums)
        return changed

    def remove(self, id: str) -> NamedWrites:
        """Without that one. The later ones stay as they are: `pair.telling.untell` solves those
        that overlap it again. Raises: KeyError: there is none.
        """
        gone = self.get(id)
        return replace(self, writes=tuple(w for w in self.writes if w is not gone))

    def switch(self, id: str, on: bool) -> NamedWrites:
        """With that one on or off. As for `remove`. Raises: KeyError: there is none."""
        changed = replace(self.get(id), on=on)
        return replace(self, writes=tuple(changed if w.id == id else w for w in self.writes))

    @cached_property
    def on(self) -> tuple[NamedWrite, ...]:
        """Those that are read."""
        return tuple(write for write in self.writes if write.on)

    @cached_property
    def solved(self) -> tuple[NamedWrite, ...]:
        """Those that are read and are added to the table."""
        return tuple(write for write in self.on if write.places is None)

    @cached_property
    def _found(self) -> dict[tuple[TokenBags, torch.device], Nearest]:
        return {}

    def _look_for(self, bags: TokenBags) -> Nearest:
        found, live, later_P = [], [], torch.zeros(0, dtype=torch.int64)
        for write in reversed(self.on):
            keys = write.keys
            if write.places is not None:  # the later one holds
                fresh_N = torch.full_like(keys.counts_N, 0.0 if write.taught else 1.0)
                first_N = first_of(keys.prompts_N)
                found.append((write.places, keys.wanted_ND, keys.counts_N, fresh_N, first_N))
                live.append(~torch.isin(keys.prompts_N, later_P))
            later_P = torch.cat([later_P, keys.prompts_N]).unique()
        return Nearest.of(found, live, later_P, bags)

    @property
    def by_nearness(self) -> bool:
        """Whether any that is on is found by nearness."""
        return len(self.solved) < len(self.on)

    def nearest(self, bags: TokenBags, device: torch.device) -> Nearest | None:
        """Those that are on and found by nearness, by these bags of tokens; None: none is."""
        if not self.by_nearness:
            return None
        key, known = (bags, device), self._found
        if key not in known:
            known.clear()  # bags of another sample, or another device
            known[key] = self._look_for(bags).to(device)
        return known[key]

    @cached_property
    def _sums(self) -> dict[torch.device, Overlay]:
        first = Overlay.of(self.solved)
        return {first.rows_U.device: first}

    def overlay(self, device: torch.device | None = None) -> Overlay | None:
        """The sum of those that are on and added to the table; None: none is."""
        if not self.solved:
            return None
        known = self._sums
        if device is None:
            return next(iter(known.values()))
        if device not in known:
            known[device] = next(iter(known.values())).to(device)
        return known[device]

    @cached_property
    def unsure_at(self) -> Tensor:
        """Entropy of the memory's prediction, in nats, from which it is not trusted with what is
        new, by the token that it says, (S,): the last stands for all tokens after it.

        More for a token that it was told and can't say more surely: what was told comes first.
        """
        limits: dict[int, float] = {}
        for write in (write for write in self.on if not write.taught):
            for token, nats in write.unsure.items():
                limits[token] = max(UNSURE_AT, LEEWAY * nats, limits.get(token, 0.0))
        unsure_S = torch.full((max(limits, default=-1) + 2,), UNSURE_AT)
        for token, nats in limits.items():
            unsure_S[token] = nats
        return unsure_S

    def freshness(self, m: Tensor, told: Tensor, mark: Tensor) -> Tensor:
        """How far the mixture goes over to the memory, in [0, 1], where it is sure (`trusted`):
        λ' = λ + (1 - λ) · freshness.

        Args:
            m: what is read of the table, (..., D).
            told: what the writes add to it.
            mark: as `Overlay.read`, (...).
        """
        return torch.sigmoid((novelty(m, told, mark) - self.opens_at) / OPENING_WIDTH)
