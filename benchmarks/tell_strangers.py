"""Facts of a kind that the pair has never met: what is told of some subjects, and what is then said
of others that nobody told anything about.

Nothing that the memory keeps can say that these have other answers, so it shows what a memory takes
a told fact to be about. Invented subjects and answers, and wordings of daily life: no data is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from actors.layers.named_writes import Association
from actors.sources.facts import Probe

TOLD = 3  # subjects of each kind; the others are asked


@dataclass(frozen=True)
class Kind:
    """Facts of one kind.

    Attributes:
        name: of the kind.
        wordings: the first one is told, all are asked.
        subjects: the first `TOLD` are told.
        answers: of these.
    """

    name: str
    wordings: tuple[str, ...]
    subjects: tuple[str, ...]
    answers: tuple[str, ...]


NAMED = (
    Kind(
        "landlord",
        ("The landlord of {} is", "{} rents a flat from", "Rent for {}'s flat goes to"),
        ("Emil Sorge", "Nadia Kemp", "Owen Tarl", "Petra Lund", "Ivo Brandl", "Hanna Osei"),
        ("Gregor Amsel", "Lucia Bern", "Walter Cross"),
    ),
    Kind(
        "harbour",
        ("The main harbour of {} is", "{} has its main harbour in", "Ships to {} call at"),
        ("Korvania", "Lethia", "Mordua", "Nuvela", "Ostrand", "Pelmar"),
        ("Dunmouth", "Saltby", "Westhaven"),
    ),
    Kind(
        "composer",
        ("The opera {} was composed by", "The composer of the opera {} is"),
        ("Winter Lanterns", "The Salt Road", "Nine Bells", "Glass Orchard", "Low Tide", "Red Hall"),
        ("Bruno Valk", "Edda Rynn", "Carl Moser"),
    ),
    Kind(
        "deadline",
        ("The deadline of Project {} is in", "Project {} has to be finished in"),
        ("Kestrel", "Obsidian", "Marlin", "Juniper", "Cobalt", "Heron"),
        ("March", "October", "June"),
    ),
)
UNNAMED = (
    Kind(
        "code",
        ("the door code of the {} is", "the {} has the door code"),
        ("cellar", "workshop", "archive", "laundry", "garage", "attic"),
        ("eleven", "forty", "ninety"),
    ),
    Kind(
        "pet",
        ("my {} is called", "the name of my {} is"),
        ("tortoise", "parrot", "pony", "hamster", "goldfish", "rabbit"),
        ("Bruno", "Molly", "Oscar"),
    ),
)
NUMBERED = (
    Kind(
        "ticket",
        ("Ticket {} was assigned to", "The owner of ticket {} is"),
        ("58213", "4077", "90612", "58231", "7704", "90621"),
        ("Gregor", "Lucia", "Walter"),
    ),
    Kind(
        "room",
        ("Room {} of the clinic belongs to", "The clinic gave room {} to"),
        ("214", "36", "507", "241", "63", "705"),
        ("Emil", "Nadia", "Owen"),
    ),
    Kind(
        "bus",
        ("Bus {} ends at", "The last stop of bus {} is"),
        ("M41", "X29", "N106", "M14", "X92", "N160"),
        ("Dunmouth", "Saltby", "Westhaven"),
    ),
)
KINDS = {"": NAMED, "unnamed_": UNNAMED, "numbered_": NUMBERED}


def associations(kinds: Sequence[Kind]) -> list[Association]:
    """What is told, each in one wording."""
    return [
        Association(kind.wordings[0].format(subject), answer)
        for kind in kinds
        for subject, answer in zip(kind.subjects, kind.answers, strict=False)
    ]


def told(kinds: Sequence[Kind], again: bool) -> list[Probe]:
    """Questions about it, as it was told, or in the other wordings."""
    return [
        Probe(kind.name, subject, wording.format(subject), (answer,), not again)
        for kind in kinds
        for subject, answer in zip(kind.subjects, kind.answers, strict=False)
        for wording in (kind.wordings[1:] if again else kind.wordings[:1])
    ]


def strangers(kinds: Sequence[Kind]) -> list[Probe]:
    """Questions about the other subjects, in every wording; "right" is any answer that was told of
    another one.
    """
    return [
        Probe(kind.name, subject, wording.format(subject), kind.answers, True)
        for kind in kinds
        for subject in kind.subjects[TOLD:]
        for wording in kind.wordings
    ]
